//! Smooth weighted round robin: each backend takes turns in proportion to its weight, evenly spread
//! over time. The shares are nginx's; a turn costs log n by stride scheduling (Waldspurger, Weihl
//! 1995).
//!
//! A backend of weight `w` is due every `STRIDE / w` of virtual time, and the backend due first
//! takes the turn. The order repeats after the sum of the weights over their greatest common
//! divisor. A short order is recorded in its first round, and a turn is then one lookup.
//!
//! Invariant: between two turns of a backend, every other backend takes as many turns as the ratio
//! of their weights, within one.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use crate::{Backend, Backends, ConfigError, Saved, hash};

/// Virtual time between two turns of a backend of weight 1.
///
/// Large, so that dividing it by a weight loses next to nothing. A sixteenth of the range of `u64`,
/// so that the order of two backends stays clear when virtual time wraps around: they are never
/// further apart than one stride.
const STRIDE: u64 = 1 << 60;

/// Longest order that is recorded.
const ORDER_MAX: usize = 4096;

/// An endless order of turns, which goes on when the backends change.
///
/// Takes 24 bytes per backend, and up to 8 kB for the recorded order.
///
/// ```
/// use waxwing_sdk::round_robin::WeightedRoundRobin;
/// use waxwing_sdk::{Backends, ConfigError, Flow, NoConfig, Pick, Policy};
///
/// struct RoundRobin(WeightedRoundRobin);
///
/// impl Policy for RoundRobin {
///     type Config = NoConfig;
///
///     fn new(_: NoConfig, backends: &Backends<'_>) -> Result<Self, ConfigError> {
///         Ok(Self(WeightedRoundRobin::new(backends.available(), backends.seed())))
///     }
///
///     fn pick(&mut self, _: &Flow<'_>, _: &Backends<'_>) -> Pick {
///         self.0.next().map_or(Pick::Fallback, Pick::Backend)
///     }
///
///     fn backends_changed(&mut self, backends: &Backends<'_>) -> Result<(), ConfigError> {
///         self.0.update(backends.available(), backends.seed());
///         Ok(())
///     }
/// }
/// ```
#[derive(Clone, Debug)]
pub struct WeightedRoundRobin {
    /// The turns of one round, which repeat once all are recorded.
    order: Vec<u16>,
    /// The length of a round; 0 if it is too long to record.
    round: usize,
    at: usize,
    /// A binary heap: entry `n` is due no later than entries `2n + 1` and `2n + 2`.
    heap: Vec<Entry>,
}

