//! The index: from a flow's hash to the slots that may hold its session.
//!
//! Invariant: only its owner writes a lane. A thread takes an empty lane by compare-and-swap and then sets
//! the lane's tag. Neither changes until the thread that removes the session clears the tag and then the
//! lane. So the tag of an empty lane is empty too, and no thread clears or overwrites another one's.
//!
//! Each hash has two buckets. A flow goes to the first one unless ten of its twelve lanes are in use; so
//! nearly every lookup reads one cache line. At most a third of all lanes is in use: a mean of four in a
//! bucket. Then one bucket in 120 has ten in use, and one flow in 1,000 goes to its second bucket. Above ten
//! a bucket grows only if both are as full, so the tail falls doubly exponentially (Azar et al., "Balanced
//! Allocations"). An insert fails only if both buckets are full.
//!
//! Before a flow goes to its second bucket, the first one is marked, and stays so. Without the mark a lookup
//! does not read the second bucket.

use std::collections::TryReserveError;

use super::hash::FlowHash;
use super::sync::{AtomicU32, AtomicU64, Ordering};
use super::tcp::Direction;
use super::words::{high, low};
use crate::prefetch::prefetch_at;

/// Lanes in a bucket: as many as a cache line has room for, with a byte each for their tags.
const LANES: usize = 12;
/// Numbers of lanes in a position: a power of two, so that a position is taken apart by shifts.
const LANE_NUMBERS: usize = 16;

/// The fewest buckets, so that a small table has room whatever the hashes are.
#[cfg(not(loom))]
const BUCKETS_MIN: usize = 64;
#[cfg(loom)]
const BUCKETS_MIN: usize = 2;

/// An entry of the index: where the session of a flow may be.
///
/// The slot plus one; the top bit says that the flow is the session's reply. 0 is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Lane(u32);

impl Lane {
    pub(crate) const NONE: Self = Self(0);
    /// No entry where a flow is looked for first, but there may be one elsewhere.
    const ELSEWHERE: Self = Self(Self::REPLY);
    const REPLY: u32 = 1 << 31;

    /// `slot` is below [`super::SESSIONS_MAX`].
    pub(super) const fn new(slot: u32, direction: Direction) -> Self {
        match direction {
            Direction::Forward => Self(slot + 1),
            Direction::Reply => Self((slot + 1) | Self::REPLY),
        }
    }

    #[inline(always)]
    #[must_use]
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }

    #[inline(always)]
    #[must_use]
    pub const fn is_reply(self) -> bool {
        self.0 & Self::REPLY != 0
    }

    /// The slot; a number beyond every table if there is none.
    #[inline(always)]
    pub(crate) const fn slot(self) -> u32 {
        (self.0 & !Self::REPLY).wrapping_sub(1)
    }
}

/// Where a hash is looked for first: its bucket, and its tag there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Place {
    pub(crate) bucket: u32,
    pub(crate) tag: u8,
}

/// A byte of `tags` per lane, 0 if the lane is empty.
#[repr(align(64))]
#[derive(Default)]
pub(super) struct Bucket {
    tags: [AtomicU64; 2],
    lanes: [AtomicU32; LANES],
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Bucket>() == 64);

/// In the second word of tags: flows whose first bucket this is may be in their second one.
const OVERFLOWED: u64 = 1 << 63;
/// The lanes of each word of tags, by the top bits of their bytes.
const TAGGED: [u64; 2] = [TOPS, TOPS >> 32];

/// The lowest and the highest bit of each byte.
const ONES: u64 = 0x0101_0101_0101_0101;
const TOPS: u64 = ONES << 7;

/// The bytes of `tags` that equal `tag`, by their top bits. The lowest one is exact; those above may be wrong
/// (Mycroft's test for a zero byte: a borrow may reach the next one).
#[inline(always)]
const fn equal(tags: u64, tag: u8) -> u64 {
    let difference = tags ^ (tag as u64).wrapping_mul(ONES);
    difference.wrapping_sub(ONES) & !difference & TOPS
}

/// The bytes of `tags` that are 0, by their top bits, each exactly.
const fn empty(tags: u64) -> u64 {
    !((tags & !TOPS).wrapping_add(!TOPS) | tags) & TOPS
}

/// The number of the lowest byte whose top bit is set in `marks`; 8 if none is.
#[inline(always)]
const fn lowest(marks: u64) -> usize {
    (marks.trailing_zeros() / 8) as usize
}

