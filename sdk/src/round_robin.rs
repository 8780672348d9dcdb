//! Smooth weighted round robin: each backend takes its turns evenly spread, in proportion to its
//! weight. Like nginx's, but a turn costs log n: stride scheduling (Waldspurger, Weihl 1995).
//!
//! A backend of weight `w` is due every `STRIDE / w` of virtual time, and the one due first goes. That
//! repeats after as many turns as the weights sum up to, over their common divisor; where these are
//! few they are worked out beforehand, and a turn costs one look-up.
//!
//! Invariant: between two turns of a backend every other takes as many as the ratio of their
//! weights says, within one.

use alloc::vec::Vec;

use crate::{Backend, hash};

/// Virtual time between two turns of a backend of weight 1: large, so that a weight divides it with
/// next to no loss, and an eighth of the range of a `u64`. Virtual time wraps around; no two
/// backends are ever further apart than this, so what is due first is told all the same.
const STRIDE: u64 = 1 << 60;

/// The longest order that is worked out beforehand.
const ORDER_MAX: u64 = 4096;

/// Whose turn it is, without end. Build it anew when the backends change; it takes 24 bytes a
/// backend, or 8 kB at most for an order worked out beforehand.
///
/// ```
/// use waxwing_sdk::turns::Turns;
/// use waxwing_sdk::{Backends, Flow, NoConfig, Pick, Policy};
///
/// struct RoundRobin(Turns);
///
/// impl Policy for RoundRobin {
///     type Config = NoConfig;
///
///     fn new(_: NoConfig, backends: &Backends<'_>) -> Result<Self, String> {
///         Ok(Self(Turns::new(backends.available(), backends.seed())))
///     }
///
///     fn pick(&mut self, _: &Flow<'_>, _: &Backends<'_>) -> Pick {
///         self.0.next().map_or(Pick::Fallback, Pick::Backend)
///     }
///
///     fn backends_changed(&mut self, backends: &Backends<'_>) -> Result<(), String> {
///         self.0 = Turns::new(backends.available(), backends.seed());
///         Ok(())
///     }
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Turns {
    /// The turns of one round, which repeat; empty where a round is long.
    order: Vec<u16>,
    at: usize,
    /// A heap: what is at `n` is due before what is at `2n + 1` and `2n + 2`.
    heap: Vec<Turn>,
}

impl Turns {
    /// The turns of these backends, of which those without weight take none. Each begins somewhere
    /// in its first stride, by the seed: workers that all started at the same backend would send it
    /// their first sessions in one burst.
    #[must_use]
    pub fn new<'a>(backends: impl IntoIterator<Item = Backend<'a>>, seed: u64) -> Self {
        let first_turn = |backend: Backend<'_>| {
            let phase = hash::mix(seed ^ backend.key());
            Turn::new(backend.index(), backend.weight(), phase)
        };
        let mut weights = Vec::new();
        let backends = backends.into_iter().inspect(|b| weights.push(b.weight()));
        let mut turns = Self::of(backends.filter_map(first_turn));
        let round = round_of(&weights);
        if (1..=ORDER_MAX).contains(&round) {
            let order: Option<Vec<u16>> =
                (0..round).map(|_| turns.next()?.try_into().ok()).collect();
            turns.order = order.unwrap_or_default();
        }
        turns
    }

    pub(crate) fn of(turns: impl Iterator<Item = Turn>) -> Self {
        let mut heap: Vec<Turn> = turns.collect();
        // Sorted, it is a heap. Nothing has wrapped around yet.
        heap.sort_unstable_by_key(|turn| (turn.due, turn.index));
        let (order, at) = (Vec::new(), 0);
        Self { order, at, heap }
    }

    /// Moves the first one down to its place.
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

impl Iterator for Turns {
    type Item = usize;

    /// The index of the backend whose turn it is; `None` only if there are no backends.
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
        Some(index as usize)
    }
}

/// After how many turns they repeat: the weights' sum over their greatest common divisor.
fn round_of(weights: &[u32]) -> u64 {
    let divisor = weights.iter().fold(0, |a, b| common_divisor(a, *b));
    let sum: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
    sum.checked_div(divisor.into()).unwrap_or(0)
}

/// The greatest common divisor; 0 of nothing but zeros.
const fn common_divisor(mut a: u32, mut b: u32) -> u32 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// When a backend is due; its index breaks ties.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turn {
    due: u64,
    stride: u64,
    index: u32,
}

impl Turn {
    /// `phase` is the part of its first stride at which it begins, in 2^64ths. `None` without weight.
    pub(crate) fn new(index: usize, weight: u32, phase: u64) -> Option<Self> {
        let stride = STRIDE.checked_div(weight.into())?;
        let (due, index) = (hash::below(stride, phase), u32::try_from(index).ok()?);
        Some(Self { due, stride, index })
    }

    /// By virtual time, which wraps around.
    #[inline]
    const fn is_before(&self, other: &Self) -> bool {
        let ahead = self.due.wrapping_sub(other.due);
        // What lies behind is ahead by more than half the way around.
        ahead > u64::MAX / 2 || (ahead == 0 && self.index < other.index)
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;
    use crate::abi::HostFields;
    use crate::{Backends, testing};

    fn order(weights: &[u32], seed: u64, n: usize) -> Vec<usize> {
        let (records, host) = (testing::backends(weights), HostFields::default());
        let backends = Backends::new(&records, &host);
        Turns::new(backends.iter(), seed).take(n).collect()
    }

    #[test]
    fn equal_weights_take_turns_in_one_order() {
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
    fn a_heavy_backend_takes_no_bursts() {
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
    fn the_largest_weights_keep_their_ratio() {
        let order = order(&[u32::MAX, u32::MAX / 3], 1, 4000);
        assert_eq!(order.iter().filter(|i| **i == 1).count(), 1000);
    }

    #[test]
    fn a_round_worked_out_beforehand_is_the_one_that_comes_by_itself() {
        let weights = [3, 6, 12, 3, 0, 27];
        let (records, host) = (testing::backends(&weights), HostFields::default());
        let backends = Backends::new(&records, &host);
        let turns = Turns::new(backends.iter(), 7);
        assert_eq!(turns.order.len(), 17);
        let first = |b: Backend<'_>| Turn::new(b.index(), b.weight(), hash::mix(7 ^ b.key()));
        let heap = Turns::of(backends.iter().filter_map(first));
        assert!(heap.order.is_empty());
        let round: Vec<usize> = heap.take(17).collect();
        assert!(turns.take(170).eq(round.into_iter().cycle().take(170)));
    }

    #[test]
    fn a_long_round_is_not_worked_out() {
        let (records, host) = (testing::backends(&[65_535, 1]), HostFields::default());
        let backends = Backends::new(&records, &host);
        let turns = Turns::new(backends.iter(), 7);
        assert!(turns.order.is_empty());
        assert_eq!(turns.take(65_536).filter(|index| *index == 1).count(), 1);
    }

    #[test]
    fn virtual_time_wraps_around() {
        let turn = |index, weight, due| Turn {
            due,
            ..Turn::new(index, weight, 0).expect("it has a weight")
        };
        let turns = Turns::of([turn(0, 1, u64::MAX - 2), turn(1, 3, u64::MAX - 1)].into_iter());
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
