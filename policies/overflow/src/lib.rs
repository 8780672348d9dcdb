//! Overflow: the first group of backends takes all sessions until it is full, then the next group
//! takes the excess. Use it for cheap or near servers first, with rented or distant ones for the
//! peak (IPVS's `ovf` does the same server by server: `net/netfilter/ipvs/ip_vs_ovf.c`).
//!
//! In a group, the less loaded backend gets the session: of all if they are few, else of two drawn by
//! weight. When all groups are full, the group with the lowest load per weight takes it.
//!
//! Invariant: a pick examines the backends of one group as [`WeightedRandom::least`] does, and the sums of
//! at most [`GROUPS_MAX`] groups. The sums are counted once a millisecond and include this worker's own
//! picks since then. So a group exceeds its limit by at most the other workers' sessions of that time, and
//! sends no session on because of one that ended before.

use std::cmp::Ordering;

use serde::Deserialize;
use waxwing_sdk::choice::WeightedRandom;
use waxwing_sdk::random::Random;
use waxwing_sdk::{Backends, ConfigError, Flow, Pick, Policy, export_policy, group};

/// Most groups.
pub const GROUPS_MAX: usize = 64;

/// `policy_config = { sessions_per_weight = 100, order = [1, 2] }`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// A group is full at this many sessions per unit of weight of its available backends.
    sessions_per_weight: u32,
    /// Tags of the groups in the order in which they fill. Empty: all tags, the lowest first.
    #[serde(default)]
    order: Vec<u32>,
}

/// Fills the groups in order.
pub struct Overflow {
    config: Config,
    groups: Vec<Tier>,
    random: Random,
    /// When the groups' sessions were counted.
    counted_ms: u64,
    first: u64,
    overflowed: u64,
    beyond: u64,
}

/// A group with available backends.
struct Tier {
    backends: WeightedRandom,
    indices: Vec<usize>,
    weight: u64,
    /// Its current sessions, as far as this worker knows.
    sessions: u64,
    is_first: bool,
}

impl Policy for Overflow {
    type Config = Config;
    const COUNTERS: &'static [&'static str] = &["first", "overflowed", "beyond"];

    fn new(config: Config, backends: &Backends<'_>) -> Result<Self, ConfigError> {
        if config.sessions_per_weight == 0 {
            return Err(
                "policy_config.sessions_per_weight = 0: expected the sessions of a backend of \
                 weight 1 above which the next group helps, like 100"
                    .into(),
            );
        }
        let mut overflow = Self {
            config,
            groups: Vec::new(),
            random: Random::new(backends.seed()),
            counted_ms: 0,
            first: 0,
            overflowed: 0,
            beyond: 0,
        };
        overflow.backends_changed(backends)?;
        Ok(overflow)
    }

    fn pick(&mut self, _: &Flow<'_>, backends: &Backends<'_>) -> Pick {
        // Counting examines all backends; once a millisecond is enough.
        if self.counted_ms != backends.now_ms() {
            self.count(backends);
        }
        let per_weight = u64::from(self.config.sessions_per_weight);
        let has_room = |tier: &&mut Tier| tier.sessions < tier.weight.saturating_mul(per_weight);
        let (tier, counter) = if let Some(tier) = self.groups.iter_mut().find(has_room) {
            let counter = if tier.is_first {
                &mut self.first
            } else {
                &mut self.overflowed
            };
            (tier, counter)
        } else if let Some(tier) = self.groups.iter_mut().min_by(|a, b| by_load(a, b)) {
            (tier, &mut self.beyond)
        } else {
            return Pick::Fallback;
        };
        *counter += 1;
        tier.sessions += 1;
        let backend = tier.backends.less_loaded(&mut self.random, backends);
        backend.into()
    }

    fn backends_changed(&mut self, backends: &Backends<'_>) -> Result<(), ConfigError> {
        let order = group::order(&self.config.order, backends)?;
        if order.len() > GROUPS_MAX {
            return Err(format!(
                "the backends have {} different tags; expected at most {GROUPS_MAX}, one for each \
                 group",
                order.len()
            )
            .into());
        }
        let tier = |(at, tag): (usize, &u32)| Tier::new(at == 0, *tag, backends);
        self.groups = order.iter().enumerate().filter_map(tier).collect();
        self.count(backends);
        Ok(())
    }

    fn counters(&self, values: &mut [u64]) {
        values.copy_from_slice(&[self.first, self.overflowed, self.beyond]);
    }
}

impl Overflow {
    fn count(&mut self, backends: &Backends<'_>) {
        for tier in &mut self.groups {
            let of_group = tier.indices.iter().filter_map(|index| backends.get(*index));
            tier.sessions = of_group.map(|backend| u64::from(backend.load())).sum();
        }
        self.counted_ms = backends.now_ms();
    }
}

impl Tier {
    fn new(is_first: bool, tag: u32, backends: &Backends<'_>) -> Option<Self> {
        let of_group = || backends.available().filter(|backend| backend.tag() == tag);
        let weight = of_group().map(|backend| u64::from(backend.weight())).sum();
        (weight > 0).then(|| Self {
            backends: WeightedRandom::new(of_group()),
            indices: of_group().map(|backend| backend.index()).collect(),
            weight,
            sessions: 0,
            is_first,
        })
    }
}

/// Compares `sessions / weight` without division.
fn by_load(a: &Tier, b: &Tier) -> Ordering {
    let load = |of: &Tier, other: &Tier| u128::from(of.sessions) * u128::from(other.weight);
    load(a, b).cmp(&load(b, a))
}