/// The top bits of all bytes, side by side.
#[inline(always)]
const fn gathered(marks: u64) -> u32 {
    ((marks >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56) as u32
}

/// Whether a first bucket with these empty lanes takes a flow without a look at the second one.
#[inline(always)]
const fn has_more_than_two(free: u32) -> bool {
    let one_less = free & free.wrapping_sub(1);
    one_less & one_less.wrapping_sub(1) != 0
}

impl Bucket {
    /// The first lane with this tag; [`Lane::ELSEWHERE`] if there is none here and flows have overflowed.
    #[inline(always)]
    fn first(&self, tag: u8) -> Lane {
        let hits = equal(self.tags[0].load(Ordering::Acquire), tag);
        if hits != 0 {
            // The mask is for the compiler: no byte of a word has a higher number.
            return self.lane(lowest(hits) & 7);
        }
        let tags = self.tags[1].load(Ordering::Acquire);
        let hits = equal(tags, tag) & TAGGED[1];
        if hits == 0 && tags & OVERFLOWED != 0 {
            return Lane::ELSEWHERE;
        }
        self.lane(8 + lowest(hits))
    }

    /// The lane of this number; none if there is no such lane.
    #[inline(always)]
    fn lane(&self, number: usize) -> Lane {
        let lane = self.lanes.get(number);
        lane.map_or(Lane::NONE, |lane| Lane(lane.load(Ordering::Acquire)))
    }

    /// The first `Some` that `visit` returns for a lane with this tag.
    fn find_map<T>(&self, tag: u8, mut visit: impl FnMut(Lane) -> Option<T>) -> Option<T> {
        for (word, tags) in self.tags.iter().enumerate() {
            let mut hits = equal(tags.load(Ordering::Acquire), tag) & TAGGED[word];
            while hits != 0 {
                let lane = self.lane(8 * word + lowest(hits));
                if !lane.is_none()
                    && let found @ Some(_) = visit(lane)
                {
                    return found;
                }
                hits &= hits - 1;
            }
        }
        None
    }

    /// The empty lanes, a bit each.
    #[inline(always)]
    fn free(&self) -> u32 {
        let [low, high] = [0, 1].map(|word| {
            let tags = self.tags[word].load(Ordering::Relaxed);
            gathered(empty(tags) & TAGGED[word])
        });
        low | high << 8
    }

    /// Fills one of the lanes `free`; returns its number.
    #[inline(always)]
    fn fill(&self, mut free: u32, tag: u8, lane: Lane) -> Option<usize> {
        while free != 0 {
            let number = free.trailing_zeros() as usize;
            // Its owner may have cleared the tag and not yet the lane, or taken the lane and not yet set the
            // tag.
            let taken =
                self.lanes[number].compare_exchange(0, lane.0, Ordering::AcqRel, Ordering::Relaxed);
            if taken.is_ok() {
                let tag = u64::from(tag) << (8 * (number % 8));
                self.tags[number / 8].fetch_or(tag, Ordering::AcqRel);
                return Some(number);
            }
            free &= free - 1;
        }
        None
    }

    fn clear(&self, number: usize) {
        let tag = 0xff << (8 * (number % 8));
        self.tags[number / 8].fetch_and(!tag, Ordering::AcqRel);
        self.lanes[number].store(0, Ordering::Release);
    }

    #[inline(always)]
    fn has_overflowed(&self) -> bool {
        self.tags[1].load(Ordering::Acquire) & OVERFLOWED != 0
    }

    fn set_overflowed(&self) {
        if !self.has_overflowed() {
            self.tags[1].fetch_or(OVERFLOWED, Ordering::AcqRel);
        }
    }
}

pub(super) struct Index {
    buckets: Box<[Bucket]>,
}

impl Index {
    /// The number of buckets for `sessions` of two lanes each: two thirds of all lanes stay empty.
    pub(super) fn buckets_for(sessions: u32) -> usize {
        (2 * sessions as usize).div_ceil(LANES / 3).max(BUCKETS_MIN)
    }

    pub(super) fn new(sessions: u32) -> Result<Self, TryReserveError> {
        Ok(Self {
            buckets: super::memory::allocate(Self::buckets_for(sessions))?,
        })
    }

    /// The buckets, to look up many flows.
    #[inline(always)]
    pub(super) fn buckets(&self) -> Buckets<'_> {
        Buckets(&self.buckets)
    }

    /// The first `Some` that `visit` returns for a slot that may hold the hash.
    pub(super) fn find_map<T>(
        &self,
        hash: FlowHash,
        mut visit: impl FnMut(u32) -> Option<T>,
    ) -> Option<T> {
        let tag = tag(hash);
        let [first, other] = self.choices(hash).map(|at| &self.buckets[at]);
        first.find_map(tag, |lane| visit(lane.slot())).or_else(|| {
            // Read after the lanes: whoever marks it does so before the flow appears in the second bucket.
            if first.has_overflowed() {
                other.find_map(tag, |lane| visit(lane.slot()))
            } else {
                None
            }
        })
    }

    /// Links a slot under a hash; returns the position for [`Index::unlink`], or `None` if both buckets are
    /// full.
    pub(super) fn link(&self, hash: FlowHash, slot: u32, direction: Direction) -> Option<u32> {
        let lane = Lane::new(slot, direction);
        let [first, other] = self.choices(hash);
        let free = self.buckets[first].free();
        if has_more_than_two(free)
            && let Some(number) = self.buckets[first].fill(free, tag(hash), lane)
        {
            return position(first, number);
        }
        self.link_either(hash, [first, other], lane)
    }

    /// Links a lane in the emptier bucket, or in the other one if that fills up meanwhile.
    #[cold]
    fn link_either(&self, hash: FlowHash, [first, other]: [usize; 2], lane: Lane) -> Option<u32> {
        let [free, free_there] = [first, other].map(|at| self.buckets[at].free());
        let order = if free_there.count_ones() > free.count_ones() {
            [(other, free_there), (first, free)]
        } else {
            [(first, free), (other, free_there)]
        };
        order.into_iter().find_map(|(at, free)| {
            if at == other {
                self.buckets[first].set_overflowed();
            }
            position(at, self.buckets[at].fill(free, tag(hash), lane)?)
        })
    }

    /// Empties the lane at a position that [`Index::link`] returned.
    pub(super) fn unlink(&self, position: u32) {
        let position = position as usize;
        self.buckets[position / LANE_NUMBERS].clear(position % LANE_NUMBERS);
    }

    pub(super) fn memory_bytes(&self) -> usize {
        size_of_val(&*self.buckets)
    }

    /// The two buckets of a hash, never the same: the upper and the lower half of the hash, each
    /// scaled to the number of buckets (Lemire, "Fast random integer generation in an interval").
    #[inline]
    fn choices(&self, FlowHash(hash): FlowHash) -> [usize; 2] {
        let n = self.buckets.len();
        let first = scale(high(hash), n);
        let other = first + 1 + scale(low(hash), n - 1);
        [first, if other < n { other } else { other - n }]
    }
}

