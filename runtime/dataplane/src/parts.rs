//! What of a worker is at hand where a packet's fate is decided, beside the batch.
//!
//! Invariant: a session leaves the table at one caller's hand, and that one takes note of its end.

use crate::counters::WorkerCounters;
use crate::ended::{Cause, Ended};
use crate::forward::Shared;
use crate::gather::Gather;
use crate::refusals::Refusals;
use crate::session::{SessionRef, SlotCache};
use crate::{Now, Snapshot};

/// A worker's parts.
pub(crate) struct Parts<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) counters: &'a WorkerCounters,
    /// Its number, as sessions keep it.
    pub(crate) worker: u8,
    pub(crate) slots: &'a mut SlotCache,
    pub(crate) ended: &'a mut Ended,
    pub(crate) refusals: &'a mut Refusals,
    pub(crate) gather: &'a mut Gather,
}

impl Parts<'_> {
    /// Ends a session. Whether it had not ended already, at another worker's hand.
    pub(crate) fn remove(
        &mut self,
        snapshot: &Snapshot,
        at: SessionRef,
        cause: Cause,
        now: Now,
    ) -> bool {
        let removed = self.shared.sessions.remove(self.slots, at);
        if let Some(removed) = &removed {
            self.ended.record(snapshot, removed, cause, now.tick());
        }
        removed.is_some()
    }
}
