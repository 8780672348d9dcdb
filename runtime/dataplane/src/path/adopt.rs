//! A server's reply of no session: after a start or a failover it may be all that is left of a connection.
//!
//! Invariant: only a service that asks for it adopts replies, and only from the port by which the backend is
//! reached. No session is replaced: one that the client's flow has already opened stays.

use waxwing_packet::{TcpFlags, VlanTags};

use super::flow::tcp_flags;
use super::service_share::ServiceShare;
use super::session_open::open_by_reply;
use super::{Arrived, Verdict, WorkerContext, ingress};
use crate::model::Backend;
use crate::session::{Direction, FlowHash, Session, TcpState, Tuple};
use crate::{FrameBuf, NextHop, Now, PortId, Snapshot, SourceId};

/// Opens a session by a reply. `None` if the packet is none that a service adopts.
#[cold]
pub(super) fn session<F: FrameBuf>(
    context: &mut WorkerContext,
    snapshot: &Snapshot,
    arrived: &Arrived<'_, F>,
    reply: &Tuple,
    hash: FlowHash,
    now: Now,
) -> Option<Verdict> {
    let backend = snapshot.endpoint(reply.source, reply.source_port, reply.protocol)?;
    let service = snapshot.service(backend.service)?;
    let at = backend.vip_ports.single().unwrap_or(reply.source_port);
    let serving = snapshot.service_at(backend.vip, at, reply.protocol)?;
    if !service.adopts_replies || serving.id != service.id {
        return None;
    }
    if !is_reply(context, snapshot, arrived, reply, hash, now) {
        return None;
    }
    let session = of_reply(context, snapshot, arrived, (backend, reply), now);
    let from = (arrived.frame.port(), &arrived.packet.ethernet.tags);
    let stored = (&session).into();
    let opened = ingress::check(
        context,
        snapshot,
        from,
        (&stored, Direction::Reply),
        backend,
    )
    .and_then(|()| {
        let mut share = ServiceShare::new(service, &context.shared.gauges);
        share.take(snapshot, service, context, now.tick())?;
        open_by_reply(snapshot, backend, session, reply, context, now)
    });
    Some(opened.unwrap_or_else(Verdict::Drop))
}

/// Whether it can be a reply to a client: no RST, which ends nothing that is known; no SYN by which the
/// server connects to another host; not to this host or another server; and no packet of a direct connection.
fn is_reply<F: FrameBuf>(
    context: &WorkerContext,
    snapshot: &Snapshot,
    arrived: &Arrived<'_, F>,
    reply: &Tuple,
    hash: FlowHash,
    now: Now,
) -> bool {
    let flags = tcp_flags(arrived.packet);
    let opens = flags.has(TcpFlags::SYN) && !flags.has(TcpFlags::ACK);
    let to_server = || {
        let (address, port) = (reply.destination, reply.destination_port);
        snapshot.endpoint(address, port, reply.protocol).is_some()
    };
    !flags.has(TcpFlags::RST)
        && !opens
        && !snapshot.is_own(reply.destination)
        && !to_server()
        && !context.shared.direct.has(reply, hash, now.tick())
}

/// The session that a reply belongs to. Where its client is, the bridge shows (its frame is on the way
/// there); otherwise the kernel knows, until the client's next packet shows it.
fn of_reply<F: FrameBuf>(
    context: &WorkerContext,
    snapshot: &Snapshot,
    arrived: &Arrived<'_, F>,
    (backend, reply): (&Backend, &Tuple),
    now: Now,
) -> Session {
    let ethernet = &arrived.packet.ethernet;
    let bridge = snapshot
        .port(arrived.frame.port())
        .and_then(|port| port.bridge)
        .filter(|bridge| !bridge.is_own(ethernet.destination));
    let (port, tags) = match bridge {
        Some(bridge) => (bridge.peer, ethernet.tags),
        None => (PortId::KERNEL, VlanTags::NONE),
    };
    Session {
        client: reply.destination,
        client_port: reply.destination_port,
        service_port: backend.vip_ports.single().unwrap_or(reply.source_port),
        source: SourceId::CLIENT,
        source_port: reply.destination_port,
        protocol: reply.protocol,
        worker: context.worker,
        backend: backend.id,
        hop: NextHop {
            port,
            mac: ethernet.destination,
        },
        tags,
        created: now.tick(),
        seen: now.tick(),
        tcp: TcpState::adopted(tcp_flags(arrived.packet)),
    }
}
