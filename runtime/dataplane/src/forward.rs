//! A packet's way, top to bottom.
//!
//! A batch goes through in passes, so that the wait for one packet's memory is filled with work on
//! the others: parse and classify each frame, look up each flow, give the new flows of a service
//! a backend in one call of its policy, then rewrite and send.
//!
//! Fragments part from the way in pass 1 and come back to it before pass 4 (see `fragments`).
//!
//! Invariant: on a hit nothing here allocates, locks, calls a policy or reads a clock. Every frame
//! ends in exactly one way: sent, handed to the kernel, or dropped under a [`DropReason`]; but for
//! a fragment, which may be held before that. (What is not ours a bridge sends on itself, see `exit`.)

use std::sync::Arc;

use waxwing_packet::{
    Address, Cut, Fragment, IpPacket, Packet, ParseError, Rewrite, TcpFlags, Translation,
    Transport, icmp, parse, parse_head,
};

use crate::answers;
use crate::citizen::{self, Answer};
use crate::counters::WorkerCounters;
use crate::ended::Ended;
use crate::errors;
use crate::exit::{self, Exit};
use crate::flow::{find, is_martian, tcp_flags, tuple_of};
use crate::fragments::{FragmentPass, FragmentTable};
use crate::gather::Gather;
use crate::misses::Misses;
use crate::parts::Parts;
use crate::pieces;
use crate::refusals::{self, Refusals};
use crate::routes::Taken;
use crate::session::{
    Direction, FlowHash, Session, SessionRef, SessionTable, SlotCache, WORKER_UNCOUNTED,
};
use crate::snapshot::{Backend, NextHops};
use crate::standing;
use crate::ways::Ways;
use crate::{
    BATCH, DropReason, Epoch, FrameBuf, FrameIo, Gauges, NextHop, Now, PortId, ServiceId, Snapshot,
};

/// What all workers share.
#[derive(Clone)]
pub struct Shared {
    /// The sessions.
    pub sessions: Arc<SessionTable>,
    /// Where each backend's frames go next.
    pub next_hops: Arc<NextHops>,
    /// Live numbers by backend.
    pub gauges: Arc<Gauges>,
    /// Datagrams that come in fragments.
    pub fragments: Arc<FragmentTable>,
}

/// One worker's packet processing, without its I/O.
pub struct Forwarder {
    pub(crate) shared: Shared,
    pub(crate) counters: Arc<WorkerCounters>,
    pub(crate) slots: SlotCache,
    pub(crate) ended: Ended,
    /// Its number, as sessions keep it.
    worker: u8,
    misses: Misses,
    refusals: Refusals,
    pub(crate) gather: Gather,
    pub(crate) fragments: FragmentPass,
    /// The routes to clients, where replies go by them.
    routes: Taken,
    pub(crate) fates: Vec<Fate>,
}

/// What becomes of a frame, as far as the passes so far have decided.
#[derive(Clone, Copy)]
pub(crate) enum Fate {
    /// A TCP or UDP packet whose session is to be looked up.
    Lookup(IpPacket, FlowHash),
    /// A packet of a session.
    Session(IpPacket, SessionRef, Session, Direction),
    /// A packet that opens a session of this service.
    Miss(IpPacket, FlowHash, ServiceId),
    /// A fragment that is not its datagram's first.
    Later(IpPacket, Fragment),
    /// A fragment that was copied to wait for the first.
    Held,
    /// It was turned into its own answer, and goes back where it came from.
    Answer,
    /// An ICMP error about a session's packet, rewritten: it leaves by this port.
    Error(PortId),
    /// It is refused: to be turned into its own answer, too.
    Refuse(IpPacket),
    /// It is not ours.
    Kernel,
    /// It ends here.
    Drop(DropReason),
}

/// Why a session's packet does not simply leave by a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stop {
    /// It ends here, and its sender is not told.
    Drop(DropReason),
    /// It was to be forwarded, and its hop limit is used up.
    HopLimit,
    /// It is larger than this egress MTU, in bytes.
    TooBig(u16),
    /// Likewise, but its sender leaves it to routers to cut it to pieces. It was rewritten and leaves by
    /// this port.
    Cut(PortId, u16),
}

