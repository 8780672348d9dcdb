//! Which session a packet belongs to.
//!
//! Invariant: a packet belongs to a session only if its whole 5-tuple matches in one direction. An equal hash
//! decides nothing.

use std::cell::Cell;

use waxwing_packet::{Address, Family, IpPacket, Protocol, TcpFlags, Transport};

use crate::Snapshot;
use crate::model::Backend;
use crate::session::{
    Direction, FlowHash, Session, SessionRef, SessionTable, Stored, TcpState, Tuple,
};

/// A packet's session, and the session's backend in the snapshot of the lookup.
#[derive(Clone, Copy)]
pub(crate) struct FoundSession<'s> {
    pub(crate) at: SessionRef,
    pub(crate) stored: Stored,
    /// The packet's direction.
    pub(crate) direction: Direction,
    pub(crate) backend: &'s Backend,
}

/// Finds the session of a tuple.
pub(crate) fn find<'s>(
    sessions: &SessionTable,
    snapshot: &'s Snapshot,
    tuple: &Tuple,
    hash: FlowHash,
) -> Option<FoundSession<'s>> {
    let matched = Cell::new(None);
    let (at, session) = sessions.find(hash, |session| {
        matched.set(match_with(&session.into(), snapshot, tuple));
        matched.get().is_some()
    })?;
    let (backend, direction) = matched.get()?;
    Some(FoundSession {
        at,
        stored: (&session).into(),
        direction,
        backend,
    })
}

/// The session of a tuple.
pub(crate) fn find_session(
    sessions: &SessionTable,
    snapshot: &Snapshot,
    tuple: &Tuple,
) -> Option<(SessionRef, Session)> {
    let found = find(sessions, snapshot, tuple, sessions.hash(tuple))?;
    Some((found.at, found.stored.session()))
}

/// The session's backend and the packet's direction if the tuple is the session's.
#[inline(always)]
pub(crate) fn match_with<'s>(
    stored: &Stored,
    snapshot: &'s Snapshot,
    tuple: &Tuple,
) -> Option<(&'s Backend, Direction)> {
    let backend = snapshot.backend(stored.backend())?;
    if is_forward(stored, backend, tuple) {
        Some((backend, Direction::Forward))
    } else if is_reply(stored, backend, snapshot, tuple) {
        Some((backend, Direction::Reply))
    } else {
        None
    }
}

/// Whether the session's client sends packets of this tuple.
#[inline(always)]
pub(crate) fn is_forward(stored: &Stored, backend: &Backend, tuple: &Tuple) -> bool {
    stored.is_client_of(tuple) && backend.vip == tuple.destination
}

/// Whether the session's backend replies with packets of this tuple.
#[inline(always)]
pub(crate) fn is_reply(
    stored: &Stored,
    backend: &Backend,
    snapshot: &Snapshot,
    tuple: &Tuple,
) -> bool {
    stored.source_port() == tuple.destination_port
        && snapshot.address_of(stored.source(), stored.client()) == Some(tuple.destination)
        && backend.address == tuple.source
        && backend.port_for(stored.service_port()) == tuple.source_port
        && stored.protocol() == tuple.protocol
}

/// A TCP or UDP packet's 5-tuple.
#[inline(always)]
pub(crate) fn tuple_of(packet: &IpPacket) -> Option<Tuple> {
    let (source_port, destination_port, protocol) = match packet.transport {
        Transport::Tcp {
            source,
            destination,
            ..
        } => (source, destination, Protocol::Tcp),
        Transport::Udp {
            source,
            destination,
        } => (source, destination, Protocol::Udp),
        Transport::Icmp { .. } | Transport::Other(_) => return None,
    };
    Some(Tuple {
        source: packet.source,
        destination: packet.destination,
        source_port,
        destination_port,
        protocol,
    })
}

/// A TCP packet's flags; none for other protocols.
#[inline]
pub(crate) fn tcp_flags(packet: &IpPacket) -> TcpFlags {
    match packet.transport {
        Transport::Tcp { flags, .. } => flags,
        _ => TcpFlags::default(),
    }
}

/// Whether no packet from a network may have this source (RFC 1812 section 5.3.7, RFC 4291 sections 2.5.6 and
/// 2.7): an address that no host may send from, or a MAC address that is no station's.
pub(crate) fn is_martian(snapshot: &Snapshot, packet: &IpPacket) -> bool {
    is_never_source(snapshot, packet.source) || !packet.ethernet.source.is_station()
}

/// Whether no host may send from this address: it is unspecified, loopback, link-local (IPv6), multicast,
/// broadcast, or our own.
pub(crate) fn is_never_source(snapshot: &Snapshot, source: Address) -> bool {
    let is_never_routed = match source.family() {
        Family::V4 => {
            let [first, ..] = source.v4_octets();
            first == 0 || first == 127 || first >= 224
        }
        Family::V6 => {
            let [first, second, ..] = source.octets();
            source.bits() <= 1 || first == 0xff || (first == 0xfe && second >> 6 == 0b10)
        }
    };
    is_never_routed || snapshot.is_own(source)
}

/// A session's state after its first packet. UDP, which has no flags, starts like a TCP connection picked up
/// mid-stream: half-open until the backend answers, and so among the first to be evicted.
pub(crate) fn first_state(packet: &IpPacket) -> TcpState {
    TcpState::first(tcp_flags(packet))
}
