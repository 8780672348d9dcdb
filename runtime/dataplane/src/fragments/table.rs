//! Datagrams on their way, found by any worker.
//!
//! Invariant: see those of [`super`]. What is taken out of the table while fragments of it wait is
//! handed to the caller as a [`Leaving`], so that each of them ends in one of a frame's ways.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};

use super::FragmentLimits;
use super::datagram::{DatagramKey, Piece, Pieces};
use super::held::{Held, Put, Ticket};
use crate::locks::lock;
use crate::session::{Direction, Key, SessionRef};
use crate::time::ticks_of;
use crate::{DropReason, PortId, Tick};

/// The datagrams that one bucket holds.
pub(super) const WAYS: usize = 16;
/// How many of them may be of those that give way.
const WEAK_MAX: usize = WAYS / 2;
/// How many may be of the others, before a new one takes the place of one of its own kind: so that
/// there is room for datagrams that begin with a later fragment.
const STRONG_MAX: usize = WAYS * 3 / 4;

/// What became of a datagram's first fragment, and so becomes of the others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Word {
    /// It is of this session.
    Session(SessionRef, Direction),
    /// It is not ours.
    Kernel,
    /// It was dropped.
    Drop(DropReason),
}

/// Fragments that do not wait any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Leaving {
    /// The newest of them; it leads to the others.
    pub(super) newest: Ticket,
    /// What their first one said; `None` where it did not come in time.
    pub(super) word: Option<Word>,
}

/// What becomes of a fragment that is not its datagram's first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Later {
    /// What the first one said.
    As(Word),
    /// It was copied and waits for the first; `evicted` says whether another had to give way.
    Waits { evicted: bool },
}

/// The table.
pub struct FragmentTable {
    key: Key,
    buckets: Box<[Mutex<Bucket>]>,
    pub(super) held: Held,
    timeout_ticks: u32,
    /// Datagrams in the table. Written under the lock of any bucket, so it orders nothing.
    live: AtomicUsize,
    /// The bucket that the next [`FragmentTable::sweep`] starts with.
    next: AtomicUsize,
}

#[derive(Default)]
struct Bucket {
    slots: [Option<Datagram>; WAYS],
    /// Datagrams that it has had.
    count: u64,
}

/// A datagram of which something was seen.
#[derive(Clone, Copy)]
struct Datagram {
    key: DatagramKey,
    since: Tick,
    /// Its number in its bucket: ticks are too long to tell a flood's oldest from its newest.
    number: u64,
    state: State,
    pieces: Pieces,
    /// The newest fragment that waits.
    waiting: Option<Ticket>,
}

#[derive(Clone, Copy)]
enum State {
    /// The first fragment has not said anything yet.
    Open,
    /// It has.
    Said(Word),
    /// There is something wrong with it, and nothing more of it passes.
    Spoiled(DropReason),
}

impl Datagram {
    /// Whether it is of those that give way: nothing of it is known to be wanted.
    fn is_weak(&self) -> bool {
        match self.state {
            State::Open => !self.pieces.have_first(),
            State::Said(Word::Drop(_)) | State::Spoiled(_) => true,
            State::Said(_) => false,
        }
    }
}

impl FragmentTable {
    /// An empty table. Allocates all of its memory now.
    ///
    /// `seed` keys the hash: draw it at random at each start.
    #[must_use]
    pub fn new(limits: FragmentLimits, seed: [u64; 4]) -> Self {
        let buckets = limits.datagrams.div_ceil(WAYS).max(1);
        Self {
            key: Key::new(seed),
            buckets: (0..buckets)
                .map(|_| Mutex::new(Bucket::default()))
                .collect(),
            held: Held::new(limits.held, limits.held_len_max),
            timeout_ticks: ticks_of(limits.timeout),
            live: AtomicUsize::new(0),
            next: AtomicUsize::new(0),
        }
    }

    /// Datagrams of which something was seen, and not all.
    #[must_use]
    pub fn len(&self) -> usize {
        self.live.load(Ordering::Relaxed)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The most datagrams that it holds.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.buckets.len() * WAYS
    }

