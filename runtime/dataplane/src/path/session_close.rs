//! The end of sessions: by timeout, by eviction, because a new connection reuses the tuple, or because their
//! backend is down.
//!
//! Invariant: each session is counted in [`crate::Gauges`] once when it begins, and uncounted once, here.
//! Policies that want to know of closed sessions learn of them in batches, between two batches of frames, in
//! the epoch in which the sessions closed.

use std::sync::Arc;

use super::shared::SharedState;
use crate::counters::WorkerCounters;
use crate::model::Backend;
use crate::policy::{Closed, End};
use crate::session::{Removed, Session};
use crate::time::TICK_MS;
use crate::{BATCH, Epoch, ServiceId, Snapshot, Tick};

/// The most closed sessions that wait to be reported; further ones are not reported to policies.
const PENDING_MAX: usize = 4096;

/// The most policy calls between two batches: each may take as long as a batch.
const CALLS_MAX: usize = 8;

/// Why a session was removed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum RemovalCause {
    /// It timed out, or its connection was over and its tuple was reused.
    Over,
    /// The table or the pool of source ports was full.
    Evicted,
    BackendDown,
}

/// Closed sessions that are not yet reported to their policies.
pub(crate) struct ClosedSessions {
    shared: SharedState,
    counters: Arc<WorkerCounters>,
    /// Which policies want closed sessions, by [`crate::Service::policy`]; empty if none does.
    wanted_by: Vec<bool>,
    pending: Vec<(ServiceId, Closed)>,
    events: Vec<Closed>,
}

impl ClosedSessions {
    pub(crate) fn new(shared: SharedState, counters: Arc<WorkerCounters>, epoch: &Epoch) -> Self {
        let mut closed = Self {
            shared,
            counters,
            wanted_by: Vec::new(),
            pending: Vec::with_capacity(PENDING_MAX),
            events: Vec::with_capacity(BATCH),
        };
        closed.take_epoch(epoch);
        closed
    }

    /// Asks the policies of a new epoch whether they want closed sessions.
    pub(crate) fn take_epoch(&mut self, epoch: &Epoch) {
        let wants = epoch.policies.iter().map(|policy| policy.wants_closed());
        self.wanted_by.clear();
        self.wanted_by.extend(wants);
        if !self.wanted_by.contains(&true) {
            self.wanted_by.clear();
        }
    }

    /// Whether the backend's policy wants closed sessions and their bytes.
    #[inline]
    pub(crate) fn is_wanted_by(&self, backend: &Backend) -> bool {
        // Runs for every packet: one branch if no policy wants them.
        !self.wanted_by.is_empty()
            && backend
                .policy
                .is_some_and(|policy| self.wanted_by.get(policy) == Some(&true))
    }

    /// Records a session that was just removed from the table.
    pub(crate) fn record(
        &mut self,
        snapshot: &Snapshot,
        removed: &Removed,
        cause: RemovalCause,
        now: Tick,
    ) {
        let session = &removed.session;
        self.shared
            .gauges
            .end(session.worker.into(), session.backend);
        self.shared.gauges.end_source(session.source);
        // The session was removed by a rule of this snapshot, so the snapshot has its backend.
        let Some(backend) = snapshot.backend(session.backend) else {
            return;
        };
        let end = end_of(session, backend, cause, now);
        if end == End::Unanswered {
            self.counters.backend(backend.id).unanswered.add(1);
        }
        if self.is_wanted_by(backend)
            && self.pending.len() < PENDING_MAX
            && let Some(place) = backend.place
        {
            let closed = Closed {
                backend: place,
                duration_ms: u64::from(now.since(session.created)) * TICK_MS,
                bytes: removed.bytes,
                end,
            };
            self.pending.push((backend.service, closed));
        }
    }

    /// Reports closed sessions to their policies, in at most [`CALLS_MAX`] calls. The rest waits for the next
    /// turn.
    pub(crate) fn deliver(&mut self, epoch: &mut Epoch) {
        self.pending.sort_unstable_by_key(|(service, _)| *service);
        let mut reported = 0;
        for _ in 0..CALLS_MAX {
            let Some(&(service, _)) = self.pending.get(reported) else {
                break;
            };
            let next = self.pending[reported..].iter().take(BATCH);
            self.events.clear();
            self.events.extend(
                next.take_while(|(of, _)| *of == service)
                    .map(|(_, closed)| *closed),
            );
            reported += self.events.len();
            let policy = epoch
                .snapshot
                .service(service)
                .and_then(|service| epoch.policies.get_mut(service.policy));
            if let Some(policy) = policy {
                policy.closed(service, &self.events);
            }
        }
        self.pending.drain(..reported);
    }
}

/// How a session ended. What its two ends sent decides first. A session that was evicted after it had timed
/// out counts as idle.
fn end_of(session: &Session, backend: &Backend, cause: RemovalCause, now: Tick) -> End {
    let tcp = session.tcp;
    if tcp.is_closed() {
        End::Closed
    } else if tcp.is_refused() {
        End::Refused
    } else if tcp.is_reset() {
        End::Reset
    } else if cause == RemovalCause::Evicted && !session.is_expired(&backend.timeouts, now) {
        End::Evicted
    } else if tcp.is_unanswered() {
        End::Unanswered
    } else if cause == RemovalCause::BackendDown {
        End::Reset
    } else {
        End::Idle
    }
}
