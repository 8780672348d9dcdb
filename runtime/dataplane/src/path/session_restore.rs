//! Sessions of an earlier process go on in this one.
//!
//! Invariant: a record is checked as a stranger's packet is. Only a session that this process could have
//! opened with its own snapshot is restored, and none is overwritten.

use waxwing_packet::Address;

use super::flow::{is_forward, is_never_source, is_reply};
use super::shared::SharedState;
use crate::model::Backend;
use crate::session::{Insert, Removed, Session, SessionRecord, SlotCache, Tuple, WORKER_UNCOUNTED};
use crate::{BackendId, PortId, Snapshot, SourceId, Tick};

/// What the ids in records stand for here, by the ids in the records; `None` for what is gone.
#[derive(Clone, Default, Debug)]
pub struct RecordIds {
    pub backends: Vec<Option<BackendId>>,
    pub ports: Vec<Option<PortId>>,
    /// The first stands for the client's own address.
    pub sources: Vec<Option<SourceId>>,
}

/// Why a session was not restored.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum RecordRefusal {
    /// Its backend is not in the config.
    Backend,
    /// Its source NAT address is not in the config.
    Source,
    /// The port that its client's packets came by is not in the config.
    Port,
    /// No client has this address or MAC address.
    Client,
    /// Its service does not have this port, or a port is 0.
    ServicePort,
    /// It has timed out.
    Expired,
    /// Another session has its tuple.
    Duplicate,
    /// The table is full.
    Full,
}

impl RecordRefusal {
    /// The reason, for people.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Backend => "the config does not have their backend",
            Self::Source => "the config does not have their source NAT address",
            Self::Port => "the config does not have the port of their client",
            Self::Client => "no client may have such an address",
            Self::ServicePort => "their service does not have such a port",
            Self::Expired => "they have timed out",
            Self::Duplicate => "another session has the same addresses and ports",
            Self::Full => "the session table is full",
        }
    }
}

/// Restores sessions, before or while workers run.
pub struct Restorer<'a> {
    shared: &'a SharedState,
    snapshot: &'a Snapshot,
    ids: &'a RecordIds,
    slots: SlotCache,
    workers: u8,
}

impl<'a> Restorer<'a> {
    #[must_use]
    pub fn new(
        shared: &'a SharedState,
        snapshot: &'a Snapshot,
        ids: &'a RecordIds,
        workers: usize,
    ) -> Self {
        Self {
            shared,
            snapshot,
            ids,
            slots: shared.sessions.slot_cache(),
            workers: u8::try_from(workers)
                .map_or(WORKER_UNCOUNTED, |n| n.clamp(1, WORKER_UNCOUNTED)),
        }
    }

    /// Restores a session whose record was made `elapsed` ticks before `now`.
    ///
    /// # Errors
    /// [`RecordRefusal`]; nothing has changed then.
    pub fn restore(
        &mut self,
        record: &SessionRecord,
        elapsed: u32,
        now: Tick,
    ) -> Result<(), RecordRefusal> {
        let Self {
            shared, snapshot, ..
        } = *self;
        let backend = known(&self.ids.backends, record.backend.index())
            .and_then(|id| snapshot.backend(id))
            .ok_or(RecordRefusal::Backend)?;
        let session = self.session(record, backend, elapsed, now)?;
        let seen = snapshot.address_of(session.source, session.client);
        let [forward, reply] = tuples(&session, backend, seen.ok_or(RecordRefusal::Source)?);
        let sessions = &shared.sessions;
        let of = |other: &Session| snapshot.backend(other.backend);
        let inserted = sessions.insert(
            &mut self.slots,
            sessions.hash(&forward),
            sessions.hash(&reply),
            &session,
            |other| of(other).is_some_and(|it| is_forward(&other.into(), it, &forward)),
            |other| of(other).is_some_and(|it| is_reply(&other.into(), it, snapshot, &reply)),
        );
        let at = match inserted {
            Insert::Created(at) => at,
            Insert::Exists(..) | Insert::Clash(..) => return Err(RecordRefusal::Duplicate),
            Insert::Full => return Err(RecordRefusal::Full),
        };
        sessions.add_bytes(at, record.bytes);
        sessions.expect_acknowledgment(at, record.server_sequence);
        let gauges = &shared.gauges;
        gauges.resume(session.worker.into(), session.backend, session.tcp.phase());
        gauges.begin_source(session.source);
        Ok(())
    }

