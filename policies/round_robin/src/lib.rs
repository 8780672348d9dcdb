//! Smooth weighted round robin: backends take turns in proportion to their weights, evenly spread
//! over time (IPVS's `wrr` and nginx's default have the same shares).
//!
//! Use it when sessions are similar and short. It counts sessions, not their cost.
//!
//! Invariant: between two turns of a backend, every other backend takes as many turns as the ratio
//! of their weights, within one ([`WeightedRoundRobin`]).

use waxwing_sdk::round_robin::WeightedRoundRobin;
use waxwing_sdk::{Backends, ConfigError, Flow, NoConfig, Pick, Policy, Saved, export_policy};

/// The form of the state: whose turn it is.
const STATE_FORM: u32 = 1;

pub struct RoundRobin {
    turns: WeightedRoundRobin,
}

impl Policy for RoundRobin {
    type Config = NoConfig;
    const SAVES: bool = true;

    fn new(_: NoConfig, backends: &Backends<'_>) -> Result<Self, ConfigError> {
        Ok(Self {
            turns: WeightedRoundRobin::new(backends.available(), backends.seed()),
        })
    }

    fn pick(&mut self, _: &Flow<'_>, _: &Backends<'_>) -> Pick {
        self.turns.next().map_or(Pick::Fallback, Pick::Backend)
    }

    fn backends_changed(&mut self, backends: &Backends<'_>) -> Result<(), ConfigError> {
        self.turns.update(backends.available(), backends.seed());
        Ok(())
    }

    fn save(&self, backends: &Backends<'_>, out: &mut Vec<u8>) {
        out.extend(STATE_FORM.to_le_bytes());
        self.turns.save(backends, out);
    }

    fn restore(_: NoConfig, backends: &Backends<'_>, saved: &[u8]) -> Result<Self, ConfigError> {
        let mut saved = Saved::of_form(STATE_FORM, saved)?;
        let turns = WeightedRoundRobin::restore(backends.available(), backends.seed(), &mut saved)?;
        Ok(Self { turns })
    }
}

export_policy!(RoundRobin);

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

    use waxwing_sdk::testing::{self, Driver};

    use super::*;

    fn driver(weights: &[u32], seed: u64) -> Driver<RoundRobin> {
        Driver::start("{}", &testing::backends(weights), seed).unwrap()
    }

    #[test]
    fn sessions_follow_weights_exactly() {
        let picks = driver(&[5, 1, 1], 1).pick_all(testing::flows(1).take(700));
        assert_eq!(testing::counts(&picks, 3), [500, 100, 100]);
    }

    #[test]
    fn workers_start_at_different_backends() {
        let first = |seed| driver(&[1; 4], seed).pick_all(testing::flows(1).take(1));
        let first: Vec<_> = (0..50).flat_map(first).collect();
        assert!(
            testing::counts(&first, 4).iter().all(|n| *n > 0),
            "{first:?}"
        );
    }

    #[test]
    fn turns_go_on_over_reports_of_weights() {
        let mut driver = driver(&[100; 4], 1);
        let mut picks = Vec::new();
        for report in 0..400 {
            // Between two sessions a health check reports another weight of one backend.
            let mut backends = testing::backends(&[100; 4]);
            backends[report % 4].weight = 99;
            driver.set_backends(&backends).unwrap();
            picks.extend(driver.pick_all(testing::flows(1).take(1)));
        }
        let counts = testing::counts(&picks, 4);
        assert!(counts.iter().all(|n| n.abs_diff(100) <= 1), "{counts:?}");
    }

    #[test]
    fn turns_go_on_over_new_builds() {
        let mut driver = driver(&[3, 2, 1], 1);
        let backends = testing::backends(&[3, 2, 1]);
        let mut picks = Vec::new();
        for _ in 0..600 {
            picks.extend(driver.pick_all(testing::flows(1).take(1)));
            driver = Driver::restore("{}", &backends, 1, &driver.save()).unwrap();
        }
        assert_eq!(testing::counts(&picks, 3), [300, 200, 100]);
        let cut = &driver.save()[..20];
        let refused = Driver::<RoundRobin>::restore("{}", &backends, 1, cut)
            .err()
            .unwrap();
        assert!(refused.reason().contains("too early"), "{refused}");
    }

    #[test]
    fn unavailable_backends_take_no_sessions() {
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
}
