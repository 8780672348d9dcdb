//! The hot path: a batch of frames, pass by pass.
//!
//! Each pass goes over the whole batch, so that the wait for one packet's memory is filled with work on the
//! others:
//!
//! 1. Classify: read the headers and hash the flow (`fast_path.rs`); what is no plain packet is parsed
//!    (`classify.rs`).
//! 2. `look_up`: find each packet's session; rewrite the packets of established ones (`fast_path.rs`). Those
//!    that change their session, or leave in an uncommon way, take the general path (`general_path.rs`).
//! 3. `open_sessions`: one policy call per service with new flows (`new_flows.rs`); rewrite the packets that
//!    opened sessions.
//! 4. `send_all`: rewrite those that are left, and send.
//!
//! A batch of which every packet is rewritten in pass 2 is sent at once.
//!
//! Fragments leave this path in pass 1 and rejoin it before pass 4 (see [`crate::fragments`]).
//!
//! Invariant: for a packet of an established session nothing here allocates, locks, calls a policy or reads a
//! clock. Every frame ends in exactly one way: sent, passed to the kernel, or dropped with a [`DropReason`].
//! A fragment may be held before that.

use std::sync::Arc;

use waxwing_packet::{IpPacket, Packet, icmp, parse};

use super::classify::classify_exceptions;
use super::fast_path::FastPath;
use super::flow::{find, tuple_of};
use super::new_flows::NewFlows;
use super::{
    Arrived, Batch, PacketSet, SharedState, Verdict, WorkerContext, fast_path, fragment_out,
    no_session, reject, slow_path,
};
use crate::counters::WorkerCounters;
use crate::egress::bridge_exit;
use crate::fragments::FragmentPass;
use crate::session::FlowHash;
use crate::{DropReason, Epoch, FrameBuf, FrameIo, Now, Snapshot};

/// One worker's packet processing, without its I/O.
pub struct Forwarder {
    pub(crate) context: WorkerContext,
    batch: Batch,
    new_flows: NewFlows,
    fragments: FragmentPass,
}

impl Forwarder {
    /// For worker `number`, which starts with this epoch. `cluster_key` keys the hash that policies see.
    #[must_use]
    pub fn new(
        shared: SharedState,
        counters: Arc<WorkerCounters>,
        number: usize,
        cluster_key: [u64; 4],
        epoch: &Epoch,
    ) -> Self {
        Self {
            context: WorkerContext::new(shared, counters, number, epoch),
            batch: Batch::new(),
            new_flows: NewFlows::new(cluster_key),
            fragments: FragmentPass::new(),
        }
    }

    /// Switches to the latest routes to clients. To be called also when no frame arrives, so that an old
    /// table does not stay in use.
    #[inline]
    pub fn refresh_routes(&mut self) {
        let context = &mut self.context;
        context.routes.refresh(context.shared.next_hops.routes());
    }

    /// Processes a batch. `frames` is empty afterwards.
    pub fn forward<I: FrameIo>(
        &mut self,
        io: &mut I,
        epoch: &mut Epoch,
        frames: &mut Vec<I::Frame>,
        now: Now,
    ) {
        let Self {
            context,
            batch,
            new_flows,
            fragments,
        } = self;
        let snapshot = &epoch.snapshot;
        batch.begin(frames.len());
        let mut exceptions = fast_path::classify(context, batch, frames);
        if !exceptions.is_empty() {
            let classified = (&mut *batch, exceptions);
            classify_exceptions(context, fragments, classified, snapshot, frames, now);
        }
        exceptions = look_up(context, batch, exceptions, snapshot, frames, now);
        if exceptions.is_empty() {
            return fast_path::send(context, io, batch, frames);
        }
        batch.note_forwarded(exceptions);
        open_sessions(context, new_flows, batch, epoch, frames, now);
        if fragments.is_due() {
            fragments.settle(context, batch, frames, now);
        }
        send_all(context, io, batch, &epoch.snapshot, frames, now);
        self.release_fragments(io, &epoch.snapshot, now);
    }

    /// Forgets fragmented datagrams that timed out: this turn's share of the table.
    #[inline]
    pub(crate) fn sweep_fragments<I: FrameIo>(
        &mut self,
        io: &mut I,
        snapshot: &Snapshot,
        now: Now,
    ) {
        self.fragments.sweep(&self.context, now);
        self.release_fragments(io, snapshot, now);
    }

    /// Ends the fragments that no longer wait. They follow the first fragments that they waited for.
    #[inline]
    fn release_fragments<I: FrameIo>(&mut self, io: &mut I, snapshot: &Snapshot, now: Now) {
        if self.fragments.has_released() {
            self.release_all_fragments(io, snapshot, now);
        }
    }

