//! Flows and packets: whose a packet is.
//!
//! Invariant: a packet belongs to a session only where its whole 5-tuple is the session's, in one
//! direction or the other; a hash alone decides nothing.

use std::cell::Cell;

use waxwing_packet::{Address, Family, IpPacket, Protocol, TcpFlags, Transport};

use crate::session::{Direction, FlowHash, Session, SessionRef, SessionTable, TcpState, Tuple};
use crate::{Backend, Snapshot};

/// The session that a packet of this tuple belongs to, and which way the packet goes.
#[inline]
pub(crate) fn find(
    sessions: &SessionTable,
    snapshot: &Snapshot,
    tuple: &Tuple,
    hash: FlowHash,
) -> Option<(SessionRef, Session, Direction)> {
    let direction = Cell::new(Direction::Forward);
    let (at, session) = sessions.find(hash, |session| {
        let Some(backend) = snapshot.backend(session.backend) else {
            return false;
        };
        direction.set(Direction::Forward);
        is_forward(session, backend, tuple) || {
            direction.set(Direction::Reply);
            is_reply(session, backend, snapshot, tuple)
        }
    })?;
    Some((at, session, direction.get()))
}

/// Whether a tuple is what the session's client sends.
#[inline]
pub(crate) fn is_forward(session: &Session, backend: &Backend, tuple: &Tuple) -> bool {
    session.client == tuple.source
        && session.client_port == tuple.source_port
        && backend.vip == tuple.destination
        && session.service_port == tuple.destination_port
        && session.protocol == tuple.protocol
}

/// Whether a tuple is what the session's backend answers.
#[inline]
pub(crate) fn is_reply(
    session: &Session,
    backend: &Backend,
    snapshot: &Snapshot,
    tuple: &Tuple,
) -> bool {
    session.source_port == tuple.destination_port
        && snapshot.seen_by_backend(session) == Some(tuple.destination)
        && backend.address == tuple.source
        && backend.port_for(session.service_port) == tuple.source_port
        && session.protocol == tuple.protocol
}

/// A TCP or UDP packet's 5-tuple.
#[inline]
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

/// A TCP packet's flags; none of any other.
#[inline]
pub(crate) fn tcp_flags(packet: &IpPacket) -> TcpFlags {
    match packet.transport {
        Transport::Tcp { flags, .. } => flags,
        _ => TcpFlags::default(),
    }
}

/// Source addresses that no packet from a network may have (RFC 1812 section 5.3.7, RFC 4291
/// section 2.7): unspecified, loopback, multicast, broadcast.
pub(crate) fn is_martian(address: Address) -> bool {
    match address.family() {
        Family::V4 => {
            let [first, ..] = address.v4_octets();
            first == 0 || first == 127 || first >= 224
        }
        Family::V6 => address.bits() <= 1 || address.octets()[0] == 0xff,
    }
}

/// The state that a session's first packet puts it in. UDP, which has no flags, counts as a connection
/// picked up in its middle: half-open until the backend answers, and so the first to make room
/// in a full table.
pub(crate) fn opening_state(packet: &IpPacket) -> TcpState {
    TcpState::first(tcp_flags(packet))
}
