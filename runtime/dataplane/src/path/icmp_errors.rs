//! ICMP errors about a session's packets, forwarded as if there were no NAT between the sender of the error
//! and its receiver (RFC 5508 sections 4 and 5).
//!
//! Invariant: an error changes no session. It neither ends one nor keeps it alive, and does not move the
//! return path: anybody can send one. It is forwarded, and counted as a failure of the backend, only if it
//! quotes a packet that the balancer sent (by the whole 5-tuple of a session that stands) and is addressed to
//! that packet's source.
//!
//! An error from the clients' side keeps its source, a router or the client. An error from the servers' side
//! gets the VIP as its source, whoever sent it (RFC 5508 REQ-5 c): the client knows no other address here,
//! and a private one would be dropped on the way. For the same reason an error to a server that knows its
//! client by a source NAT address comes from that address.

use waxwing_packet::{IpPacket, Protocol, Quote, Rewrite, Translation, checksum, icmp};

use super::flow::{find, is_martian};
use super::nat::full_nat;
use super::shared::SharedState;
use super::{Arrived, Verdict, WorkerContext, direct, ingress};
use crate::egress::Exit;
use crate::model::Backend;
use crate::session::{Direction, Session, Stored, Tuple};
use crate::{DropReason, FrameBuf, Now, PortId, Snapshot};

/// The verdict on an ICMP error. One to a VIP that is about no session of ours is dropped; one to another
/// address may be about a backend's own connections and is passed to the kernel.
pub(crate) fn classify<F: FrameBuf>(
    context: &WorkerContext,
    snapshot: &Snapshot,
    arrived: Arrived<'_, F>,
    now: Now,
) -> Verdict {
    let packet = arrived.packet;
    let about = SessionError::of(
        &context.shared,
        snapshot,
        (arrived.frame.bytes(), packet),
        now,
    );
    match about {
        Ok(Some(error)) => {
            let unreachable = error.is_of_backend(context, snapshot, &arrived);
            match error.forward(context, snapshot, arrived) {
                Ok(port) => {
                    if unreachable {
                        let backend = context.counters.backend(error.session.backend);
                        backend.unreachable.add(1);
                    }
                    Verdict::ForwardIcmpError(port)
                }
                Err(reason) => Verdict::Drop(reason),
            }
        }
        _ if !snapshot.is_vip(packet.destination) => {
            direct::translate_error(&context.shared, snapshot, arrived, now);
            Verdict::PassToKernel
        }
        Ok(None) => Verdict::Drop(DropReason::IcmpNoSession),
        Err(reason) => Verdict::Drop(reason),
    }
}

/// An error about a session's packet.
struct SessionError {
    quote: Quote,
    session: Session,
    /// The error's direction, opposite to that of the quoted packet.
    direction: Direction,
}

impl SessionError {
    /// Finds the session that an error is about. `None` if there is none, if the packet is no error, or if it
    /// quotes a packet that no session can have.
    ///
    /// # Errors
    /// [`DropReason::Malformed`] if the quote is not the start of a packet.
    fn of(
        shared: &SharedState,
        snapshot: &Snapshot,
        (frame, packet): (&[u8], &IpPacket),
        now: Now,
    ) -> Result<Option<Self>, DropReason> {
        let quote = match Quote::parse(frame, packet) {
            Ok(Some(quote)) if quote.source == packet.destination => quote,
            Ok(_) => return Ok(None),
            Err(_) => return Err(DropReason::Malformed),
        };
        let tuple = Tuple {
            source: quote.destination,
            source_port: quote.destination_port,
            destination: quote.source,
            destination_port: quote.source_port,
            protocol: quote.protocol,
        };
        let hash = shared.sessions.hash(&tuple);
        let Some(found) = find(&shared.sessions, snapshot, &tuple, hash) else {
            return Ok(None);
        };
        let session = found.stored.session();
        let is_over = session.is_expired(&found.backend.timeouts, now.tick());
        Ok((!is_over).then_some(Self {
            quote,
            session,
            direction: found.direction,
        }))
    }

