//! One worker's handling of fragments: those of its batch, and those that the batch releases from the table.
//!
//! Invariant: a fragment that waits has ended as a frame and counts as held. When it is taken out again it
//! counts as released, and ends as any frame does: sent, passed to the kernel, or dropped.

use waxwing_packet::{Fragment, IpPacket, Packet, parse_head};

use super::FRAGMENTS_MAX;
use super::datagram::{ByteRange, DatagramKey};
use super::held::Ticket;
use super::table::{self, FragmentVerdict, LaterOutcome, ReleasedGroup};
use crate::path::{Batch, Verdict, WorkerContext, is_ping, tuple_of};
use crate::{BATCH, DropReason, FrameBuf, FrameIo, Now, Snapshot};

/// How long one sweep over the table takes, in milliseconds. A fragment whose first one never comes waits for
/// about that much longer than its timeout (more on an idle worker).
const SWEEP_ROUND_MS: u64 = 250;
/// The most buckets swept between two batches.
const SWEEP_MAX: usize = 16;

/// One worker's buffers for a batch's fragments.
pub(crate) struct FragmentPass {
    /// The datagrams whose first fragment is in the batch, with its index there.
    firsts: Vec<(usize, DatagramKey)>,
    /// Whether the batch has later fragments.
    has_later: bool,
    /// Fragments that no longer wait, in groups by datagram; `next_group` is the first not yet opened.
    released: Vec<ReleasedGroup>,
    next_group: usize,
    /// The fragments of the current group; `next_ticket` is the first not yet taken.
    tickets: Vec<Ticket>,
    next_ticket: usize,
    /// The verdict of the current group's first fragment; `None` if that never came.
    group_verdict: Option<FragmentVerdict>,
    swept_at: Now,
}

impl FragmentPass {
    pub(crate) fn new() -> Self {
        // A frame releases at most three groups: the evicted datagram's, its own if that timed out or is
        // inconsistent, and its own when it decides.
        let groups = (3 * BATCH).max(SWEEP_MAX * table::WAYS);
        Self {
            firsts: Vec::with_capacity(BATCH),
            has_later: false,
            released: Vec::with_capacity(groups),
            next_group: 0,
            tickets: Vec::with_capacity(FRAGMENTS_MAX),
            next_ticket: 0,
            group_verdict: None,
            swept_at: Now::default(),
        }
    }

    /// In pass 1: a first fragment continues like a whole packet; later ones wait for the end of pass 3. `at`
    /// is the fragment's index in the batch.
    #[cold]
    pub(crate) fn classify(
        &mut self,
        context: &mut WorkerContext,
        at: usize,
        snapshot: &Snapshot,
        (packet, fragment): (&IpPacket, Fragment),
        now: Now,
    ) -> Verdict {
        let Some(key) = DatagramKey::of(packet, &fragment) else {
            return verdict_without_service(snapshot, packet);
        };
        let range = match ByteRange::of(packet, &fragment) {
            Ok(range) => range,
            Err(reason) => return Verdict::Drop(reason),
        };
        if fragment.offset > 0 {
            self.has_later = true;
            return Verdict::LaterFragment(fragment);
        }
        let table = &context.shared.fragments;
        if let Err(reason) = table.admit_first(&key, range, now.tick(), &mut self.released) {
            return Verdict::Drop(reason);
        }
        self.firsts.push((at, key));
        if is_ping(snapshot, packet) {
            return context.reject.echo(snapshot, packet, now);
        }
        tuple_of(packet).map_or_else(
            || verdict_without_service(snapshot, packet),
            |tuple| Verdict::Lookup(context.shared.sessions.hash(&tuple)),
        )
    }

    /// Whether the batch has fragments for [`Self::settle`].
    #[inline]
    pub(crate) fn is_due(&self) -> bool {
        self.has_later || !self.firsts.is_empty()
    }

    /// After pass 3: records the verdicts of first fragments; later ones follow them or wait.
    #[cold]
    pub(crate) fn settle<F: FrameBuf>(
        &mut self,
        context: &mut WorkerContext,
        batch: &mut Batch,
        frames: &[F],
        now: Now,
    ) {
        let mut firsts = std::mem::take(&mut self.firsts);
        let mut next = firsts.iter().peekable();
        for (at, frame) in frames.iter().enumerate() {
            let verdict = batch.verdicts[at];
            if let Some((_, key)) = next.next_if(|(place, _)| *place == at) {
                let decided = decided_by(&verdict);
                let table = &context.shared.fragments;
                if let Err(reason) = table.settle(key, decided, &mut self.released) {
                    batch.verdicts[at] = Verdict::Drop(reason);
                }
            } else if let (Verdict::LaterFragment(fragment), Some(packet)) =
                (verdict, &batch.packets[at])
            {
                batch.verdicts[at] = self
                    .admit_later(context, frame, (packet, fragment), now)
                    .unwrap_or_else(Verdict::Drop);
            }
        }
        firsts.clear();
        self.firsts = firsts;
        self.has_later = false;
    }

    fn admit_later<F: FrameBuf>(
        &mut self,
        context: &mut WorkerContext,
        frame: &F,
        (packet, fragment): (&IpPacket, Fragment),
        now: Now,
    ) -> Result<Verdict, DropReason> {
        let key = DatagramKey::of(packet, &fragment).ok_or(DropReason::Fragment)?;
        let range = ByteRange::of(packet, &fragment)?;
        let arrived = (context.linearizer.whole(frame), frame.port());
        let table = &context.shared.fragments;
        match table.admit_later(&key, range, arrived, now.tick(), &mut self.released)? {
            LaterOutcome::Decided(decided) => Ok(verdict_of(context, decided)),
            LaterOutcome::Held { evicted } => {
                context.counters.held.add(1);
                if evicted {
                    context.counters.released.add(1);
                    context.counters.dropped(DropReason::FragmentLimit).add(1);
                }
                Ok(Verdict::Held)
            }
        }
    }

