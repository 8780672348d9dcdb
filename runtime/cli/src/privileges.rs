//! The rights that `waxwing run` gives up at its start, and those that it keeps.
//!
//! Invariant: rights are given up while the process has one thread, so every thread has the same ones. None
//! is gained later: the bounding set is empty, and a program that the process ran would have no more rights.

use std::fs::DirBuilder;
use std::os::unix::fs::{DirBuilderExt as _, lchown};
use std::path::Path;

use anyhow::{Context as _, Result};
use nix::unistd::{Group, User};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets};
use waxwing_control::config::Config;

use crate::folders::{cache_folder, state_folder};
use crate::priority::{WORKER_NICE, allow_raising};

/// The capabilities that a running balancer uses. AF_XDP sockets need `NET_RAW`, each time that a port or a
/// queue comes back, and their frames `IPC_LOCK`. Attaching the XDP program, its map of sockets, the TAP
/// device, the TAP's sysctls, neighbours and send buffers need `NET_ADMIN`. Loading the program again, for a
/// port made again, needs `BPF` and `PERFMON`: without the latter the loader cannot find out what the kernel
/// supports.
const KEPT: CapabilitySet = CapabilitySet::NET_ADMIN
    .union(CapabilitySet::NET_RAW)
    .union(CapabilitySet::IPC_LOCK)
    .union(CapabilitySet::BPF)
    .union(CapabilitySet::PERFMON);

/// Kept by root too: a config or a module may lie in a folder that only its owner may read.
const KEPT_BY_ROOT: CapabilitySet = KEPT.union(CapabilitySet::DAC_READ_SEARCH);

/// The bits of a capability set, known or not.
const CAPABILITIES_MAX: u32 = 64;

/// Gives up every right that a running balancer does not use, and becomes another user if one is named.
///
/// # Errors
/// There is no such user, or the kernel refuses something.
pub(crate) fn give_up(config: &Path, user: Option<&str>) -> Result<()> {
    // The workers' priority, which needs a right; the other threads lower theirs. A failure is logged there.
    let _ = rustix::process::setpriority_process(None, WORKER_NICE);
    allow_raising();
    let groups = admin_groups(config);
    if let Some(name) = user {
        let found = User::from_name(name).with_context(|| format!("cannot look up user {name}"))?;
        let user = found.with_context(|| {
            format!(
                "there is no user {name}; create it (`useradd --system --no-create-home {name}`)"
            )
        })?;
        make_folders(config, &user);
        switch_to(&user, &groups)
            .with_context(|| format!("cannot become user {name}; start waxwing as root"))?;
    } else if !groups.is_empty() {
        // Fails without the right; then a group's socket is refused unless the user is in the group anyway.
        let _ = rustix::thread::set_thread_groups(&groups);
    }
    let kept = user.map_or(KEPT_BY_ROOT, |_| KEPT);
    keep(kept).context("cannot give up privileges")
}

/// Makes the folders that only root can make, with the user as owner. One that exists stays as it is, and one
/// that cannot be made is reported where it is used.
fn make_folders(config: &Path, owner: &User) {
    let (uid, gid) = (owner.uid.as_raw(), owner.gid.as_raw());
    let make = |path: &Path, mode| {
        let made = DirBuilder::new().mode(mode).create(path);
        let _ = made.and_then(|()| lchown(path, Some(uid), Some(gid)));
    };
    make(&cache_folder(), 0o700);
    // The config's errors are reported when the user reads it.
    let Ok(reading) = Config::read_file(config) else {
        return;
    };
    let config = reading.config();
    make(&config.state_folder(state_folder()), 0o700);
    if let Some(folder) = config.admin.socket.value.parent() {
        make(folder, 0o755);
    }
}

/// Returns the groups that the config gives admin sockets to: only a member may give a file away.
fn admin_groups(config: &Path) -> Vec<Gid> {
    // The config's errors are reported later.
    let Ok(reading) = Config::read_file(config) else {
        return Vec::new();
    };
    let admin = &reading.config().admin;
    let names = [&admin.group, &admin.read_group].into_iter().flatten();
    let found = names.filter_map(|name| Group::from_name(&name.value).ok()?);
    found
        .map(|group| Gid::from_raw(group.gid.as_raw()))
        .collect()
}

/// Changes to a user and its group, with these supplementary groups alone. The capabilities stay permitted.
fn switch_to(user: &User, groups: &[Gid]) -> rustix::io::Result<()> {
    let uid = Uid::from_raw(user.uid.as_raw());
    let gid = Gid::from_raw(user.gid.as_raw());
    rustix::thread::set_keep_capabilities(true)?;
    rustix::thread::set_thread_groups(groups)?;
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)
}

/// Gives up all capabilities but these, for ever.
fn keep(kept: CapabilitySet) -> rustix::io::Result<()> {
    let sets = rustix::thread::capabilities(None)?;
    if sets.permitted.contains(CapabilitySet::SETPCAP) {
        raise_effective(sets)?;
        empty_bounding_set()?;
    }
    rustix::thread::clear_ambient_capability_set()?;
    let kept = kept & sets.permitted;
    let sets = CapabilitySets {
        effective: kept,
        permitted: kept,
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, sets)?;
    rustix::thread::set_no_new_privs(true)
}

/// A change of user has emptied the effective set.
fn raise_effective(sets: CapabilitySets) -> rustix::io::Result<()> {
    let effective = sets.permitted;
    rustix::thread::set_capabilities(None, CapabilitySets { effective, ..sets })
}

fn empty_bounding_set() -> rustix::io::Result<()> {
    for bit in 0..CAPABILITIES_MAX {
        let one = CapabilitySet::from_bits_retain(1 << bit);
        match rustix::thread::remove_capability_from_bounding_set(one) {
            Ok(()) => {}
            // The kernel has no further ones.
            Err(Errno::INVAL) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
