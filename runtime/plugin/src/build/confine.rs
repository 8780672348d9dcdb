//! What the compiling child gives up before it sees a module: another user's bytes go through a compiler, and
//! a fault of the compiler must lead nowhere.
//!
//! Invariant: afterwards the process has no capability, is not root, can gain nothing by running a program,
//! and every system call but those in [`CALLS`] fails: it opens no file, makes no socket, and signals nobody.

use std::collections::BTreeMap;
use std::io;

use rustix::process::{Gid, Resource, Rlimit, Signal, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule,
};

use crate::build::compile::CODE_MAX;

/// The child's nice value, so that compiling takes only idle processor time.
const NICE: i32 = 5;

/// The user and group without rights (`nobody`, `nogroup`) of Linux's overflow ids.
const NOBODY: u32 = 65_534;

/// The system calls that compiling needs: memory, threads, the open files, time, and the end.
const CALLS: &[libc::c_long] = &[
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_lseek,
    libc::SYS_fstat,
    libc::SYS_close,
    libc::SYS_poll,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_futex,
    libc::SYS_clone,
    libc::SYS_clone3,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_getrandom,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// Confines this process, which must have one thread.
///
/// # Errors
/// The kernel refuses it; the process must end then.
pub(super) fn confine(cpu_s: u64, memory_bytes: u64) -> io::Result<()> {
    let limit = |resource, value| {
        let limit = Rlimit {
            current: Some(value),
            maximum: Some(value),
        };
        rustix::process::setrlimit(resource, limit)
    };
    limit(Resource::Cpu, cpu_s)?;
    limit(Resource::As, memory_bytes)?;
    limit(Resource::Core, 0)?;
    // Its standard output is a file in memory.
    limit(Resource::Fsize, CODE_MAX)?;
    limit(Resource::Nofile, 16)?;
    rustix::process::setpriority_process(None, NICE)?;
    drop_user()?;
    // The child ends with its parent. A change of user resets this.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    rustix::thread::set_no_new_privs(true)?;
    filter_calls()
}

/// Gives up root and all capabilities. A process that is neither keeps what it has.
fn drop_user() -> io::Result<()> {
    if rustix::process::geteuid().is_root() {
        let (uid, gid) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
        rustix::thread::set_thread_groups(&[])?;
        rustix::thread::set_thread_res_gid(gid, gid, gid)?;
        rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    }
    let none = CapabilitySet::empty();
    let none = CapabilitySets {
        effective: none,
        permitted: none,
        inheritable: none,
    };
    Ok(rustix::thread::set_capabilities(None, none)?)
}

/// Returns the rule for calls whose first argument is this process's id: it aborts itself by a signal.
fn own_process() -> Result<SeccompRule, BackendError> {
    let id = u64::from(std::process::id());
    let is_own = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, id)?;
    SeccompRule::new(vec![is_own])
}

fn filter_calls() -> io::Result<()> {
    let mut allowed: BTreeMap<_, _> = CALLS.iter().map(|call| (*call, Vec::new())).collect();
    let own = own_process().map_err(io::Error::other)?;
    allowed.insert(libc::SYS_tgkill, vec![own]);
    let refused = SeccompAction::Errno(libc::EPERM.cast_unsigned());
    let filter = std::env::consts::ARCH
        .try_into()
        .and_then(|arch| SeccompFilter::new(allowed, refused, SeccompAction::Allow, arch))
        .and_then(BpfProgram::try_from)
        .map_err(io::Error::other)?;
    seccompiler::apply_filter(&filter).map_err(io::Error::other)
}
