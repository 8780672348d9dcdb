//! Random numbers for policies.
//!
//! Invariant: the numbers follow from the seed alone, in Wasm as natively, so a test that passes a
//! seed sees what a balancer with that seed does.

use crate::hash;

/// A generator of random numbers: SplitMix64 (Steele, Lea, Flood 2014). Quick and even, and not for
/// secrets. Start it with [`Backends::seed`](crate::Backends::seed), which differs from worker to
/// worker.
///
/// ```
/// use waxwing_sdk::random::Random;
///
/// let mut random = Random::new(7);
/// let (first, second) = (random.next(), random.next());
/// assert_ne!(first, second);
/// assert!((0..100).all(|_| random.below(6) < 6));
/// assert_eq!(Random::new(7).next(), first);
/// ```
#[derive(Clone, Debug)]
pub struct Random {
    state: u64,
}

impl Random {
    /// A generator whose numbers follow from this seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        // Mixed, since the generators of seeds that are a step apart would be one number apart.
        Self {
            state: hash::mix(seed),
        }
    }

    /// The next number, evenly of all there are.
    pub const fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        hash::mix(self.state)
    }

    /// A number below `limit`, each as likely as the others; 0 if `limit` is 0.
    pub const fn below(&mut self, limit: u64) -> u64 {
        hash::below(self.next(), limit)
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    #[test]
    fn one_seed_makes_one_sequence_on_every_machine() {
        let mut random = Random::new(1);
        let first: Vec<_> = (0..3).map(|_| random.next()).collect();
        let expected = [
            0xf18d_6ce9_3d6c_f1ee,
            0x0b95_f66d_327e_8d78,
            0xc706_1b1b_9332_2ba9,
        ];
        assert_eq!(first, expected, "{first:#x?}");
    }

    #[test]
    fn neighbouring_seeds_have_nothing_in_common() {
        let numbers = |seed| {
            let mut random = Random::new(seed);
            (0..100).map(|_| random.next()).collect::<Vec<_>>()
        };
        let a = numbers(0);
        for seed in [1, 2, 0x9e37_79b9_7f4a_7c15] {
            assert!(numbers(seed).iter().all(|n| !a.contains(n)), "seed {seed}");
        }
    }

    #[test]
    fn every_bit_is_set_half_the_time() {
        let mut random = Random::new(3);
        let mut set = [0; 64];
        for _ in 0..10_000 {
            let number = random.next();
            for (bit, set) in set.iter_mut().enumerate() {
                *set += number >> bit & 1;
            }
        }
        assert!(set.iter().all(|n| (4_750..5_250).contains(n)), "{set:?}");
    }
}
