//! The end of sessions: by both FINs or an RST; or by their removal from the table, which follows a timeout,
//! an eviction, the loss of their backend, or, if they have ended, a new connection that reuses the tuple.
//!
//! Invariant: in [`crate::Gauges`] each session is counted once when it begins, moved at each change of its
//! phase, and uncounted once, here. Each end is reported once, when it comes: a session's removal reports
//! nothing if its FINs or RST did. Policies that want to know of closed sessions learn of them in batches,
//! between two batches of frames, in the epoch in which the sessions closed.

use std::cell::RefCell;

use super::shared::SharedState;
use crate::model::Backend;
use crate::policy::{Closed, End};
use crate::session::{Removed, Session, SessionRef, TcpState};
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

/// Ends a session as the operator asks: the next packet of either end is answered with an RST, and until then
/// the session counts as closing. Returns whether it was open.
pub fn kill(shared: &SharedState, at: SessionRef, session: &Session) -> bool {
    let states = shared.sessions.update_tcp(at, TcpState::killed);
    let Some((before, after)) = states.filter(|(before, after)| before != after) else {
        return false;
    };
    let (worker, phases) = (session.worker.into(), [before.phase(), after.phase()]);
    if phases[0] != phases[1] {
        shared.gauges.change(worker, session.backend, phases);
    }
    true
}

/// Closed sessions that are not yet reported to their policies.
pub(crate) struct ClosedSessions {
    shared: SharedState,
    /// Which policies want closed sessions, by [`crate::Service::policy`]; empty if none does.
    wanted_by: Vec<bool>,
    /// The fast path, which changes nothing else of the worker, adds to it.
    pending: RefCell<Vec<Pending>>,
    events: Vec<Closed>,
}

/// A closed session that is not yet reported.
struct Pending {
    service: ServiceId,
    /// The session, if it was in the table: the bytes of its last packet are not counted yet.
    at: Option<SessionRef>,
    closed: Closed,
}

