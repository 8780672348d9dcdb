//! A session's packet: state, way, rewrite.
//!
//! Invariant: on this way nothing allocates, calls a policy or reads a clock, nor takes a lock but where the
//! client's way back has changed; and of what workers share only that is written which has changed.

use waxwing_packet::{
    Address, Changes, Fragmentation, IpPacket, Rewrite, TcpFlags, Translation, VlanTags,
};

use crate::answers;
use crate::citizen;
use crate::exit::{Exit, plain_port};
use crate::flow::{Found, tcp_flags};
use crate::forward::{Fate, Forwarder};
use crate::session::{Direction, Session, SessionRef, Stored};
use crate::snapshot::Backend;
use crate::standing::{self, Ending};
use crate::ways::Way;
use crate::{BackendId, DropReason, FrameBuf, NextHop, Now, PortId, Snapshot};

/// Why a session's packet does not simply leave by a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stop {
    /// It ends here, and its sender is not told.
    Drop(DropReason),
    /// Its session has ended before it.
    Ending(Ending),
    /// It is a datagram's first fragment: the others are told first which session it is of.
    First,
    /// It was to be forwarded, and its hop limit is used up.
    HopLimit,
    /// It is larger than this egress MTU, in bytes.
    TooBig(u16),
    /// Likewise, but its sender leaves it to routers to cut it to pieces. It was rewritten and leaves by
    /// this port.
    Cut(PortId, u16),
}

/// What the sender of a packet is told of why it goes no further.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Told {
    /// Its hop limit is used up.
    HopLimit,
    /// It is larger than this egress MTU, in bytes.
    TooBig(u16),
}

impl From<DropReason> for Stop {
    fn from(reason: DropReason) -> Self {
        Self::Drop(reason)
    }
}

impl Forwarder {
    /// A packet of a session that was looked up: where the session stands, and nothing else is to be heard of
    /// it first, it is rewritten and leaves.
    #[inline(always)]
    pub(crate) fn pass_on_standing<F: FrameBuf>(
        &self,
        snapshot: &Snapshot,
        frame: &mut F,
        packet: &IpPacket,
        found: &Found<'_>,
        now: Now,
    ) -> Result<PortId, Stop> {
        if let Some(ending) = standing::ending(found, tcp_flags(packet), now) {
            return Err(Stop::Ending(ending));
        }
        if packet.fragment.is_some() {
            return Err(Stop::First);
        }
        self.pass_on(snapshot, frame, packet, found, now)
    }

    /// The same off the way of most packets.
    #[inline(never)]
    pub(crate) fn pass_on_found<F: FrameBuf>(
        &mut self,
        snapshot: &Snapshot,
        (frame, packet): (&mut F, &IpPacket),
        found: &Found<'_>,
        now: Now,
    ) -> Fate {
        match self.pass_on_standing(snapshot, frame, packet, found, now) {
            Ok(port) => Fate::Leave(port),
            Err(stop) => self.stop(stop, snapshot, (frame, packet), *found, now),
        }
    }

    /// A packet of a session that has just been made, or that a fragment is of. Other packets of the batch
    /// may have changed the session since it was looked up, or may even have ended it.
    #[inline(never)]
    pub(crate) fn pass_on_opened<F: FrameBuf>(
        &mut self,
        snapshot: &Snapshot,
        frame: &mut F,
        packet: &IpPacket,
        (at, session, direction): (SessionRef, &Session, Direction),
        now: Now,
    ) -> Fate {
        let Some(backend) = snapshot.backend(session.backend) else {
            return Fate::Drop(DropReason::NoBackend);
        };
        let stored = self.shared.sessions.stored(at);
        let found = Found {
            at,
            stored: stored.unwrap_or_else(|| session.into()),
            direction,
            backend,
        };
        match self.pass_on(snapshot, frame, packet, &found, now) {
            Ok(port) => Fate::Leave(port),
            Err(stop) => self.stop(stop, snapshot, (frame, packet), found, now),
        }
    }

