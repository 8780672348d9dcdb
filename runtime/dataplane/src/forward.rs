//! A packet's way, top to bottom.
//!
//! A batch goes through in passes, so that the wait for one packet's memory is filled with work on
//! the others: parse and classify each frame, look up each flow and rewrite the packets of those that are
//! known (see `hit`), give the new flows of a service a backend in one call of its policy, then send.
//!
//! Fragments part from the way in pass 1 and come back to it before pass 4 (see `fragments`).
//!
//! Invariant: on a hit nothing here allocates, locks, calls a policy or reads a clock. Every frame
//! ends in exactly one way: sent, handed to the kernel, or dropped under a [`DropReason`]; but for
//! a fragment, which may be held before that. (What is not ours a bridge sends on itself, see `exit`.)

use std::sync::Arc;

use waxwing_packet::{
    Fragment, IpPacket, Packet, ParseError, Transport, icmp, parse_head, parse_plain,
};

use crate::citizen::{self, Answer};
use crate::counters::WorkerCounters;
use crate::ended::Ended;
use crate::errors;
use crate::exit;
use crate::flow::{Found, find, is_martian, match_with, tuple_of};
use crate::fragments::{FragmentPass, FragmentTable};
use crate::gather::Gather;
use crate::misses::Misses;
use crate::parts::Parts;
use crate::pieces;
use crate::refusals::{self, Refusals};
use crate::routes::Taken;
use crate::session::{
    Candidate, Direction, FlowHash, Session, SessionRef, SessionTable, SlotCache, WORKER_UNCOUNTED,
};
use crate::snapshot::NextHops;
use crate::ways::Ways;
use crate::{
    BATCH, DropReason, Epoch, FrameBuf, FrameIo, Gauges, Now, PortId, ServiceId, Snapshot,
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
    pub(crate) refusals: Refusals,
    pub(crate) gather: Gather,
    pub(crate) fragments: FragmentPass,
    /// The routes to clients, where replies go by them.
    routes: Taken,
    /// The batch's packets, and what becomes of each: by the place of its frame in the batch.
    pub(crate) packets: Vec<Option<IpPacket>>,
    pub(crate) fates: Vec<Fate>,
}

/// A batch's packets and their fates, by the places of their frames.
pub(crate) struct Batch<'a> {
    pub(crate) packets: &'a [Option<IpPacket>],
    pub(crate) fates: &'a mut [Fate],
}