fn position(bucket: usize, lane: usize) -> Option<u32> {
    u32::try_from(bucket * LANE_NUMBERS + lane).ok()
}

#[inline(always)]
const fn scale(half: u32, n: usize) -> usize {
    ((half as u64 * n as u64) >> 32) as usize
}

/// All buckets: what lookups of many flows keep at hand.
#[derive(Clone, Copy)]
pub(super) struct Buckets<'a>(&'a [Bucket]);

impl Buckets<'_> {
    /// Where a hash is looked for first. Prefetches the bucket.
    #[inline(always)]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "there are at most 2^27 buckets"
    )]
    pub(super) fn place(self, hash: FlowHash) -> Place {
        let bucket = scale(high(hash.0), self.0.len());
        prefetch_at(self.0, bucket);
        Place {
            bucket: bucket as u32,
            tag: tag(hash),
        }
    }

    /// The first lane at a place: nearly always the flow's own, if it has one.
    #[inline(always)]
    pub(super) fn first(self, place: Place) -> Lane {
        let bucket = self.0.get(place.bucket as usize);
        bucket.map_or(Lane::NONE, |bucket| bucket.first(place.tag))
    }

    /// The lane behind `lane` at a place; none if that was the last one.
    #[cold]
    pub(super) fn next(self, place: Place, lane: Lane) -> Lane {
        let mut is_behind = false;
        let next = self.0.get(place.bucket as usize).and_then(|bucket| {
            bucket.find_map(place.tag, |other| {
                let found = is_behind.then_some(other);
                is_behind |= other == lane;
                found
            })
        });
        next.unwrap_or(Lane::NONE)
    }
}