    /// Whether the error says that the backend is unreachable, and comes from where its packets go: a client
    /// that is elsewhere cannot make it up. A TCP connection that the backend has answered outlives such an
    /// error (RFC 1122 section 4.2.3.9).
    fn is_of_backend<F: FrameBuf>(
        &self,
        context: &WorkerContext,
        snapshot: &Snapshot,
        Arrived { frame, packet }: &Arrived<'_, F>,
    ) -> bool {
        let session = &self.session;
        let waits = session.protocol == Protocol::Udp || session.tcp.is_unanswered();
        if self.direction != Direction::Reply
            || !waits
            || !icmp::is_unreachable(frame.bytes(), packet)
        {
            return false;
        }
        let to = context.hops().to_backend(session.backend);
        let egress = to.ok().and_then(|to| snapshot.port(to.hop.port));
        egress.is_some_and(|egress| egress.wire == frame.port())
    }

    /// Rewrites the error; returns its egress port. If it cannot be forwarded it is dropped silently: no
    /// error is sent about an error. Its own checksum must be right (RFC 5508 REQ-3); those in the quote are
    /// left to the receiver (REQ-3 a and c).
    fn forward<F: FrameBuf>(
        &self,
        context: &WorkerContext,
        snapshot: &Snapshot,
        Arrived { frame, packet }: Arrived<'_, F>,
    ) -> Result<PortId, DropReason> {
        if is_martian(snapshot, packet) {
            return Err(DropReason::Martian);
        }
        if icmp::is_redirect(packet) {
            return Err(DropReason::IcmpRedirect);
        }
        if !checksum::are_correct(frame.bytes(), packet) {
            return Err(DropReason::Malformed);
        }
        // The snapshot has the backend: `of` has just found it there.
        let backend = snapshot
            .backend(self.session.backend)
            .ok_or(DropReason::NoBackend)?;
        let stored = Stored::from(&self.session);
        let from = (frame.port(), &packet.ethernet.tags);
        ingress::check(context, snapshot, from, (&stored, self.direction), backend)?;
        let to = match self.direction {
            Direction::Forward => context.hops().to_backend(backend.id)?,
            Direction::Reply => context.hops().to_client(snapshot, &stored)?,
        };
        let ingress = (frame.port(), &packet.ethernet);
        let exit = Exit::of(snapshot, ingress, (&stored, self.direction), &to)?;
        if exit.routed && packet.hop_limit <= 1 {
            return Err(DropReason::HopLimit);
        }
        if packet.end - packet.network > exit.egress.mtu {
            return Err(DropReason::TooBig);
        }
        let (outer, quoted) = self.rewrites(backend, snapshot, packet);
        let outer = Rewrite {
            link: exit.link(),
            decrement_hop_limit: exit.routed,
            ..outer
        };
        self.quote
            .rewrite(frame.bytes_mut(), packet, &outer, &quoted);
        exit.retag(frame, &packet.ethernet)?;
        Ok(exit.egress.wire)
    }

    /// The rewrites of the error's own header and of the quoted one. The quoted packet travelled in the
    /// opposite direction and must look as it did before its translation. That is the translation of the
    /// error's direction with source and destination swapped.
    fn rewrites(
        &self,
        backend: &Backend,
        snapshot: &Snapshot,
        packet: &IpPacket,
    ) -> (Rewrite, Rewrite) {
        let onward = full_nat((&self.session).into(), backend, snapshot, self.direction);
        let quoted = Rewrite {
            source: onward.destination,
            destination: onward.source,
            ..Rewrite::default()
        };
        let from = |address| Some(Translation::new((packet.source, 0), (address, 0)));
        let source = match self.direction {
            Direction::Forward => snapshot
                .sources()
                .address(self.session.source)
                .and_then(from),
            Direction::Reply => from(backend.vip),
        };
        let outer = Rewrite {
            source,
            destination: onward.destination,
            ..Rewrite::default()
        };
        (outer, quoted)
    }
}
