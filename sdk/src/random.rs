//! Random numbers for policies.
//!
//! Invariant: the numbers follow from the seed alone, in Wasm and natively, so a test with a given
//! seed sees what a balancer with that seed does.

use crate::hash;

/// A random number generator: SplitMix64 (Steele, Lea, Flood 2014). Fast and uniform; not for
/// secrets.
///
/// Seed it with [`Backends::seed`](crate::Backends::seed), which differs between workers.
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
    /// Creates a generator with this seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        // Mixed: seeds one step apart would otherwise give sequences shifted by one number.
        Self {
            state: hash::mix(seed),
        }
    }

    /// Returns the next number, uniform over all of `u64`.
    pub const fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        hash::mix(self.state)
    }

    /// Returns a number below `limit`, uniformly; 0 if `limit` is 0.
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
    fn adjacent_seeds_share_no_numbers() {
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
