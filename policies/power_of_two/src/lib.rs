//! The power of two choices: of two backends drawn at random by weight, the one with fewer sessions
//! per unit of weight (Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", IEEE
//! TPDS 2001; nginx's `random two least_conn`, Envoy's least request). Up to
//! [`WeightedRandom::COMPARED_MAX`] backends are all compared, which costs no more than drawing two:
//! then it is `least_connections`, with ties by weight and at random.
//!
//! Use it instead of `least_connections` with very many backends, or with several balancers in
//! front of the same ones: balancers that all seek the least loaded backend would find the same one
//! and overload it. Two choices are nearly as even, at a constant cost.
//!
//! Invariant: a pick examines all backends of a few, and of more than a few two different ones.

use waxwing_sdk::choice::WeightedRandom;
use waxwing_sdk::random::Random;
use waxwing_sdk::{Backends, ConfigError, Flow, NoConfig, Pick, Policy, export_policy};

pub struct PowerOfTwo {
    backends: WeightedRandom,
    random: Random,
}

impl Policy for PowerOfTwo {
    type Config = NoConfig;

    fn new(_: NoConfig, backends: &Backends<'_>) -> Result<Self, ConfigError> {
        Ok(Self {
            backends: WeightedRandom::new(backends.available()),
            random: Random::new(backends.seed()),
        })
    }

    fn pick(&mut self, _: &Flow<'_>, backends: &Backends<'_>) -> Pick {
        // Ties go by weight, so idle backends share by weight.
        let backend = self.backends.less_loaded(&mut self.random, backends);
        backend.into()
    }

    fn backends_changed(&mut self, backends: &Backends<'_>) -> Result<(), ConfigError> {
        self.backends = WeightedRandom::new(backends.available());
        Ok(())
    }
}

export_policy!(PowerOfTwo);

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

    use waxwing_sdk::testing::{self, Driver, Durations, Simulator};

    use super::*;

    fn driver(weights: &[u32]) -> Driver<PowerOfTwo> {
        Driver::start("{}", &testing::backends(weights), 1).unwrap()
    }

    #[test]
    fn the_most_loaded_of_a_thousand_is_a_few_sessions_over_the_mean() {
        // One random choice would put about 20 + 3.5 * sqrt(20) on it; two put log log n more than
        // the mean.
        let mut driver = driver(&[1; 1000]);
        let picks = driver.pick_all(testing::flows(1).take(20_000));
        let most = testing::counts(&picks, 1000).into_iter().max().unwrap();
        assert!(most <= 20 + 4, "{most} sessions where the mean is 20");
    }

    #[test]
    fn session_time_follows_weights_under_load() {
        let weights = testing::backends(&[1, 2, 3, 10]);
        let mut simulator = Simulator::<PowerOfTwo>::start("{}", &weights, 1).unwrap();
        simulator.sessions_per_s = 2000;
        simulator.durations = Durations::Mixed {
            short_ms: 50,
            long_ms: 5000,
            long_percent: 5,
        };
        simulator.run(20_000);
        let fairness = simulator.fairness_over_time();
        assert!(fairness > 0.99, "{fairness}");
    }

    #[test]
    fn idle_backends_share_by_weight() {
        // Every session ends at once.
        let weights = [1, 3];
        let mut driver = driver(&weights);
        let mut counts = [0; 2];
        for flow in testing::flows(1).take(10_000) {
            let [Pick::Backend(index)] = driver.pick(&[flow])[..] else {
                panic!("no backend")
            };
            counts[index] += 1;
            driver.close(index, 1);
        }
        let over = testing::overload(&counts, &weights);
        assert!(over < 0.08, "{counts:?}");
    }

    #[test]
    fn the_less_loaded_of_two_gets_all_sessions() {
        let mut driver = driver(&[1, 1]);
        driver.backends_mut()[0].active = 100;
        let picks = driver.pick_all(testing::flows(1).take(100));
        assert_eq!(picks, [Pick::Backend(1); 100]);
    }

    #[test]
    fn unavailable_backends_take_no_sessions() {
        let mut backends = testing::backends(&[1, 0, 1]);
        backends[0].flags = 0;
        let mut driver = driver(&[1]);
        driver.set_backends(&backends).unwrap();
        let picks = driver.pick_all(testing::flows(1).take(100));
        assert_eq!(testing::counts(&picks, 3), [0, 0, 100]);
        driver.set_backends(&[]).unwrap();
        assert_eq!(driver.pick_all(testing::flows(1).take(1)), [Pick::Fallback]);
    }
}
