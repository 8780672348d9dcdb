//! Packets between clients and the backends' own addresses, past every VIP (see [`crate::direct`]).
//!
//! Invariant: such a packet goes on to the kernel, whatever happens here. Its client's port is translated
//! only if a session has it towards the same server: only then would the server's packets be ambiguous.

use waxwing_packet::{IpPacket, Protocol, Quote, Rewrite, Translation, checksum};

use super::flow::{find, tcp_flags, tuple_of};
use super::session_open::{CLASH_TRIES, other_port};
use super::shared::SharedState;
use super::{Arrived, Verdict, WorkerContext};
use crate::direct::{Role, Sighting};
use crate::model::Backend;
use crate::session::{Tuple, is_opening};
use crate::{FrameBuf, Now, Snapshot};

/// Notes a packet's flow, and translates the client's port if need be.
#[cold]
pub(crate) fn pass<F: FrameBuf>(
    context: &WorkerContext,
    snapshot: &Snapshot,
    Arrived { frame, packet }: Arrived<'_, F>,
    now: Now,
) -> Verdict {
    if let Some(tuple) = tuple_of(packet)
        && let Some(change) = translation(&context.shared, snapshot, packet, &tuple, now)
    {
        change.apply(frame.bytes_mut(), packet);
    }
    Verdict::PassToKernel
}

fn translation(
    shared: &SharedState,
    snapshot: &Snapshot,
    packet: &IpPacket,
    tuple: &Tuple,
    now: Now,
) -> Option<Rewrite> {
    let is_from = snapshot.endpoint(tuple.source, tuple.source_port, tuple.protocol);
    let is_to = snapshot.endpoint(tuple.destination, tuple.destination_port, tuple.protocol);
    let sighting = |server: &Backend| Sighting {
        flags: tcp_flags(packet),
        timeouts: server.timeouts,
        now: now.tick(),
    };
    if let Some(server) = is_from {
        let sighting = sighting(server);
        if let Some(port) = known_port(shared, tuple, Role::ToClient, &sighting) {
            return new_destination_port(tuple, port);
        }
        // Between two servers' endpoints either may be the client.
        if is_to.is_none() {
            if adopts(snapshot, server) && !snapshot.is_own(tuple.destination) {
                return None;
            }
            let hash = shared.sessions.hash(tuple);
            let kept = (Role::Kept, tuple.destination_port);
            shared.direct.note(tuple, hash, kept, &sighting);
            return None;
        }
    }
    let sighting = sighting(is_to?);
    let reply = tuple.reversed();
    let port = known_port(shared, &reply, Role::ToServer, &sighting)
        .or_else(|| open(shared, snapshot, &reply, &sighting))?;
    new_source_port(tuple, port)
}

/// Whether the service of a server adopts its replies: an RST or SYN, which opens no session, then tells
/// nothing of a direct connection, and a note of one would keep later replies from their client.
fn adopts(snapshot: &Snapshot, server: &Backend) -> bool {
    let service = snapshot.service(server.service);
    service.is_some_and(|service| service.adopts_replies)
}

/// The port after translation of a flow that is noted. Both directions of a translated one stay noted if
/// packets pass in one direction only.
fn known_port(shared: &SharedState, reply: &Tuple, role: Role, sighting: &Sighting) -> Option<u16> {
    let hash = shared.sessions.hash(reply);
    let port = shared.direct.port(reply, hash, role, sighting)?;
    if port != reply.destination_port {
        let other = reply.to_port(port);
        let hash = shared.sessions.hash(&other);
        shared.direct.port(&other, hash, role.opposite(), sighting);
    }
    Some(port)
}

/// Notes a flow at its first packet seen; returns the client's port towards the server.
///
/// A TCP connection whose first packet seen is no SYN is older than its note. It keeps its port even if a
/// session has that too: the server knows it by no other.
fn open(
    shared: &SharedState,
    snapshot: &Snapshot,
    reply: &Tuple,
    sighting: &Sighting,
) -> Option<u16> {
    let SharedState {
        sessions, direct, ..
    } = shared;
    let hash = sessions.hash(reply);
    let is_of_session = |reply: &Tuple| {
        let found = find(sessions, snapshot, reply, sessions.hash(reply));
        found.is_some_and(|found| {
            let timeouts = &found.backend.timeouts;
            !found.stored.session().is_expired(timeouts, sighting.now)
        })
    };
    if !is_of_session(reply) {
        let kept = (Role::Kept, reply.destination_port);
        direct.note(reply, hash, kept, sighting);
        return None;
    }
    if reply.protocol == Protocol::Tcp && !is_opening(sighting.flags) {
        return None;
    }
    let draw = sessions.draw(hash);
    let port = (1..=CLASH_TRIES)
        .map(|n| other_port(draw, n))
        .find(|port| {
            let other = reply.to_port(*port);
            !is_of_session(&other) && !direct.has(&other, sessions.hash(&other), sighting.now)
        })?;
    let other = reply.to_port(port);
    let to_client = (Role::ToClient, reply.destination_port);
    let is_noted = direct.note(&other, sessions.hash(&other), to_client, sighting)
        && direct.note(reply, hash, (Role::ToServer, port), sighting);
    is_noted.then_some(port)
}

/// Translates an ICMP error about a packet of a translated flow: its quote gets the port that the error's
/// receiver knows. Such an error keeps no flow alive.
#[cold]
pub(crate) fn translate_error<F: FrameBuf>(
    shared: &SharedState,
    snapshot: &Snapshot,
    Arrived { frame, packet }: Arrived<'_, F>,
    now: Now,
) {
    let quote = match Quote::parse(frame.bytes(), packet) {
        Ok(Some(quote)) if quote.source == packet.destination => quote,
        _ => return,
    };
    let quoted = Tuple {
        source: quote.source,
        source_port: quote.source_port,
        destination: quote.destination,
        destination_port: quote.destination_port,
        protocol: quote.protocol,
    };
    let port = |reply: &Tuple, role| {
        snapshot.endpoint(reply.source, reply.source_port, reply.protocol)?;
        let hash = shared.sessions.hash(reply);
        shared.direct.peek(reply, hash, role, now.tick())
    };
    let change = port(&quoted.reversed(), Role::ToClient)
        .and_then(|port| new_source_port(&quoted, port))
        .or_else(|| new_destination_port(&quoted, port(&quoted, Role::ToServer)?));
    if let Some(change) = change
        && checksum::are_correct(frame.bytes(), packet)
    {
        quote.rewrite(frame.bytes_mut(), packet, &Rewrite::default(), &change);
    }
}

fn new_source_port(tuple: &Tuple, port: u16) -> Option<Rewrite> {
    let from = (tuple.source, tuple.source_port);
    (port != tuple.source_port).then(|| Rewrite {
        source: Some(Translation::new(from, (tuple.source, port))),
        ..Rewrite::default()
    })
}

fn new_destination_port(tuple: &Tuple, port: u16) -> Option<Rewrite> {
    let from = (tuple.destination, tuple.destination_port);
    (port != tuple.destination_port).then(|| Rewrite {
        destination: Some(Translation::new(from, (tuple.destination, port))),
        ..Rewrite::default()
    })
}
