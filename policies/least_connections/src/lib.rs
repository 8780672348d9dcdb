//! Weighted least connections: the backend that would have the fewest sessions for its weight
//! once it got this one.
//!
//! Invariant: a pick looks at no more than [`SCAN_MAX`] backends, so a batch has a bounded cost
//! however many there are. Of more than that it looks at a window that moves on with every pick:
//! the least of a few chosen evenly is nearly as good as the least of all (Mitzenmacher 2001).

use std::cmp::Ordering;

use waxwing_sdk::{Backend, Backends, Flow, NoConfig, Pick, Policy, export_policy};

/// The most backends that one pick looks at.
pub const SCAN_MAX: usize = 128;

/// Where the next scan begins.
pub struct LeastConnections {
    next: usize,
}

impl Policy for LeastConnections {
    type Config = NoConfig;

    fn new(_: NoConfig, backends: &Backends<'_>) -> Result<Self, String> {
        // Workers that all started at the same backend would send it their first sessions.
        let random = usize::try_from(backends.seed() >> 40).unwrap_or(0);
        Ok(Self {
            next: random % backends.len().max(1),
        })
    }

    fn pick(&mut self, _: &Flow<'_>, backends: &Backends<'_>) -> Pick {
        // The first of equals wins and the next scan begins behind it, so ties take turns.
        let from_next = backends
            .iter()
            .skip(self.next)
            .chain(backends.iter().take(self.next));
        let least = from_next
            .filter(Backend::is_available)
            .take(SCAN_MAX)
            .min_by(by_load);
        if let Some(least) = least {
            self.next = (least.index() + 1) % backends.len();
        }
        least.into()
    }

    fn backends_changed(&mut self, backends: &Backends<'_>) -> Result<(), String> {
        self.next %= backends.len().max(1);
        Ok(())
    }
}

/// Compares `(active + 1) / weight`, multiplied out.
fn by_load(a: &Backend<'_>, b: &Backend<'_>) -> Ordering {
    let load = |of: &Backend<'_>, other: &Backend<'_>| {
        (u64::from(of.active()) + 1).saturating_mul(u64::from(other.weight()))
    };
    load(a, b).cmp(&load(b, a))
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
    fn backends_of_equal_load_take_turns() {
        // Every session ends at once, so that all are always equal.
        let mut driver = driver(&[1; 4], 3);
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
        let mut driver = driver(&[1, 0, 1], 1);
        driver.backends_mut()[0].flags = 0;
        let picks = driver.pick_all(testing::flows(1).take(100));
        assert_eq!(testing::counts(&picks, 3), [0, 0, 100]);
        driver.backends_mut()[2].weight = 0;
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
