//! A new flow's session: its source endpoint towards the backend, and its place in the table.
//!
//! Invariant: no session is overwritten. A source endpoint that another session has towards the same
//! backend endpoint is left to it, and another is tried; where a pool has none left, a session may
//! give its own up that could make room in a full table, and that one ends first.

use waxwing_packet::{Address, IpPacket, Protocol};

use crate::ended::Cause;
use crate::flow::{is_forward, is_reply, opening_state, tuple_of};
use crate::forward::{Fate, Shared};
use crate::parts::Parts;
use crate::session::{
    Direction, Evictable, FlowHash, Insert, Phase, Session, SessionRef, SessionTable, Tuple,
};
use crate::snapshot::{Backend, Service};
use crate::source_nat::{Pool, SourceId};
use crate::{DropReason, NextHop, Now, Snapshot, Tick};

/// How many sessions of a full table are looked at for one to evict.
const EVICTION_WINDOW: usize = 128;
/// How long a connection that only an RST seems to have ended has to show that it lives, before it makes
/// room: ten seconds, as long as Linux's connection tracking waits.
const RESET_TICKS: u32 = 100;
/// How long an answer to a datagram may be under way, before its source port may be another client's.
const ANSWER_TICKS: u32 = 100;
/// How many translated source ports are tried when a tuple clashes.
const CLASH_TRIES: u16 = 16;
/// The lowest source port that a clash is translated to (RFC 6056 section 3.2).
const TRANSLATED_PORT_MIN: u16 = 1024;

/// A new flow's first packet, and the way that it came.
pub(crate) struct Arrived<'a> {
    pub(crate) packet: &'a IpPacket,
    pub(crate) hash: FlowHash,
    pub(crate) hop: NextHop,
}

/// Makes the session, with another source endpoint where it is to have one or where the tuple towards
/// the backend is taken, and in the place of a less worthy session where there is no room.
pub(crate) fn open_session(
    snapshot: &Snapshot,
    (service, backend): (&Service, &Backend),
    arrived: &Arrived<'_>,
    parts: &mut Parts<'_>,
    now: Now,
) -> Result<Fate, DropReason> {
    let tuple = tuple_of(arrived.packet).ok_or(DropReason::Unsupported)?;
    let pool = snapshot.sources().pool(service, backend, tuple.source)?;
    let session = Session {
        client: tuple.source,
        client_port: tuple.source_port,
        service_port: tuple.destination_port,
        source: SourceId::CLIENT,
        source_port: tuple.source_port,
        protocol: tuple.protocol,
        worker: parts.worker,
        backend: backend.id,
        hop: arrived.hop,
        tags: arrived.packet.ethernet.tags,
        created: now.tick(),
        seen: now.tick(),
        tcp: opening_state(arrived.packet),
    };
    let mut opening = Opening {
        snapshot,
        backend,
        arrived,
        tuple,
        session,
        made_room: false,
        parts,
        now,
    };
    match pool {
        None => opening.as_the_client(),
        Some(pool) => opening.out_of(pool),
    }
}

/// A session that is being made.
struct Opening<'a, 'p> {
    snapshot: &'a Snapshot,
    backend: &'a Backend,
    arrived: &'a Arrived<'a>,
    tuple: Tuple,
    session: Session,
    /// Whether another was evicted for it: that is done once.
    made_room: bool,
    parts: &'a mut Parts<'p>,
    now: Now,
}

/// What came of one source endpoint.
enum Attempt {
    Opened(Fate),
    /// It is another session's.
    Taken(SessionRef, Session),
}

impl Opening<'_, '_> {
    /// From the client's own address, with another port where another service's session has its own.
    fn as_the_client(&mut self) -> Result<Fate, DropReason> {
        let hash = self.arrived.hash;
        let others = (1..=CLASH_TRIES).map(|n| other_port(hash, n));
        for port in std::iter::once(self.tuple.source_port).chain(others) {
            if let Attempt::Opened(fate) = self.attempt(SourceId::CLIENT, port)? {
                return Ok(fate);
            }
        }
        Err(DropReason::TupleClash)
    }

    /// From an endpoint of a pool, or one whose session makes room.
    fn out_of(&mut self, pool: &Pool) -> Result<Fate, DropReason> {
        let client = hash_of_client(&self.parts.shared.sessions, self.tuple.source);
        // Other ports at each try of a client.
        let turn = u64::from(self.now.tick().0).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let draw = self.arrived.hash.bits().wrapping_add(turn);
        let mut least: Option<((u8, u32), SessionRef, Session)> = None;
        for (source, port) in pool.candidates(client, draw, self.tuple.source_port) {
            match self.attempt(source, port)? {
                Attempt::Opened(fate) => return Ok(fate),
                Attempt::Taken(at, other) => {
                    let now = self.now.tick();
                    if let Some(rank) = yields(self.snapshot, &other, now)
                        && least.is_none_or(|(highest, ..)| rank > highest)
                    {
                        least = Some((rank, at, other));
                    }
                }
            }
        }
        let (_, at, other) = least.ok_or(DropReason::SourcePorts)?;
        self.take_over(at, &other)
    }

    /// Ends a session, and takes its source endpoint.
    fn take_over(&mut self, at: SessionRef, other: &Session) -> Result<Fate, DropReason> {
        let Parts {
            shared,
            slots,
            ended,
            counters,
            ..
        } = &mut *self.parts;
        let removed = shared.sessions.remove_if(slots, at, Some(other.tcp));
        let removed = removed.ok_or(DropReason::SourcePorts)?;
        ended.record(self.snapshot, &removed, Cause::Room, self.now.tick());
        counters.evicted.add(1);
        match self.attempt(other.source, other.source_port)? {
            Attempt::Opened(fate) => Ok(fate),
            // Another worker was faster.
            Attempt::Taken(..) => Err(DropReason::SourcePorts),
        }
    }

