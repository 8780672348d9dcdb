//! Failover: all sessions go to the first group of backends, by priority, that has enough available
//! ones. A backup group gets no sessions until then, and new sessions return to an earlier group as
//! soon as it has enough again.
//!
//! Use it for a second site, or for spare machines that must stay idle. Use `overflow` if the spare
//! group should help under load.
//!
//! Invariant: between two changes of backends one group serves. A pick depends only on the
//! available backends and the flow, unless the backends take turns; so workers and balancers agree.

use serde::Deserialize;
use waxwing_sdk::group::{self, Group, HashBy};
use waxwing_sdk::round_robin::WeightedRoundRobin;
use waxwing_sdk::{Backend, Backends, ConfigError, Flow, Pick, Policy, export_policy};

/// `policy_config = { order = [1, 2], min_available = 1, min_available_percent = 0, by = "flow" }`.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Tags of the groups in the order of priority. Empty: all tags, the lowest first.
    order: Vec<u32>,
    /// A group serves if it has at least this many available backends.
    min_available: usize,
    /// And if at least this percentage of its backends is available. Draining backends count as
    /// unavailable.
    min_available_percent: usize,
    /// How to choose in the group.
    by: ChooseBy,
}

/// How to choose in a group.
#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "snake_case")]
pub enum ChooseBy {
    /// By a hash of addresses, ports and protocol.
    Flow,
    /// By a hash of the client's address.
    Source,
    /// In turns.
    Turns,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            order: Vec::new(),
            min_available: 1,
            min_available_percent: 0,
            by: ChooseBy::Flow,
        }
    }
}

/// Serves from one group.
pub struct Failover {
    config: Config,
    serving: Serving,
    /// The tag of the group that serves.
    tag: Option<u32>,
    is_first: bool,
    first: u64,
    failed_over: u64,
}

enum Serving {
    Hash(Group, HashBy),
    Turns(WeightedRoundRobin),
}

impl Policy for Failover {
    type Config = Config;
    const COUNTERS: &'static [&'static str] = &["first", "failed_over"];

    fn new(config: Config, backends: &Backends<'_>) -> Result<Self, ConfigError> {
        check(&config)?;
        let mut failover = Self {
            config,
            serving: Serving::Hash(Group::default(), HashBy::Flow),
            tag: None,
            is_first: true,
            first: 0,
            failed_over: 0,
        };
        failover.backends_changed(backends)?;
        Ok(failover)
    }

    fn pick(&mut self, flow: &Flow<'_>, _: &Backends<'_>) -> Pick {
        let index = match &mut self.serving {
            Serving::Hash(group, by) => group.by_hash(by.hash(flow)),
            Serving::Turns(turns) => turns.next(),
        };
        let Some(index) = index else {
            return Pick::Fallback;
        };
        let counter = if self.is_first {
            &mut self.first
        } else {
            &mut self.failed_over
        };
        *counter += 1;
        Pick::Backend(index)
    }

    fn backends_changed(&mut self, backends: &Backends<'_>) -> Result<(), ConfigError> {
        let order = group::order(&self.config.order, backends)?;
        let enough = |tag: &&u32| self.config.is_enough(**tag, backends);
        let any = |tag: &&u32| backends.available().any(|backend| backend.tag() == **tag);
        // If no group has enough, the first group with any available backend serves.
        let serving = order.iter().find(enough).or(order.iter().find(any));
        self.is_first = serving == order.first();
        if std::mem::replace(&mut self.tag, serving.copied()) != self.tag {
            match self.tag {
                Some(tag) => waxwing_sdk::log!("the group of tag {tag} takes new sessions"),
                None => waxwing_sdk::log!("no group has an available backend"),
            }
        }
        let group = || backends.available().filter(|b| Some(&b.tag()) == serving);
        self.serving = match self.config.by {
            ChooseBy::Flow => Serving::Hash(Group::new(group()), HashBy::Flow),
            ChooseBy::Source => Serving::Hash(Group::new(group()), HashBy::Source),
            ChooseBy::Turns => Serving::Turns(self.turns(group(), backends.seed())),
        };
        Ok(())
    }

    fn counters(&self, values: &mut [u64]) {
        values.copy_from_slice(&[self.first, self.failed_over]);
    }
}

impl Failover {
    /// Returns the turns among these backends, which go on for those that had turns before.
    fn turns<'a>(
        &mut self,
        group: impl Iterator<Item = Backend<'a>>,
        seed: u64,
    ) -> WeightedRoundRobin {
        match std::mem::replace(
            &mut self.serving,
            Serving::Hash(Group::default(), HashBy::Flow),
        ) {
            Serving::Turns(mut turns) => {
                turns.update(group, seed);
                turns
            }
            Serving::Hash(..) => WeightedRoundRobin::new(group, seed),
        }
    }
}

fn check(config: &Config) -> Result<(), ConfigError> {
    if config.min_available == 0 {
        return Err("policy_config.min_available = 0: expected 1 or more".into());
    }
    if config.min_available_percent > 100 {
        return Err(format!(
            "policy_config.min_available_percent = {}: expected 0 to 100",
            config.min_available_percent
        )
        .into());
    }
    Ok(())
}