impl WeightedRoundRobin {
    /// Builds the order of these backends. Backends without weight take no turns.
    ///
    /// The seed decides where in its first stride each backend starts. Workers that all started
    /// with the same backend would send it their first sessions in one burst.
    #[must_use]
    pub fn new<'a>(backends: impl IntoIterator<Item = Backend<'a>>, seed: u64) -> Self {
        Self::with_phases(backends, seed, &[])
    }

    /// Goes on with changed backends. One that stays, by id, has waited for its turn as long as before,
    /// in proportion to its weight; one that is new starts as in [`WeightedRoundRobin::new`].
    pub fn update<'a>(&mut self, backends: impl IntoIterator<Item = Backend<'a>>, seed: u64) {
        *self = Self::with_phases(backends, seed, &self.phases());
    }

    /// Appends how long each backend has waited for its turn: a part of a policy's state, of 16 bytes per
    /// backend and 8.
    pub fn save(&self, backends: &Backends<'_>, out: &mut Vec<u8>) {
        let phases = self.phases();
        let waiting = backends.iter().filter_map(|backend| {
            let at = phases.binary_search_by_key(&backend.id(), |(id, _)| *id);
            Some((backend.key(), phases[at.ok()?].1))
        });
        let waiting: Vec<_> = waiting.collect();
        out.extend((waiting.len() as u64).to_le_bytes());
        for (key, phase) in waiting {
            out.extend(key.to_le_bytes());
            out.extend(phase.to_le_bytes());
        }
    }

    /// As [`WeightedRoundRobin::new`], with what another one saved. A backend that it did not have starts as
    /// a new one.
    ///
    /// # Errors
    /// The state ends too early.
    pub fn restore<'a>(
        backends: impl IntoIterator<Item = Backend<'a>>,
        seed: u64,
        saved: &mut Saved<'_>,
    ) -> Result<Self, ConfigError> {
        let mut waiting = BTreeMap::new();
        for _ in 0..saved.u64()? {
            waiting.insert(saved.u64()?, saved.u64()?);
        }
        let backends: Vec<_> = backends.into_iter().collect();
        let phase = |backend: &Backend<'_>| Some((backend.id(), *waiting.get(&backend.key())?));
        let mut phases: Vec<_> = backends.iter().filter_map(phase).collect();
        phases.sort_unstable();
        Ok(Self::with_phases(backends, seed, &phases))
    }

    /// Returns what is left of each backend's stride until its turn, in units of 2^-64, sorted by id.
    fn phases(&self) -> Vec<(u32, u64)> {
        let mut entries = self.heap.clone();
        // While the recorded order repeats, the heap stands still at the start of a round.
        let repeats = self.order.len() == self.round;
        let mut turns: BTreeMap<u32, u64> = BTreeMap::new();
        for index in self.order.iter().take(if repeats { self.at } else { 0 }) {
            *turns.entry(u32::from(*index)).or_default() += 1;
        }
        for entry in &mut entries {
            let turns = turns.get(&entry.index).copied().unwrap_or_default();
            entry.due = entry.due.wrapping_add(entry.stride.wrapping_mul(turns));
        }
        let first = entries
            .iter()
            .copied()
            .reduce(|a, b| if b.is_before(&a) { b } else { a });
        let now = first.map_or(0, |first| first.due);
        let phase = |entry: &Entry| {
            let left = u128::from(entry.due.wrapping_sub(now)) << 64;
            let left = left / u128::from(entry.stride.max(1));
            (entry.id, u64::try_from(left).unwrap_or(u64::MAX))
        };
        let mut phases: Vec<_> = entries.iter().map(phase).collect();
        phases.sort_unstable();
        phases
    }

    fn with_phases<'a>(
        backends: impl IntoIterator<Item = Backend<'a>>,
        seed: u64,
        phases: &[(u32, u64)],
    ) -> Self {
        let first_entry = |backend: Backend<'_>| {
            let known = phases.binary_search_by_key(&backend.id(), |(id, _)| *id);
            let phase = known.map_or_else(|_| hash::mix(seed ^ backend.key()), |at| phases[at].1);
            let entry = Entry::new(backend.index(), backend.weight(), phase)?;
            let id = backend.id();
            Some(Entry { id, ..entry })
        };
        let mut weights = Vec::new();
        let backends = backends.into_iter().inspect(|b| weights.push(b.weight()));
        let mut turns = Self::from_entries(backends.filter_map(first_entry));
        let round = usize::try_from(round_of(&weights)).unwrap_or(usize::MAX);
        if round <= ORDER_MAX {
            turns.round = round;
            turns.order.reserve_exact(round);
        }
        turns
    }

    pub(crate) fn from_entries(turns: impl Iterator<Item = Entry>) -> Self {
        let mut heap: Vec<Entry> = turns.collect();
        // A sorted list is a heap. No entry has wrapped around yet.
        heap.sort_unstable_by_key(|turn| (turn.due, turn.index));
        Self {
            order: Vec::new(),
            round: 0,
            at: 0,
            heap,
        }
    }

    /// Moves the first entry down to its place in the heap.
    fn sift_down(&mut self) {
        let Some(turn) = self.heap.first().copied() else {
            return;
        };
        let mut at = 0;
        loop {
            let child = 2 * at + 1;
            let (left, right) = (self.heap.get(child), self.heap.get(child + 1));
            let (next, earlier) = match (left, right) {
                (Some(left), Some(right)) if right.is_before(left) => (child + 1, *right),
                (Some(left), _) => (child, *left),
                (None, _) => break,
            };
            if !earlier.is_before(&turn) {
                break;
            }
            self.heap[at] = earlier;
            at = next;
        }
        self.heap[at] = turn;
    }
}

impl Iterator for WeightedRoundRobin {
    type Item = usize;

