//! Percent split: each group of backends, such as a version or a site, gets a percentage of the
//! clients, and a client stays with its group. Use it for canary releases: 5 percent of the clients
//! get the new version, then 20, then all.
//!
//! Invariant: raising a group's percentage only moves clients into it, and lowering it only moves
//! clients out; no client moves between two other groups. A client's group is the one with the
//! highest score, and a score depends only on that group's percentage (weighted rendezvous hashing;
//! Schindelhauer, Schomaker 2005).

use serde::Deserialize;
use waxwing_sdk::group::{Group, HashBy};
use waxwing_sdk::{Backends, ConfigError, Flow, Pick, Policy, export_policy, hash};

/// `policy_config = { groups = [{ tag = 1, percent = 95 }, { tag = 2, percent = 5 }] }`.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The groups; their percentages sum to 100.
    groups: Vec<GroupConfig>,
    /// Whether a client has a group (`"source"`, the default) or each of its sessions (`"flow"`).
    by: HashBy,
    /// Another salt selects other clients, so that not the same ones try every new version.
    salt: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            groups: Vec::new(),
            by: HashBy::Source,
            salt: 0,
        }
    }
}

/// A group of the config.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupConfig {
    /// Tag of its backends.
    tag: u32,
    /// Percentage of clients that it gets; 0 for a group that is not in use yet.
    percent: u32,
}

/// Most groups: as many as have a counter.
const GROUPS_MAX: usize = 8;

/// The groups in the config's order.
pub struct PercentSplit {
    by: HashBy,
    salt: u64,
    groups: Vec<GroupState>,
    rerouted: u64,
}

struct GroupState {
    config: GroupConfig,
    key: u64,
    backends: Group,
    sessions: u64,
}

impl Policy for PercentSplit {
    type Config = Config;
    const COUNTERS: &'static [&'static str] = &[
        "rerouted", "group_1", "group_2", "group_3", "group_4", "group_5", "group_6", "group_7",
        "group_8",
    ];

    fn new(config: Config, backends: &Backends<'_>) -> Result<Self, ConfigError> {
        check(&config.groups)?;
        let state = |config: GroupConfig| GroupState {
            key: hash::mix(!u64::from(config.tag)),
            config,
            backends: Group::default(),
            sessions: 0,
        };
        let mut split = Self {
            by: config.by,
            salt: hash::mix(u64::from(config.salt)),
            groups: config.groups.into_iter().map(state).collect(),
            rerouted: 0,
        };
        split.backends_changed(backends)?;
        Ok(split)
    }

    fn pick(&mut self, flow: &Flow<'_>, _: &Backends<'_>) -> Pick {
        let hash = self.by.hash(flow);
        let Some(mut index) = self.group_of(hash, |_| true) else {
            return Pick::Fallback;
        };
        if self.groups[index].backends.is_empty() {
            let Some(other) = self.group_of(hash, |group| !group.backends.is_empty()) else {
                // No backend is available, or only in groups without a percentage: the host
                // chooses.
                return Pick::Fallback;
            };
            index = other;
            self.rerouted += 1;
        }
        let group = &mut self.groups[index];
        group.sessions += 1;
        group.backends.pick(hash)
    }

    fn backends_changed(&mut self, backends: &Backends<'_>) -> Result<(), ConfigError> {
        let has_group = |tag| self.groups.iter().any(|group| group.config.tag == tag);
        if let Some(other) = backends.iter().find(|backend| !has_group(backend.tag())) {
            return Err(format!(
                "a backend has tag {0}, which no group in policy_config.groups has: it would never \
                 serve. Add {{ tag = {0}, percent = 0 }}, or give the backend another tag",
                other.tag()
            )
            .into());
        }
        for group in &mut self.groups {
            let of_group = backends.iter().filter(|b| b.tag() == group.config.tag);
            group.backends = Group::new(of_group);
        }
        Ok(())
    }

    fn counters(&self, values: &mut [u64]) {
        values[0] = self.rerouted;
        for (value, group) in values[1..].iter_mut().zip(&self.groups) {
            *value = group.sessions;
        }
    }
}

