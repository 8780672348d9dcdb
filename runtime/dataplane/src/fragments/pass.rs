//! A worker's part: fragments of a batch, and those that leave the table because of them.
//!
//! Invariant: a fragment that waits has ended as a frame, which is counted as held; taken out again
//! it is counted as released, and ends as any frame does: sent, handed to the kernel, or dropped.

use waxwing_packet::{Fragment, IpPacket, Packet, parse_head};

use super::datagram::{DatagramKey, Piece};
use super::held::Ticket;
use super::table::{Later, Leaving, Word};
use super::{PIECES_MAX, table};
use crate::flow::tuple_of;
use crate::forward::{Fate, Forwarder};
use crate::{BATCH, DropReason, FrameBuf, FrameIo, Now, Snapshot};

/// How long one round over the table takes, in milliseconds: a fragment whose first one never comes
/// waits for about that much longer (more where an idle worker sleeps).
const SWEEP_ROUND_MS: u64 = 250;
/// The most buckets that are looked at between two batches.
const SWEEP_MAX: usize = 16;

/// One worker's room for a batch's fragments.
pub(crate) struct FragmentPass {
    /// The datagrams whose first fragment is in the batch, by its place there.
    firsts: Vec<(usize, DatagramKey)>,
    /// Whether there are others in the batch.
    have_later: bool,
    leaving: Vec<Leaving>,
    tickets: Vec<Ticket>,
    swept_at: Now,
}

impl FragmentPass {
    pub(crate) fn new() -> Self {
        // A frame makes no more than three groups leave: another datagram's whose place it takes,
        // its own that is over or spoiled, and its own that it decides on.
        let groups = (3 * BATCH).max(SWEEP_MAX * table::WAYS);
        Self {
            firsts: Vec::with_capacity(BATCH),
            have_later: false,
            leaving: Vec::with_capacity(groups),
            tickets: Vec::with_capacity(PIECES_MAX),
            swept_at: Now::default(),
        }
    }

    /// Whether the batch has fragments that [`Forwarder::settle_fragments`] is to look at.
    #[inline]
    pub(crate) fn is_due(&self) -> bool {
        self.have_later || !self.firsts.is_empty()
    }
}

impl Forwarder {
    /// A fragment: the first goes on like a whole packet, the others wait for pass 3 to be over.
    #[cold]
    pub(crate) fn classify_fragment(
        &mut self,
        snapshot: &Snapshot,
        (packet, fragment): (&IpPacket, Fragment),
        now: Now,
    ) -> Fate {
        let Some(key) = DatagramKey::of(packet, &fragment) else {
            return not_served(snapshot, packet);
        };
        let piece = match Piece::of(packet, &fragment) {
            Ok(piece) => piece,
            Err(reason) => return Fate::Drop(reason),
        };
        if fragment.offset > 0 {
            self.fragments.have_later = true;
            return Fate::Later(fragment);
        }
        let table = &self.shared.fragments;
        let leaving = &mut self.fragments.leaving;
        if let Err(reason) = table.admit_first(&key, piece, now.tick(), leaving) {
            return Fate::Drop(reason);
        }
        self.fragments.firsts.push((self.fates.len(), key));
        tuple_of(packet).map_or_else(
            || not_served(snapshot, packet),
            |tuple| Fate::Lookup(self.shared.sessions.hash(&tuple), None),
        )
    }

    /// After pass 3: what became of first fragments is noted, and the others follow it or wait.
    #[cold]
    pub(crate) fn settle_fragments<F: FrameBuf>(&mut self, frames: &[F], now: Now) {
        let mut firsts = std::mem::take(&mut self.fragments.firsts);
        let mut next = firsts.iter().peekable();
        for (at, frame) in frames.iter().enumerate() {
            let fate = self.fates[at];
            if let Some((_, key)) = next.next_if(|(place, _)| *place == at) {
                let leaving = &mut self.fragments.leaving;
                let settled = self.shared.fragments.settle(key, word_of(&fate), leaving);
                if let Err(reason) = settled {
                    self.fates[at] = Fate::Drop(reason);
                }
            } else if let (Fate::Later(fragment), Some(packet)) = (fate, self.packets[at]) {
                self.fates[at] = self
                    .later_fate(frame, (&packet, fragment), now)
                    .unwrap_or_else(Fate::Drop);
            }
        }
        firsts.clear();
        self.fragments.firsts = firsts;
        self.fragments.have_later = false;
    }

    fn later_fate<F: FrameBuf>(
        &mut self,
        frame: &F,
        (packet, fragment): (&IpPacket, Fragment),
        now: Now,
    ) -> Result<Fate, DropReason> {
        let key = DatagramKey::of(packet, &fragment).ok_or(DropReason::Fragment)?;
        let piece = Piece::of(packet, &fragment)?;
        let arrived = (self.gather.whole(frame), frame.port());
        let leaving = &mut self.fragments.leaving;
        let table = &self.shared.fragments;
        match table.admit_later(&key, piece, arrived, now.tick(), leaving)? {
            Later::As(word) => Ok(self.follow(word)),
            Later::Waits { evicted } => {
                self.counters.held.add(1);
                if evicted {
                    self.counters.released.add(1);
                    self.counters.dropped(DropReason::FragmentLimit).add(1);
                }
                Ok(Fate::Held)
            }
        }
    }

