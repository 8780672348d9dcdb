//! How long a module's calls take, by worker.
//!
//! Invariant: a worker's histogram is written by that worker's thread alone, for whichever build serves.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use waxwing_dataplane::counters::{Distribution, Histogram};

use crate::lock::lock;

/// The durations of a module's calls, over all its builds.
#[derive(Default)]
pub(crate) struct CallTimes(Mutex<Vec<WorkerCallTimes>>);

/// Those of one worker.
#[derive(Clone, Default, Debug)]
pub(crate) struct WorkerCallTimes(Arc<Histogram>);

/// The unit of the times, in nanoseconds: a call takes some hundred.
pub const CALL_TIME_UNIT_NS: u64 = 16;

impl WorkerCallTimes {
    pub(crate) fn count(&self, took: Duration) {
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.0.count(ns / CALL_TIME_UNIT_NS);
    }
}

impl CallTimes {
    /// Returns a worker's histogram, to count in.
    pub(crate) fn of_worker(&self, worker: u32) -> WorkerCallTimes {
        let at = worker as usize;
        let mut workers = lock(&self.0);
        if workers.len() <= at {
            workers.resize_with(at + 1, WorkerCallTimes::default);
        }
        workers[at].clone()
    }

    /// Returns what all workers have counted, in [`CALL_TIME_UNIT_NS`].
    pub(crate) fn read(&self) -> Distribution {
        let mut times = Distribution::default();
        for WorkerCallTimes(worker) in &*lock(&self.0) {
            times.merge(&worker.read());
        }
        times
    }
}
