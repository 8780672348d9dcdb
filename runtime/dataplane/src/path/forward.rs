//! The hot path: a batch of frames, pass by pass.
//!
//! Each pass goes over the whole batch, so that the wait for one packet's memory is filled with work on the
//! others:
//!
//! 1. `classify.rs`: parse and hash.
//! 2. `look_up`: find each packet's session; rewrite the packets of established ones
//!    (`fast_path.rs`).
//! 3. `open_sessions`: one policy call per service with new flows (`new_flows.rs`).
//! 4. `send_all`: rewrite the packets that opened sessions, and send.
//!
//! Fragments leave this path in pass 1 and rejoin it before pass 4 (see [`crate::fragments`]).
//!
//! Invariant: for a packet of an established session nothing here allocates, locks, calls a policy or reads a
//! clock. Every frame ends in exactly one way: sent, passed to the kernel, or dropped with a [`DropReason`].
//! A fragment may be held before that.

use std::sync::Arc;

use waxwing_packet::{IpPacket, icmp};

use super::classify::classify;
use super::flow::{FoundSession, find, match_with, tuple_of};
use super::new_flows::NewFlows;
use super::{
    Arrived, Batch, SharedState, Verdict, WorkerContext, fast_path, fragment_out, no_session,
    reject, slow_path,
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
        batch.clear();
        classify(context, fragments, batch, &epoch.snapshot, frames, now);
        look_up(context, batch, &epoch.snapshot, frames, now);
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

/// Pass 2: finds each packet's session. The first round reads the index and prefetches the sessions; with
/// many backends, another prefetches those. The last round rewrites the packets of sessions that stand,
/// closes sessions that do not, and finds new flows.
#[inline(never)]
fn look_up<F: FrameBuf>(
    context: &mut WorkerContext,
    batch: &mut Batch,
    snapshot: &Snapshot,
    frames: &mut [F],
    now: Now,
) {
    for verdict in &mut batch.verdicts {
        if let Verdict::Lookup(hash, candidate) = verdict {
            *candidate = context.shared.sessions.prefetch_session(*hash);
        }
    }
    if snapshot.is_far() {
        prefetch_backends(context, batch, snapshot);
    }
    let packets_and_verdicts = batch.packets.iter().zip(&mut batch.verdicts);
    for (frame, (packet, verdict)) in frames.iter_mut().zip(packets_and_verdicts) {
        let (Verdict::Lookup(hash, candidate), Some(packet)) = (&*verdict, packet) else {
            continue;
        };
        let (hash, candidate) = (*hash, *candidate);
        let mut arrived = Arrived { frame, packet };
        let Some(candidate) = candidate else {
            *verdict = no_session::verdict(context, snapshot, arrived, hash, now);
            continue;
        };
        // Each arm assigns: a verdict is large, and most are small variants that need not be built apart.
        if let Some(tuple) = tuple_of(packet)
            && let Some((at, stored)) = context.shared.sessions.read(candidate)
            && let Some((backend, direction)) = match_with(&stored, snapshot, &tuple)
        {
            let found = FoundSession {
                at,
                stored,
                direction,
                backend,
            };
            match fast_path::forward(context, snapshot, arrived.reborrow(), &found, now) {
                Ok(port) => *verdict = Verdict::Forward(port),
                Err(stop) => {
                    *verdict = slow_path::resolve(context, stop, snapshot, arrived, found, now);
                }
            }
        } else {
            *verdict = look_up_again(context, snapshot, arrived, hash, now);
        }
    }
}

#[inline(never)]
fn prefetch_backends(context: &WorkerContext, batch: &Batch, snapshot: &Snapshot) {
    for verdict in &batch.verdicts {
        if let Verdict::Lookup(_, Some(candidate)) = verdict
            && let Some(backend) = context.shared.sessions.guess_backend(*candidate)
        {
            snapshot.prefetch_backend(backend);
            context.shared.next_hops.prefetch(backend);
            context.counters.prefetch_backend(backend);
        }
    }
}

/// For a flow whose first candidate was another session with the same tag, or one that has ended: looks at
/// all candidates.
#[cold]
#[inline(never)]
fn look_up_again<F: FrameBuf>(
    context: &mut WorkerContext,
    snapshot: &Snapshot,
    arrived: Arrived<'_, F>,
    hash: FlowHash,
    now: Now,
) -> Verdict {
    let packet = arrived.packet;
    let found =
        tuple_of(packet).and_then(|tuple| find(&context.shared.sessions, snapshot, &tuple, hash));
    match found {
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
        (Verdict::Lookup(..) | Verdict::NewFlow(..) | Verdict::LaterFragment(..), _)
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
