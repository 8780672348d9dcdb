//! Smooth weighted round robin: each backend takes its turns evenly spread, in proportion to its
//! weight. Like nginx's, but a turn costs log n: stride scheduling (Waldspurger, Weihl 1995).
//!
//! A backend of weight `w` is due every `STRIDE / w` of virtual time, and the one due first goes.
//!
//! Invariant: between two turns of a backend every other takes as many as the ratio of their
//! weights says, within one.

use alloc::collections::BinaryHeap;
use core::cmp::Reverse;

use crate::{Backend, hash};

/// Virtual time between two turns of a backend of weight 1: large, so that a weight divides it
/// without loss, and far from the end of a `u128`, so that virtual time never wraps.
const STRIDE: u128 = 1 << 64;

/// Whose turn it is, without end. Build it anew when the backends change; it takes 48 bytes a
/// backend.
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
    /// The backend due first on top.
    turns: BinaryHeap<Reverse<Turn>>,
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
        Self::of(backends.into_iter().filter_map(first_turn))
    }

    pub(crate) fn of(turns: impl Iterator<Item = Turn>) -> Self {
        let turns = turns.map(Reverse).collect();
        Self { turns }
    }
}

impl Iterator for Turns {
    type Item = usize;

    /// The index of the backend whose turn it is; `None` only if there are no backends.
    fn next(&mut self) -> Option<usize> {
        let mut first = self.turns.peek_mut()?;
        let Reverse(turn) = &mut *first;
        turn.due += turn.stride;
        Some(turn.index)
    }
}

/// When a backend is due; its index breaks ties.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Turn {
    due: u128,
    index: usize,
    stride: u128,
}

impl Turn {
    /// `phase` is the part of its first stride at which it begins, in 2^64ths. `None` without weight.
    pub(crate) fn new(index: usize, weight: u32, phase: u64) -> Option<Self> {
        let stride = STRIDE.checked_div(u128::from(weight))?;
        Some(Self {
            due: (stride * u128::from(phase)) >> 64,
            index,
            stride,
        })
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
    fn backends_without_weight_take_no_turn() {
        assert!(order(&[0, 2, 0], 1, 10).iter().all(|index| *index == 1));
        assert!(order(&[0, 0], 1, 10).is_empty());
    }
}