impl From<DropReason> for Stop {
    fn from(reason: DropReason) -> Self {
        Self::Drop(reason)
    }
}

impl Forwarder {
    /// For the worker of this number, which starts with this epoch; `cluster_key` keys the hash
    /// that policies see.
    #[must_use]
    pub fn new(
        shared: Shared,
        counters: Arc<WorkerCounters>,
        number: usize,
        cluster_key: [u64; 4],
        epoch: &Epoch,
    ) -> Self {
        Self {
            slots: shared.sessions.slot_cache(),
            ended: Ended::new(shared.clone(), Arc::clone(&counters), epoch),
            worker: u8::try_from(number).map_or(WORKER_UNCOUNTED, |n| n.min(WORKER_UNCOUNTED)),
            shared,
            counters,
            misses: Misses::new(cluster_key),
            refusals: Refusals::new(),
            gather: Gather::new(),
            fragments: FragmentPass::new(),
            routes: Taken::default(),
            fates: Vec::with_capacity(BATCH),
        }
    }

    /// Takes up the routes to clients, where others were published; also while no frame comes, so that
    /// none is kept for long.
    #[inline]
    pub fn refresh_routes(&mut self) {
        self.routes.refresh(self.shared.next_hops.routes());
    }

    /// Takes every frame of a batch to its end. `frames` is empty afterwards.
    pub fn forward<I: FrameIo>(
        &mut self,
        io: &mut I,
        epoch: &mut Epoch,
        frames: &mut Vec<I::Frame>,
        now: Now,
    ) {
        self.fates.clear();
        self.classify(&epoch.snapshot, frames, now);
        self.look_up(&epoch.snapshot, frames, now);
        self.open_sessions(epoch, frames, now);
        if self.fragments.is_due() {
            self.settle_fragments(frames, now);
        }
        self.rewrite_and_send(io, &epoch.snapshot, frames, now);
        self.release_fragments(io, &epoch.snapshot, now);
    }

    /// Pass 1: what is it? A flow's hash is known here, so its bucket is fetched here.
    fn classify<F: FrameBuf>(&mut self, snapshot: &Snapshot, frames: &mut [F], now: Now) {
        let mut bytes = 0;
        for frame in frames.iter_mut() {
            let rest = frame.rest_len();
            bytes += (frame.bytes().len() + rest) as u64;
            let parsed = match rest {
                0 => parse(frame.bytes()),
                rest => parse_head(frame.bytes(), rest),
            };
            let fate = match parsed {
                Ok(Packet::Ip(packet)) => self.classify_ip(snapshot, frame, packet, now),
                Ok(Packet::Arp(ethernet)) => citizen::answer_arp(snapshot, frame, &ethernet).into(),
                Ok(Packet::Other(_)) => Fate::Kernel,
                Err(ParseError::TinyFragment) => Fate::Drop(DropReason::TinyFragment),
                Err(_) => Fate::Drop(DropReason::Malformed),
            };
            self.fates.push(fate);
        }
        self.counters.received.packets.add(frames.len() as u64);
        self.counters.received.bytes.add(bytes);
    }

    #[inline]
    fn classify_ip<F: FrameBuf>(
        &mut self,
        snapshot: &Snapshot,
        frame: &mut F,
        packet: IpPacket,
        now: Now,
    ) -> Fate {
        match (tuple_of(&packet), packet.fragment) {
            (Some(tuple), None) => {
                let hash = self.shared.sessions.hash(&tuple);
                self.shared.sessions.prefetch(hash);
                Fate::Lookup(packet, hash)
            }
            (_, Some(fragment)) => self.classify_fragment(snapshot, (packet, fragment), now),
            (None, None) => self.classify_rare(snapshot, frame, &packet, now),
        }
    }

