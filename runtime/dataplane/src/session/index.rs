//! The index: from a flow's hash to the slots that may hold its session.
//!
//! Invariant: only its owner writes a word. A thread takes an empty word by compare-and-swap; the word then
//! does not move until the thread that removes the session empties it.
//!
//! Each hash has two buckets, and a new word goes to the emptier one. At most half of all words are in use
//! (four of eight in a bucket). Then a bucket is full with a probability of about 10^-10, and both buckets of
//! a hash, the only case in which an insert fails, with the square of that (Azar et al., "Balanced
//! Allocations": the tail falls doubly exponentially).

use std::collections::TryReserveError;

use super::hash::FlowHash;
use super::sync::{AtomicU64, Ordering};
use super::words::{high, low, pack};
use crate::prefetch::prefetch;

/// Words in a bucket: a cache line.
#[cfg(not(loom))]
pub(super) const WIDTH: usize = 8;
#[cfg(loom)]
pub(super) const WIDTH: usize = 2;

/// The fewest buckets, so that a small table has room whatever the hashes are.
#[cfg(not(loom))]
const BUCKETS_MIN: usize = 64;
#[cfg(loom)]
const BUCKETS_MIN: usize = 2;

/// Upper half of a word: the slot plus one. Lower half: the tag, never 0. 0 is empty.
#[repr(align(64))]
#[derive(Default)]
pub(super) struct Bucket([AtomicU64; WIDTH]);

#[cfg(not(loom))]
const _: () = assert!(size_of::<Bucket>() == 64);

impl Bucket {
    /// The last word with this tag; 0 if there is none.
    ///
    /// Compares all words of the cache line without a branch: the position of the match cannot be predicted,
    /// and there is nearly always one at most.
    #[inline(always)]
    fn word_of(&self, tag: u32) -> u64 {
        let mut hit = 0;
        for place in &self.0 {
            let word = place.load(Ordering::Acquire);
            hit = if low(word) == tag { word } else { hit };
        }
        hit
    }
}

pub(super) struct Index {
    buckets: Box<[Bucket]>,
}

impl Index {
    /// The number of buckets for `sessions` of two words each: half of all words stay empty.
    pub(super) fn buckets_for(sessions: u32) -> usize {
        (2 * sessions as usize).div_ceil(WIDTH / 2).max(BUCKETS_MIN)
    }

    pub(super) fn new(sessions: u32) -> Result<Self, TryReserveError> {
        Ok(Self {
            buckets: super::memory::allocate(Self::buckets_for(sessions))?,
        })
    }

    /// The first slot that may hold the hash: nearly always the right one, if there is one.
    #[inline(always)]
    pub(super) fn first(&self, hash: FlowHash) -> Option<u32> {
        let tag = tag(hash);
        let [first, other] = self.choices(hash);
        let word = match self.buckets[first].word_of(tag) {
            0 => self.buckets[other].word_of(tag),
            word => word,
        };
        high(word).checked_sub(1)
    }

    /// The first `Some` that `visit` returns for a slot that may hold the hash.
    pub(super) fn find_map<T>(
        &self,
        hash: FlowHash,
        mut visit: impl FnMut(u32) -> Option<T>,
    ) -> Option<T> {
        let tag = tag(hash);
        for at in self.choices(hash) {
            let hit = self.buckets[at].word_of(tag);
            if hit == 0 {
                continue;
            }
            if let found @ Some(_) = visit(high(hit) - 1) {
                return found;
            }
            if let found @ Some(_) = self.find_among_equals(at, tag, &mut visit) {
                return found;
            }
        }
        None
    }

    /// Visits every slot with this tag in a bucket.
    #[cold]
    fn find_among_equals<T>(
        &self,
        at: usize,
        tag: u32,
        visit: &mut impl FnMut(u32) -> Option<T>,
    ) -> Option<T> {
        self.buckets[at].0.iter().find_map(|place| {
            let word = place.load(Ordering::Acquire);
            if low(word) == tag {
                visit(high(word) - 1)
            } else {
                None
            }
        })
    }

    /// Links a slot under a hash; returns the position for [`Index::unlink`], or `None` if both buckets are
    /// full.
    pub(super) fn link(&self, hash: FlowHash, slot: u32) -> Option<u32> {
        let word = pack(slot + 1, tag(hash));
        let [a, b] = self.choices(hash);
        let order = if self.used(b) < self.used(a) {
            [b, a]
        } else {
            [a, b]
        };
        order.into_iter().find_map(|at| {
            let lane = self.buckets[at].0.iter().position(|place| {
                place
                    .compare_exchange(0, word, Ordering::AcqRel, Ordering::Relaxed)
                    .is_ok()
            })?;
            u32::try_from(at * WIDTH + lane).ok()
        })
    }

    /// Empties the word at a position that [`Index::link`] returned.
    pub(super) fn unlink(&self, position: u32) {
        let (at, lane) = (position as usize / WIDTH, position as usize % WIDTH);
        self.buckets[at].0[lane].store(0, Ordering::Release);
    }

    #[inline]
    pub(super) fn prefetch(&self, hash: FlowHash) {
        for at in self.choices(hash) {
            prefetch(&self.buckets[at]);
        }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        size_of_val(&*self.buckets)
    }

    fn used(&self, at: usize) -> usize {
        let words = self.buckets[at].0.iter();
        words
            .map(|word| usize::from(word.load(Ordering::Relaxed) != 0))
            .sum()
    }

    /// The two buckets of a hash, never the same: the upper and the lower half of the hash, each
    /// scaled to the number of buckets (Lemire, "Fast random integer generation in an interval").
    #[inline]
    fn choices(&self, FlowHash(hash): FlowHash) -> [usize; 2] {
        let scale = |half: u32, n: usize| ((u64::from(half) * n as u64) >> 32) as usize;
        let n = self.buckets.len();
        let first = scale(high(hash), n);
        let other = first + 1 + scale(low(hash), n - 1);
        [first, if other < n { other } else { other - n }]
    }
}

/// Distinguishes words in one bucket: bits of the whole hash, since the upper bits of one half are equal in
/// all that share its bucket. Never 0, which marks an empty word.
#[inline]
const fn tag(FlowHash(hash): FlowHash) -> u32 {
    high(hash.wrapping_mul(0x9e37_79b9_7f4a_7c15)) | 1
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// Fills indexes of many sizes to two words a session: none is refused.
    #[test]
    fn every_size_takes_all_its_sessions() {
        let mut state = 1_u64;
        let mut random = move || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let x = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            FlowHash(x ^ x >> 31)
        };
        for sessions in (1..300).chain([1_000, 10_000, 200_000]) {
            let index = Index::new(sessions).expect("memory");
            for slot in 0..2 * sessions {
                assert!(index.link(random(), slot).is_some(), "{slot} of {sessions}");
            }
        }
    }

    /// One hash for all: 16 words, then no more, and every one is visited.
    #[test]
    fn equal_hashes_are_bounded() {
        let index = Index::new(1_000).expect("memory");
        let hash = FlowHash(0x1234_5678_9abc_def0);
        let positions: Vec<_> = (0..16).map(|slot| index.link(hash, slot)).collect();
        assert!(positions.iter().all(Option::is_some));
        assert_eq!(index.link(hash, 16), None);

        let mut seen = Vec::new();
        let none: Option<()> = index.find_map(hash, |slot| {
            seen.push(slot);
            None
        });
        seen.sort_unstable();
        seen.dedup();
        assert_eq!((none, seen), (None, (0..16).collect()));

        index.unlink(positions[3].expect("linked"));
        assert_eq!(index.link(hash, 99), positions[3]);
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
