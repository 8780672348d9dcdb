//! The system calls that the running balancer makes: a filter for its control threads, a narrower one for
//! workers.
//!
//! Invariant: no thread can run a program. A worker opens no file and no socket, starts no thread and makes
//! no memory executable. Any other call fails with `EPERM` and ends nothing: a call that was forgotten here
//! must not stop traffic.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use rustix::io::Errno;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule,
};

/// The calls of every thread: its rings, queues, files that are open, memory, time and end.
const COMMON: &[libc::c_long] = &[
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_sendto,
    libc::SYS_recvfrom,
    libc::SYS_ppoll,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_close,
    libc::SYS_fcntl,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_futex,
    libc::SYS_membarrier,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_sched_yield,
    libc::SYS_getcpu,
    libc::SYS_getrandom,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_tgkill,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// The further calls of the control threads, and those by which a worker prepares itself.
const CONTROL: &[libc::c_long] = &[
    // Machine code and its memory.
    libc::SYS_mmap,
    libc::SYS_mprotect,
    // The XDP program, its sockets and the TAP device.
    libc::SYS_bpf,
    libc::SYS_ioctl,
    // Netlink, checks, the admin socket, the compile service.
    libc::SYS_socket,
    libc::SYS_socketpair,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept4,
    libc::SYS_connect,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_shutdown,
    libc::SYS_sendmsg,
    libc::SYS_recvmsg,
    libc::SYS_readv,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_eventfd2,
    libc::SYS_pipe2,
    libc::SYS_dup,
    // The config, modules, the state, machine code kept, settings in /proc and /sys.
    libc::SYS_openat,
    libc::SYS_flock,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_lseek,
    libc::SYS_pread64,
    libc::SYS_getdents64,
    libc::SYS_readlinkat,
    libc::SYS_getcwd,
    libc::SYS_mkdirat,
    libc::SYS_unlinkat,
    libc::SYS_renameat2,
    libc::SYS_renameat,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_ftruncate,
    libc::SYS_memfd_create,
    libc::SYS_copy_file_range,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_uname,
    libc::SYS_sysinfo,
    // Threads.
    libc::SYS_clone,
    libc::SYS_clone3,
    libc::SYS_set_tid_address,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_setaffinity,
    libc::SYS_setpriority,
    libc::SYS_getpriority,
    libc::SYS_prctl,
    libc::SYS_prlimit64,
    libc::SYS_seccomp,
    libc::SYS_kill,
    libc::SYS_wait4,
];

/// What is called by older names where the architecture has them.
#[cfg(target_arch = "x86_64")]
const OLDER: &[libc::c_long] = &[
    libc::SYS_open,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_access,
    libc::SYS_readlink,
    libc::SYS_mkdir,
    libc::SYS_rmdir,
    libc::SYS_unlink,
    libc::SYS_rename,
    libc::SYS_chmod,
    libc::SYS_epoll_wait,
    libc::SYS_pipe,
];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[libc::c_long] = &[];

const WHAT: &str = "cannot filter system calls";

/// Filters the calls of all threads that there are; those that come later are filtered alike.
pub(crate) fn filter_control() -> Result<()> {
    let allowed = [COMMON, CONTROL, OLDER].concat();
    let filter = filter(&allowed, BTreeMap::new()).context(WHAT)?;
    seccompiler::apply_filter_all_threads(&filter).context(WHAT)
}

/// Filters the calls of this thread further, for a worker.
pub(crate) fn filter_worker() -> Result<()> {
    let inexecutable = inexecutable().context(WHAT)?;
    let memory =
        [libc::SYS_mmap, libc::SYS_mprotect].map(|call| (call, vec![inexecutable.clone()]));
    let filter = filter(COMMON, memory.into()).context(WHAT)?;
    seccompiler::apply_filter(&filter).context(WHAT)
}

/// Returns the rule for memory that is not executable; the third argument has its protection.
fn inexecutable() -> Result<SeccompRule, BackendError> {
    let execute = u64::from(libc::PROT_EXEC.cast_unsigned());
    let mask = SeccompCmpOp::MaskedEq(execute);
    let is_not = SeccompCondition::new(2, SeccompCmpArgLen::Dword, mask, 0)?;
    SeccompRule::new(vec![is_not])
}

fn filter(
    allowed: &[libc::c_long],
    rules: BTreeMap<libc::c_long, Vec<SeccompRule>>,
) -> Result<BpfProgram, BackendError> {
    let allowed = allowed.iter().map(|call| (*call, Vec::new())).chain(rules);
    let refused = SeccompAction::Errno(Errno::PERM.raw_os_error().cast_unsigned());
    let arch = std::env::consts::ARCH.try_into()?;
    SeccompFilter::new(allowed.collect(), refused, SeccompAction::Allow, arch)?.try_into()
}