    /// What is neither TCP nor UDP.
    #[cold]
    fn classify_rare<F: FrameBuf>(
        &mut self,
        snapshot: &Snapshot,
        frame: &mut F,
        packet: &IpPacket,
        now: Now,
    ) -> Fate {
        if icmp::is_error(packet) {
            let found_by = (&self.shared, self.ways());
            return errors::classify(found_by, snapshot, frame, packet, now);
        }
        if let Transport::Icmp { .. } = packet.transport {
            let may_echo = || self.refusals.may_echo(now);
            match citizen::answer_icmp(snapshot, frame, packet, may_echo) {
                Answer::NotAsked => {}
                answer => return answer.into(),
            }
        }
        if snapshot.is_vip(packet.destination) {
            Fate::Drop(DropReason::Unsupported)
        } else {
            Fate::Kernel
        }
    }

    /// Pass 2: whose is it? The first round waits for the buckets and fetches the lines, the
    /// second reads them; a miss is told apart here too, and a session that does not stand ends.
    fn look_up<F: FrameBuf>(&mut self, snapshot: &Snapshot, frames: &[F], now: Now) {
        for fate in &self.fates {
            if let Fate::Lookup(_, hash) = fate {
                self.shared.sessions.prefetch_session(*hash);
            }
        }
        let (fates, _, mut parts) = self.split();
        for (fate, frame) in fates.iter_mut().zip(frames) {
            let Fate::Lookup(packet, hash) = *fate else {
                continue;
            };
            let found = tuple_of(&packet)
                .and_then(|tuple| find(&parts.shared.sessions, snapshot, &tuple, hash));
            *fate = match found {
                Some((at, session, direction)) => {
                    let flags = tcp_flags(&packet);
                    match standing::ending(snapshot, &session, direction, flags, now) {
                        None => Fate::Session(packet, at, session, direction),
                        Some(ending) => {
                            let arrived = (frame, packet, hash);
                            standing::end(ending, snapshot, &mut parts, arrived, (at, session), now)
                        }
                    }
                }
                None => classify_miss(snapshot, packet, hash),
            };
        }
    }

    /// Pass 3: new flows get their sessions, one policy call for each service among them.
    fn open_sessions<F: FrameBuf>(&mut self, epoch: &mut Epoch, frames: &[F], now: Now) {
        let (fates, misses, mut parts) = self.split();
        while let Some(service) = fates.iter().find_map(|fate| match fate {
            Fate::Miss(_, _, service) => Some(*service),
            _ => None,
        }) {
            misses.open(service, epoch, &mut parts, (frames, &mut *fates), now);
        }
    }

    /// The batch's fates, the room for new flows, and what both work on.
    fn split(&mut self) -> (&mut [Fate], &mut Misses, Parts<'_>) {
        let parts = Parts {
            shared: &self.shared,
            counters: &self.counters,
            worker: self.worker,
            slots: &mut self.slots,
            ended: &mut self.ended,
            refusals: &mut self.refusals,
            gather: &mut self.gather,
        };
        (&mut self.fates, &mut self.misses, parts)
    }

    /// Passes 4 and 5: NAT, and out.
    fn rewrite_and_send<I: FrameIo>(
        &mut self,
        io: &mut I,
        snapshot: &Snapshot,
        frames: &mut Vec<I::Frame>,
        now: Now,
    ) {
        let fates = std::mem::take(&mut self.fates);
        for (frame, fate) in frames.drain(..).zip(&fates) {
            self.finish(io, snapshot, frame, fate, now);
        }
        self.fates = fates;
    }

