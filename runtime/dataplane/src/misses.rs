//! New flows: from a policy's pick to a session.
//!
//! Invariant: a pick is trusted in nothing. It becomes a session only where it names a backend of
//! the service that takes new sessions, or one that is to keep a connection; else the native
//! fallback chooses.

use waxwing_packet::{IpPacket, Protocol, TcpFlags, Transport};

use crate::counters::WorkerCounters;
use crate::ended::Cause;
use crate::fallback::rendezvous;
use crate::flow::{find, is_forward, is_reply, opening_state, tcp_flags, tuple_of};
use crate::forward::{Fate, Shared};
use crate::parts::Parts;
use crate::policy::{PAYLOAD_MAX, PickContext};
use crate::session::{Direction, Evictable, FlowHash, Insert, Key, Phase, Session, Tuple};
use crate::snapshot::{Backend, MidStream, NoBackend, Service};
use crate::{
    BATCH, DropReason, Epoch, FrameBuf, NewFlow, NextHop, Now, Pick, ServiceId, Snapshot, Tick,
};

/// How many sessions of a full table are looked at for one to evict.
const EVICTION_WINDOW: usize = 128;
/// How long a connection that only an RST seems to have ended has to show that it lives, before it makes
/// room: ten seconds, as long as Linux's connection tracking waits.
const RESET_TICKS: u32 = 100;
/// How many translated source ports are tried when a tuple clashes.
const CLASH_TRIES: u16 = 16;
/// The lowest source port that a clash is translated to (RFC 6056 section 3.2).
const TRANSLATED_PORT_MIN: u16 = 1024;

/// A new flow of the batch, beside its [`NewFlow`].
#[derive(Clone, Copy)]
struct Arrival {
    frame: usize,
    packet: IpPacket,
    hash: FlowHash,
}

impl Arrival {
    fn is_of(&self, packet: &IpPacket, hash: FlowHash) -> bool {
        self.hash == hash && tuple_of(&self.packet) == tuple_of(packet)
    }
}

/// Room for one batch's new flows, and the cluster-wide hash.
pub(crate) struct Misses {
    cluster: Key,
    flows: Vec<NewFlow>,
    arrivals: Vec<Arrival>,
    picks: Vec<Pick>,
}

impl Misses {
    pub(crate) fn new(cluster_key: [u64; 4]) -> Self {
        Self {
            cluster: Key::new(cluster_key),
            flows: Vec::with_capacity(BATCH),
            arrivals: Vec::with_capacity(BATCH),
            picks: Vec::with_capacity(BATCH),
        }
    }

    /// Decides every miss of one service in the batch.
    pub(crate) fn open<F: FrameBuf>(
        &mut self,
        id: ServiceId,
        epoch: &mut Epoch,
        parts: &mut Parts<'_>,
        (frames, fates): (&[F], &mut [Fate]),
        now: Now,
    ) {
        let Epoch {
            snapshot, policies, ..
        } = epoch;
        let Some(service) = snapshot.service(id) else {
            return give_all(fates, id, DropReason::NoService);
        };
        let policy = policies
            .get_mut(service.policy)
            .filter(|_| !service.backends.is_empty());
        let payload_len = policy.as_ref().map_or(0, |policy| policy.payload_len());
        self.gather(service, payload_len, frames, fates);

        self.picks.clear();
        self.picks.resize(self.flows.len(), Pick::Fallback);
        let context = PickContext {
            now,
            backends: &service.backends,
            gauges: &parts.shared.gauges,
        };
        let answered = policy.is_some_and(|policy| {
            policy
                .pick(id, context, &self.flows, &mut self.picks)
                .is_ok()
        });
        if !answered {
            self.picks.fill(Pick::Fallback);
        }

        for ((arrival, flow), pick) in self.arrivals.iter().zip(&self.flows).zip(&self.picks) {
            let hop = NextHop {
                port: frames[arrival.frame].port(),
                mac: arrival.packet.ethernet.source,
            };
            fates[arrival.frame] = choose(snapshot, service, *pick, flow, parts.counters)
                .and_then(|backend| open_session(snapshot, backend, arrival, hop, parts, now))
                .unwrap_or_else(Fate::Drop);
            if let Fate::Drop(DropReason::NoBackend) = fates[arrival.frame]
                && service.no_backend == NoBackend::Reject
            {
                let bytes = frames[arrival.frame].bytes();
                fates[arrival.frame] = reject(bytes, &arrival.packet, parts, now);
            }
        }
        second_frames(snapshot, parts, &self.arrivals, (frames, fates), now);
    }

