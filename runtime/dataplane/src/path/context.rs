//! A worker's mutable state while it processes a batch.
//!
//! Invariant: whoever removes a session from the table records its end.

use std::sync::Arc;

use super::linearize::Linearizer;
use super::reject::RejectLimits;
use super::session_close::{ClosedSessions, RemovalCause};
use super::shared::SharedState;
use crate::counters::WorkerCounters;
use crate::egress::HopLookup;
use crate::egress::routes::CachedRoutes;
use crate::session::{SessionRef, SlotCache, WORKER_UNCOUNTED};
use crate::{Epoch, Now, Snapshot};

/// What the passes work with, beside the batch and the epoch.
pub(crate) struct WorkerContext {
    pub(crate) shared: SharedState,
    pub(crate) counters: Arc<WorkerCounters>,
    /// The worker's number, as sessions store it.
    pub(crate) worker: u8,
    pub(crate) slots: SlotCache,
    pub(crate) closed: ClosedSessions,
    pub(crate) reject: RejectLimits,
    pub(crate) linearizer: Linearizer,
    /// The routes to clients, with `return_path = "route"`.
    pub(crate) routes: CachedRoutes,
}

impl WorkerContext {
    pub(crate) fn new(
        shared: SharedState,
        counters: Arc<WorkerCounters>,
        number: usize,
        epoch: &Epoch,
    ) -> Self {
        Self {
            slots: shared.sessions.slot_cache(),
            closed: ClosedSessions::new(shared.clone(), epoch),
            worker: u8::try_from(number).map_or(WORKER_UNCOUNTED, |n| n.min(WORKER_UNCOUNTED)),
            shared,
            counters,
            reject: RejectLimits::new(),
            linearizer: Linearizer::new(),
            routes: CachedRoutes::default(),
        }
    }

    #[inline(always)]
    pub(crate) fn hops(&self) -> HopLookup<'_> {
        HopLookup {
            hops: &self.shared.next_hops,
            routes: self.routes.table(),
            counters: &self.counters,
        }
    }

    /// Removes a session and records its end. `false` if another worker removed it first.
    pub(crate) fn close_session(
        &mut self,
        snapshot: &Snapshot,
        at: SessionRef,
        cause: RemovalCause,
        now: Now,
    ) -> bool {
        let removed = self.shared.sessions.remove(&mut self.slots, at);
        if let Some(removed) = &removed {
            self.closed
                .record_removal(snapshot, removed, cause, now.tick());
        }
        removed.is_some()
    }
}