    /// Fragments that wait for their datagram's first one. Looks at each place: not for a packet's
    /// way.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// The memory it takes, in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>() + size_of_val(&*self.buckets) + self.held.memory_bytes()
    }

    /// A datagram's first fragment came; [`FragmentTable::settle`] follows, in the same batch.
    ///
    /// # Errors
    /// Why it is dropped.
    pub(super) fn admit_first(
        &self,
        key: &DatagramKey,
        piece: Piece,
        now: Tick,
        leaving: &mut Vec<Leaving>,
    ) -> Result<(), DropReason> {
        let mut bucket = self.bucket(key);
        let (_, datagram) = self.enter(&mut bucket, (key, piece), false, now, leaving)?;
        match datagram.state {
            State::Open => Ok(()),
            // Its place was not noted, and yet another first one has spoken: a table that was full
            // forgot the datagram between the two. Which of them is right is not known.
            State::Said(_) | State::Spoiled(_) => Err(DropReason::FragmentLimit),
        }
    }

    /// What became of a datagram's first fragment. Those that wait for it leave.
    ///
    /// # Errors
    /// Why it is dropped after all: another worker has found the datagram spoiled.
    pub(super) fn settle(
        &self,
        key: &DatagramKey,
        word: Word,
        leaving: &mut Vec<Leaving>,
    ) -> Result<(), DropReason> {
        let mut bucket = self.bucket(key);
        let Some(slot) = bucket.slot(key) else {
            // It had to give way meanwhile: the others will not be known.
            return Ok(());
        };
        let Some(datagram) = slot else {
            return Ok(());
        };
        if let State::Spoiled(reason) = datagram.state {
            return Err(reason);
        }
        datagram.state = State::Said(word);
        leaving.extend(datagram.waiting.take().map(|newest| Leaving {
            newest,
            word: Some(word),
        }));
        if datagram.pieces.are_whole() {
            self.forget(slot);
        }
        Ok(())
    }

    /// Another fragment of a datagram came, by this port.
    ///
    /// # Errors
    /// Why it is dropped.
    pub(super) fn admit_later(
        &self,
        key: &DatagramKey,
        piece: Piece,
        (frame, port): (&[u8], PortId),
        now: Tick,
        leaving: &mut Vec<Leaving>,
    ) -> Result<Later, DropReason> {
        let mut bucket = self.bucket(key);
        let (at, datagram) = self.enter(&mut bucket, (key, piece), true, now, leaving)?;
        if let State::Said(word) = datagram.state {
            if datagram.pieces.are_whole() {
                self.forget(&mut bucket.slots[at]);
            }
            return Ok(Later::As(word));
        }
        let (ticket, evicted) = match self.held.put(frame, port, datagram.waiting) {
            Put::Held(ticket) => (ticket, false),
            Put::InPlaceOfOldest(ticket) => (ticket, true),
            Put::No => return Err(spoil(datagram, DropReason::FragmentLimit, leaving)),
        };
        datagram.waiting = Some(ticket);
        Ok(Later::Waits { evicted })
    }

    /// Forgets the datagrams of the next `count` buckets whose time is up.
    pub(super) fn sweep(&self, count: usize, now: Tick, leaving: &mut Vec<Leaving>) {
        let from = self.next.fetch_add(count, Ordering::Relaxed);
        for at in from..from.saturating_add(count) {
            for slot in &mut lock(&self.buckets[at % self.buckets.len()]).slots {
                if slot.as_ref().is_some_and(|d| self.is_over(d, now)) {
                    self.give_up(slot, None, leaving);
                }
            }
        }
    }

    /// Buckets in all.
    pub(super) fn buckets(&self) -> usize {
        self.buckets.len()
    }

    fn bucket(&self, key: &DatagramKey) -> MutexGuard<'_, Bucket> {
        let at = ((key.hash(&self.key) >> 16) % self.buckets.len() as u64) as usize;
        lock(&self.buckets[at])
    }

    /// The fragment's datagram, with its place noted; a new one where none is known.
    fn enter<'a>(
        &self,
        bucket: &'a mut Bucket,
        (key, piece): (&DatagramKey, Piece),
        weak: bool,
        now: Tick,
        leaving: &mut Vec<Leaving>,
    ) -> Result<(usize, &'a mut Datagram), DropReason> {
        let known = bucket.find(key);
        let at = known.or_else(|| bucket.room(weak, |d| self.is_over(d, now)));
        let at = at.ok_or(DropReason::FragmentLimit)?;
        let slot = &mut bucket.slots[at];
        let over = slot.as_ref().is_some_and(|d| self.is_over(d, now));
        if known.is_none() || over {
            let why = (!over).then_some(Word::Drop(DropReason::FragmentLimit));
            self.give_up(slot, why, leaving);
        }
        let datagram = slot.get_or_insert_with(|| {
            self.live.fetch_add(1, Ordering::Relaxed);
            bucket.count += 1;
            Datagram {
                key: *key,
                since: now,
                number: bucket.count,
                state: State::Open,
                pieces: Pieces::NONE,
                waiting: None,
            }
        });
        if let State::Spoiled(reason) = datagram.state {
            return Err(reason);
        }
        match datagram.pieces.add(piece) {
            Ok(()) => Ok((at, datagram)),
            Err(DropReason::FragmentDuplicate) => Err(DropReason::FragmentDuplicate),
            Err(reason) => Err(spoil(datagram, reason, leaving)),
        }
    }

    fn is_over(&self, datagram: &Datagram, now: Tick) -> bool {
        now.since(datagram.since) > self.timeout_ticks
    }

    /// Forgets a datagram, and what waits of it leaves.
    fn give_up(&self, slot: &mut Option<Datagram>, word: Option<Word>, leaving: &mut Vec<Leaving>) {
        let newest = slot.as_mut().and_then(|datagram| datagram.waiting.take());
        leaving.extend(newest.map(|newest| Leaving { newest, word }));
        self.forget(slot);
    }

    fn forget(&self, slot: &mut Option<Datagram>) {
        if slot.take().is_some() {
            self.live.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Bucket {
    fn find(&self, key: &DatagramKey) -> Option<usize> {
        let is = |slot: &Option<Datagram>| slot.as_ref().is_some_and(|d| d.key == *key);
        self.slots.iter().position(is)
    }

    fn slot(&mut self, key: &DatagramKey) -> Option<&mut Option<Datagram>> {
        self.find(key).map(|at| &mut self.slots[at])
    }

    /// Where a new datagram goes: the place of the oldest of its kind where there are enough of them;
    /// else a free one or one whose time is up; else that of the oldest that gives way.
    fn room(&self, weak: bool, is_over: impl Fn(&Datagram) -> bool) -> Option<usize> {
        let count = self.of_kind(weak).count();
        let max = if weak { WEAK_MAX } else { STRONG_MAX };
        if count >= max {
            return oldest(self.of_kind(weak));
        }
        let is_free = |slot: &Option<Datagram>| slot.as_ref().is_none_or(&is_over);
        let free = self.slots.iter().position(is_free);
        free.or_else(|| oldest(self.of_kind(true)))
            .or_else(|| oldest(self.of_kind(false)))
    }

    fn of_kind(&self, weak: bool) -> impl Iterator<Item = (usize, &Datagram)> {
        let all = self.slots.iter().enumerate();
        all.filter_map(|(at, slot)| Some((at, slot.as_ref()?)))
            .filter(move |(_, datagram)| datagram.is_weak() == weak)
    }
}

fn oldest<'a>(datagrams: impl Iterator<Item = (usize, &'a Datagram)>) -> Option<usize> {
    let first = datagrams.min_by_key(|(_, datagram)| datagram.number);
    first.map(|(at, _)| at)
}

