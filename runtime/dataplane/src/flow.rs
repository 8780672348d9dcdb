//! Flows and packets: whose a packet is.
//!
//! Invariant: a packet belongs to a session only where its whole 5-tuple is the session's, in one
//! direction or the other; a hash alone decides nothing.

use std::cell::Cell;

use waxwing_packet::{Address, Family, IpPacket, Protocol, TcpFlags, Transport};

use crate::session::{Direction, FlowHash, SessionRef, SessionTable, Stored, TcpState, Tuple};
use crate::{Backend, Snapshot};

/// A packet's session, and its backend in the snapshot that it was looked up by.
#[derive(Clone, Copy)]
pub(crate) struct Found<'s> {
    pub(crate) at: SessionRef,
    pub(crate) stored: Stored,
    /// Which way the packet goes.
    pub(crate) direction: Direction,
    pub(crate) backend: &'s Backend,
}

/// The session that a packet of this tuple belongs to.
pub(crate) fn find<'s>(
    sessions: &SessionTable,
    snapshot: &'s Snapshot,
    tuple: &Tuple,
    hash: FlowHash,
) -> Option<Found<'s>> {
    let whose = Cell::new(None);
    let (at, session) = sessions.find(hash, |session| {
        whose.set(match_with(&session.into(), snapshot, tuple));
        whose.get().is_some()
    })?;
    let (backend, direction) = whose.get()?;
    Some(Found {
        at,
        stored: (&session).into(),
        direction,
        backend,
    })
}

/// Whether a tuple is a session's, which way it goes then, and the session's backend.
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

/// Whether a tuple is what the session's client sends.
#[inline(always)]
pub(crate) fn is_forward(stored: &Stored, backend: &Backend, tuple: &Tuple) -> bool {
    stored.is_client_of(tuple) && backend.vip == tuple.destination
}

/// Whether a tuple is what the session's backend answers.
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