    /// Whether fragments no longer wait and are to be taken by [`Self::next_released`].
    #[inline]
    pub(crate) fn has_released(&self) -> bool {
        !self.released.is_empty()
    }

    /// After pass 4: takes out the next fragment that no longer waits, with its packet and verdict.
    pub(crate) fn next_released<I: FrameIo>(
        &mut self,
        context: &WorkerContext,
        io: &mut I,
        snapshot: &Snapshot,
    ) -> Option<(I::Frame, Option<IpPacket>, Verdict)> {
        let held = &context.shared.fragments.held;
        loop {
            if let Some(ticket) = self.tickets.get(self.next_ticket) {
                self.next_ticket += 1;
                let released = release(context, io, snapshot, *ticket, self.group_verdict);
                if released.is_some() {
                    return released;
                }
            } else if let Some(group) = self.released.get(self.next_group) {
                self.next_group += 1;
                self.group_verdict = group.decided;
                held.chain(group.newest, &mut self.tickets);
                self.next_ticket = 0;
            } else {
                self.released.clear();
                self.tickets.clear();
                (self.next_group, self.next_ticket) = (0, 0);
                return None;
            }
        }
    }

    /// Forgets datagrams that timed out: this turn's share of the table.
    #[inline]
    pub(crate) fn sweep(&mut self, context: &WorkerContext, now: Now) {
        let table = &context.shared.fragments;
        if table.is_empty() {
            return;
        }
        let elapsed = now.millis().saturating_sub(self.swept_at.millis());
        if elapsed == 0 {
            return;
        }
        self.swept_at = now;
        let quota = table.buckets() as u64 * elapsed / SWEEP_ROUND_MS;
        let quota = usize::try_from(quota).map_or(SWEEP_MAX, |quota| quota.clamp(1, SWEEP_MAX));
        table.sweep(quota, now.tick(), &mut self.released);
    }
}

/// Takes a held fragment out of the table into a frame of its own; `None` if it was dropped.
fn release<I: FrameIo>(
    context: &WorkerContext,
    io: &mut I,
    snapshot: &Snapshot,
    ticket: Ticket,
    decided: Option<FragmentVerdict>,
) -> Option<(I::Frame, Option<IpPacket>, Verdict)> {
    let counters = &context.counters;
    let dropped = match decided {
        Some(FragmentVerdict::Drop(reason)) => Some(reason),
        _ => None,
    };
    let taken = context.shared.fragments.held.take(ticket, |bytes, port| {
        let mut frame = io.allocate(port).filter(|_| dropped.is_none())?;
        frame.set_len(bytes.len()).then(|| {
            frame.copy_from(bytes);
            frame
        })
    });
    // An evicted fragment was counted by the worker that evicted it.
    let frame = taken?;
    counters.released.add(1);
    let Some(frame) = frame else {
        let reason = dropped.unwrap_or(DropReason::FragmentLimit);
        counters.dropped(reason).add(1);
        return None;
    };
    let packet = match parse_head(frame.bytes(), frame.rest_len()) {
        Ok(Packet::Ip(packet)) => Some(packet),
        _ => None,
    };
    let verdict = match (&packet, decided) {
        (Some(_), Some(decided)) => verdict_of(context, decided),
        (Some(packet), None) if !snapshot.is_vip(packet.destination) => Verdict::PassToKernel,
        _ => Verdict::Drop(DropReason::FragmentTimeout),
    };
    Some((frame, packet, verdict))
}

/// What the first fragment's verdict means for a later one.
fn verdict_of(context: &WorkerContext, decided: FragmentVerdict) -> Verdict {
    match decided {
        FragmentVerdict::Session(at, direction) => match context.shared.sessions.get(at) {
            Some(session) => Verdict::Session(at, session, direction),
            // The session has ended since.
            None => Verdict::Drop(DropReason::Fragment),
        },
        FragmentVerdict::PassToKernel => Verdict::PassToKernel,
        FragmentVerdict::Echo => Verdict::Echo,
        FragmentVerdict::Drop(reason) => Verdict::Drop(reason),
    }
}

/// What a first fragment's verdict means for the later ones.
fn decided_by(verdict: &Verdict) -> FragmentVerdict {
    match *verdict {
        Verdict::Session(at, _, direction) => FragmentVerdict::Session(at, direction),
        Verdict::PassToKernel => FragmentVerdict::PassToKernel,
        Verdict::Echo => FragmentVerdict::Echo,
        Verdict::Drop(reason) => FragmentVerdict::Drop(reason),
        // Only the first fragment is answered.
        Verdict::Reject(reason) => FragmentVerdict::Drop(reason),
        _ => FragmentVerdict::Drop(DropReason::Fragment),
    }
}

/// The verdict on a fragment whose datagram can belong to no session.
fn verdict_without_service(snapshot: &Snapshot, packet: &IpPacket) -> Verdict {
    if snapshot.is_vip(packet.destination) {
        Verdict::Drop(DropReason::Fragment)
    } else {
        Verdict::PassToKernel
    }
}