    /// One frame's end.
    #[inline]
    pub(crate) fn finish<I: FrameIo>(
        &mut self,
        io: &mut I,
        snapshot: &Snapshot,
        mut frame: I::Frame,
        fate: &Fate,
        now: Now,
    ) {
        let outcome = match fate {
            Fate::Session(packet, at, session, direction) => {
                let found = (*at, session, *direction);
                let counters = &*self.counters;
                match self.translate(snapshot, &mut frame, packet, found, now) {
                    Ok(port) => Ok(port),
                    Err(Stop::Cut(port, mtu)) => {
                        let whole = self.gather.with_room(&frame);
                        match pieces::send(io, counters, whole, (port, mtu)) {
                            Ok(()) => return,
                            Err(reason) => Err(reason),
                        }
                    }
                    Err(stop) => {
                        let from = told_from(snapshot, session, packet);
                        let arrived = (&mut frame, packet);
                        self.refusals
                            .tell(stop, from, counters, &mut self.gather, arrived, now)
                    }
                }
            }
            Fate::Answer => {
                self.counters.answered.add(1);
                Ok(frame.port())
            }
            Fate::Error(port) => {
                self.counters.errors_passed.add(1);
                Ok(*port)
            }
            Fate::Refuse(packet) => refusals::write(&mut frame, packet).map(|()| frame.port()),
            Fate::Kernel => match exit::across(snapshot, &frame) {
                Some(port) => {
                    self.counters.bridged.add(1);
                    Ok(port)
                }
                None => {
                    self.counters.to_kernel.add(1);
                    if let Err(reason) = io.pass_to_kernel(frame) {
                        self.counters.dropped(reason).add(1);
                    }
                    return;
                }
            },
            Fate::Held => return,
            Fate::Drop(reason) => Err(*reason),
            Fate::Lookup(..) | Fate::Miss(..) | Fate::Later(..) => {
                debug_assert!(false, "the passes before leave none of these");
                Err(DropReason::Unsupported)
            }
        };
        let len = frame.frame_len() as u64;
        match outcome.and_then(|port| io.send(port, frame)) {
            Ok(()) => {
                self.counters.transmitted.packets.add(1);
                self.counters.transmitted.bytes.add(len);
            }
            Err(reason) => self.counters.dropped(reason).add(1),
        }
    }

    /// A session's packet: state, next hop, rewrite. Says which port it leaves by.
    #[inline]
    fn translate<F: FrameBuf>(
        &self,
        snapshot: &Snapshot,
        frame: &mut F,
        packet: &IpPacket,
        (at, session, direction): (SessionRef, &Session, Direction),
        now: Now,
    ) -> Result<PortId, Stop> {
        // `find` has just matched this backend in this snapshot.
        let backend = snapshot
            .backend(session.backend)
            .ok_or(DropReason::NoBackend)?;
        let refused = self.keep_state(packet, (at, session, direction), now);
        if refused && answers::is_retried(snapshot, backend) {
            return Err(DropReason::RefusedRetried.into());
        }
        let towards = match direction {
            Direction::Forward => {
                self.follow_client(frame, packet, at, session);
                self.ways().to_backend(snapshot, backend.id)?
            }
            Direction::Reply => self.ways().to_client(snapshot, session)?,
        };
        let arrived = (frame.port(), &packet.ethernet);
        let exit = Exit::of(snapshot, arrived, direction, towards)?;
        if exit.routed && packet.hop_limit <= 1 {
            return Err(Stop::HopLimit);
        }
        // Of a bridge too: a sender that is not told would wait for ever.
        let too_big = packet.end - packet.network > exit.mtu;
        if too_big && !Cut::may_be_made(frame.bytes(), packet) {
            return Err(Stop::TooBig(exit.mtu));
        }
        let mut rewrite = nat(session, backend, snapshot, direction);
        rewrite.link = exit.link;
        rewrite.decrement_hop_limit = exit.routed;
        rewrite.apply(frame.bytes_mut(), packet);
        if let Some(link) = exit.link
            && packet.ethernet.tags != *exit.tags
        {
            citizen::retag(frame, &packet.ethernet, link, *exit.tags)?;
        }
        let len = frame.frame_len() as u64;
        self.count(session, direction, len);
        if self.ended.is_told_of(backend) {
            self.shared.sessions.add_bytes(at, len);
        }
        if too_big {
            return Err(Stop::Cut(exit.port, exit.mtu));
        }
        Ok(exit.port)
    }