    /// What becomes of a session's packet that does not simply leave.
    #[cold]
    #[inline(never)]
    pub(crate) fn stop<F: FrameBuf>(
        &mut self,
        stop: Stop,
        snapshot: &Snapshot,
        (frame, packet): (&mut F, &IpPacket),
        found: Found<'_>,
        now: Now,
    ) -> Fate {
        let told = match stop {
            Stop::Ending(ending) => {
                let (_, _, mut parts) = self.split();
                let arrived = (&*frame, packet);
                let ended = (found.at, found.stored.session());
                return standing::end(ending, snapshot, &mut parts, arrived, ended, now);
            }
            Stop::First => return Fate::Session(found.at, found.stored.session(), found.direction),
            Stop::Cut(port, mtu) => return Fate::Cut(port, mtu),
            Stop::Drop(reason) => return Fate::Drop(reason),
            Stop::HopLimit => Told::HopLimit,
            Stop::TooBig(mtu) => Told::TooBig(mtu),
        };
        let from = told_from(snapshot, found.backend, packet);
        let (_, _, parts) = self.split();
        parts
            .refusals
            .tell(
                told,
                from,
                parts.counters,
                parts.gather,
                (frame, packet),
                now,
            )
            .map_or_else(Fate::Drop, Fate::Leave)
    }

    /// A session's packet: state, next hop, rewrite. Says which port it leaves by.
    ///
    /// What few packets need is apart, in functions that get copies: so that the session, of which most
    /// packets need little, is never put together in memory.
    #[inline(always)]
    fn pass_on<F: FrameBuf>(
        &self,
        snapshot: &Snapshot,
        frame: &mut F,
        packet: &IpPacket,
        found: &Found<'_>,
        now: Now,
    ) -> Result<PortId, Stop> {
        let Found {
            at,
            ref stored,
            direction,
            backend,
        } = *found;
        if !is_state_kept(stored, direction, tcp_flags(packet), now) {
            let refused = self.keep_state(packet, (at, *stored, direction), now);
            if refused && answers::is_retried(snapshot, backend) {
                return Err(DropReason::RefusedRetried.into());
            }
        }
        let way = match direction {
            Direction::Forward => {
                self.follow_client(frame, packet, at, stored);
                self.ways().to_backend(backend.id)?
            }
            Direction::Reply => self.ways().to_client(snapshot, stored)?,
        };
        match plain_port(snapshot, stored, &way) {
            Some(egress) if packet.ethernet.tags.is_empty() => {
                let exit = Exit {
                    egress,
                    next: Some(way.hop.mac),
                    tags: VlanTags::NONE,
                    routed: true,
                };
                self.leave(snapshot, frame, packet, found, &exit)
            }
            _ => self.leave_otherwise(snapshot, frame, packet, *found, way),
        }
    }

    /// With VLAN tags, or by a port of a bridge, or by none.
    #[inline(never)]
    fn leave_otherwise<F: FrameBuf>(
        &self,
        snapshot: &Snapshot,
        frame: &mut F,
        packet: &IpPacket,
        found: Found<'_>,
        way: Way,
    ) -> Result<PortId, Stop> {
        let arrived = (frame.port(), &packet.ethernet);
        let goes = (&found.stored, found.direction);
        let exit = Exit::of(snapshot, arrived, goes, &way)?;
        self.leave(snapshot, frame, packet, &found, &exit)
    }

    /// Rewrites a session's packet for its exit.
    #[inline(always)]
    fn leave<F: FrameBuf>(
        &self,
        snapshot: &Snapshot,
        frame: &mut F,
        packet: &IpPacket,
        found: &Found<'_>,
        exit: &Exit<'_>,
    ) -> Result<PortId, Stop> {
        let Found {
            at,
            ref stored,
            direction,
            backend,
        } = *found;
        if exit.routed && packet.hop_limit <= 1 {
            return Err(Stop::HopLimit);
        }
        // Of a bridge too: a sender that is not told would wait for ever.
        let too_big = packet.end - packet.network > exit.egress.mtu;
        if too_big && !Fragmentation::is_allowed(frame.bytes(), packet) {
            return Err(Stop::TooBig(exit.egress.mtu));
        }
        let full;
        let mut changes = if let Some(changes) = one_sided(stored, backend, direction) {
            changes
        } else {
            full = full_nat(*stored, backend, snapshot, direction);
            full.changes()
        };
        changes.link = exit.next.as_ref().map(|next| (&exit.egress.mac, next));
        changes.decrement_hop_limit = exit.routed;
        changes.apply(frame.bytes_mut(), packet);
        if packet.ethernet.tags != exit.tags
            && let Some(link) = exit.link()
        {
            citizen::retag(frame, &packet.ethernet, link, exit.tags)?;
        }
        let len = frame.frame_len() as u64;
        self.count(backend.id, direction, len);
        if self.ended.is_told_of(backend) {
            self.shared.sessions.add_bytes(at, len);
        }
        if too_big {
            return Err(Stop::Cut(exit.egress.wire, exit.egress.mtu));
        }
        Ok(exit.egress.wire)
    }

