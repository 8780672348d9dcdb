//! ICMP errors about a session's packets, passed on to whom they concern (RFC 5508 sections 4 and 5),
//! as if there were no address translation between the one who sends it and the one who gets it.
//!
//! Invariant: an error changes no session. It neither ends one nor keeps it alive, and the way back to
//! a client does not follow it: anybody can send one. It is passed on only where what it quotes is a
//! packet that the balancer sent, by the whole 5-tuple of a session that stands, and where it is
//! addressed to that packet's source.
//!
//! An error from the clients' side keeps its source, a router or the client. One from the servers'
//! side comes from the VIP, whoever sent it (RFC 5508 REQ-5 c): the client knows no other address
//! here, and a private one would be dropped on the way. For the same reason one to a server that knows
//! its client by a source address comes from that one.

use waxwing_packet::{IpPacket, Quote, Rewrite, Translation, checksum};

use crate::citizen;
use crate::exit::Exit;
use crate::flow::{find, is_martian};
use crate::forward::{Fate, Shared};
use crate::hit::full_nat;
use crate::session::{Direction, Session, Stored, Tuple};
use crate::snapshot::Backend;
use crate::ways::Ways;
use crate::{DropReason, FrameBuf, Now, PortId, Snapshot};

/// What becomes of an ICMP error. One to a VIP is ours, and ends here where it is about nothing that
/// we know; any other may be about what a backend has to do with others, and is the kernel's then.
pub(crate) fn classify<F: FrameBuf>(
    (shared, ways): (&Shared, Ways<'_>),
    snapshot: &Snapshot,
    frame: &mut F,
    packet: &IpPacket,
    now: Now,
) -> Fate {
    match SessionError::of(shared, snapshot, (frame.bytes(), packet), now) {
        Ok(Some(error)) => error
            .pass_on(ways, snapshot, frame, packet)
            .map_or_else(Fate::Drop, Fate::Error),
        _ if !snapshot.is_vip(packet.destination) => Fate::Kernel,
        Ok(None) => Fate::Drop(DropReason::IcmpNoSession),
        Err(reason) => Fate::Drop(reason),
    }
}

/// An error about a packet of a session.
struct SessionError {
    quote: Quote,
    session: Session,
    /// Which way the error goes: against the packet that it quotes.
    direction: Direction,
}

impl SessionError {
    /// Finds the session that an error is about. `None` where there is none, or the packet is no error
    /// or quotes nothing that a session could have.
    ///
    /// # Errors
    /// [`DropReason::Malformed`] where the quote is no beginning of a packet.
    fn of(
        shared: &Shared,
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

    /// Rewrites the error and says which port it leaves by. It goes no further here than any packet,
    /// and silently so: nothing is said of errors. Its own checksum has to be right (RFC 5508 REQ-3);
    /// whether those in the quote are, the receiver knows better (its a and c).
    fn pass_on<F: FrameBuf>(
        &self,
        ways: Ways<'_>,
        snapshot: &Snapshot,
        frame: &mut F,
        packet: &IpPacket,
    ) -> Result<PortId, DropReason> {
        if is_martian(packet.source) {
            return Err(DropReason::Martian);
        }
        if !checksum::are_right(frame.bytes(), packet) {
            return Err(DropReason::Malformed);
        }
        // `of` has just found this backend in this snapshot.
        let backend = snapshot
            .backend(self.session.backend)
            .ok_or(DropReason::NoBackend)?;
        let stored = Stored::from(&self.session);
        let way = match self.direction {
            Direction::Forward => ways.to_backend(backend.id)?,
            Direction::Reply => ways.to_client(snapshot, &stored)?,
        };
        let arrived = (frame.port(), &packet.ethernet);
        let exit = Exit::of(snapshot, arrived, (&stored, self.direction), &way)?;
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
        if let Some(link) = exit.link()
            && packet.ethernet.tags != exit.tags
        {
            citizen::retag(frame, &packet.ethernet, link, exit.tags)?;
        }
        Ok(exit.egress.wire)
    }

    /// What changes in the error's own header, and in the quoted ones. A quoted packet went against
    /// the error, and is to be as it was before it was translated: that takes what a packet that goes
    /// the error's way takes, with source and destination exchanged.
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
