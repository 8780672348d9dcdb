//! Weighted least connections: the backend with the fewest sessions for its weight, the least
//! `active / weight` (IPVS's `wlc`, `net/netfilter/ipvs/ip_vs_wlc.c`).
//!
//! Use it when sessions differ in length, or a slow server should get fewer. Backends that are
//! equally loaded, such as idle ones, take turns whatever their weights; where a heavy one should
//! then come first, use `shortest_expected_delay`.
//!
//! Invariant: a pick looks at no more than [`Scan::MAX`] backends, so a batch has a bounded cost
//! however many there are.

use waxwing_sdk::choice::{Load, Scan};
use waxwing_sdk::{Backends, Flow, NoConfig, Pick, Policy, export_policy};

/// Where the next scan begins.
pub struct LeastConnections {
    scan: Scan,
}

impl Policy for LeastConnections {
    type Config = NoConfig;

    fn new(_: NoConfig, backends: &Backends<'_>) -> Result<Self, String> {
        Ok(Self {
            scan: Scan::new(backends),
        })
    }

    fn pick(&mut self, _: &Flow<'_>, backends: &Backends<'_>) -> Pick {
        self.scan.least(backends, Load::of).into()
    }

    fn backends_changed(&mut self, backends: &Backends<'_>) -> Result<(), String> {
        self.scan = Scan::new(backends);
        Ok(())
    }
}

export_policy!(LeastConnections);

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

    use waxwing_sdk::testing::{self, Driver};

    use super::*;

    fn driver(weights: &[u32], seed: u64) -> Driver<LeastConnections> {
        Driver::start("{}", &testing::backends(weights), seed).unwrap()
    }

    #[test]
    fn sessions_that_stay_are_shared_by_weight() {
        let mut driver = driver(&[1, 2, 5], 1);
        driver.pick_all(testing::flows(1).take(8000));
        let active: Vec<_> = driver.backends_mut().iter().map(|b| b.active).collect();
        assert_eq!(active, [1000, 2000, 5000]);
    }

    #[test]
    fn the_idle_backend_catches_up_first() {
        let mut driver = driver(&[1, 1, 1], 1);
        for (backend, active) in driver.backends_mut().iter_mut().zip([100, 40, 100]) {
            backend.active = active;
        }
        let picks = driver.pick_all(testing::flows(1).take(60));
        assert_eq!(testing::counts(&picks, 3), [0, 60, 0]);
        let picks = driver.pick_all(testing::flows(2).take(60));
        assert_eq!(testing::counts(&picks, 3), [20, 20, 20]);
    }

    #[test]
    fn a_session_weighs_by_what_is_there_not_by_what_would_be() {
        // 1 of weight 2 is less than 2 of weight 3; with one more each, 2/2 would equal 3/3.
        let mut driver = driver(&[2, 3], 1);
        for (backend, active) in driver.backends_mut().iter_mut().zip([1, 2]) {
            backend.active = active;
        }
        let picks = driver.pick_all(testing::flows(1).take(1));
        assert_eq!(picks, [Pick::Backend(0)]);
    }

    #[test]
    fn backends_of_equal_load_take_turns() {
        // Every session ends at once, so that all are always equal.
        // Their weights do not matter then.
        let mut driver = driver(&[1, 2, 3, 4], 3);
        let mut counts = [0; 4];
        for flow in testing::flows(1).take(400) {
            let [Pick::Backend(index)] = driver.pick(&[flow])[..] else {
                panic!("no backend")
            };
            counts[index] += 1;
            driver.close(index, 1);
        }
        assert_eq!(counts, [100; 4]);
    }

    #[test]
    fn backends_without_weight_or_health_take_none() {
        let mut backends = testing::backends(&[1, 0, 1]);
        backends[0].flags = 0;
        let mut driver = Driver::<LeastConnections>::start("{}", &backends, 1).unwrap();
        let picks = driver.pick_all(testing::flows(1).take(100));
        assert_eq!(testing::counts(&picks, 3), [0, 0, 100]);
        driver.set_backends(&testing::backends(&[0, 0])).unwrap();
        assert_eq!(driver.pick_all(testing::flows(1).take(1)), [Pick::Fallback]);
        driver.set_backends(&[]).unwrap();
        assert_eq!(driver.pick_all(testing::flows(1).take(1)), [Pick::Fallback]);
    }

    #[test]
    fn a_moving_window_over_many_backends_evens_them_out() {
        let weights = [1; 4096];
        let mut driver = driver(&weights, 1);
        driver.pick_all(testing::flows(1).take(4096 * 20));
        let active: Vec<_> = driver.backends_mut().iter().map(|b| b.active).collect();
        let (min, max) = (active.iter().min().unwrap(), active.iter().max().unwrap());
        assert!(max - min <= 4, "{min} to {max} sessions");
    }
}