    /// Collects the service's new flows; a second frame of the same flow waits for the first.
    fn gather<F: FrameBuf>(
        &mut self,
        service: &Service,
        payload_len: usize,
        frames: &[F],
        fates: &mut [Fate],
    ) {
        self.flows.clear();
        self.arrivals.clear();
        for (at, fate) in fates.iter_mut().enumerate() {
            let Fate::Miss(packet, hash, id) = *fate else {
                continue;
            };
            let Some(tuple) = tuple_of(&packet).filter(|_| id == service.id) else {
                continue;
            };
            if self.arrivals.iter().any(|first| first.is_of(&packet, hash)) {
                continue;
            }
            let flags = tcp_flags(&packet);
            let mid_stream = tuple.protocol == Protocol::Tcp
                && (!flags.has(TcpFlags::SYN) || flags.has(TcpFlags::ACK));
            if mid_stream && (flags.has(TcpFlags::RST) || service.mid_stream == MidStream::Drop) {
                *fate = Fate::Drop(DropReason::MidStream);
                continue;
            }
            let payload = &frames[at].bytes()[payload_range(&packet)];
            self.arrivals.push(Arrival {
                frame: at,
                packet,
                hash,
            });
            let prefix = &payload[..payload.len().min(payload_len.min(PAYLOAD_MAX))];
            self.flows.push(new_flow(
                &tuple,
                self.cluster.hash(&tuple).bits(),
                mid_stream,
                prefix,
            ));
        }
    }
}

fn new_flow(tuple: &Tuple, hash: u64, mid_stream: bool, prefix: &[u8]) -> NewFlow {
    let mut payload = [0; PAYLOAD_MAX];
    payload[..prefix.len()].copy_from_slice(prefix);
    NewFlow {
        source: tuple.source,
        source_port: tuple.source_port,
        destination: tuple.destination,
        destination_port: tuple.destination_port,
        protocol: tuple.protocol,
        hash,
        mid_stream,
        payload_len: u8::try_from(prefix.len()).unwrap_or(u8::MAX),
        payload,
    }
}

/// Where a packet's transport payload lies in its frame.
fn payload_range(packet: &IpPacket) -> std::ops::Range<usize> {
    let start = match packet.transport {
        Transport::Tcp { payload, .. } => payload,
        Transport::Udp { .. } => packet.transport_start + 8,
        Transport::Icmp { .. } | Transport::Other(_) => packet.end,
    };
    usize::from(start.min(packet.end))..usize::from(packet.end)
}

/// From a pick to a backend that takes new sessions.
fn choose<'a>(
    snapshot: &'a Snapshot,
    service: &Service,
    pick: Pick,
    flow: &NewFlow,
    counters: &WorkerCounters,
) -> Result<&'a Backend, DropReason> {
    let is = |id, what: fn(&Backend) -> bool| snapshot.backend(id).is_some_and(what);
    let picked = match pick {
        Pick::Drop => return Err(DropReason::Policy),
        Pick::Backend(place) => service
            .backends
            .get(place as usize)
            .copied()
            .filter(|id| is(*id, Backend::takes_new)),
        Pick::Keep(place) => service
            .backends
            .get(place as usize)
            .copied()
            .filter(|id| is(*id, Backend::keeps_sessions)),
        Pick::Fallback => None,
    };
    picked
        .or_else(|| {
            let chosen = rendezvous(flow.hash, &service.backends, snapshot)?;
            counters.fallback.add(1);
            Some(chosen)
        })
        .and_then(|id| snapshot.backend(id))
        .ok_or(DropReason::NoBackend)
}

/// Tells the client of a new flow that there is no backend for it.
#[cold]
fn reject(frame: &[u8], packet: &IpPacket, parts: &mut Parts<'_>, now: Now) -> Fate {
    let fate = parts
        .refusals
        .refuse(frame, packet, DropReason::NoBackend, now);
    if let Fate::Refuse(_) = fate {
        parts.counters.rejected.add(1);
    }
    fate
}

