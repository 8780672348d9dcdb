//! Counters and gauges: what happened, per worker, service and backend.
//!
//! Invariant: a worker's counters are written by that worker alone (plain load and store, no bus lock) and
//! read by anyone. Gauges are shared; workers write them only when a session begins, changes its phase
//! or ends.

mod counter;
mod drop_reason;
mod gauges;
mod histogram;
mod worker;

pub use counter::{Counter, Traffic};
pub use drop_reason::DropReason;
pub use gauges::{FailureRate, Gauges, SIGNALS, SessionCounts};
pub use histogram::{Distribution, Histogram};
pub use worker::{BackendCounters, WorkerCounters};
