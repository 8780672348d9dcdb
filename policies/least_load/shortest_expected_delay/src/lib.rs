//! Shortest expected delay: the backend that would have the fewest sessions for its weight once it
//! got this one, the least `(active + 1) / weight` (IPVS's `sed`,
//! `net/netfilter/ipvs/ip_vs_sed.c`; Weinrib, Shenker, "Greed is not enough", INFOCOM 1988).
//!
//! Use it when weights say how fast servers are and they differ a lot: while there is little to do,
//! the fast ones do it, and a slow one is asked when they are as far behind as it would be. With
//! equal weights it is `least_connections`.
//!
//! Invariant: a pick looks at no more than [`Scan::MAX`] backends, so a batch has a bounded cost
//! however many there are.

use waxwing_sdk::choice::{Load, Scan};
use waxwing_sdk::{Backends, Flow, NoConfig, Pick, Policy, export_policy};

/// Where the next scan begins.
pub struct ShortestExpectedDelay {
    scan: Scan,
}

impl Policy for ShortestExpectedDelay {
    type Config = NoConfig;

    fn new(_: NoConfig, backends: &Backends<'_>) -> Result<Self, String> {
        Ok(Self {
            scan: Scan::new(backends),
        })
    }

    fn pick(&mut self, _: &Flow<'_>, backends: &Backends<'_>) -> Pick {
        self.scan.least(backends, Load::with_one_more).into()
    }

    fn backends_changed(&mut self, backends: &Backends<'_>) -> Result<(), String> {
        self.scan = Scan::new(backends);
        Ok(())
    }
}

export_policy!(ShortestExpectedDelay);

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

    use waxwing_sdk::testing::{self, Driver, Durations, Simulator};

    use super::*;

    fn driver(weights: &[u32]) -> Driver<ShortestExpectedDelay> {
        Driver::start("{}", &testing::backends(weights), 1).unwrap()
    }

    #[test]
    fn a_slow_backend_waits_until_a_fast_one_is_as_far_behind() {
        // With one more: 1/1 against 1/4, 2/4, 3/4, and 4/4 at last.
        let mut driver = driver(&[1, 4]);
        let picks = driver.pick_all(testing::flows(1).take(3));
        assert_eq!(picks, [Pick::Backend(1); 3]);
        let picks = driver.pick_all(testing::flows(2).take(2));
        assert_eq!(testing::counts(&picks, 2), [1, 1]);
    }

    #[test]
    fn sessions_that_stay_are_shared_by_weight() {
        let mut driver = driver(&[1, 2, 5]);
        let picks = driver.pick_all(testing::flows(1).take(8000));
        assert_eq!(testing::counts(&picks, 3), [1000, 2000, 5000]);
    }

    #[test]
    fn under_load_the_time_served_follows_weights() {
        let weights = testing::backends(&[1, 2, 3, 10]);
        let mut simulator = Simulator::<ShortestExpectedDelay>::start("{}", &weights, 1).unwrap();
        simulator.sessions_per_s = 2000;
        simulator.durations = Durations::Exponential(500);
        simulator.run(10_000);
        let fairness = simulator.fairness_over_time();
        assert!(fairness > 0.999, "{fairness}");
    }

    #[test]
    fn backends_without_weight_or_health_take_none() {
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
