//! The table of fragmented datagrams, shared by all workers.
//!
//! Invariant: see [`super`]. When a datagram leaves the table while fragments of it wait, the caller gets
//! them as a [`ReleasedGroup`], so that each of them ends as a frame does.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};

use super::FragmentLimits;
use super::datagram::{ByteRange, DatagramKey, SeenRanges};
use super::held::{Held, Put, Ticket};
use crate::locks::lock;
use crate::session::{Direction, Key, SessionRef};
use crate::time::ticks_of;
use crate::{DropReason, PortId, Tick};

/// Datagrams per bucket.
pub(super) const WAYS: usize = 16;
/// How many of them may be evictable by others (see [`Datagram::is_weak`]).
const WEAK_MAX: usize = WAYS / 2;
/// How many may be of the other kind before a new one evicts its own kind. This leaves room for datagrams
/// that begin with a later fragment.
const STRONG_MAX: usize = WAYS * 3 / 4;

/// The verdict on a datagram's first fragment, which the others follow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum FragmentVerdict {
    Session(SessionRef, Direction),
    PassToKernel,
    /// It is an echo request to a VIP.
    Echo,
    Drop(DropReason),
}

/// Fragments of one datagram that no longer wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ReleasedGroup {
    /// The newest one; it links to the others.
    pub(super) newest: Ticket,
    /// Their first fragment's verdict; `None` if it did not arrive in time.
    pub(super) decided: Option<FragmentVerdict>,
}

/// The result of [`FragmentTable::admit_later`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum LaterOutcome {
    /// The first fragment's verdict.
    Decided(FragmentVerdict),
    /// It was copied and waits for the first; `evicted` if another fragment was evicted for it.
    Held { evicted: bool },
}

/// Fragmented datagrams.
pub struct FragmentTable {
    key: Key,
    buckets: Box<[Mutex<Bucket>]>,
    pub(super) held: Held,
    timeout_ticks: u32,
    /// The number of datagrams. Written under different locks, so it orders nothing.
    live: AtomicUsize,
    /// The bucket at which the next [`FragmentTable::sweep`] starts.
    next: AtomicUsize,
}

#[derive(Default)]
struct Bucket {
    slots: [Option<Datagram>; WAYS],
    /// Datagrams it has ever held.
    count: u64,
}

#[derive(Clone, Copy)]
struct Datagram {
    key: DatagramKey,
    since: Tick,
    /// Its number in its bucket. (Ticks are too coarse to order the datagrams of a flood.)
    number: u64,
    state: State,
    seen: SeenRanges,
    /// The newest waiting fragment.
    waiting: Option<Ticket>,
}

#[derive(Clone, Copy)]
enum State {
    /// The first fragment has no verdict yet.
    Open,
    Decided(FragmentVerdict),
    /// Its fragments are inconsistent: no more of it passes.
    Spoiled(DropReason),
}

impl Datagram {
    /// Whether others may evict it: no fragment of it is known to be wanted.
    fn is_weak(&self) -> bool {
        match self.state {
            State::Open => !self.seen.have_first(),
            State::Decided(FragmentVerdict::Drop(_)) | State::Spoiled(_) => true,
            State::Decided(_) => false,
        }
    }
}

impl FragmentTable {
    /// An empty table. Allocates all of its memory at once.
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

    /// The number of incomplete datagrams.
    #[must_use]
    pub fn len(&self) -> usize {
        self.live.load(Ordering::Relaxed)
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The largest possible number of datagrams.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.buckets.len() * WAYS
    }