/// Distinguishes lanes in one bucket: bits of the hash that have little part in the choice of the bucket.
/// Never 0, which marks an empty lane.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "a tag is a byte")]
const fn tag(FlowHash(hash): FlowHash) -> u8 {
    let byte = (hash >> 4) as u8;
    byte + (byte == 0) as u8
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn link(index: &Index, hash: FlowHash, slot: u32) -> Option<u32> {
        index.link(hash, slot, Direction::Forward)
    }

    /// Fills indexes of many sizes to two lanes a session: none is refused.
    #[test]
    fn every_size_takes_all_its_sessions() {
        let mut state = 1_u64;
        let mut random = move || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let x = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            FlowHash(x ^ x >> 31)
        };
        // Interpreted, more take hours.
        let (few, many) = if cfg!(miri) {
            (20, &[][..])
        } else {
            (300, &[1_000, 10_000, 200_000][..])
        };
        for sessions in (1..few).chain(many.iter().copied()) {
            let index = Index::new(sessions).expect("memory");
            for slot in 0..2 * sessions {
                assert!(
                    link(&index, random(), slot).is_some(),
                    "{slot} of {sessions}"
                );
            }
        }
    }

    /// One hash for all: 24 lanes, then no more, and every one is visited.
    #[test]
    fn equal_hashes_are_bounded() {
        let index = Index::new(1_000).expect("memory");
        let hash = FlowHash(0x1234_5678_9abc_def0);
        let positions: Vec<_> = (0..24).map(|slot| link(&index, hash, slot)).collect();
        assert!(positions.iter().all(Option::is_some));
        assert_eq!(link(&index, hash, 24), None);

        let mut seen = Vec::new();
        let none: Option<()> = index.find_map(hash, |slot| {
            seen.push(slot);
            None
        });
        seen.sort_unstable();
        seen.dedup();
        assert_eq!((none, seen), (None, (0..24).collect()));

        index.unlink(positions[3].expect("linked"));
        assert_eq!(link(&index, hash, 99), positions[3]);
    }

    /// The lanes at a place, one after the other, are those that a lookup visits in the first bucket; each
    /// names its slot and its direction.
    #[test]
    fn the_lanes_at_a_place_are_walked_one_by_one() {
        let index = Index::new(1_000).expect("memory");
        let hash = FlowHash(0x1234_5678_9abc_def0);
        let other_tag = FlowHash(hash.0 ^ 1 << 5);
        for slot in 0..5 {
            let directions = [Direction::Forward, Direction::Reply];
            let direction = directions[slot as usize % 2];
            assert!(index.link(hash, slot, direction).is_some());
            assert!(index.link(other_tag, 100 + slot, direction).is_some());
        }
        let buckets = index.buckets();
        let place = buckets.place(hash);
        let mut lane = buckets.first(place);
        for slot in 0..5 {
            assert_eq!((lane.slot(), lane.is_reply()), (slot, slot % 2 == 1));
            lane = buckets.next(place, lane);
        }
        assert!(lane.is_none());
    }

    /// The mark of an overflow is no lane's tag, though the tag 0x80 has its form.
    #[test]
    fn an_overflow_is_no_lane() {
        let index = Index::new(1_000).expect("memory");
        let hash = FlowHash(0x1234_5678_9abc_d000);
        for slot in 0..11 {
            assert!(link(&index, hash, slot).is_some());
        }
        let buckets = index.buckets();
        let marked = buckets.place(FlowHash(hash.0 | 0x800));
        assert_eq!(marked.tag, 0x80);
        assert!(index.buckets[marked.bucket as usize].has_overflowed());
        assert_eq!(buckets.first(marked), Lane::ELSEWHERE);
    }

    #[test]
    fn empty_and_equal_bytes_are_found() {
        let tags = 0x8000_0180_ff00_7f01;
        assert_eq!(empty(tags), 0x0080_0000_0080_0000);
        assert_eq!(gathered(empty(tags)), 0b0100_0100);
        assert_eq!(gathered(TOPS), 0xff);
        assert_eq!(lowest(equal(tags, 0x7f)), 1);
        assert_eq!(lowest(equal(tags, 0x80)), 4);
        assert_eq!(lowest(equal(tags, 0x33)), 8);
    }

    /// The choices are two different buckets that exist, also at the ends of the hash's range.
    #[test]
    fn choices_differ() {
        for sessions in [1, 128, 129, 1_000, 4_097] {
            let index = Index::new(sessions).expect("memory");
            for hash in [0, 1, u64::MAX, u64::MAX << 32, u64::MAX >> 32, 1 << 63] {
                let [a, b] = index.choices(FlowHash(hash));
                assert!(a != b && a < index.buckets.len() && b < index.buckets.len());
            }
        }
    }
}