impl PercentSplit {
    /// Returns the index of the group for a hash, among the groups that `may_serve` accepts and
    /// that have a percentage.
    fn group_of(&self, hash: u64, may_serve: impl Fn(&GroupState) -> bool) -> Option<usize> {
        let hash = hash ^ self.salt;
        self.groups
            .iter()
            .enumerate()
            .filter(|(_, group)| group.config.percent > 0 && may_serve(group))
            .map(|(at, group)| {
                (
                    hash::score(group.key ^ hash, group.config.percent.into()),
                    at,
                )
            })
            .max_by(|(a, _), (b, _)| a.total_cmp(b))
            .map(|(_, at)| at)
    }
}

fn check(groups: &[GroupConfig]) -> Result<(), ConfigError> {
    if groups.is_empty() || groups.len() > GROUPS_MAX {
        return Err(format!(
            "policy_config.groups has {} groups; expected 1 to {GROUPS_MAX}, like \
             [{{ tag = 1, percent = 95 }}, {{ tag = 2, percent = 5 }}]",
            groups.len()
        )
        .into());
    }
    for (at, config) in groups.iter().enumerate() {
        if groups[..at].iter().any(|other| other.tag == config.tag) {
            return Err(format!(
                "policy_config.groups lists tag {} twice; list each tag once",
                config.tag
            )
            .into());
        }
    }
    let sum: u64 = groups.iter().map(|config| u64::from(config.percent)).sum();
    if sum != 100 {
        return Err(
            format!("the percentages in policy_config.groups sum to {sum}; expected 100").into(),
        );
    }
    Ok(())
}

