//! A new flow's session: its source endpoint towards the backend, and its entry in the table.
//!
//! Invariant: no session is overwritten. If another session has a source endpoint towards the same backend
//! endpoint, the next candidate is tried. When all candidates of a pool are taken, sessions that are not
//! assured and then closed ones are evicted; otherwise the new flow is dropped.

use waxwing_packet::{Address, IpPacket, Protocol};

use super::eviction::{evict_any, eviction_rank};
use super::flow::{first_state, is_forward, is_reply, tuple_of};
use super::session_close::RemovalCause;
use super::shared::SharedState;
use super::{Verdict, WorkerContext};
use crate::model::{Backend, Pool, Service};
use crate::session::{Direction, FlowHash, Insert, Session, SessionRef, SessionTable, Tuple};
use crate::{DropReason, NextHop, Now, Snapshot, SourceId};

/// How many translated source ports are tried when a tuple clashes.
pub(super) const CLASH_TRIES: u16 = 16;
/// The lowest source port a clash is translated to (RFC 6056 section 3.2).
const TRANSLATED_PORT_MIN: u16 = 1024;

/// The first packet of a new flow, and the hop it came from.
pub(crate) struct FirstPacket<'a> {
    pub(crate) packet: &'a IpPacket,
    pub(crate) hash: FlowHash,
    pub(crate) hop: NextHop,
}

/// A new flow's session.
pub(crate) struct Opened {
    pub(crate) at: SessionRef,
    pub(crate) session: Session,
    /// Whether it was opened by this packet: not so if another worker was faster with the same flow.
    pub(crate) is_new: bool,
}

/// Opens a session towards a backend. Its source endpoint is translated if source NAT applies or if the tuple
/// towards the backend is taken. If the table is full, another session is evicted.
pub(crate) fn open_session(
    snapshot: &Snapshot,
    (service, backend): (&Service, &Backend),
    first: &FirstPacket<'_>,
    context: &mut WorkerContext,
    now: Now,
) -> Result<Opened, DropReason> {
    let tuple = tuple_of(first.packet).ok_or(DropReason::Unsupported)?;
    let pool = snapshot.sources().pool(service, backend, tuple.source)?;
    let session = Session {
        client: tuple.source,
        client_port: tuple.source_port,
        service_port: tuple.destination_port,
        source: SourceId::CLIENT,
        source_port: tuple.source_port,
        protocol: tuple.protocol,
        worker: context.worker,
        backend: backend.id,
        hop: first.hop,
        tags: first.packet.ethernet.tags,
        created: now.tick(),
        seen: now.tick(),
        tcp: first_state(first.packet),
    };
    let mut opening = Opening {
        snapshot,
        backend,
        hash: first.hash,
        tuple,
        session,
        has_evicted: false,
        context,
        now,
    };
    match pool {
        None => opening.with_client_address(),
        Some(pool) => opening.with_pool_address(pool),
    }
}

/// Opens the session that a reply belongs to, and returns it as the reply's. If its client's flow has another
/// session, the reply is dropped.
pub(super) fn open_by_reply(
    snapshot: &Snapshot,
    backend: &Backend,
    session: Session,
    reply: &Tuple,
    context: &mut WorkerContext,
    now: Now,
) -> Result<Verdict, DropReason> {
    let tuple = Tuple {
        source: session.client,
        source_port: session.client_port,
        destination: backend.vip,
        destination_port: session.service_port,
        protocol: session.protocol,
    };
    let hash = context.shared.sessions.hash(&tuple);
    let mut opening = Opening {
        snapshot,
        backend,
        hash,
        tuple,
        session,
        has_evicted: false,
        context,
        now,
    };
    let (at, found) = match opening.attempt(SourceId::CLIENT, session.source_port)? {
        Attempt::Opened(Opened { at, session, .. }) => (at, session),
        Attempt::Taken(at, found) => (at, found),
    };
    // An earlier packet of the batch may have opened it.
    let is_its = snapshot
        .backend(found.backend)
        .is_some_and(|backend| is_reply(&(&found).into(), backend, snapshot, reply));
    match is_its {
        true => Ok(Verdict::Session(at, found, Direction::Reply)),
        false => Err(DropReason::TupleClash),
    }
}

/// A session being opened.
struct Opening<'a> {
    snapshot: &'a Snapshot,
    backend: &'a Backend,
    /// The hash of `tuple`.
    hash: FlowHash,
    /// The first packet's.
    tuple: Tuple,
    session: Session,
    /// Whether a session was evicted for it: once is the limit.
    has_evicted: bool,
    context: &'a mut WorkerContext,
    now: Now,
}

/// The result of trying one source endpoint.
enum Attempt {
    Opened(Opened),
    /// Another session has it.
    Taken(SessionRef, Session),
}