impl Config {
    fn is_enough(&self, tag: u32, backends: &Backends<'_>) -> bool {
        let group = || backends.iter().filter(|backend| backend.tag() == tag);
        let all = group().count();
        let available = group().filter(Backend::is_available).count();
        available >= self.min_available && available * 100 >= all * self.min_available_percent
    }
}

export_policy!(Failover);

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

    use waxwing_sdk::abi::BackendRecord;
    use waxwing_sdk::testing::{self, Driver, counts};

    use super::*;

    /// Returns backends of weight 1 with these tags. Those at the indices `down` are unhealthy.
    fn backends(tags: &[u32], down: &[usize]) -> Vec<BackendRecord> {
        let mut backends = testing::backends(&vec![1; tags.len()]);
        for (at, (backend, tag)) in backends.iter_mut().zip(tags).enumerate() {
            backend.tag = *tag;
            backend.flags = u32::from(!down.contains(&at));
        }
        backends
    }

    /// Returns the indices of the backends that get sessions.
    fn serving(config: &str, backends: &[BackendRecord]) -> Vec<usize> {
        let mut driver = Driver::<Failover>::start(config, backends, 1).unwrap();
        let counts = counts(
            &driver.pick_all(testing::flows(1).take(1000)),
            backends.len(),
        );
        (0..counts.len()).filter(|at| counts[*at] > 0).collect()
    }

    #[test]
    fn the_first_group_with_enough_available_backends_serves_alone() {
        let tags = [2, 1, 1, 1, 2, 3];
        for (config, down, expected) in [
            ("{}", &[][..], &[1, 2, 3][..]),
            ("{}", &[1, 2], &[3]),
            ("{}", &[1, 2, 3], &[0, 4]),
            ("{}", &[0, 1, 2, 3, 4], &[5]),
            (r#"{"min_available": 2}"#, &[1], &[2, 3]),
            (r#"{"min_available": 2}"#, &[1, 2], &[0, 4]),
            (r#"{"min_available_percent": 67}"#, &[1], &[0, 4]),
            (r#"{"min_available_percent": 66}"#, &[1], &[2, 3]),
            (r#"{"order": [3, 2, 1]}"#, &[], &[5]),
            (r#"{"order": [3, 2, 1]}"#, &[5], &[0, 4]),
            // No group has enough: the first one with an available backend serves.
            (r#"{"min_available": 3}"#, &[1, 0], &[2, 3]),
        ] {
            let got = serving(config, &backends(&tags, down));
            assert_eq!(got, expected, "{config} without {down:?}");
        }
    }

    #[test]
    fn a_recovered_group_serves_again_and_is_counted() {
        let tags = [1, 1, 2];
        let mut driver = Driver::<Failover>::start("{}", &backends(&tags, &[0, 1]), 1).unwrap();
        driver.pick_all(testing::flows(1).take(10));
        assert_eq!(driver.counters(), [0, 10]);
        driver.set_backends(&backends(&tags, &[1])).unwrap();
        let picks = driver.pick_all(testing::flows(1).take(5));
        assert_eq!(picks, [Pick::Backend(0); 5]);
        assert_eq!(driver.counters(), [5, 10]);
        driver.set_backends(&backends(&tags, &[0, 1, 2])).unwrap();
        let picks = driver.pick_all(testing::flows(1).take(5));
        assert_eq!(picks, [Pick::Fallback; 5]);
        assert_eq!(driver.counters(), [5, 10]);
    }

    #[test]
    fn the_choice_in_a_group_follows_weights_and_the_config() {
        let mut backends = backends(&[0, 0, 1], &[]);
        backends[1].weight = 3;
        let mut driver = Driver::<Failover>::start(r#"{"by": "source"}"#, &backends, 1).unwrap();
        let picks = driver.pick_all(testing::flows(1).take(20_000));
        assert!(testing::overload(&counts(&picks, 2), &[1, 3]) < 0.05);
        let one_client = testing::flows(1)
            .map(|flow| flow.from_address("192.0.2.1".parse().unwrap()))
            .take(50);
        let picks = driver.pick_all(one_client);
        assert!(picks.iter().all(|pick| *pick == picks[0]));
        let mut driver = Driver::<Failover>::start(r#"{"by": "turns"}"#, &backends, 1).unwrap();
        let picks = driver.pick_all(testing::flows(1).take(400));
        assert_eq!(counts(&picks, 3), [100, 300, 0]);
    }

    #[test]
    fn config_errors_say_what_to_write() {
        let cases = r#"
            {"order": [1, 2, 1]} => lists tag 1 twice
            {"order": [1]} => Add 2 to the order
            {"min_available": 0} => expected 1 or more
            {"min_available_percent": 101} => expected 0 to 100
            {"by": "sauce"} => expected one of `flow`, `source`, `turns`
            {"ordr": [1]} => unknown field `ordr`
        "#;
        testing::assert_config_errors(cases, |config| {
            Driver::<Failover>::start(config, &backends(&[1, 2], &[]), 1)
                .err()
                .unwrap()
        });
    }
}