    /// Returns the index of the backend whose turn it is; `None` if there are no backends.
    #[inline]
    fn next(&mut self) -> Option<usize> {
        if let Some(index) = self.order.get(self.at) {
            self.at += 1;
            if self.at == self.order.len() {
                self.at = 0;
            }
            return Some(usize::from(*index));
        }
        let first = self.heap.first_mut()?;
        let index = first.index;
        first.due = first.due.wrapping_add(first.stride);
        self.sift_down();
        if self.order.len() < self.round
            && let Ok(index) = u16::try_from(index)
        {
            self.order.push(index);
            self.at = self.order.len() % self.round;
        }
        Some(index as usize)
    }
}

/// Returns the number of turns after which the order repeats: the sum of the weights over their
/// greatest common divisor.
fn round_of(weights: &[u32]) -> u64 {
    let divisor = weights.iter().fold(0, |a, b| common_divisor(a, *b));
    let sum: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
    sum.checked_div(divisor.into()).unwrap_or(0)
}

/// Returns the greatest common divisor; 0 if both are 0.
const fn common_divisor(mut a: u32, mut b: u32) -> u32 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// The next turn of a backend. The index breaks ties.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    due: u64,
    stride: u64,
    index: u32,
    /// The backend's id; 0 where the order is not updated.
    id: u32,
}

impl Entry {
    /// Creates the entry of a backend; `None` without weight. `phase` is where in its first stride
    /// it starts, in units of 2^-64.
    pub(crate) fn new(index: usize, weight: u32, phase: u64) -> Option<Self> {
        let stride = STRIDE.checked_div(weight.into())?;
        let (due, index) = (hash::below(stride, phase), u32::try_from(index).ok()?);
        Some(Self {
            due,
            stride,
            index,
            id: 0,
        })
    }