export_policy!(PercentSplit);

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

    use waxwing_sdk::abi::BackendRecord;
    use waxwing_sdk::testing::{self, Driver};

    use super::*;

    /// Returns two backends for each of the tags 1, 2 and 3. Those with a tag in `down` are
    /// unhealthy.
    fn backends(down: &[u32]) -> Vec<BackendRecord> {
        let mut backends = testing::backends(&[1; 6]);
        for (backend, tag) in backends.iter_mut().zip([1, 1, 2, 2, 3, 3]) {
            backend.tag = tag;
            backend.flags = u32::from(!down.contains(&tag));
        }
        backends
    }

    fn config(percents: [u32; 3]) -> String {
        let [a, b, c] = percents;
        format!(
            r#"{{"groups": [{{"tag": 1, "percent": {a}}}, {{"tag": 2, "percent": {b}}},
                {{"tag": 3, "percent": {c}}}]}}"#
        )
    }

    fn driver(percents: [u32; 3], down: &[u32]) -> Driver<PercentSplit> {
        Driver::start(&config(percents), &backends(down), 1).unwrap()
    }

    /// Returns the group of each of 20,000 clients; 0 for none.
    fn groups(percents: [u32; 3], down: &[u32]) -> Vec<usize> {
        let picks = driver(percents, down).pick_all(testing::flows(4).take(20_000));
        let group = |pick| match pick {
            Pick::Backend(index) | Pick::Keep(index) => index / 2 + 1,
            Pick::Drop | Pick::Fallback => 0,
        };
        picks.into_iter().map(group).collect()
    }

    #[test]
    fn each_group_gets_its_percentage_of_clients() {
        for percents in [[95, 5, 0], [50, 30, 20], [0, 100, 0], [33, 33, 34]] {
            let groups = groups(percents, &[]);
            for (group, percent) in (1..).zip(percents) {
                let got = groups.iter().filter(|g| **g == group).count();
                let expected = percent as usize * 200;
                // Four standard deviations of a fair draw, at most.
                assert!(got.abs_diff(expected) <= 283, "{percents:?}: {got}");
            }
        }
    }

    #[test]
    fn raising_a_percentage_moves_clients_into_that_group_only() {
        let mut before = groups([100, 0, 0], &[]);
        for percent in [1, 5, 20, 50, 99, 100] {
            let after = groups([100 - percent, percent, 0], &[]);
            let moved: Vec<_> = before.iter().zip(&after).filter(|(a, b)| a != b).collect();
            assert!(!moved.is_empty());
            assert!(moved.iter().all(|pair| *pair == (&1, &2)), "at {percent}");
            before = after;
        }
    }

    #[test]
    fn clients_never_move_between_groups_of_unchanged_percentage() {
        let before = groups([40, 30, 30], &[]);
        let after = groups([20, 50, 30], &[]);
        for (old, new) in before.iter().zip(&after) {
            assert!(old == new || *old == 1 || *new == 2, "{old} to {new}");
        }
    }

    #[test]
    fn a_client_keeps_its_group_unless_split_by_flow() {
        let sessions = || {
            testing::flows(2)
                .map(|flow| flow.from_address("192.0.2.7".parse().unwrap()))
                .take(100)
        };
        let picks = driver([50, 50, 0], &[]).pick_all(sessions());
        assert!(picks.iter().all(|pick| *pick == picks[0]));
        let by_flow = config([50, 50, 0]).replace(r#"{"groups""#, r#"{"by": "flow", "groups""#);
        let mut driver = Driver::<PercentSplit>::start(&by_flow, &backends(&[]), 1).unwrap();
        driver.pick_all(sessions());
        assert!(driver.counters()[1] > 20 && driver.counters()[2] > 20);
    }

    #[test]
    fn clients_of_a_group_without_backends_go_to_the_others() {
        let (well, ill) = (groups([90, 10, 0], &[]), groups([90, 10, 0], &[2]));
        for (well, ill) in well.iter().zip(&ill) {
            assert_eq!(*ill, 1, "from {well}");
        }
        let mut driver = driver([90, 10, 0], &[2]);
        driver.pick_all(testing::flows(4).take(20_000));
        let moved = well.iter().filter(|group| **group == 2).count() as u64;
        assert_eq!(driver.counters(), [moved, 20_000, 0, 0, 0, 0, 0, 0, 0]);
        // A group without a percentage gets no clients.
        assert_eq!(groups([90, 10, 0], &[1, 2])[0], 0);
    }

    #[test]
    fn another_salt_selects_other_clients() {
        let salted = config([50, 50, 0]).replace(r#"{"groups""#, r#"{"salt": 7, "groups""#);
        let mut salted = Driver::<PercentSplit>::start(&salted, &backends(&[]), 1).unwrap();
        let flows = || testing::flows(4).take(1000);
        let plain = driver([50, 50, 0], &[]).pick_all(flows());
        let same = salted.pick_all(flows());
        let same = same.iter().zip(&plain).filter(|(a, b)| a == b).count();
        assert!((400..600).contains(&same), "{same} of 1000");
    }

    #[test]
    fn config_errors_say_what_to_write() {
        for (config, expected) in [
            ("{}", "has 0 groups; expected 1 to 8"),
            (&config([50, 40, 5]), "sum to 95; expected 100"),
            (&config([50, 40, 10]).replace('3', "2"), "tag 2 twice"),
            (
                r#"{"groups": [{"tag": 1, "percent": 100}]}"#,
                "Add { tag = 2, percent = 0 }",
            ),
            (
                r#"{"groups": [{"tag": 1, "percent": -1}]}"#,
                "policy_config.groups[0].percent: invalid value",
            ),
            (r#"{"group": []}"#, "unknown field `group`"),
        ] {
            let error = Driver::<PercentSplit>::start(config, &backends(&[]), 1)
                .err()
                .unwrap();
            assert!(error.reason().contains(expected), "{config}: {error}");
        }
    }
}