    #[inline]
    fn ways(&self) -> Ways<'_> {
        Ways {
            next_hops: &self.shared.next_hops,
            routes: self.routes.table(),
            counters: &self.counters,
        }
    }

    /// Time and state; written only where they changed, so that a line read by two workers
    /// stays in both caches. The state is read anew: an earlier packet of the batch, or another
    /// worker's, may have changed it since the look-up. Says whether the backend has just refused the
    /// connection.
    #[inline]
    fn keep_state(
        &self,
        packet: &IpPacket,
        (at, session, direction): (SessionRef, &Session, Direction),
        now: Now,
    ) -> bool {
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
                (at, session, seen_before),
                (direction, flags),
                (before, after),
                now,
            );
        }
        false
    }

    /// The way back is the way the client's packets come (last hop): a gateway that fails over to
    /// another MAC address or port is followed with its first packet.
    #[inline]
    fn follow_client<F: FrameBuf>(
        &self,
        frame: &F,
        packet: &IpPacket,
        at: SessionRef,
        session: &Session,
    ) {
        let hop = NextHop {
            port: frame.port(),
            mac: packet.ethernet.source,
        };
        if hop != session.hop || packet.ethernet.tags != session.tags {
            self.shared.sessions.set_hop(at, hop, packet.ethernet.tags);
        }
    }

    #[inline]
    fn count(&self, session: &Session, direction: Direction, len: u64) {
        let counters = self.counters.backend(session.backend);
        let traffic = match direction {
            Direction::Forward => &counters.forward,
            Direction::Reply => &counters.reply,
        };
        traffic.packets.add(1);
        traffic.bytes.add(len);
    }
}

/// The session's rewrite in one direction, but for the link and the hop limit, which the way says.
#[inline]
pub(crate) fn nat(
    session: &Session,
    backend: &Backend,
    snapshot: &Snapshot,
    direction: Direction,
) -> Rewrite {
    let plain = session.source.is_client()
        && session.source_port == session.client_port
        && backend.port != Backend::PORT_KEPT;
    if !plain {
        return full_nat(session, backend, snapshot, direction);
    }
    match direction {
        Direction::Forward => Rewrite {
            destination: Some(backend.to_backend),
            ..Rewrite::default()
        },
        Direction::Reply => Rewrite {
            source: Some(backend.to_client),
            ..Rewrite::default()
        },
    }
}

/// Likewise, where the client's address or port is translated too, or the service's port is one of many.
#[inline(never)]
fn full_nat(
    session: &Session,
    backend: &Backend,
    snapshot: &Snapshot,
    direction: Direction,
) -> Rewrite {
    let port = session.service_port;
    let client = (session.client, session.client_port);
    // `find` has just matched the tuple with this address.
    let address = snapshot.seen_by_backend(session).unwrap_or(session.client);
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
fn told_from(snapshot: &Snapshot, session: &Session, packet: &IpPacket) -> Option<Address> {
    if snapshot.is_vip(packet.destination) {
        return Some(packet.destination);
    }
    Some(snapshot.backend(session.backend)?.vip)
}

/// A TCP or UDP packet of no session: a new flow to a service, or none of ours.
pub(crate) fn classify_miss(snapshot: &Snapshot, packet: IpPacket, hash: FlowHash) -> Fate {
    let Some(tuple) = tuple_of(&packet) else {
        return Fate::Kernel;
    };
    match snapshot.service_at(tuple.destination, tuple.destination_port, tuple.protocol) {
        // What a VIP says, this balancer says; its answer would come back here.
        Some(_) if is_martian(packet.source) || snapshot.is_vip(packet.source) => {
            Fate::Drop(DropReason::Martian)
        }
        Some(service) => Fate::Miss(packet, hash, service.id),
        None if snapshot.is_vip(packet.destination) => Fate::Drop(DropReason::NoService),
        // A backend's reply on a connection that did not come through the VIP.
        None => Fate::Kernel,
    }
}

impl From<Answer> for Fate {
    fn from(answer: Answer) -> Self {
        match answer {
            Answer::Written => Self::Answer,
            Answer::NotAsked => Self::Kernel,
            Answer::Limited => Self::Drop(DropReason::AnswerLimit),
            Answer::Malformed => Self::Drop(DropReason::Malformed),
        }
    }
}