    /// Time and state, where this packet changes them. The state is read anew: an earlier packet of the
    /// batch, or another worker's, may have changed it since the look-up. Says whether the backend has just
    /// refused the connection.
    #[inline(never)]
    fn keep_state(
        &self,
        packet: &IpPacket,
        (at, stored, direction): (SessionRef, Stored, Direction),
        now: Now,
    ) -> bool {
        let session = stored.session();
        let seen_before = if session.seen == now.tick() {
            Some(session.seen)
        } else {
            self.shared.sessions.touch(at, now.tick())
        };
        let flags = tcp_flags(packet);
        let changed = self
            .shared
            .sessions
            .update_tcp(at, |state| state.on_packet(direction, flags));
        if (flags.has(TcpFlags::SYN) || flags.has(TcpFlags::RST))
            && let Some((before, after)) = changed
        {
            return answers::watch(
                &self.shared,
                &self.counters,
                (at, &session, seen_before),
                (direction, flags),
                (before, after),
                now,
            );
        }
        false
    }

    /// The way back is the way the client's packets come (last hop): a gateway that fails over to
    /// another MAC address or port is followed with its first packet.
    #[inline(always)]
    fn follow_client<F: FrameBuf>(
        &self,
        frame: &F,
        packet: &IpPacket,
        at: SessionRef,
        stored: &Stored,
    ) {
        let hop = NextHop {
            port: frame.port(),
            mac: packet.ethernet.source,
        };
        if hop != stored.hop() || packet.ethernet.tags != stored.tags() {
            self.shared.sessions.set_hop(at, hop, packet.ethernet.tags);
        }
    }

    #[inline(always)]
    fn count(&self, backend: BackendId, direction: Direction, len: u64) {
        let counters = self.counters.backend(backend);
        let traffic = match direction {
            Direction::Forward => &counters.forward,
            Direction::Reply => &counters.reply,
        };
        traffic.packets.add(1);
        traffic.bytes.add(len);
    }
}

/// Whether a packet changes nothing of its session, as nearly all do not: so a line that two workers read
/// stays in both caches.
#[inline(always)]
fn is_state_kept(stored: &Stored, direction: Direction, flags: TcpFlags, now: Now) -> bool {
    stored.seen() == now.tick()
        && !flags.has_any(TcpFlags::SYN | TcpFlags::RST)
        && stored.tcp().on_packet(direction, flags) == stored.tcp()
}

/// The session's rewrite in one direction, where its backend holds that ready: the client keeps its address and
/// port, and the service has one port.
#[inline(always)]
fn one_sided<'a>(
    stored: &Stored,
    backend: &'a Backend,
    direction: Direction,
) -> Option<Changes<'a>> {
    let is_ready = stored.is_client_kept() && backend.port != Backend::PORT_KEPT;
    is_ready.then(|| match direction {
        Direction::Forward => Changes {
            destination: Some(&backend.to_backend),
            ..Changes::default()
        },
        Direction::Reply => Changes {
            source: Some(&backend.to_client),
            ..Changes::default()
        },
    })
}

/// The same for every session, computed anew.
#[inline(never)]
pub(crate) fn full_nat(
    stored: Stored,
    backend: &Backend,
    snapshot: &Snapshot,
    direction: Direction,
) -> Rewrite {
    let session = stored.session();
    let port = session.service_port;
    let client = (session.client, session.client_port);
    // `find` has just matched the tuple with this address.
    let address = snapshot.seen_by_backend(&session).unwrap_or(session.client);
    let seen_by_backend = (address, session.source_port);
    let vip = (backend.vip, port);
    let server = (backend.address, backend.port_for(port));
    let change = |from, to| (from != to).then(|| Translation::new(from, to));
    let (source, destination) = match direction {
        Direction::Forward => (change(client, seen_by_backend), change(vip, server)),
        Direction::Reply => (change(server, vip), change(seen_by_backend, client)),
    };
    Rewrite {
        source,
        destination,
        ..Rewrite::default()
    }
}

/// The address that a session's packet is answered from where it goes no further: the one of ours that
/// it was sent to or, if that was the client's, the VIP.
fn told_from(snapshot: &Snapshot, backend: &Backend, packet: &IpPacket) -> Address {
    if snapshot.is_vip(packet.destination) {
        packet.destination
    } else {
        backend.vip
    }
}