    /// Makes the session with this source endpoint, if that is free.
    fn attempt(&mut self, source: SourceId, port: u16) -> Result<Attempt, DropReason> {
        self.session.source = source;
        self.session.source_port = port;
        loop {
            match self.insert()? {
                Insert::Created(at) => return Ok(Attempt::Opened(self.begin(at))),
                // Another worker was faster with the same flow.
                Insert::Exists(at, found) => {
                    let fate = Fate::Session(at, found, Direction::Forward);
                    return Ok(Attempt::Opened(fate));
                }
                Insert::Clash(at, other) => return Ok(Attempt::Taken(at, other)),
                Insert::Full if !self.made_room => {
                    make_room(self.snapshot, self.parts, self.now.tick())?;
                    self.made_room = true;
                }
                Insert::Full => return Err(DropReason::SessionTableFull),
            }
        }
    }

    fn insert(&mut self) -> Result<Insert, DropReason> {
        let Self {
            snapshot,
            backend,
            session,
            tuple,
            ..
        } = self;
        let sessions = &self.parts.shared.sessions;
        let seen = snapshot.seen_by_backend(session);
        let reply = Tuple {
            source: backend.address,
            source_port: backend.port_for(session.service_port),
            destination: seen.ok_or(DropReason::NoSourceAddress)?,
            destination_port: session.source_port,
            protocol: session.protocol,
        };
        let of = |other: &Session| snapshot.backend(other.backend);
        Ok(sessions.insert(
            self.parts.slots,
            self.arrived.hash,
            sessions.hash(&reply),
            session,
            |other| of(other).is_some_and(|backend| is_forward(&other.into(), backend, tuple)),
            |other| {
                of(other).is_some_and(|backend| is_reply(&other.into(), backend, snapshot, &reply))
            },
        ))
    }

    /// Counts the session that was made.
    fn begin(&self, at: SessionRef) -> Fate {
        let Shared {
            sessions, gauges, ..
        } = self.parts.shared;
        let session = self.session;
        gauges.begin(session.worker.into(), session.backend);
        gauges.begin_source(session.source);
        let counters = self.parts.counters.backend(session.backend);
        counters.sessions.add(1);
        if session.tcp.is_opening() {
            sessions.begin_connect(at, self.now);
        }
        Fate::Session(at, session, Direction::Forward)
    }
}

/// The `n`-th source port to try, spread by the flow's hash.
fn other_port(hash: FlowHash, n: u16) -> u16 {
    let range = u64::from(u16::MAX - TRANSLATED_PORT_MIN) + 1;
    let offset = (hash.bits() >> 16).wrapping_add(u64::from(n) * 7919) % range;
    u16::try_from(offset).map_or(TRANSLATED_PORT_MIN, |offset| TRANSLATED_PORT_MIN + offset)
}

/// The same for all flows of a client.
fn hash_of_client(sessions: &SessionTable, client: Address) -> u64 {
    let alone = Tuple {
        source: client,
        destination: Address::default(),
        source_port: 0,
        destination_port: 0,
        protocol: Protocol::Tcp,
    };
    sessions.hash(&alone).bits()
}

/// Whether a session may end for another.
fn evictable(snapshot: &Snapshot, session: &Session, now: Tick) -> Evictable {
    // A backend that this epoch does not know yet is one of the next epoch's.
    let Some(backend) = snapshot.backend(session.backend) else {
        return Evictable::Never;
    };
    if session.is_expired(&backend.timeouts, now) {
        return Evictable::HalfOpen;
    }
    match session.tcp.phase() {
        Phase::HalfOpen => Evictable::HalfOpen,
        Phase::Closing if session.tcp.is_closed() => Evictable::Closing,
        Phase::Closing if now.since(session.seen) >= RESET_TICKS => Evictable::Closing,
        Phase::Closing | Phase::Established => Evictable::Never,
    }
}

/// Of sessions that have a pool's ports, the one with the highest gives its own up first: the longest
/// closed and, where none is, the oldest whose handshake is not complete. (Otherwise than in a full table,
/// where half-open ones are most likely a flood's: here they are as likely the neighbours of this one, while
/// ports of closed ones are held for nothing but caution.) `None` for never.
///
/// A segment that is under way still finds other sequence numbers at the next client; a datagram has none,
/// and would tell it what another has asked for.
fn yields(snapshot: &Snapshot, session: &Session, now: Tick) -> Option<(u8, u32)> {
    if session.protocol == Protocol::Udp && now.since(session.seen) < ANSWER_TICKS {
        return None;
    }
    match evictable(snapshot, session, now) {
        Evictable::Closing => Some((1, now.since(session.seen))),
        Evictable::HalfOpen => Some((0, now.since(session.created))),
        Evictable::Never => None,
    }
}

fn make_room(snapshot: &Snapshot, parts: &mut Parts<'_>, now: Tick) -> Result<(), DropReason> {
    let classify = |session: &Session| evictable(snapshot, session, now);
    let evicted = parts
        .shared
        .sessions
        .evict(parts.slots, EVICTION_WINDOW, classify, now)
        .ok_or(DropReason::SessionTableFull)?;
    parts.ended.record(snapshot, &evicted, Cause::Room, now);
    parts.counters.evicted.add(1);
    Ok(())
}