    /// Compares due times, which wrap around.
    #[inline]
    const fn is_before(&self, other: &Self) -> bool {
        let ahead = self.due.wrapping_sub(other.due);
        // An earlier time is ahead by more than half the range.
        ahead > u64::MAX / 2 || (ahead == 0 && self.index < other.index)
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;
    use crate::abi::HostFields;
    use crate::testing;

    fn order(weights: &[u32], seed: u64, n: usize) -> Vec<usize> {
        let (records, host) = (testing::backends(weights), HostFields::default());
        let backends = Backends::without_live(&records, &host);
        WeightedRoundRobin::new(backends.iter(), seed)
            .take(n)
            .collect()
    }

    #[test]
    fn equal_weights_repeat_one_order() {
        for seed in 0..20 {
            let order = order(&[1; 5], seed, 500);
            assert!(
                order.iter().zip(&order[5..]).all(|(a, b)| a == b),
                "seed {seed}: {order:?}"
            );
            let mut round = order[..5].to_vec();
            round.sort_unstable();
            assert_eq!(round, [0, 1, 2, 3, 4], "seed {seed}");
        }
    }

    #[test]
    fn a_heavy_backends_turns_are_spread_evenly() {
        for seed in 0..20 {
            let order = order(&[5, 1, 1], seed, 700);
            let light = |from: usize| order[from..from + 7].iter().filter(|i| **i != 0).count();
            assert!(
                (0..693).all(|from| light(from) == 2),
                "seed {seed}: {order:?}"
            );
            assert_eq!(order.iter().filter(|i| **i == 1).count(), 100);
        }
    }

    #[test]
    fn the_largest_weights_take_turns_in_proportion() {
        let order = order(&[u32::MAX, u32::MAX / 3], 1, 4000);
        assert_eq!(order.iter().filter(|i| **i == 1).count(), 1000);
    }

    #[test]
    fn the_recorded_order_is_the_heaps_order() {
        let weights = [3, 6, 12, 3, 0, 27];
        let (records, host) = (testing::backends(&weights), HostFields::default());
        let backends = Backends::without_live(&records, &host);
        let turns = WeightedRoundRobin::new(backends.iter(), 7);
        let first = |b: Backend<'_>| Entry::new(b.index(), b.weight(), hash::mix(7 ^ b.key()));
        let heap = WeightedRoundRobin::from_entries(backends.iter().filter_map(first));
        assert!(heap.order.is_empty());
        let round: Vec<usize> = heap.take(17).collect();
        let mut turns = turns;
        assert!(
            turns
                .by_ref()
                .take(170)
                .eq(round.into_iter().cycle().take(170))
        );
        assert_eq!(turns.order.len(), 17);
    }

    #[test]
    fn an_update_goes_on_where_the_order_was() {
        // A short round, which is recorded, and one that is too long.
        for weights in [[3, 1, 2], [65_535, 40_001, 30_011]] {
            let (records, host) = (testing::backends(&weights), HostFields::default());
            let backends = Backends::without_live(&records, &host);
            let expected: Vec<usize> = WeightedRoundRobin::new(backends.iter(), 3)
                .take(60)
                .collect();
            let mut turns = WeightedRoundRobin::new(backends.iter(), 3);
            let mut order = Vec::new();
            for taken in 0..60 {
                if taken % 7 == 4 {
                    turns.update(backends.iter(), 3);
                }
                order.extend(turns.next());
            }
            assert_eq!(order, expected, "{weights:?}");
        }
    }

    #[test]
    fn turns_go_on_from_what_was_saved() {
        for weights in [[3, 1, 2], [65_535, 40_001, 30_011]] {
            let (mut records, host) = (testing::backends(&weights), HostFields::default());
            let mut turns = {
                let backends = Backends::without_live(&records, &host);
                WeightedRoundRobin::new(backends.iter(), 3)
            };
            let mut expected = turns.clone();
            for swap in 0..40 {
                // Of a new process: other ids and places, the same keys.
                let before = records.clone();
                records.rotate_left(1);
                for record in &mut records {
                    record.id = record.id * 7 % 31 + 1;
                }
                let mut saved = Vec::new();
                turns.save(&Backends::without_live(&before, &host), &mut saved);
                let backends = Backends::without_live(&records, &host);
                let mut saved = Saved::new(&saved);
                turns = WeightedRoundRobin::restore(backends.iter(), 9, &mut saved)
                    .expect("it is whole");
                assert!(saved.is_empty());
                for _ in 0..swap % 3 {
                    let key = turns.next().map(|index| records[index].key);
                    let of = expected
                        .next()
                        .map(|index| testing::backends(&weights)[index].key);
                    assert_eq!(key, of, "{weights:?}, swap {swap}");
                }
            }
        }
    }

    #[test]
    fn an_update_at_each_turn_keeps_the_shares() {
        // Weights as of a health check that reports all the time; indices move, ids stay.
        let mut counts = [0; 3];
        let host = HostFields::default();
        let mut records = testing::backends(&[4, 4, 8]);
        let mut turns = WeightedRoundRobin::new(Backends::without_live(&records, &host).iter(), 3);
        for turn in 0..1600 {
            records.rotate_left(1);
            for record in &mut records {
                record.weight = [4, 4, 8][record.id as usize] + turn % 2;
            }
            turns.update(Backends::without_live(&records, &host).iter(), 3);
            let index = turns.next().expect("a backend");
            counts[records[index].id as usize] += 1;
        }
        assert!(
            counts
                .iter()
                .zip([413, 413, 774])
                .all(|(n, of)| i32::abs(n - of) <= 10),
            "{counts:?}"
        );
    }

    #[test]
    fn a_long_order_is_not_recorded() {
        let (records, host) = (testing::backends(&[65_535, 1]), HostFields::default());
        let backends = Backends::without_live(&records, &host);
        let mut turns = WeightedRoundRobin::new(backends.iter(), 7);
        assert_eq!(
            turns
                .by_ref()
                .take(65_536)
                .filter(|index| *index == 1)
                .count(),
            1
        );
        assert!(turns.order.is_empty());
    }

    #[test]
    fn turns_stay_in_proportion_when_virtual_time_wraps_around() {
        let turn = |index, weight, due| Entry {
            due,
            ..Entry::new(index, weight, 0).expect("it has a weight")
        };
        let turns = WeightedRoundRobin::from_entries(
            [turn(0, 1, u64::MAX - 2), turn(1, 3, u64::MAX - 1)].into_iter(),
        );
        let order: Vec<usize> = turns.take(4000).collect();
        assert_eq!(order.iter().filter(|index| **index == 1).count(), 3000);
        assert!(
            order
                .chunks(4)
                .all(|round| round.iter().sum::<usize>() == 3),
            "evenly"
        );
    }

    #[test]
    fn backends_without_weight_take_no_turn() {
        assert!(order(&[0, 2, 0], 1, 10).iter().all(|index| *index == 1));
        assert!(order(&[0, 0], 1, 10).is_empty());
    }
}
