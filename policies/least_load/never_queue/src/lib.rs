//! Never queue: an idle backend if there is one, and else the one with the shortest expected delay,
//! the least `(active + 1) / weight` (IPVS's `nq`, `net/netfilter/ipvs/ip_vs_nq.c`). Of several idle
//! backends the heaviest goes first (in IPVS the first of its list).
//!
//! Use it when weights differ, sessions are few and each wants a server of its own: a slow server
//! with nothing to do answers sooner than a fast one with a queue. Under load it is
//! `shortest_expected_delay`.
//!
//! Invariant: a pick looks at no more than [`Scan::MAX`] backends, so a batch has a bounded cost
//! however many there are; of those no idle one is passed over.

use waxwing_sdk::choice::{Load, Scan};
use waxwing_sdk::{Backends, Flow, NoConfig, Pick, Policy, export_policy};

/// Where the next scan begins.
pub struct NeverQueue {
    scan: Scan,
}

impl Policy for NeverQueue {
    type Config = NoConfig;

    fn new(_: NoConfig, backends: &Backends<'_>) -> Result<Self, String> {
        Ok(Self {
            scan: Scan::new(backends),
        })
    }

    fn pick(&mut self, _: &Flow<'_>, backends: &Backends<'_>) -> Pick {
        let least = self.scan.least(backends, |backend| {
            let is_busy = backend.active() > 0;
            (is_busy, Load::with_one_more(backend))
        });
        least.into()
    }

    fn backends_changed(&mut self, backends: &Backends<'_>) -> Result<(), String> {
        self.scan = Scan::new(backends);
        Ok(())
    }
}

export_policy!(NeverQueue);

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

    use waxwing_sdk::testing::{self, Driver, Durations, Simulator};

    use super::*;

    fn driver(weights: &[u32]) -> Driver<NeverQueue> {
        Driver::start("{}", &testing::backends(weights), 1).unwrap()
    }

    #[test]
    fn every_backend_gets_one_before_any_gets_two() {
        let mut driver = driver(&[1, 100, 10, 1000]);
        let picks = driver.pick_all(testing::flows(1).take(4));
        assert_eq!(picks, [3, 1, 2, 0].map(Pick::Backend), "the heaviest first");
        // From there on by shortest delay: 2 of 1000 is less than 2 of 100.
        let picks = driver.pick_all(testing::flows(2).take(10));
        assert_eq!(picks, [Pick::Backend(3); 10]);
    }

    #[test]
    fn sessions_that_stay_are_shared_by_weight() {
        let mut driver = driver(&[1, 2, 5]);
        let picks = driver.pick_all(testing::flows(1).take(8000));
        assert_eq!(testing::counts(&picks, 3), [1000, 2000, 5000]);
    }

    #[test]
    fn as_long_as_one_is_idle_no_backend_has_two() {
        let backends = testing::backends(&[1, 50, 50, 100, 100, 100, 100, 100]);
        let mut simulator = Simulator::<NeverQueue>::start("{}", &backends, 1).unwrap();
        simulator.sessions_per_s = 80;
        simulator.durations = Durations::Fixed(100);
        simulator.run(10_000);
        let most = (0..8).map(|id| simulator.tally(id).active_max).max();
        assert_eq!(most, Some(1));
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