/// What becomes of a frame, as far as the passes so far have decided.
#[derive(Clone, Copy)]
pub(crate) enum Fate {
    /// A TCP or UDP packet whose session is to be looked up; and where that may be, once the index was
    /// asked.
    Lookup(FlowHash, Option<Candidate>),
    /// A packet of a session, which has just been made or which a fragment is of.
    Session(SessionRef, Session, Direction),
    /// A packet that opens a session of this service.
    Miss(FlowHash, ServiceId),
    /// A fragment that is not its datagram's first.
    Later(Fragment),
    /// A session's packet, rewritten: it leaves by this port.
    Leave(PortId),
    /// Likewise, but it is larger than this egress MTU in bytes: it leaves in pieces.
    Cut(PortId, u16),
    /// A fragment that was copied to wait for the first.
    Held,
    /// It was turned into its own answer, and goes back where it came from.
    Answer,
    /// An ICMP error about a session's packet, rewritten: it leaves by this port.
    Error(PortId),
    /// It is refused: to be turned into its own answer, too.
    Refuse,
    /// It is not ours.
    Kernel,
    /// It ends here.
    Drop(DropReason),
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
            packets: Vec::with_capacity(BATCH),
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
        self.packets.clear();
        self.classify(&epoch.snapshot, frames, now);
        self.look_up(&epoch.snapshot, frames, now);
        self.open_sessions(epoch, frames, now);
        if self.fragments.is_due() {
            self.settle_fragments(frames, now);
        }
        self.send_all(io, &epoch.snapshot, frames, now);
        self.release_fragments(io, &epoch.snapshot, now);
    }

    /// Pass 1: what is each frame? Answers to ARP, neighbour solicitations and ping are written here.
    #[inline(never)]
    fn classify<F: FrameBuf>(&mut self, snapshot: &Snapshot, frames: &mut [F], now: Now) {
        let mut bytes = 0;
        for frame in &mut *frames {
            bytes += frame.frame_len() as u64;
            if frame.rest_len() == 0
                && let Some(packet) = parse_plain(frame.bytes())
                && let Some(tuple) = tuple_of(&packet)
            {
                let hash = self.shared.sessions.hash(&tuple);
                self.shared.sessions.prefetch(hash);
                self.fates.push(Fate::Lookup(hash, None));
                self.packets.push(Some(packet));
            } else {
                let (packet, fate) = self.classify_rare(snapshot, frame, now);
                self.fates.push(fate);
                self.packets.push(packet);
            }
        }
        self.counters.received.packets.add(frames.len() as u64);
        self.counters.received.bytes.add(bytes);
    }

    /// What is no whole and plain packet of TCP or UDP.
    #[cold]
    #[inline(never)]
    fn classify_rare<F: FrameBuf>(
        &mut self,
        snapshot: &Snapshot,
        frame: &mut F,
        now: Now,
    ) -> (Option<IpPacket>, Fate) {
        let fate = match parse_head(frame.bytes(), frame.rest_len()) {
            Ok(Packet::Ip(packet)) => {
                let fate = match (tuple_of(&packet), packet.fragment) {
                    (Some(tuple), None) => {
                        let hash = self.shared.sessions.hash(&tuple);
                        self.shared.sessions.prefetch(hash);
                        Fate::Lookup(hash, None)
                    }
                    (_, Some(fragment)) => {
                        self.classify_fragment(snapshot, (&packet, fragment), now)
                    }
                    (None, None) => self.classify_other(snapshot, frame, &packet, now),
                };
                return (Some(packet), fate);
            }
            Ok(Packet::Arp(ethernet)) => citizen::answer_arp(snapshot, frame, &ethernet).into(),
            Ok(Packet::Other(_)) => Fate::Kernel,
            Err(ParseError::TinyFragment) => Fate::Drop(DropReason::TinyFragment),
            Err(_) => Fate::Drop(DropReason::Malformed),
        };
        (None, fate)
    }

    /// What is neither TCP nor UDP.
    fn classify_other<F: FrameBuf>(
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

    /// Pass 2: whose is it? The first round waits for the index and fetches the sessions' lines; where there
    /// are many backends, another waits for those and fetches what is read of a backend. The
    /// last one reads them: a session's packet is rewritten, while all of it is at hand; a miss is told
    /// apart, and a session that does not stand ends.
    #[inline(never)]
    fn look_up<F: FrameBuf>(&mut self, snapshot: &Snapshot, frames: &mut [F], now: Now) {
        for fate in &mut self.fates {
            if let Fate::Lookup(hash, candidate) = fate {
                *candidate = self.shared.sessions.prefetch_session(*hash);
            }
        }
        if snapshot.is_far() {
            self.prefetch_backends(snapshot);
        }
        let packets = std::mem::take(&mut self.packets);
        for (at, (frame, packet)) in frames.iter_mut().zip(&packets).enumerate() {
            let (Fate::Lookup(hash, candidate), Some(packet)) = (&self.fates[at], packet) else {
                continue;
            };
            let (hash, candidate) = (*hash, *candidate);
            let Some(candidate) = candidate else {
                self.fates[at] = classify_miss(snapshot, packet, hash);
                continue;
            };
            if let Some(tuple) = tuple_of(packet)
                && let Some((session, stored)) = self.shared.sessions.read(candidate)
                && let Some((backend, direction)) = match_with(&stored, snapshot, &tuple)
            {
                let found = Found {
                    at: session,
                    stored,
                    direction,
                    backend,
                };
                match self.pass_on_standing(snapshot, frame, packet, &found, now) {
                    Ok(port) => self.fates[at] = Fate::Leave(port),
                    Err(stop) => {
                        self.fates[at] = self.stop(stop, snapshot, (frame, packet), found, now);
                    }
                }
            } else {
                self.fates[at] = self.look_elsewhere(snapshot, (frame, packet, hash), now);
            }
        }
        self.packets = packets;
    }

    #[inline(never)]
    fn prefetch_backends(&self, snapshot: &Snapshot) {
        for fate in &self.fates {
            if let Fate::Lookup(_, Some(candidate)) = fate
                && let Some(backend) = self.shared.sessions.guess_backend(*candidate)
            {
                snapshot.prefetch_backend(backend);
                self.shared.next_hops.prefetch(backend);
                self.counters.prefetch_backend(backend);
            }
        }
    }

    /// Where the index's first word for a flow was not its own: one of another flow with the same tag, or of
    /// a session that has ended.
    #[cold]
    #[inline(never)]
    fn look_elsewhere<F: FrameBuf>(
        &mut self,
        snapshot: &Snapshot,
        (frame, packet, hash): (&mut F, &IpPacket, FlowHash),
        now: Now,
    ) -> Fate {
        let found =
            tuple_of(packet).and_then(|tuple| find(&self.shared.sessions, snapshot, &tuple, hash));
        let Some(found) = found else {
            return classify_miss(snapshot, packet, hash);
        };
        self.pass_on_found(snapshot, (frame, packet), &found, now)
    }

    /// Pass 3: new flows get their sessions, one policy call for each service among them.
    #[inline(never)]
    fn open_sessions<F: FrameBuf>(&mut self, epoch: &mut Epoch, frames: &[F], now: Now) {
        while let Some(service) = self.fates.iter().find_map(|fate| match fate {
            Fate::Miss(_, service) => Some(*service),
            _ => None,
        }) {
            let (batch, misses, mut parts) = self.split();
            misses.open(service, epoch, &mut parts, (frames, batch), now);
        }
    }

    /// The batch, the room for new flows, and what both work on.
    pub(crate) fn split(&mut self) -> (Batch<'_>, &mut Misses, Parts<'_>) {
        let parts = Parts {
            shared: &self.shared,
            counters: &self.counters,
            worker: self.worker,
            slots: &mut self.slots,
            ended: &mut self.ended,
            refusals: &mut self.refusals,
            gather: &mut self.gather,
        };
        let batch = Batch {
            packets: &self.packets,
            fates: &mut self.fates,
        };
        (batch, &mut self.misses, parts)
    }

    /// Pass 4: what opened a session is rewritten too, and out.
    #[inline(never)]
    fn send_all<I: FrameIo>(
        &mut self,
        io: &mut I,
        snapshot: &Snapshot,
        frames: &mut Vec<I::Frame>,
        now: Now,
    ) {
        let (mut packets, mut bytes) = (0, 0);
        for (at, frame) in frames.drain(..).enumerate() {
            if let Fate::Leave(port) = self.fates[at] {
                let len = frame.frame_len() as u64;
                match io.send(port, frame) {
                    Ok(()) => {
                        packets += 1;
                        bytes += len;
                    }
                    Err(reason) => self.counters.dropped(reason).add(1),
                }
            } else {
                let (fate, packet) = (self.fates[at], self.packets[at]);
                self.finish(io, snapshot, frame, (packet, fate), now);
            }
        }
        self.counters.transmitted.packets.add(packets);
        self.counters.transmitted.bytes.add(bytes);
    }

    /// One frame's end.
    pub(crate) fn finish<I: FrameIo>(
        &mut self,
        io: &mut I,
        snapshot: &Snapshot,
        mut frame: I::Frame,
        (packet, mut fate): (Option<IpPacket>, Fate),
        now: Now,
    ) {
        if let (Fate::Session(at, session, direction), Some(packet)) = (&fate, &packet) {
            let of = (*at, session, *direction);
            fate = self.pass_on_opened(snapshot, &mut frame, packet, of, now);
        }
        let outcome = match (fate, packet) {
            (Fate::Leave(port), _) => Ok(port),
            (Fate::Cut(port, mtu), _) => {
                let whole = self.gather.with_room(&frame);
                match pieces::send(io, &self.counters, whole, (port, mtu)) {
                    Ok(()) => return,
                    Err(reason) => Err(reason),
                }
            }
            (Fate::Answer, _) => {
                self.counters.answered.add(1);
                Ok(frame.port())
            }
            (Fate::Error(port), _) => {
                self.counters.errors_passed.add(1);
                Ok(port)
            }
            (Fate::Refuse, Some(packet)) => {
                refusals::write(&mut frame, &packet).map(|()| frame.port())
            }
            (Fate::Kernel, _) => match exit::across(snapshot, &frame) {
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
            (Fate::Held, _) => return,
            (Fate::Drop(reason), _) => Err(reason),
            (Fate::Lookup(..) | Fate::Miss(..) | Fate::Later(..), _)
            | (_, None)
            | (Fate::Session(..), _) => {
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

    #[inline]
    pub(crate) fn ways(&self) -> Ways<'_> {
        Ways {
            next_hops: &self.shared.next_hops,
            routes: self.routes.table(),
            counters: &self.counters,
        }
    }
}

/// A TCP or UDP packet of no session: a new flow to a service, or none of ours.
pub(crate) fn classify_miss(snapshot: &Snapshot, packet: &IpPacket, hash: FlowHash) -> Fate {
    let Some(tuple) = tuple_of(packet) else {
        return Fate::Kernel;
    };
    match snapshot.service_at(tuple.destination, tuple.destination_port, tuple.protocol) {
        // What a VIP says, this balancer says; its answer would come back here.
        Some(_) if is_martian(packet.source) || snapshot.is_vip(packet.source) => {
            Fate::Drop(DropReason::Martian)
        }
        Some(service) => Fate::Miss(hash, service.id),
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