    /// Ends the session of a record's client, if there is one.
    pub fn end(&mut self, record: &SessionRecord) {
        let snapshot = self.snapshot;
        let backend = known(&self.ids.backends, record.backend.index());
        let Some(backend) = backend.and_then(|id| snapshot.backend(id)) else {
            return;
        };
        let forward = forward(
            record.client,
            [record.client_port, record.service_port],
            backend,
        );
        let SharedState {
            sessions, gauges, ..
        } = self.shared;
        let found = sessions.find(sessions.hash(&forward), |other| {
            let of = snapshot.backend(other.backend);
            of.is_some_and(|it| is_forward(&other.into(), it, &forward))
        });
        let removed = found.and_then(|(at, _)| sessions.remove(&mut self.slots, at));
        if let Some(Removed { session, .. }) = removed {
            gauges.end(session.worker.into(), session.backend, session.tcp.phase());
            gauges.end_source(session.source);
        }
    }

    /// The record's session, checked.
    fn session(
        &self,
        record: &SessionRecord,
        backend: &Backend,
        elapsed: u32,
        now: Tick,
    ) -> Result<Session, RecordRefusal> {
        let mut hop = record.hop;
        // A session that a reply opened has no port yet.
        if hop.port != PortId::KERNEL {
            hop.port = known(&self.ids.ports, hop.port.index()).ok_or(RecordRefusal::Port)?;
        }
        let ago = |ticks: u32| Tick(now.0.saturating_sub(ticks.saturating_add(elapsed)));
        let session = Session {
            client: record.client,
            client_port: record.client_port,
            service_port: record.service_port,
            source: known(&self.ids.sources, record.source.index()).ok_or(RecordRefusal::Source)?,
            source_port: record.source_port,
            protocol: backend.protocol,
            worker: record.worker % self.workers,
            backend: backend.id,
            hop,
            tags: record.tags,
            created: ago(record.age),
            seen: ago(record.idle),
            tcp: record.tcp,
        };
        let is_served = backend.vip_ports.contains(session.service_port);
        if !is_served || session.client_port == 0 || session.source_port == 0 {
            Err(RecordRefusal::ServicePort)
        } else if is_never_source(self.snapshot, session.client)
            || session.client.family() != backend.address.family()
            || !session.hop.mac.is_station()
        {
            Err(RecordRefusal::Client)
        } else if session.is_expired(&backend.timeouts, now) {
            Err(RecordRefusal::Expired)
        } else {
            Ok(session)
        }
    }
}

fn known<T: Copy>(ids: &[Option<T>], at: usize) -> Option<T> {
    *ids.get(at)?
}

/// A session's tuples: the client's packets', and the backend's, which sees the client's address as `seen`.
fn tuples(session: &Session, backend: &Backend, seen: Address) -> [Tuple; 2] {
    let forward = forward(
        session.client,
        [session.client_port, session.service_port],
        backend,
    );
    let reply = Tuple {
        source: backend.address,
        destination: seen,
        source_port: backend.port_for(session.service_port),
        destination_port: session.source_port,
        protocol: session.protocol,
    };
    [forward, reply]
}

/// A client's tuple towards the service of this backend.
fn forward(client: Address, [source_port, destination_port]: [u16; 2], backend: &Backend) -> Tuple {
    Tuple {
        source: client,
        destination: backend.vip,
        source_port,
        destination_port,
        protocol: backend.protocol,
    }
}
