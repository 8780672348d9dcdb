//! Smooth weighted round robin: each backend takes its turns evenly spread, in proportion to its
//! weight. Like nginx's, but a pick costs log n: stride scheduling (Waldspurger, Weihl 1995).
//!
//! A backend of weight `w` is due every `STRIDE / w` of virtual time, and the one due first goes.
//!
//! Invariant: between two turns of a backend every other takes as many as the ratio of their
//! weights says, within one.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use waxwing_sdk::{Backend, Backends, Flow, NoConfig, Pick, Policy, export_policy, hash};

/// Virtual time between two turns of a backend of weight 1: large, so that a weight divides it
/// without loss, and far from the end of a `u128`, so that virtual time never wraps.
const STRIDE: u128 = 1 << 64;

/// The backends that take sessions, the one due first on top.
pub struct RoundRobin {
    turns: BinaryHeap<Reverse<Turn>>,
}

/// When a backend is due; its index breaks ties.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    due: u128,
    index: usize,
    stride: u128,
}

impl RoundRobin {
    fn schedule(backends: &Backends<'_>) -> Self {
        Self {
            turns: backends
                .available()
                .map(|b| Reverse(first_turn(b, backends)))
                .collect(),
        }
    }
}

/// Somewhere in the backend's first stride, by the worker's seed: workers that all started at the
/// same backend would send it their first sessions in one burst.
fn first_turn(backend: Backend<'_>, backends: &Backends<'_>) -> Turn {
    let stride = STRIDE / u128::from(backend.weight());
    let random = hash::mix(backends.seed() ^ backend.key());
    Turn {
        due: u128::from(random) % stride,
        index: backend.index(),
        stride,
    }
}

impl Policy for RoundRobin {
    type Config = NoConfig;

    fn new(_: NoConfig, backends: &Backends<'_>) -> Result<Self, String> {
        Ok(Self::schedule(backends))
    }

    fn pick(&mut self, _: &Flow<'_>, _: &Backends<'_>) -> Pick {
        let Some(mut first) = self.turns.peek_mut() else {
            return Pick::Fallback;
        };
        let Reverse(turn) = &mut *first;
        turn.due += turn.stride;
        Pick::Backend(turn.index)
    }

    fn backends_changed(&mut self, backends: &Backends<'_>) -> Result<(), String> {
        *self = Self::schedule(backends);
        Ok(())
    }
}

export_policy!(RoundRobin);

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

    use waxwing_sdk::testing::{self, Driver};

    use super::*;

    fn order(weights: &[u32], seed: u64, n: usize) -> Vec<usize> {
        let mut driver =
            Driver::<RoundRobin>::start("{}", &testing::backends(weights), seed).unwrap();
        let picks = driver.pick_all(testing::flows(seed).take(n));
        let index = |pick| {
            if let Pick::Backend(index) = pick {
                index
            } else {
                usize::MAX
            }
        };
        picks.into_iter().map(index).collect()
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
    fn workers_start_at_different_backends() {
        let mut first: Vec<_> = (0..50).map(|seed| order(&[1; 4], seed, 1)[0]).collect();
        first.sort_unstable();
        first.dedup();
        assert_eq!(first, [0, 1, 2, 3]);
    }

    #[test]
    fn backends_without_weight_or_health_take_none() {
        let mut backends = testing::backends(&[1, 0, 2, 1]);
        backends[3].flags = 0;
        let mut driver = Driver::<RoundRobin>::start("{}", &backends, 1).unwrap();
        let picks = driver.pick_all(testing::flows(1).take(300));
        assert_eq!(testing::counts(&picks, 4), [100, 0, 200, 0]);

        driver.set_backends(&testing::backends(&[0, 0])).unwrap();
        assert!(
            driver
                .pick_all(testing::flows(1).take(3))
                .iter()
                .all(|p| *p == Pick::Fallback)
        );
        driver.set_backends(&testing::backends(&[0, 3])).unwrap();
        assert_eq!(
            driver.pick_all(testing::flows(1).take(1)),
            [Pick::Backend(1)]
        );
    }

    #[test]
    fn the_largest_weights_keep_their_ratio() {
        let order = order(&[u32::MAX, u32::MAX / 3], 1, 4000);
        assert_eq!(order.iter().filter(|i| **i == 1).count(), 1000);
    }
}