/// Lets nothing more of a datagram pass, and gives the reason back.
fn spoil(datagram: &mut Datagram, reason: DropReason, leaving: &mut Vec<Leaving>) -> DropReason {
    datagram.state = State::Spoiled(reason);
    let newest = datagram.waiting.take();
    leaving.extend(newest.map(|newest| Leaving {
        newest,
        word: Some(Word::Drop(reason)),
    }));
    reason
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;
    use std::thread;

    use waxwing_packet::{
        Address, Ethernet, Family, Fragment, IpPacket, Link, Transport, VlanTags, ipv4, udp,
    };

    use super::*;

    /// A datagram's key and the places of its fragments.
    fn datagram(identification: u32) -> (DatagramKey, [Piece; 3]) {
        const LEN: u16 = 16;
        let piece = |offset, more, transport| {
            let fragment = Fragment {
                identification,
                offset,
                len: LEN,
                more,
            };
            let packet = IpPacket {
                ethernet: Ethernet::new(Link::default(), VlanTags::NONE, ipv4::ETHERTYPE),
                family: Family::V4,
                network: 14,
                transport_start: 34,
                end: 34 + LEN,
                source: Address::v4([192, 0, 2, 1]),
                destination: Address::v4([203, 0, 113, 10]),
                hop_limit: 64,
                fragment: Some(fragment),
                transport,
            };
            let key = DatagramKey::of(&packet, &fragment).expect("UDP");
            (key, Piece::of(&packet, &fragment).expect("a place"))
        };
        let ports = Transport::Udp {
            source: 4000,
            destination: 80,
        };
        let later = Transport::Other(udp::PROTOCOL);
        let (key, first) = piece(0, true, ports);
        let (_, middle) = piece(LEN, true, later);
        let (_, last) = piece(2 * LEN, false, later);
        (key, [first, middle, last])
    }

    /// Whatever two threads do at once: each later fragment either hears the first one's word, or
    /// leaves with it.
    #[test]
    fn no_fragment_is_left_waiting_for_a_first_one_that_has_come() {
        let table = FragmentTable::new(FragmentLimits::default(), [1, 2, 3, 4]);
        let rounds = 20_000;
        let progress = [AtomicU32::new(0), AtomicU32::new(0)];
        // Neither is far ahead, as the parts of a datagram are not.
        let keep_pace = |own: usize, id: u32| {
            progress[own].store(id, Ordering::Relaxed);
            while id > progress[1 - own].load(Ordering::Relaxed) + 20 {
                thread::yield_now();
            }
        };
        let finish = |own: usize| progress[own].store(rounds, Ordering::Relaxed);
        let firsts = || {
            let mut left = 0;
            let (mut leaving, mut tickets) = (Vec::new(), Vec::new());
            for id in 0..rounds {
                keep_pace(0, id);
                let (key, [first, ..]) = datagram(id);
                table
                    .admit_first(&key, first, Tick(0), &mut leaving)
                    .expect("there is room");
                table
                    .settle(&key, Word::Kernel, &mut leaving)
                    .expect("nothing overlaps");
                for group in leaving.drain(..) {
                    assert_eq!(group.word, Some(Word::Kernel));
                    table.held.chain(group.newest, &mut tickets);
                    let taken = tickets
                        .iter()
                        .filter_map(|t| table.held.take(*t, |_, _| ()));
                    left += taken.count();
                }
            }
            finish(0);
            left
        };
        let laters = || {
            let (mut followed, mut waited) = (0, 0);
            let mut leaving = Vec::new();
            for id in 0..rounds {
                keep_pace(1, id);
                let (key, [_, middle, last]) = datagram(id);
                for piece in [last, middle] {
                    let arrived = (&[7; 60][..], PortId(0));
                    match table.admit_later(&key, piece, arrived, Tick(0), &mut leaving) {
                        Ok(Later::As(Word::Kernel)) => followed += 1,
                        Ok(Later::Waits { evicted: false }) => waited += 1,
                        other => panic!("{other:?}"),
                    }
                }
            }
            finish(1);
            assert_eq!(leaving, []);
            (followed, waited)
        };
        let (left, (followed, waited)) = thread::scope(|scope| {
            let first = scope.spawn(firsts);
            let later = scope.spawn(laters);
            (first.join().expect("firsts"), later.join().expect("laters"))
        });
        assert_eq!(waited, left);
        assert_eq!(followed + waited, 2 * rounds as usize);
        assert_eq!((table.len(), table.held()), (0, 0));
    }

    #[test]
    fn the_default_takes_less_than_three_mebibytes() {
        let table = FragmentTable::new(FragmentLimits::default(), [1, 2, 3, 4]);
        let bytes = table.memory_bytes();
        assert!((1 << 20..3 << 20).contains(&bytes), "{bytes}");
        assert_eq!(table.capacity(), 4096);
    }
}