impl ClosedSessions {
    pub(crate) fn new(shared: SharedState, epoch: &Epoch) -> Self {
        let mut closed = Self {
            shared,
            wanted_by: Vec::new(),
            pending: RefCell::new(Vec::with_capacity(PENDING_MAX)),
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

    /// Whether any policy wants closed sessions and their bytes.
    #[inline(always)]
    pub(crate) fn are_wanted(&self) -> bool {
        !self.wanted_by.is_empty()
    }

    /// Whether the backend's policy wants closed sessions and their bytes.
    #[inline]
    pub(crate) fn is_wanted_by(&self, backend: &Backend) -> bool {
        // Runs for every packet: one branch if no policy wants them.
        self.are_wanted()
            && backend
                .policy
                .is_some_and(|policy| self.wanted_by.get(policy) == Some(&true))
    }

    /// Records a change of a session's TCP state.
    pub(crate) fn record_change(
        &self,
        backend: &Backend,
        (at, session): (SessionRef, &Session),
        [before, after]: [TcpState; 2],
        now: Tick,
    ) {
        let phases = [before.phase(), after.phase()];
        if phases[0] != phases[1] {
            let worker = session.worker.into();
            self.shared.gauges.change(worker, session.backend, phases);
        }
        if after.has_ended() && !before.has_ended() {
            self.record_end(backend, at, session, after, now);
        }
    }

    /// Records that a session has ended by what its two ends sent.
    pub(crate) fn record_end(
        &self,
        backend: &Backend,
        at: SessionRef,
        session: &Session,
        tcp: TcpState,
        now: Tick,
    ) {
        let closed = Closed {
            backend: 0,
            duration_ms: u64::from(now.since(session.created)) * TICK_MS,
            bytes: 0,
            end: end_by_packets(tcp).unwrap_or(End::Reset),
        };
        self.add(backend, Some(at), closed);
    }

    /// Records a session that was just removed from the table.
    pub(crate) fn record_removal(
        &self,
        snapshot: &Snapshot,
        removed: &Removed,
        cause: RemovalCause,
        now: Tick,
    ) {
        let session = &removed.session;
        let gauges = &self.shared.gauges;
        gauges.end(session.worker.into(), session.backend, session.tcp.phase());
        gauges.end_source(session.source);
        // The session was removed by a rule of this snapshot, so the snapshot has its backend.
        let Some(backend) = snapshot.backend(session.backend) else {
            return;
        };
        if session.tcp.has_ended() {
            return;
        }
        let is_expired = session.is_expired(&backend.timeouts, now);
        let end = end_by_removal(session.tcp, cause, is_expired);
        if end == End::Unanswered {
            gauges.count_unanswered(backend.id);
        }
        let lived = if is_expired {
            // It ended when its time was up. Its slot is freed later.
            let idle = session.timeout_ticks(&backend.timeouts);
            session.seen.since(session.created).saturating_add(idle)
        } else {
            now.since(session.created)
        };
        let closed = Closed {
            backend: 0,
            duration_ms: u64::from(lived) * TICK_MS,
            bytes: removed.bytes,
            end,
        };
        self.add(backend, None, closed);
    }

    /// Adds a closed session of this backend, if its policy wants it.
    fn add(&self, backend: &Backend, at: Option<SessionRef>, closed: Closed) {
        let mut pending = self.pending.borrow_mut();
        if self.is_wanted_by(backend)
            && pending.len() < PENDING_MAX
            && let Some(place) = backend.place
        {
            let bytes = at.and_then(|at| self.shared.sessions.bytes(at));
            pending.push(Pending {
                service: backend.service,
                at,
                closed: Closed {
                    backend: place,
                    bytes: bytes.unwrap_or(closed.bytes),
                    ..closed
                },
            });
        }
    }

    /// Reports closed sessions to their policies, in at most [`CALLS_MAX`] calls. The rest waits for the next
    /// turn.
    #[inline]
    pub(crate) fn deliver(&mut self, epoch: &mut Epoch) {
        if !self.pending.get_mut().is_empty() {
            self.deliver_some(epoch);
        }
    }

    #[inline(never)]
    fn deliver_some(&mut self, epoch: &mut Epoch) {
        let sessions = &self.shared.sessions;
        let pending = self.pending.get_mut();
        pending.sort_unstable_by_key(|pending| pending.service);
        let mut reported = 0;
        for _ in 0..CALLS_MAX {
            let Some(&Pending { service, .. }) = pending.get(reported) else {
                break;
            };
            let next = pending[reported..].iter().take(BATCH);
            self.events.clear();
            self.events
                .extend(next.take_while(|pending| pending.service == service).map(
                    |Pending { at, closed, .. }| Closed {
                        bytes: at.and_then(|at| sessions.bytes(at)).unwrap_or(closed.bytes),
                        ..*closed
                    },
                ));
            reported += self.events.len();
            let policy = epoch
                .snapshot
                .service(service)
                .and_then(|service| epoch.policies.get_mut(service.policy));
            if let Some(policy) = policy {
                policy.closed(service, &self.events);
            }
        }
        pending.drain(..reported);
    }
}

/// How a connection ended by what its two ends sent; `None` if it did not.
const fn end_by_packets(tcp: TcpState) -> Option<End> {
    if tcp.is_closed() {
        Some(End::Closed)
    } else if tcp.is_refused() {
        Some(End::Refused)
    } else if tcp.is_reset() {
        Some(End::Reset)
    } else {
        None
    }
}

/// How a session ended that its two ends did not end. One that was evicted after it had timed out counts as
/// idle.
const fn end_by_removal(tcp: TcpState, cause: RemovalCause, is_expired: bool) -> End {
    match cause {
        RemovalCause::Evicted if !is_expired => End::Evicted,
        _ if tcp.is_unanswered() => End::Unanswered,
        RemovalCause::BackendDown => End::Reset,
        RemovalCause::Over | RemovalCause::Evicted => End::Idle,
    }
}