    #[cold]
    fn release_all_fragments<I: FrameIo>(&mut self, io: &mut I, snapshot: &Snapshot, now: Now) {
        while let Some((frame, packet, verdict)) =
            self.fragments.next_released(&self.context, io, snapshot)
        {
            finish(
                &mut self.context,
                io,
                snapshot,
                frame,
                (packet.as_ref(), verdict),
                now,
            );
        }
    }
}

/// Pass 2: finds each packet's session and rewrites the packets of sessions that stand, in the order of
/// arrival, since a packet sees what the ones before it changed. Closes sessions that do not stand, and finds
/// new flows. Returns the packets that are not rewritten.
#[inline(never)]
fn look_up<F: FrameBuf>(
    context: &mut WorkerContext,
    batch: &mut Batch,
    exceptions: PacketSet,
    snapshot: &Snapshot,
    frames: &mut [F],
    now: Now,
) -> PacketSet {
    let hops = &context.shared.next_hops;
    snapshot.follow_ports(hops.port_changes(), || hops.first_ports());
    fast_path::find_lanes(context, batch);
    if snapshot.is_far() {
        fast_path::prefetch_backends(context, batch, snapshot);
    }
    // Exceptions stop the fast path, but the index has told whether they may have a session.
    let mut absent = PacketSet::default();
    for at in exceptions.iter() {
        let lane = std::mem::take(&mut batch.slots[at].lane);
        if lane.is_none() {
            absent.insert(at);
        }
    }
    let mut left = PacketSet::default();
    let mut at = 0;
    while at < batch.len() {
        if !batch.slots[at].lane.is_none() {
            let of = (&*context, snapshot);
            let untagged = FastPath::run::<F, false>(of, frames, batch, at, now);
            at = untagged;
            if at < batch.len() && !batch.slots[at].lane.is_none() {
                at = FastPath::run::<F, true>(of, frames, batch, at, now);
            }
            if at == batch.len() {
                break;
            }
            if at > untagged {
                continue;
            }
            let slot = &mut batch.slots[at];
            if !slot.lane.is_none() {
                // Most likely another flow's entry, with the same tag.
                let next = context
                    .shared
                    .sessions
                    .reader()
                    .next(slot.place(), slot.lane);
                if !next.is_none() {
                    slot.lane = next;
                    continue;
                }
            }
        }
        let is_absent = if exceptions.contains(at) {
            absent.contains(at)
        } else {
            parse_for_general_path(context, batch, at, &frames[at]);
            batch.slots[at].lane.is_none()
        };
        if !look_up_one(
            context,
            batch,
            (at, is_absent),
            snapshot,
            &mut frames[at],
            now,
        ) {
            left.insert(at);
        }
        at += 1;
    }
    left
}

/// Parses a packet that the fast path has read but not rewritten.
fn parse_for_general_path<F: FrameBuf>(
    context: &WorkerContext,
    batch: &mut Batch,
    at: usize,
    frame: &F,
) {
    let packet = match parse(frame.bytes()) {
        Ok(Packet::Ip(packet)) => Some(packet),
        _ => None,
    };
    let tuple = packet.as_ref().and_then(tuple_of);
    debug_assert!(
        tuple.is_some(),
        "what the fast path reads is a plain packet"
    );
    let verdict = tuple.map_or(Verdict::Drop(DropReason::Malformed), |tuple| {
        Verdict::Lookup(context.shared.sessions.hash(&tuple))
    });
    batch.set(at, packet, verdict);
}

/// One packet by the general path; if it `is_absent`, no session is in the index. Returns whether it is
/// rewritten.
#[inline(never)]
fn look_up_one<F: FrameBuf>(
    context: &mut WorkerContext,
    batch: &mut Batch,
    (at, is_absent): (usize, bool),
    snapshot: &Snapshot,
    frame: &mut F,
    now: Now,
) -> bool {
    let (Verdict::Lookup(hash), Some(packet)) = (batch.verdicts[at], &batch.packets[at]) else {
        return false;
    };
    let arrived = Arrived { frame, packet };
    let verdict = if is_absent {
        no_session::verdict(context, snapshot, arrived, hash, now)
    } else {
        look_up_session(context, snapshot, arrived, hash, now)
    };
    batch.verdicts[at] = verdict;
    if let Verdict::Forward(port) = verdict {
        batch.set_forwarded(at, port, frame.frame_len());
        return true;
    }
    false
}

/// The verdict on a TCP or UDP packet that may have a session.
#[inline(never)]
fn look_up_session<F: FrameBuf>(
    context: &mut WorkerContext,
    snapshot: &Snapshot,
    arrived: Arrived<'_, F>,
    hash: FlowHash,
    now: Now,
) -> Verdict {
    let Some(tuple) = tuple_of(arrived.packet) else {
        return Verdict::PassToKernel;
    };
    match find(&context.shared.sessions, snapshot, &tuple, hash) {
        Some(found) => slow_path::forward(context, snapshot, arrived, &found, now),
        None => no_session::verdict(context, snapshot, arrived, hash, now),
    }
}

