//! Counters and gauges: what happened, per worker, service and backend.
//!
//! Invariant: a worker's counters are written by that worker alone (plain load and store, no bus lock) and
//! read by anyone. Gauges are shared; workers write them only when a session begins, changes its phase
//! or ends, and for the packets of sampled sessions.

use std::sync::atomic::{AtomicU32, Ordering};

mod counter;
mod drop_reason;
mod gauges;
mod histogram;
mod samples;
mod worker;

pub use counter::{Counter, Traffic};
pub use drop_reason::DropReason;
pub use gauges::{FailureRate, Gauges, SIGNALS, SessionCounts};
pub use histogram::{Distribution, Histogram};
pub use samples::{SAMPLED_TIME_UNIT_US, SampleCounters, SampledSegments, SampledTimes};
pub use worker::{BackendCounters, WorkerCounters};

/// The inverse weight of a new measurement in a moving average, as in RFC 6298's smoothed round-trip time.
const GAIN: u32 = 8;

/// Adds a time in microseconds to an average, which is 0 before the first. If two workers do so at once, one
/// may be lost.
fn moving_average(average: &AtomicU32, us: u32) {
    let us = us.max(1);
    let next = match average.load(Ordering::Relaxed) {
        0 => us,
        old => old - old / GAIN + us / GAIN,
    };
    average.store(next.max(1), Ordering::Relaxed);
}
