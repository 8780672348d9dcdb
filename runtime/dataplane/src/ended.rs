//! The end of sessions: by time, to make room, or because a new connection reuses the tuple.
//!
//! Invariant: a session that began was counted in [`crate::Gauges`] once, and is uncounted once,
//! here. Policies hear of ended sessions in batches, between two batches of frames.

use crate::forward::Shared;
use crate::policy::{Closed, End};
use crate::session::{Session, SessionRef, SlotCache};
use crate::time::TICK_MS;
use crate::{BATCH, BackendId, Epoch, ServiceId, Tick};

/// The most ended sessions that wait for their policies to hear of them; what ends beyond that
/// between two deliveries is not told.
const WAITING_MAX: usize = 4096;

/// Ended sessions that their policies have not heard of yet.
pub(crate) struct Ended {
    waiting: Vec<(BackendId, u64)>,
    sorted: Vec<(ServiceId, Closed)>,
    events: Vec<Closed>,
}

impl Ended {
    pub(crate) fn new() -> Self {
        Self {
            waiting: Vec::with_capacity(WAITING_MAX),
            sorted: Vec::with_capacity(WAITING_MAX),
            events: Vec::with_capacity(BATCH),
        }
    }

    /// Ends a session; of several workers that try, one does.
    pub(crate) fn end(
        &mut self,
        shared: &Shared,
        slots: &mut SlotCache,
        at: SessionRef,
        now: Tick,
    ) {
        if let Some(session) = shared.sessions.remove(slots, at) {
            self.record(shared, &session, now);
        }
    }

    /// Takes note of a session that has just been removed from the table.
    pub(crate) fn record(&mut self, shared: &Shared, session: &Session, now: Tick) {
        shared.gauges.end(0, session.backend);
        if self.waiting.len() < WAITING_MAX {
            let duration = u64::from(now.since(session.created)) * TICK_MS;
            self.waiting.push((session.backend, duration));
        }
    }

    /// Tells the policies.
    pub(crate) fn deliver(&mut self, epoch: &mut Epoch) {
        if self.waiting.is_empty() {
            return;
        }
        self.sorted.clear();
        for (backend, duration_ms) in self.waiting.drain(..) {
            let Some(backend) = epoch.snapshot.backend(backend) else {
                continue;
            };
            let Some(place) = backend.place else { continue };
            self.sorted.push((
                backend.service,
                Closed {
                    backend: place,
                    duration_ms,
                    bytes: 0,
                    end: End::Idle,
                },
            ));
        }
        self.sorted.sort_unstable_by_key(|(service, _)| *service);
        for of_one_service in self.sorted.chunk_by(|(a, _), (b, _)| a == b) {
            let service = of_one_service[0].0;
            let policy = epoch
                .snapshot
                .service(service)
                .and_then(|service| epoch.policies.get_mut(service.policy));
            let Some(policy) = policy else { continue };
            for events in of_one_service.chunks(BATCH) {
                self.events.clear();
                self.events.extend(events.iter().map(|(_, closed)| *closed));
                policy.closed(service, &self.events);
            }
        }
    }
}
