//! The end of sessions: by time, to make room, because a new connection reuses the tuple, or
//! because their backend is down.
//!
//! Invariant: a session that began was counted in [`crate::Gauges`] once, and is uncounted once,
//! here. The policies that want to hear of ended sessions hear of them in batches, between two
//! batches of frames, in the epoch in which they ended.

use std::sync::Arc;

use crate::counters::WorkerCounters;
use crate::forward::Shared;
use crate::policy::{Closed, End};
use crate::session::{Removed, Session};
use crate::time::TICK_MS;
use crate::{BATCH, Backend, Epoch, ServiceId, Snapshot, Tick};

/// The most ended sessions that wait for their policies to hear of them; what ends beyond that
/// between two deliveries is not told.
const WAITING_MAX: usize = 4096;

/// The most calls between two batches: each may take a batch's time.
const CALLS_MAX: usize = 8;

/// Why a session was removed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// Its time was up, or its connection over and its tuple wanted again.
    Over,
    /// The table was full.
    Room,
    /// Its backend was down.
    Down,
}

/// Ended sessions that their policies have not heard of yet.
pub(crate) struct Ended {
    shared: Shared,
    counters: Arc<WorkerCounters>,
    /// Which policies want to hear, by [`crate::Service::policy`]; empty where none does.
    listening: Vec<bool>,
    waiting: Vec<(ServiceId, Closed)>,
    events: Vec<Closed>,
}

impl Ended {
    pub(crate) fn new(shared: Shared, counters: Arc<WorkerCounters>, epoch: &Epoch) -> Self {
        let mut ended = Self {
            shared,
            counters,
            listening: Vec::new(),
            waiting: Vec::with_capacity(WAITING_MAX),
            events: Vec::with_capacity(BATCH),
        };
        ended.listen_for(epoch);
        ended
    }

    /// Asks the policies of an epoch that is taken up whether they want to hear.
    pub(crate) fn listen_for(&mut self, epoch: &Epoch) {
        let wants = epoch.policies.iter().map(|policy| policy.wants_closed());
        self.listening.clear();
        self.listening.extend(wants);
        if !self.listening.contains(&true) {
            self.listening.clear();
        }
    }

    /// Whether a policy wants to hear of the backend's sessions, and of their bytes.
    #[inline]
    pub(crate) fn is_told_of(&self, backend: &Backend) -> bool {
        // Asked of every packet: one branch where nobody listens.
        !self.listening.is_empty()
            && backend
                .policy
                .is_some_and(|policy| self.listening.get(policy) == Some(&true))
    }

    /// Takes note of a session that has just been removed from the table.
    pub(crate) fn record(
        &mut self,
        snapshot: &Snapshot,
        removed: &Removed,
        cause: Cause,
        now: Tick,
    ) {
        let session = &removed.session;
        self.shared
            .gauges
            .end(session.worker.into(), session.backend);
        self.shared.gauges.end_source(session.source);
        // Whoever removes a session has judged it by its backend in this snapshot.
        let Some(backend) = snapshot.backend(session.backend) else {
            return;
        };
        let end = end_of(session, backend, cause, now);
        if end == End::Unanswered {
            self.counters.backend(backend.id).unanswered.add(1);
        }
        if self.is_told_of(backend)
            && self.waiting.len() < WAITING_MAX
            && let Some(place) = backend.place
        {
            let closed = Closed {
                backend: place,
                duration_ms: u64::from(now.since(session.created)) * TICK_MS,
                bytes: removed.bytes,
                end,
            };
            self.waiting.push((backend.service, closed));
        }
    }

    /// Tells the policies, in at most [`CALLS_MAX`] calls: what is left waits for the next turn.
    pub(crate) fn deliver(&mut self, epoch: &mut Epoch) {
        self.waiting.sort_unstable_by_key(|(service, _)| *service);
        let mut told = 0;
        for _ in 0..CALLS_MAX {
            let Some(&(service, _)) = self.waiting.get(told) else {
                break;
            };
            let rest = self.waiting[told..].iter().take(BATCH);
            self.events.clear();
            self.events.extend(
                rest.take_while(|(of, _)| *of == service)
                    .map(|(_, closed)| *closed),
            );
            told += self.events.len();
            let policy = epoch
                .snapshot
                .service(service)
                .and_then(|service| epoch.policies.get_mut(service.policy));
            if let Some(policy) = policy {
                policy.closed(service, &self.events);
            }
        }
        self.waiting.drain(..told);
    }
}

/// How a session ended. What its two ends said comes first; a session that made room when its time
/// was up has ended by time.
fn end_of(session: &Session, backend: &Backend, cause: Cause, now: Tick) -> End {
    let tcp = session.tcp;
    if tcp.is_closed() {
        End::Closed
    } else if tcp.is_refused() {
        End::Refused
    } else if tcp.is_reset() {
        End::Reset
    } else if cause == Cause::Room && !session.is_expired(&backend.timeouts, now) {
        End::Evicted
    } else if tcp.is_unanswered() {
        End::Unanswered
    } else if cause == Cause::Down {
        End::Reset
    } else {
        End::Idle
    }
}