/// Pass 3: opens sessions for new flows, with one policy call per service among them.
#[inline(never)]
fn open_sessions<F: FrameBuf>(
    context: &mut WorkerContext,
    new_flows: &mut NewFlows,
    batch: &mut Batch,
    epoch: &mut Epoch,
    frames: &mut [F],
    now: Now,
) {
    while let Some(service) = batch.verdicts.iter().find_map(|verdict| match verdict {
        Verdict::NewFlow(_, service) => Some(*service),
        _ => None,
    }) {
        new_flows.open(service, epoch, context, batch, frames, now);
    }
}

/// Pass 4: rewrites the packets that opened sessions, and sends.
#[inline(never)]
fn send_all<I: FrameIo>(
    context: &mut WorkerContext,
    io: &mut I,
    batch: &Batch,
    snapshot: &Snapshot,
    frames: &mut Vec<I::Frame>,
    now: Now,
) {
    let (mut packets, mut bytes) = (0, 0);
    for (at, frame) in frames.drain(..).enumerate() {
        if let Verdict::Forward(port) = batch.verdicts[at] {
            let len = frame.frame_len() as u64;
            match io.send(port, frame) {
                Ok(()) => {
                    packets += 1;
                    bytes += len;
                }
                Err(reason) => context.counters.dropped(reason).add(1),
            }
        } else {
            let (packet, verdict) = (batch.packets[at].as_ref(), batch.verdicts[at]);
            finish(context, io, snapshot, frame, (packet, verdict), now);
        }
    }
    context.counters.transmitted.packets.add(packets);
    context.counters.transmitted.bytes.add(bytes);
}

/// Carries out one frame's verdict.
fn finish<I: FrameIo>(
    context: &mut WorkerContext,
    io: &mut I,
    snapshot: &Snapshot,
    mut frame: I::Frame,
    (packet, mut verdict): (Option<&IpPacket>, Verdict),
    now: Now,
) {
    if let (Verdict::Session(at, session, direction), Some(packet)) = (&verdict, packet) {
        let session = (*at, session, *direction);
        let frame = &mut frame;
        verdict =
            slow_path::forward_opened(context, snapshot, Arrived { frame, packet }, session, now);
    }
    let egress = match (verdict, packet) {
        (Verdict::Forward(port), _) => Ok(port),
        (Verdict::ForwardFragmented(port, mtu), _) => {
            let whole = context.linearizer.whole_and_scratch(&frame);
            match fragment_out::send(io, &context.counters, whole, (port, mtu)) {
                Ok(()) => return,
                Err(reason) => Err(reason),
            }
        }
        (Verdict::Respond, _) => {
            context.counters.responded.add(1);
            Ok(frame.port())
        }
        (Verdict::ForwardIcmpError(port), _) => {
            context.counters.icmp_errors_forwarded.add(1);
            Ok(port)
        }
        (Verdict::Echo, Some(packet)) => {
            if icmp::answer_echo(frame.bytes_mut(), packet) {
                context.counters.responded.add(1);
                Ok(frame.port())
            } else {
                Err(DropReason::Unsupported)
            }
        }
        (Verdict::Reject(_), Some(packet)) => {
            reject::write(&mut frame, packet).map(|()| frame.port())
        }
        (Verdict::PassToKernel, _) => match bridge_exit(snapshot, &frame) {
            Some(port) => {
                context.counters.bridged.add(1);
                Ok(port)
            }
            None => return pass_to_kernel(context, io, frame),
        },
        (Verdict::Held, _) => return,
        (Verdict::Drop(reason), _) => Err(reason),
        (Verdict::Lookup(_) | Verdict::NewFlow(..) | Verdict::LaterFragment(..), _)
        | (Verdict::Session(..), _)
        | (_, None) => {
            debug_assert!(false, "the passes before leave no other verdict");
            Err(DropReason::Unsupported)
        }
    };
    let len = frame.frame_len() as u64;
    match egress.and_then(|port| io.send(port, frame)) {
        Ok(()) => {
            context.counters.transmitted.packets.add(1);
            context.counters.transmitted.bytes.add(len);
        }
        Err(reason) => context.counters.dropped(reason).add(1),
    }
}

fn pass_to_kernel<I: FrameIo>(context: &WorkerContext, io: &mut I, frame: I::Frame) {
    context.counters.to_kernel.add(1);
    if let Err(reason) = io.pass_to_kernel(frame) {
        context.counters.dropped(reason).add(1);
    }
}
