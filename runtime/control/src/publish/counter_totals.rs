//! Per-backend totals of all workers' counters.
//!
//! Invariant: workers' counters only count up, and a backend id may be reused. The totals at the time
//! an id was given to a backend are kept, so that a backend starts from zero.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use waxwing_dataplane::counters::{Traffic, WorkerCounters};
use waxwing_dataplane::{BackendId, Gauges, Snapshot};

use crate::admin::status::TrafficStatus;

/// All workers' counters, by backend.
pub(crate) struct CounterTotals {
    workers: Vec<Arc<WorkerCounters>>,
    /// The totals under an id when its current backend got it.
    bases: Mutex<HashMap<BackendId, BackendTotals>>,
}

/// One backend's counts over all workers.
#[derive(Clone, Copy, Default)]
pub(crate) struct BackendTotals {
    pub(crate) syn_retransmitted: u64,
    pub(crate) unreachable: u64,
    pub(crate) forward: TrafficStatus,
    pub(crate) reply: TrafficStatus,
}

impl CounterTotals {
    pub(crate) fn new(workers: Vec<Arc<WorkerCounters>>) -> Self {
        Self {
            workers,
            bases: Mutex::default(),
        }
    }

    pub(crate) fn workers(&self) -> &[Arc<WorkerCounters>] {
        &self.workers
    }

    /// Restarts from zero the counts and gauges of each backend id that `new` has and `old` has not.
    /// Call it before the workers are sent `new`.
    pub(crate) fn restart_new(&self, old: &Snapshot, new: &Snapshot, gauges: &Gauges) {
        let mut bases = self.bases.lock().unwrap_or_else(PoisonError::into_inner);
        for id in new.backends().map(|backend| backend.id) {
            if old.backend(id).is_none() {
                gauges.forget(id);
                bases.insert(id, self.since_start(id));
            }
        }
    }

    /// Returns everything counted under an id since the start, by earlier backends too.
    pub(crate) fn since_start(&self, id: BackendId) -> BackendTotals {
        let mut totals = BackendTotals::default();
        for counters in self.workers.iter().map(|worker| worker.backend(id)) {
            totals.syn_retransmitted += counters.syn_repeated.get();
            totals.unreachable += counters.unreachable.get();
            add(&mut totals.forward, &counters.forward);
            add(&mut totals.reply, &counters.reply);
        }
        totals
    }

    /// Returns what was counted for the backend that has this id now.
    pub(crate) fn of(&self, id: BackendId) -> BackendTotals {
        let now = self.since_start(id);
        let bases = self.bases.lock().unwrap_or_else(PoisonError::into_inner);
        let base = bases.get(&id).copied().unwrap_or_default();
        BackendTotals {
            syn_retransmitted: now.syn_retransmitted - base.syn_retransmitted,
            unreachable: now.unreachable - base.unreachable,
            forward: difference(now.forward, base.forward),
            reply: difference(now.reply, base.reply),
        }
    }
}

fn add(sum: &mut TrafficStatus, traffic: &Traffic) {
    sum.packets += traffic.packets.get();
    sum.bytes += traffic.bytes.get();
}

fn difference(now: TrafficStatus, base: TrafficStatus) -> TrafficStatus {
    TrafficStatus {
        packets: now.packets - base.packets,
        bytes: now.bytes - base.bytes,
    }
}
