//! By which port a session's packet may come.
//!
//! Invariant: a host on the clients' side cannot answer for a server, and one on the servers' side can
//! neither act for a client of another port nor take its replies. (The fast path lets through only replies
//! from the port of the backend's next hop, and requests from the session's return hop.)

use waxwing_packet::VlanTags;

use super::WorkerContext;
use crate::model::{Backend, Faces};
use crate::session::{Direction, Stored};
use crate::{DropReason, PortId, Snapshot};

/// Where a frame arrived: the attached port, and its VLAN tags.
pub(crate) type Ingress<'a> = (PortId, &'a VlanTags);

/// Checks that a session's packet came by a port that its sender is behind.
///
/// # Errors
/// [`DropReason::SpoofedReply`], [`DropReason::SpoofedRequest`].
#[inline]
pub(crate) fn check(
    context: &WorkerContext,
    snapshot: &Snapshot,
    from: Ingress<'_>,
    (stored, direction): (&Stored, Direction),
    backend: &Backend,
) -> Result<(), DropReason> {
    let is_same_port = direction == Direction::Forward && stored.hop().port == from.0;
    if is_same_port && stored.is_untagged() && from.1.is_empty() {
        return Ok(());
    }
    check_other(context, snapshot, from, (stored, direction), backend)
}

#[inline(never)]
fn check_other(
    context: &WorkerContext,
    snapshot: &Snapshot,
    from: Ingress<'_>,
    (stored, direction): (&Stored, Direction),
    backend: &Backend,
) -> Result<(), DropReason> {
    match direction {
        Direction::Reply if !may_reply(context, snapshot, from, stored, backend) => {
            Err(DropReason::SpoofedReply)
        }
        Direction::Forward if !may_request(context, snapshot, from, stored) => {
            Err(DropReason::SpoofedRequest)
        }
        _ => Ok(()),
    }
}

/// Whether the backend is reached by the port and VLAN. A bridge that does not know its side sends to it
/// across, so it answers from the port opposite the client's.
fn may_reply(
    context: &WorkerContext,
    snapshot: &Snapshot,
    (wire, tags): Ingress<'_>,
    stored: &Stored,
    backend: &Backend,
) -> bool {
    let hops = &context.shared.next_hops;
    if let Some(bridge) = snapshot.port(wire).and_then(|port| port.bridge) {
        let is_across = bridge.peer == stored.hop().port;
        return hops.is_reached_by(backend.id, wire)
            || is_across && hops.is_reached_by(backend.id, PortId::ACROSS);
    }
    let port = if tags.is_empty() || tags.is_untagged() {
        Some(wire)
    } else {
        vlan(snapshot, (wire, tags))
    };
    port.is_some_and(|port| hops.is_reached_by(backend.id, port))
}

/// Whether the packet came by the port and VLAN of the client's return hop, or by another one that does not
/// face servers: gateways take over from each other across ports. A session that a reply opened has no hop
/// yet, and its client's first packet may come by any port, as that of a new flow.
fn may_request(
    context: &WorkerContext,
    snapshot: &Snapshot,
    (wire, tags): Ingress<'_>,
    stored: &Stored,
) -> bool {
    let is_same = stored.hop().port == wire && stored.tags().is_same_vlan(tags);
    let is_unknown = stored.hop().port == PortId::KERNEL;
    is_same || is_unknown || !faces_servers(context, snapshot, (wire, tags))
}

/// Whether a port or VLAN faces servers: by its config, else because a backend is reached by it. A VLAN that
/// is no port of ours counts as its wire.
fn faces_servers(context: &WorkerContext, snapshot: &Snapshot, at: Ingress<'_>) -> bool {
    let id = vlan(snapshot, at).unwrap_or(at.0);
    match snapshot.port(id).and_then(|port| port.faces) {
        Some(faces) => faces == Faces::Servers,
        None => context.shared.next_hops.reaches_backends(id),
    }
}

/// The VLAN port whose frames have these tags.
fn vlan(snapshot: &Snapshot, (wire, tags): Ingress<'_>) -> Option<PortId> {
    let ports = (0..=u8::MAX).map(PortId).zip(snapshot.ports());
    let mut vlans = ports.filter(|(_, port)| !port.is_attached() && port.wire == wire);
    vlans
        .find(|(_, port)| port.tags.is_same_vlan(tags))
        .map(|(id, _)| id)
}