export_policy!(Overflow);

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

    use waxwing_sdk::abi::BackendRecord;
    use waxwing_sdk::testing::{self, Driver, Durations, Simulator};

    use super::*;

    /// Returns backends with these tags and weights.
    fn backends(of: &[(u32, u32)]) -> Vec<BackendRecord> {
        let weights: Vec<_> = of.iter().map(|(_, weight)| *weight).collect();
        let mut backends = testing::backends(&weights);
        for (backend, (tag, _)) in backends.iter_mut().zip(of) {
            backend.tag = *tag;
        }
        backends
    }

    const TEN: &str = r#"{"sessions_per_weight": 10}"#;

    #[test]
    fn groups_fill_in_order_and_the_excess_is_shared_by_weight() {
        let backends = backends(&[(2, 1), (1, 3), (3, 4)]);
        let mut driver = Driver::<Overflow>::start(TEN, &backends, 1).unwrap();
        for (more, expected) in [
            (29, [0, 29, 0]),
            (1, [0, 30, 0]),
            (9, [9, 30, 0]),
            (2, [10, 30, 1]),
            (39, [10, 30, 40]),
            (80, [20, 60, 80]),
        ] {
            driver.pick_all(testing::flows(1).take(more));
            assert_eq!(driver.loads(), expected);
            driver.host_mut().now_ms += 1;
        }
        assert_eq!(driver.counters(), [30, 50, 80]);
    }

    #[test]
    fn the_configs_order_is_followed_and_a_down_group_is_skipped() {
        let config = r#"{"sessions_per_weight": 10, "order": [7, 1, 4]}"#;
        let mut backends = backends(&[(1, 1), (4, 1), (7, 1)]);
        let mut driver = Driver::<Overflow>::start(config, &backends, 1).unwrap();
        driver.pick_all(testing::flows(1).take(15));
        assert_eq!(driver.loads(), [5, 0, 10]);
        backends[2].flags = 0;
        let mut driver = Driver::<Overflow>::start(config, &backends, 1).unwrap();
        driver.pick_all(testing::flows(1).take(15));
        assert_eq!(driver.loads(), [10, 5, 0]);
        // The first group is down, so all sessions have overflowed.
        assert_eq!(driver.counters(), [0, 15, 0]);
        backends.truncate(0);
        driver.set_backends(&backends).unwrap();
        assert_eq!(driver.pick_all(testing::flows(1).take(1)), [Pick::Fallback]);
    }

    #[test]
    fn a_session_that_ended_makes_room_at_once() {
        let backends = backends(&[(1, 1), (1, 1), (2, 1)]);
        let mut driver = Driver::<Overflow>::start(TEN, &backends, 1).unwrap();
        driver.pick_all(testing::flows(1).take(20));
        for flow in testing::flows(2).take(100) {
            driver.close(0, 1);
            driver.host_mut().now_ms += 1;
            assert_eq!(driver.pick(&[flow]), [Pick::Backend(0)]);
        }
        assert_eq!(driver.loads(), [10, 10, 0]);
    }

    #[test]
    fn new_sessions_return_to_the_first_group_when_it_has_room() {
        let backends = backends(&[(1, 10), (1, 10), (2, 10)]);
        let mut simulator = Simulator::<Overflow>::start(TEN, &backends, 1).unwrap();
        simulator.durations = Durations::Fixed(1000);
        // The first group has room for 150 concurrent sessions, not for 300.
        simulator.sessions_per_s = 150;
        simulator.run(10_000);
        assert_eq!(simulator.stats(2).sessions, 0);
        simulator.sessions_per_s = 300;
        simulator.run(10_000);
        let spilled = simulator.stats(2);
        assert!((800..1_200).contains(&spilled.sessions), "{spilled:?}");
        simulator.sessions_per_s = 150;
        simulator.run(2_000);
        simulator.reset();
        simulator.run(5_000);
        assert_eq!(simulator.stats(2).sessions, 0);
    }

    #[test]
    fn backends_of_a_group_fill_evenly() {
        let mut backends = backends(&[(1, 1); 50]);
        backends[7].weight = 5;
        let mut driver = Driver::<Overflow>::start(TEN, &backends, 3).unwrap();
        driver.pick_all(testing::flows(1).take(540));
        for (backend, load) in backends.iter().zip(driver.loads()) {
            let expected = backend.weight * 10;
            assert!(load.abs_diff(expected) <= 4, "{load} of {expected}");
        }
    }

    #[test]
    fn config_errors_say_what_to_write() {
        let cases = r#"
            {} => missing field `sessions_per_weight`
            {"sessions_per_weight": 0} => like 100
            {"sessions_per_weight": 1, "order": [1, 1]} => lists tag 1 twice
            {"sessions_per_weight": 1, "order": [1]} => Add 2 to the order
            {"sessions_per_weight": 1, "tags": []} => unknown field `tags`
        "#;
        let two = backends(&[(1, 1), (2, 1)]);
        testing::assert_config_errors(cases, |config| {
            Driver::<Overflow>::start(config, &two, 1).err().unwrap()
        });
        let each_its_own: Vec<_> = (0..65).map(|tag| (tag, 1)).collect();
        let error = Driver::<Overflow>::start(TEN, &backends(&each_its_own), 1).err();
        assert!(error.unwrap().reason().contains("65 different tags"));
    }
}
