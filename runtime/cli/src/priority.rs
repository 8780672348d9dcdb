//! The scheduling priorities of threads.

use rustix::process::{Resource, Rlimit};

/// The scheduling priority of a worker, which leaves other threads on its CPU about a tenth of it. (Over a
/// thousand module swaps on two busy CPUs, the 99.9th percentile of batch times was 4 times that of a
/// quiet run without this, and is 1.4 times with it.)
pub(crate) const WORKER_NICE: i32 = -10;

/// The scheduling priority of control threads, below the workers'.
const CONTROL_NICE: i32 = 5;

/// Lets the process raise its threads' priority to the workers' later, which needs a right now.
pub(crate) fn allow_raising() {
    // 20 minus the priority: see getrlimit(2).
    let limit = Some(20 - i64::from(WORKER_NICE)).and_then(|limit| limit.try_into().ok());
    let limit = Rlimit {
        current: limit,
        maximum: limit,
    };
    // A failure costs only latency.
    let _ = rustix::process::setrlimit(Resource::Nice, limit);
}

/// Raises the current thread's priority to the workers': they wait for it.
pub(crate) fn raise_priority() {
    // A failure costs only latency.
    let _ = rustix::process::setpriority_process(None, WORKER_NICE);
}

/// Lowers the current thread's priority below the workers': compiling and answering requests can wait for
/// a batch, but a batch must not wait for them.
pub(crate) fn lower_priority() {
    // A failure costs only latency.
    let _ = rustix::process::setpriority_process(None, CONTROL_NICE);
}
