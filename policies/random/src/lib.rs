//! Random: each backend is chosen with a probability in proportion to its weight.
//!
//! Use it for many short sessions with many independent balancers or workers: random choices never
//! synchronize. The sessions of a backend vary by the square root of their number; `round_robin` is
//! even and `power_of_two` nearly so.
//!
//! Invariant: a choice depends only on the weights and the worker's seed, not on load or clients.

use waxwing_sdk::choice::WeightedRandom;
use waxwing_sdk::random::Random as Generator;
use waxwing_sdk::{Backends, ConfigError, Flow, NoConfig, Pick, Policy, export_policy};

pub struct Random {
    backends: WeightedRandom,
    random: Generator,
}

impl Policy for Random {
    type Config = NoConfig;

    fn new(_: NoConfig, backends: &Backends<'_>) -> Result<Self, ConfigError> {
        Ok(Self {
            backends: WeightedRandom::new(backends.available()),
            random: Generator::new(backends.seed()),
        })
    }

    fn pick(&mut self, _: &Flow<'_>, _: &Backends<'_>) -> Pick {
        let index = self.backends.pick(self.random.next());
        index.map_or(Pick::Fallback, Pick::Backend)
    }

    fn backends_changed(&mut self, backends: &Backends<'_>) -> Result<(), ConfigError> {
        self.backends = WeightedRandom::new(backends.available());
        Ok(())
    }
}

export_policy!(Random);

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

    use waxwing_sdk::testing::{self, Driver};

    use super::*;

    fn driver(weights: &[u32], seed: u64) -> Driver<Random> {
        Driver::start("{}", &testing::backends(weights), seed).unwrap()
    }

    #[test]
    fn sessions_follow_weights_within_chance() {
        let weights = [1, 2, 3, 4];
        for seed in 0..10 {
            let picks = driver(&weights, seed).pick_all(testing::flows(1).take(100_000));
            let over = testing::overload(&testing::counts(&picks, 4), &weights);
            // 10,000 expected; four standard deviations are 400.
            assert!(over < 0.04, "seed {seed}: {over} over its share");
        }
    }

    #[test]
    fn workers_choose_independently() {
        let of = |seed| driver(&[1; 10], seed).pick_all(testing::flows(1).take(10_000));
        let (one, other) = (of(1), of(2));
        let same = one.iter().zip(&other).filter(|(a, b)| a == b).count();
        assert!((850..1150).contains(&same), "{same} of 10000 alike");
        assert_eq!(one, of(1), "a seed repeats");
    }

    #[test]
    fn unavailable_backends_take_no_sessions() {
        let mut backends = testing::backends(&[1, 0, 1]);
        backends[0].flags = 0;
        let mut driver = driver(&[1], 1);
        driver.set_backends(&backends).unwrap();
        let picks = driver.pick_all(testing::flows(1).take(100));
        assert_eq!(testing::counts(&picks, 3), [0, 0, 100]);
        driver.set_backends(&[]).unwrap();
        assert_eq!(driver.pick_all(testing::flows(1).take(1)), [Pick::Fallback]);
    }
}
