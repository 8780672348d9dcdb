//! Room in the kernel's connection tracking, which it has one of for all namespaces.
//!
//! Invariant: what was set before is set again at the end, also after a signal.

use std::fs;
use std::sync::Mutex;

use anyhow::{Context as _, Result};

use crate::contender::SESSIONS_MAX;

const MAX: &str = "/proc/sys/net/netfilter/nf_conntrack_max";
const BUCKETS: &str = "/sys/module/nf_conntrack/parameters/hashsize";

/// The values before, in the order in which to set them again.
static BEFORE: Mutex<Vec<(&str, String)>> = Mutex::new(Vec::new());

/// Makes room for as many sessions as Waxwing has.
///
/// # Errors
/// This process may not: nftables would be measured with a full table.
pub(crate) fn make_room() -> Result<Restore> {
    let restore = Restore;
    for (path, value) in [(BUCKETS, SESSIONS_MAX / 4), (MAX, SESSIONS_MAX)] {
        let before = fs::read_to_string(path).with_context(|| format!("no {path}"))?;
        if let Ok(mut all) = BEFORE.lock() {
            all.push((path, before.trim().to_owned()));
        }
        fs::write(path, value.to_string()).with_context(|| format!("cannot set {path}"))?;
    }
    Ok(restore)
}

/// Restores what was set before, when it is dropped.
pub(crate) struct Restore;

impl Drop for Restore {
    fn drop(&mut self) {
        restore();
    }
}

/// Restores what was set before.
pub(crate) fn restore() {
    if let Ok(mut all) = BEFORE.lock() {
        for (path, value) in all.drain(..) {
            // The next run sets it anyway; nothing else can be done here.
            drop(fs::write(path, value));
        }
    }
}