    /// The number of waiting fragments. Visits every slot: not for the hot path.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// Its memory in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>() + size_of_val(&*self.buckets) + self.held.memory_bytes()
    }

    /// Admits a datagram's first fragment. [`FragmentTable::settle`] follows in the same batch.
    ///
    /// # Errors
    /// Why the fragment is dropped.
    pub(super) fn admit_first(
        &self,
        key: &DatagramKey,
        range: ByteRange,
        now: Tick,
        released: &mut Vec<ReleasedGroup>,
    ) -> Result<(), DropReason> {
        let mut bucket = self.bucket(key);
        let (_, datagram) = self.enter(&mut bucket, (key, range), false, now, released)?;
        match datagram.state {
            State::Open => Ok(()),
            // Its range is new, and yet another first fragment has a verdict: a full table forgot the
            // datagram between the two. Which of them is right is unknown.
            State::Decided(_) | State::Spoiled(_) => Err(DropReason::FragmentLimit),
        }
    }

    /// Stores the verdict of a datagram's first fragment, and releases those that wait for it.
    ///
    /// # Errors
    /// Why the fragment is dropped after all: another worker spoiled the datagram meanwhile.
    pub(super) fn settle(
        &self,
        key: &DatagramKey,
        decided: FragmentVerdict,
        released: &mut Vec<ReleasedGroup>,
    ) -> Result<(), DropReason> {
        let mut bucket = self.bucket(key);
        let Some(slot) = bucket.slot(key) else {
            // It was evicted meanwhile: the later fragments will find nothing.
            return Ok(());
        };
        let Some(datagram) = slot else {
            return Ok(());
        };
        if let State::Spoiled(reason) = datagram.state {
            return Err(reason);
        }
        datagram.state = State::Decided(decided);
        released.extend(datagram.waiting.take().map(|newest| ReleasedGroup {
            newest,
            decided: Some(decided),
        }));
        if datagram.seen.are_complete() {
            self.forget(slot);
        }
        Ok(())
    }

    /// Admits a later fragment, which arrived on this port.
    ///
    /// # Errors
    /// Why the fragment is dropped.
    pub(super) fn admit_later(
        &self,
        key: &DatagramKey,
        range: ByteRange,
        (frame, port): (&[u8], PortId),
        now: Tick,
        released: &mut Vec<ReleasedGroup>,
    ) -> Result<LaterOutcome, DropReason> {
        let mut bucket = self.bucket(key);
        let (at, datagram) = self.enter(&mut bucket, (key, range), true, now, released)?;
        if let State::Decided(decided) = datagram.state {
            if datagram.seen.are_complete() {
                self.forget(&mut bucket.slots[at]);
            }
            return Ok(LaterOutcome::Decided(decided));
        }
        let (ticket, evicted) = match self.held.put(frame, port, datagram.waiting) {
            Put::Held(ticket) => (ticket, false),
            Put::EvictedOldest(ticket) => (ticket, true),
            Put::No => return Err(spoil(datagram, DropReason::FragmentLimit, released)),
        };
        datagram.waiting = Some(ticket);
        Ok(LaterOutcome::Held { evicted })
    }

    /// Expires the datagrams of the next `count` buckets that timed out.
    pub(super) fn sweep(&self, count: usize, now: Tick, released: &mut Vec<ReleasedGroup>) {
        let from = self.next.fetch_add(count, Ordering::Relaxed);
        for at in from..from.saturating_add(count) {
            for slot in &mut lock(&self.buckets[at % self.buckets.len()]).slots {
                if slot.as_ref().is_some_and(|d| self.is_expired(d, now)) {
                    self.expire(slot, None, released);
                }
            }
        }
    }

    pub(super) fn buckets(&self) -> usize {
        self.buckets.len()
    }

    fn bucket(&self, key: &DatagramKey) -> MutexGuard<'_, Bucket> {
        let at = ((key.hash(&self.key) >> 16) % self.buckets.len() as u64) as usize;
        lock(&self.buckets[at])
    }

    /// The fragment's datagram, new or known, with the fragment's range added.
    fn enter<'a>(
        &self,
        bucket: &'a mut Bucket,
        (key, range): (&DatagramKey, ByteRange),
        weak: bool,
        now: Tick,
        released: &mut Vec<ReleasedGroup>,
    ) -> Result<(usize, &'a mut Datagram), DropReason> {
        let known = bucket.find(key);
        let at = known.or_else(|| bucket.room(weak, |d| self.is_expired(d, now)));
        let at = at.ok_or(DropReason::FragmentLimit)?;
        let slot = &mut bucket.slots[at];
        let over = slot.as_ref().is_some_and(|d| self.is_expired(d, now));
        if known.is_none() || over {
            let why = (!over).then_some(FragmentVerdict::Drop(DropReason::FragmentLimit));
            self.expire(slot, why, released);
        }
        let datagram = slot.get_or_insert_with(|| {
            self.live.fetch_add(1, Ordering::Relaxed);
            bucket.count += 1;
            Datagram {
                key: *key,
                since: now,
                number: bucket.count,
                state: State::Open,
                seen: SeenRanges::NONE,
                waiting: None,
            }
        });
        if let State::Spoiled(reason) = datagram.state {
            return Err(reason);
        }
        match datagram.seen.add(range) {
            Ok(()) => Ok((at, datagram)),
            Err(DropReason::FragmentDuplicate) => Err(DropReason::FragmentDuplicate),
            Err(reason) => Err(spoil(datagram, reason, released)),
        }
    }

    fn is_expired(&self, datagram: &Datagram, now: Tick) -> bool {
        now.since(datagram.since) > self.timeout_ticks
    }

    /// Forgets a datagram and releases its waiting fragments.
    fn expire(
        &self,
        slot: &mut Option<Datagram>,
        decided: Option<FragmentVerdict>,
        released: &mut Vec<ReleasedGroup>,
    ) {
        let newest = slot.as_mut().and_then(|datagram| datagram.waiting.take());
        released.extend(newest.map(|newest| ReleasedGroup { newest, decided }));
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

    /// The slot for a new datagram: that of the oldest of its kind if the kind has its maximum; else a free
    /// or expired one; else that of the oldest weak one.
    fn room(&self, weak: bool, is_expired: impl Fn(&Datagram) -> bool) -> Option<usize> {
        let count = self.of_kind(weak).count();
        let max = if weak { WEAK_MAX } else { STRONG_MAX };
        if count >= max {
            return oldest(self.of_kind(weak));
        }
        let is_free = |slot: &Option<Datagram>| slot.as_ref().is_none_or(&is_expired);
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

/// Lets no more of a datagram pass; returns the reason.
fn spoil(
    datagram: &mut Datagram,
    reason: DropReason,
    released: &mut Vec<ReleasedGroup>,
) -> DropReason {
    datagram.state = State::Spoiled(reason);
    let newest = datagram.waiting.take();
    released.extend(newest.map(|newest| ReleasedGroup {
        newest,
        decided: Some(FragmentVerdict::Drop(reason)),
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

    /// A datagram's key and the ranges of its fragments.
    fn datagram(identification: u32) -> (DatagramKey, [ByteRange; 3]) {
        const LEN: u16 = 16;
        let range = |offset, more, transport| {
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
            (
                key,
                ByteRange::of(&packet, &fragment).expect("a valid range"),
            )
        };
        let ports = Transport::Udp {
            source: 4000,
            destination: 80,
        };
        let later = Transport::Other(udp::PROTOCOL);
        let (key, first) = range(0, true, ports);
        let (_, middle) = range(LEN, true, later);
        let (_, last) = range(2 * LEN, false, later);
        (key, [first, middle, last])
    }

    /// However two threads interleave: each later fragment either finds the first one's verdict, or is
    /// released by it.
    #[test]
    fn no_fragment_waits_for_a_first_one_that_has_arrived() {
        let table = FragmentTable::new(FragmentLimits::default(), [1, 2, 3, 4]);
        let rounds = 20_000;
        let progress = [AtomicU32::new(0), AtomicU32::new(0)];
        // Neither thread runs far ahead, as the fragments of a datagram do not.
        let keep_pace = |own: usize, id: u32| {
            progress[own].store(id, Ordering::Relaxed);
            while id > progress[1 - own].load(Ordering::Relaxed) + 20 {
                thread::yield_now();
            }
        };
        let finish = |own: usize| progress[own].store(rounds, Ordering::Relaxed);
        let firsts = || {
            let mut left = 0;
            let (mut released, mut tickets) = (Vec::new(), Vec::new());
            for id in 0..rounds {
                keep_pace(0, id);
                let (key, [first, ..]) = datagram(id);
                table
                    .admit_first(&key, first, Tick(0), &mut released)
                    .expect("there is room");
                table
                    .settle(&key, FragmentVerdict::PassToKernel, &mut released)
                    .expect("nothing overlaps");
                for group in released.drain(..) {
                    assert_eq!(group.decided, Some(FragmentVerdict::PassToKernel));
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
            let mut released = Vec::new();
            for id in 0..rounds {
                keep_pace(1, id);
                let (key, [_, middle, last]) = datagram(id);
                for range in [last, middle] {
                    let arrived = (&[7; 60][..], PortId(0));
                    match table.admit_later(&key, range, arrived, Tick(0), &mut released) {
                        Ok(LaterOutcome::Decided(FragmentVerdict::PassToKernel)) => followed += 1,
                        Ok(LaterOutcome::Held { evicted: false }) => waited += 1,
                        other => panic!("{other:?}"),
                    }
                }
            }
            finish(1);
            assert_eq!(released, []);
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