impl Opening<'_> {
    /// Keeps the client's address; its port too, unless another service's session or a direct flow has it. If
    /// direct flows have all candidates, one of theirs is taken: forged ones must not keep clients out.
    fn with_client_address(&mut self) -> Result<Opened, DropReason> {
        let own = self.tuple.source_port;
        for spares_direct in [true, false] {
            for n in 0..=CLASH_TRIES {
                let port = match n {
                    0 => own,
                    n => other_port(self.context.shared.sessions.draw(self.hash), n),
                };
                if spares_direct && self.is_direct(port) {
                    continue;
                }
                if let Attempt::Opened(opened) = self.attempt(SourceId::CLIENT, port)? {
                    return Ok(opened);
                }
            }
        }
        Err(DropReason::TupleClash)
    }

    /// Whether the client uses this port towards the backend's own address.
    fn is_direct(&self, port: u16) -> bool {
        let SharedState {
            sessions, direct, ..
        } = &self.context.shared;
        if !direct.is_used() {
            return false;
        }
        let reply = Tuple {
            source: self.backend.address,
            source_port: self.backend.port_for(self.session.service_port),
            destination: self.tuple.source,
            destination_port: port,
            protocol: self.session.protocol,
        };
        direct.has(&reply, sessions.hash(&reply), self.now.tick())
    }

    /// Takes a source endpoint from the pool, evicting a session for it if all candidates are taken.
    fn with_pool_address(&mut self, pool: &Pool) -> Result<Opened, DropReason> {
        let client = draw_of_client(&self.context.shared.sessions, self.tuple.source);
        // Each retry of a client draws other ports.
        let turn = u64::from(self.now.tick().0).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let draw = self
            .context
            .shared
            .sessions
            .draw(self.hash)
            .wrapping_add(turn);
        let mut best: Option<((u8, u32), SessionRef, Session)> = None;
        for (source, port) in pool.candidates(client, draw, self.tuple.source_port) {
            match self.attempt(source, port)? {
                Attempt::Opened(opened) => return Ok(opened),
                Attempt::Taken(at, other) => {
                    let now = self.now.tick();
                    if let Some(rank) = eviction_rank(self.snapshot, &other, now)
                        && best.is_none_or(|(highest, ..)| rank > highest)
                    {
                        best = Some((rank, at, other));
                    }
                }
            }
        }
        let (_, at, other) = best.ok_or(DropReason::SourcePorts)?;
        self.replace(at, &other)
    }

    /// Evicts a session and takes its source endpoint.
    fn replace(&mut self, at: SessionRef, other: &Session) -> Result<Opened, DropReason> {
        let WorkerContext {
            shared,
            slots,
            closed,
            counters,
            ..
        } = &mut *self.context;
        let removed = shared.sessions.remove_if(slots, at, Some(other.tcp));
        let removed = removed.ok_or(DropReason::SourcePorts)?;
        closed.record_removal(
            self.snapshot,
            &removed,
            RemovalCause::Evicted,
            self.now.tick(),
        );
        counters.evicted.add(1);
        match self.attempt(other.source, other.source_port)? {
            Attempt::Opened(opened) => Ok(opened),
            // Another worker was faster.
            Attempt::Taken(..) => Err(DropReason::SourcePorts),
        }
    }

    /// Inserts the session with this source endpoint, if that is free.
    fn attempt(&mut self, source: SourceId, port: u16) -> Result<Attempt, DropReason> {
        self.session.source = source;
        self.session.source_port = port;
        loop {
            match self.insert()? {
                Insert::Created(at) => {
                    self.begin(at);
                    return Ok(Attempt::Opened(Opened {
                        at,
                        session: self.session,
                        is_new: true,
                    }));
                }
                Insert::Exists(at, session) => {
                    return Ok(Attempt::Opened(Opened {
                        at,
                        session,
                        is_new: false,
                    }));
                }
                Insert::Clash(at, other) => return Ok(Attempt::Taken(at, other)),
                Insert::Full if !self.has_evicted => {
                    evict_any(self.snapshot, self.context, self.now.tick())?;
                    self.has_evicted = true;
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
        let sessions = &self.context.shared.sessions;
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
            &mut self.context.slots,
            self.hash,
            sessions.hash(&reply),
            session,
            |other| of(other).is_some_and(|backend| is_forward(&other.into(), backend, tuple)),
            |other| {
                of(other).is_some_and(|backend| is_reply(&other.into(), backend, snapshot, &reply))
            },
        ))
    }

    /// Counts the new session.
    fn begin(&self, at: SessionRef) {
        let WorkerContext {
            shared,
            closed,
            counters,
            ..
        } = &*self.context;
        let session = &self.session;
        let phase = session.tcp.phase();
        let worker = session.worker.into();
        let before = shared.gauges.begin(worker, session.backend, phase);
        shared.gauges.begin_source(session.source);
        counters.opened.add(1);
        if session.tcp.is_opening() {
            shared.sessions.begin_connect(at, self.now);
            if session.protocol == Protocol::Tcp {
                shared.sessions.begin_sample(at, before);
            }
        } else if session.tcp.has_ended() {
            // A SYN with RST.
            closed.record_end(self.backend, at, session, session.tcp, self.now.tick());
        }
    }
}

/// The `n`-th source port to try, by what was drawn for the flow ([`SessionTable::draw`]).
pub(super) fn other_port(draw: u64, n: u16) -> u16 {
    let range = u64::from(u16::MAX - TRANSLATED_PORT_MIN) + 1;
    let offset = (draw >> 16).wrapping_add(u64::from(n) * 7919) % range;
    u16::try_from(offset).map_or(TRANSLATED_PORT_MIN, |offset| TRANSLATED_PORT_MIN + offset)
}

/// What is drawn for the client's address alone.
fn draw_of_client(sessions: &SessionTable, client: Address) -> u64 {
    let alone = Tuple {
        source: client,
        destination: Address::default(),
        source_port: 0,
        destination_port: 0,
        protocol: Protocol::Tcp,
    };
    sessions.draw(sessions.hash(&alone))
}