/// Makes the session, with another source port where the tuple towards the backend is taken, and
/// in the place of a less worthy session where the table is full.
fn open_session(
    snapshot: &Snapshot,
    backend: &Backend,
    arrival: &Arrival,
    hop: NextHop,
    parts: &mut Parts<'_>,
    now: Now,
) -> Result<Fate, DropReason> {
    let tuple = tuple_of(&arrival.packet).ok_or(DropReason::Unsupported)?;
    let mut session = Session {
        client: tuple.source,
        client_port: tuple.source_port,
        service_port: tuple.destination_port,
        source_port: tuple.source_port,
        protocol: tuple.protocol,
        worker: parts.worker,
        backend: backend.id,
        hop,
        tags: arrival.packet.ethernet.tags,
        created: now.tick(),
        seen: now.tick(),
        tcp: opening_state(&arrival.packet),
    };
    let mut made_room = false;
    let mut clashes = 0;
    loop {
        match insert(snapshot, backend, arrival.hash, &tuple, &session, parts) {
            Insert::Created(at) => {
                let Shared {
                    sessions, gauges, ..
                } = parts.shared;
                gauges.begin(session.worker.into(), backend.id);
                parts.counters.backend(backend.id).sessions.add(1);
                if session.tcp.is_opening() {
                    sessions.begin_connect(at, now);
                }
                return Ok(Fate::Session(
                    arrival.packet,
                    at,
                    session,
                    Direction::Forward,
                ));
            }
            // Another worker was faster with the same flow.
            Insert::Exists(at, found) => {
                return Ok(Fate::Session(arrival.packet, at, found, Direction::Forward));
            }
            Insert::Clash if clashes < CLASH_TRIES => {
                clashes += 1;
                session.source_port = other_port(arrival.hash, clashes);
            }
            Insert::Clash => return Err(DropReason::TupleClash),
            Insert::Full if !made_room => {
                make_room(snapshot, parts, now.tick())?;
                made_room = true;
            }
            Insert::Full => return Err(DropReason::SessionTableFull),
        }
    }
}

fn insert(
    snapshot: &Snapshot,
    backend: &Backend,
    forward: FlowHash,
    tuple: &Tuple,
    session: &Session,
    parts: &mut Parts<'_>,
) -> Insert {
    let sessions = &parts.shared.sessions;
    let reply = Tuple {
        source: backend.address,
        source_port: backend.port,
        destination: session.client,
        destination_port: session.source_port,
        protocol: session.protocol,
    };
    let of = |other: &Session| snapshot.backend(other.backend);
    sessions.insert(
        parts.slots,
        forward,
        sessions.hash(&reply),
        session,
        |other| of(other).is_some_and(|backend| is_forward(other, backend, tuple)),
        |other| of(other).is_some_and(|backend| is_reply(other, backend, &reply)),
    )
}

/// The `n`-th source port to try, spread by the flow's hash.
fn other_port(hash: FlowHash, n: u16) -> u16 {
    let range = u64::from(u16::MAX - TRANSLATED_PORT_MIN) + 1;
    let offset = (hash.bits() >> 16).wrapping_add(u64::from(n) * 7919) % range;
    u16::try_from(offset).map_or(TRANSLATED_PORT_MIN, |offset| TRANSLATED_PORT_MIN + offset)
}

fn make_room(snapshot: &Snapshot, parts: &mut Parts<'_>, now: Tick) -> Result<(), DropReason> {
    let evictable = |session: &Session| {
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
    };
    let evicted = parts
        .shared
        .sessions
        .evict(parts.slots, EVICTION_WINDOW, evictable, now)
        .ok_or(DropReason::SessionTableFull)?;
    parts.ended.record(snapshot, &evicted, Cause::Room, now);
    parts.counters.evicted.add(1);
    Ok(())
}

/// Further frames of flows whose first frame has just been decided: they share its fate.
fn second_frames<F: FrameBuf>(
    snapshot: &Snapshot,
    parts: &mut Parts<'_>,
    firsts: &[Arrival],
    (frames, fates): (&[F], &mut [Fate]),
    now: Now,
) {
    for at in 0..fates.len() {
        let Fate::Miss(packet, hash, _) = fates[at] else {
            continue;
        };
        let first = firsts.iter().find(|first| first.is_of(&packet, hash));
        let Some(first) = first.map(|first| fates[first.frame]) else {
            continue;
        };
        let found = tuple_of(&packet)
            .and_then(|tuple| find(&parts.shared.sessions, snapshot, &tuple, hash));
        fates[at] = match (first, found) {
            // That the first one was damaged says nothing of this one.
            (Fate::Refuse(_) | Fate::Drop(DropReason::Malformed), _) => {
                reject(frames[at].bytes(), &packet, parts, now)
            }
            (Fate::Drop(reason), _) => Fate::Drop(reason),
            (_, Some((at, session, direction))) => Fate::Session(packet, at, session, direction),
            // The first one's session has ended already, at another worker's hand.
            (_, None) => Fate::Drop(DropReason::SessionTableFull),
        };
    }
}

fn give_all(fates: &mut [Fate], id: ServiceId, reason: DropReason) {
    for fate in fates {
        if matches!(fate, Fate::Miss(_, _, service) if *service == id) {
            *fate = Fate::Drop(reason);
        }
    }
}
