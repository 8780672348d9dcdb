//! What the compile service and its children give up before they see a module: another user's bytes go
//! through a compiler, and a fault of the compiler must lead nowhere.
//!
//! Invariant: the service has no capability, is not root, opens no file, makes no socket and runs no program.
//! A child can do no more than compute: every system call but those in [`CALLS`] fails.

use std::collections::BTreeMap;
use std::io;

use rustix::process::{DumpableBehavior, Gid, Resource, Rlimit, Signal, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule,
};

/// A child's nice value, so that compiling takes only idle processor time.
const NICE: i32 = 5;

/// The user and group without rights (`nobody`, `nogroup`) of Linux's overflow ids.
const NOBODY: u32 = 65_534;

/// The system calls of a child: memory, threads, the open files, time, and the end.
const CALLS: &[libc::c_long] = &[
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_lseek,
    libc::SYS_fstat,
    libc::SYS_close,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    #[cfg(not(target_arch = "x86_64"))]
    libc::SYS_ppoll,
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

/// The further system calls of the service, which receives modules, forks, waits for its children and kills
/// late ones; and those by which a child confines itself.
const SERVICE_CALLS: &[libc::c_long] = &[
    libc::SYS_recvmsg,
    libc::SYS_ppoll,
    libc::SYS_wait4,
    libc::SYS_kill,
    libc::SYS_tgkill,
    libc::SYS_fcntl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_dup2,
    #[cfg(not(target_arch = "x86_64"))]
    libc::SYS_dup3,
    libc::SYS_prlimit64,
    libc::SYS_setpriority,
    libc::SYS_prctl,
    libc::SYS_seccomp,
];

/// Confines the service, which must have one thread.
///
/// # Errors
/// The kernel refuses it; the process must end then.
pub(super) fn confine_service() -> io::Result<()> {
    drop_user()?;
    // Another process of that user must not read or change what is compiled.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    rustix::thread::set_no_new_privs(true)?;
    allow_only(CALLS.iter().chain(SERVICE_CALLS), BTreeMap::new())
}

/// Confines a child of the service before it reads its module; `file_bytes` are the most that it writes.
///
/// # Errors
/// As [`confine_service`].
pub(super) fn confine_child(cpu_s: u64, memory_bytes: u64, file_bytes: u64) -> io::Result<()> {
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
    limit(Resource::Fsize, file_bytes)?;
    limit(Resource::Nofile, 16)?;
    // It fails for a process of an even lower priority, which keeps it.
    let _ = rustix::process::setpriority_process(None, NICE);
    // The child ends with the service.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    let own = own_process().map_err(io::Error::other)?;
    allow_only(CALLS, BTreeMap::from([(libc::SYS_tgkill, vec![own])]))
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

/// Lets every further system call fail, except for these, and for those that match their rules.
fn allow_only<'a>(
    calls: impl IntoIterator<Item = &'a libc::c_long>,
    rules: BTreeMap<libc::c_long, Vec<SeccompRule>>,
) -> io::Result<()> {
    let calls = calls.into_iter().map(|call| (*call, Vec::new()));
    let allowed = calls.chain(rules).collect();
    let refused = SeccompAction::Errno(libc::EPERM.cast_unsigned());
    let filter = std::env::consts::ARCH
        .try_into()
        .and_then(|arch| SeccompFilter::new(allowed, refused, SeccompAction::Allow, arch))
        .and_then(BpfProgram::try_from)
        .map_err(io::Error::other)?;
    seccompiler::apply_filter(&filter).map_err(io::Error::other)
}