    /// What the first fragment's word means for another.
    fn follow(&self, word: Word) -> Fate {
        match word {
            Word::Session(at, direction) => match self.shared.sessions.get(at) {
                Some(session) => Fate::Session(at, session, direction),
                // It has ended in between, and its backend is not known any more.
                None => Fate::Drop(DropReason::Fragment),
            },
            Word::Kernel => Fate::Kernel,
            Word::Drop(reason) => Fate::Drop(reason),
        }
    }

    /// After a batch: what waits no more leaves, behind the first fragments that it waited for.
    #[inline]
    pub(crate) fn release_fragments<I: FrameIo>(
        &mut self,
        io: &mut I,
        snapshot: &Snapshot,
        now: Now,
    ) {
        if !self.fragments.leaving.is_empty() {
            self.release_all(io, snapshot, now);
        }
    }

    #[cold]
    fn release_all<I: FrameIo>(&mut self, io: &mut I, snapshot: &Snapshot, now: Now) {
        let mut leaving = std::mem::take(&mut self.fragments.leaving);
        let mut tickets = std::mem::take(&mut self.fragments.tickets);
        for group in leaving.drain(..) {
            self.shared.fragments.held.chain(group.newest, &mut tickets);
            for ticket in tickets.drain(..) {
                self.release(io, snapshot, ticket, group.word, now);
            }
        }
        (self.fragments.leaving, self.fragments.tickets) = (leaving, tickets);
    }

    fn release<I: FrameIo>(
        &mut self,
        io: &mut I,
        snapshot: &Snapshot,
        ticket: Ticket,
        word: Option<Word>,
        now: Now,
    ) {
        let taken = self.shared.fragments.held.take(ticket, |bytes, port| {
            let dropped = matches!(word, Some(Word::Drop(_)));
            let mut frame = io.allocate(port).filter(|_| !dropped)?;
            frame.set_len(bytes.len()).then(|| {
                frame.copy_from(bytes);
                frame
            })
        });
        // Where it had to give way, who took its place has counted it.
        let Some(frame) = taken else {
            return;
        };
        self.counters.released.add(1);
        let frame = match (frame, word) {
            (_, Some(Word::Drop(reason))) => return self.counters.dropped(reason).add(1),
            (None, _) => return self.counters.dropped(DropReason::FragmentLimit).add(1),
            (Some(frame), _) => frame,
        };
        let packet = match parse_head(frame.bytes(), frame.rest_len()) {
            Ok(Packet::Ip(packet)) => Some(packet),
            _ => None,
        };
        let fate = match (&packet, word) {
            (Some(_), Some(word)) => self.follow(word),
            (Some(packet), None) if !snapshot.is_vip(packet.destination) => Fate::Kernel,
            _ => Fate::Drop(DropReason::FragmentTimeout),
        };
        self.finish(io, snapshot, frame, (packet, fate), now);
    }

    /// Forgets datagrams whose time is up: this turn's part of the table.
    pub(crate) fn sweep_fragments<I: FrameIo>(
        &mut self,
        io: &mut I,
        snapshot: &Snapshot,
        now: Now,
    ) {
        let table = &self.shared.fragments;
        let pass = &mut self.fragments;
        let elapsed = now.millis().saturating_sub(pass.swept_at.millis());
        if elapsed == 0 || table.is_empty() {
            return;
        }
        pass.swept_at = now;
        let quota = table.buckets() as u64 * elapsed / SWEEP_ROUND_MS;
        let quota = usize::try_from(quota).map_or(SWEEP_MAX, |quota| quota.clamp(1, SWEEP_MAX));
        table.sweep(quota, now.tick(), &mut pass.leaving);
        self.release_fragments(io, snapshot, now);
    }
}

/// A fragment of a datagram that no session can be of.
fn not_served(snapshot: &Snapshot, packet: &IpPacket) -> Fate {
    if snapshot.is_vip(packet.destination) {
        Fate::Drop(DropReason::Fragment)
    } else {
        Fate::Kernel
    }
}

/// What a first fragment's fate says to the others.
fn word_of(fate: &Fate) -> Word {
    match *fate {
        Fate::Session(at, _, direction) => Word::Session(at, direction),
        Fate::Kernel => Word::Kernel,
        Fate::Drop(reason) => Word::Drop(reason),
        // Its sender is told by the first one alone.
        Fate::Refuse => Word::Drop(DropReason::NoBackend),
        _ => Word::Drop(DropReason::Fragment),
    }
}
