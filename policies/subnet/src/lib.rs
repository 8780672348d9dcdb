//! Subnet: clients of a network go to the backends of a tag; the longest prefix decides. For sites
//! that serve their own region, tenants with their own servers, or an office that tries a new
//! version first.
//!
//! Invariant: the routes are kept as adjacent ranges of addresses without gap or overlap, so a
//! lookup is one binary search for any nesting of prefixes. IPv4 has the range `::ffff:0:0/96` for
//! itself: no IPv6 prefix routes an IPv4 client.

mod prefix;

use std::collections::BTreeMap;

use serde::Deserialize;
use waxwing_sdk::group::{Groups, HashBy};
use waxwing_sdk::{Backends, ConfigError, Flow, Pick, Policy, export_policy};

use crate::prefix::{IPV4, Prefix};

/// `policy_config = { routes = { "10.0.0.0/8" = 1, "2001:db8::/32" = 2 }, default = 3 }`.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Prefixes, each with the tag of the backends for its clients.
    routes: BTreeMap<String, u32>,
    /// The tag for clients without a matching prefix. Without it, any backend may serve them.
    default: Option<u32>,
    /// Whether clients go to any backend if none of their tag is available. If not, their packets
    /// are dropped.
    spill: bool,
    /// What is hashed to choose among the backends of a tag.
    by: HashBy,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            routes: BTreeMap::new(),
            default: None,
            spill: true,
            by: HashBy::Flow,
        }
    }
}

/// The routes, and the backends by tag.
pub struct Subnet {
    ranges: Vec<Range>,
    groups: Groups,
    spill: bool,
    by: HashBy,
    spilled: u64,
    dropped: u64,
}

/// Addresses from `first` up to the next range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Range {
    first: u128,
    tag: Option<u32>,
}

impl Policy for Subnet {
    type Config = Config;
    const COUNTERS: &'static [&'static str] = &["spilled", "dropped"];

    fn new(config: Config, backends: &Backends<'_>) -> Result<Self, ConfigError> {
        Ok(Self {
            ranges: ranges(&routes(&config)?, config.default),
            groups: Groups::new(backends),
            spill: config.spill,
            by: config.by,
            spilled: 0,
            dropped: 0,
        })
    }

    fn pick(&mut self, flow: &Flow<'_>, _: &Backends<'_>) -> Pick {
        let hash = self.by.hash(flow);
        let Some(tag) = self.tag_of(flow.source_octets()) else {
            return self.groups.all().pick(hash);
        };
        match self.groups.tagged(tag) {
            Some(group) => group.pick(hash),
            None if self.spill => {
                self.spilled += 1;
                self.groups.all().pick(hash)
            }
            None => {
                self.dropped += 1;
                Pick::Drop
            }
        }
    }

    fn counters(&self, values: &mut [u64]) {
        values.copy_from_slice(&[self.spilled, self.dropped]);
    }
}

impl Subnet {
    fn tag_of(&self, source: &[u8; 16]) -> Option<u32> {
        let source = u128::from_be_bytes(*source);
        let behind = self.ranges.partition_point(|range| range.first <= source);
        self.ranges[..behind].last()?.tag
    }
}

/// Returns the config's routes and one for all of IPv4, containing prefixes before contained ones.
fn routes(config: &Config) -> Result<Vec<(Prefix, Option<u32>)>, ConfigError> {
    let mut routes = Vec::new();
    for (text, tag) in &config.routes {
        let prefix = Prefix::parse(text)
            .map_err(|error| error.at(&format!("policy_config.routes has {text:?}")))?;
        routes.push((prefix, Some(*tag)));
    }
    if !routes.iter().any(|(prefix, _)| *prefix == IPV4) {
        routes.push((IPV4, config.default));
    }
    routes.sort_unstable_by_key(|(prefix, _)| (prefix.first(), prefix.bits()));
    match routes.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        Some(twice) => Err(format!(
            "policy_config.routes has one prefix in two spellings: {}",
            twice[0].0
        )
        .into()),
        None => Ok(routes),
    }
}

/// Converts nested prefixes, in order, to ranges.
fn ranges(routes: &[(Prefix, Option<u32>)], default: Option<u32>) -> Vec<Range> {
    let mut open = vec![(u128::MAX, default)];
    let mut ranges = vec![Range {
        first: 0,
        tag: default,
    }];
    for (prefix, tag) in routes {
        let (first, tag) = (prefix.first(), *tag);
        close_before(first, &mut open, &mut ranges);
        open.push((prefix.last(), tag));
        ranges.push(Range { first, tag });
    }
    close_before(u128::MAX, &mut open, &mut ranges);
    ranges
}

/// Closes the prefixes that end before `first`; the enclosing prefix continues after each.
fn close_before(first: u128, open: &mut Vec<(u128, Option<u32>)>, ranges: &mut Vec<Range>) {
    while let [.., (_, around), (last, _)] = open[..] {
        if last >= first {
            return;
        }
        open.pop();
        ranges.push(Range {
            first: last + 1,
            tag: around,
        });
    }
}

export_policy!(Subnet);

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

    use waxwing_sdk::testing::{self, Driver, TestFlow};

    use super::*;

    /// Makes a driver with one backend for each tag from 0 on. Those at the indices `down` are
    /// unhealthy.
    fn driver(config: &str, tags: u32, down: &[usize]) -> Result<Driver<Subnet>, ConfigError> {
        let mut backends = testing::backends(&vec![1; tags as usize]);
        for (tag, backend) in (0..).zip(&mut backends) {
            backend.tag = tag;
        }
        for index in down {
            backends[*index].flags = 0;
        }
        Driver::start(config, &backends, 1)
    }

    fn flow(source: &str) -> TestFlow {
        let flow = testing::flows(1).next().unwrap();
        flow.from_address(source.parse().unwrap())
    }

    const NESTED: &str = r#"{"default": 9, "routes": {
        "10.0.0.0/8": 1, "10.1.0.0/16": 2, "10.1.2.0/24": 3, "10.1.2.3/32": 4, "255.0.0.0/8": 5,
        "2001:db8::/32": 6, "2001:db8::/48": 7, "ffff::/16": 8, "::/1": 0 }}"#;

    #[test]
    fn the_longest_prefix_wins() {
        let mut driver = driver(NESTED, 10, &[]).unwrap();
        for (source, tag) in [
            ("9.255.255.255", 9),
            ("10.0.0.0", 1),
            ("10.0.255.255", 1),
            ("10.1.0.0", 2),
            ("10.1.2.2", 3),
            ("10.1.2.3", 4),
            ("10.1.2.4", 3),
            ("10.1.3.0", 2),
            ("10.2.0.0", 1),
            ("11.0.0.0", 9),
            ("0.0.0.0", 9),
            ("255.255.255.255", 5),
            ("2001:db8::1", 7),
            ("2001:db8:1::1", 6),
            ("2001:db9::", 0),
            ("::", 0),
            ("8000::", 9),
            ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 8),
        ] {
            let pick = driver.pick(&[flow(source)]);
            assert_eq!(pick, [Pick::Backend(tag)], "{source}");
        }
    }

    #[test]
    fn ranges_agree_with_a_scan_of_all_prefixes() {
        let mut config = Config::default();
        let random = |n: u64| waxwing_sdk::hash::mix(n).to_be_bytes();
        for n in 0..500 {
            // Few bits of few networks, so that many prefixes nest.
            let [a, b, bits, ..] = random(n);
            let bits = bits % 17;
            let address =
                u16::from_be_bytes([a & 3, b]) & !(u16::MAX.checked_shr(bits.into()).unwrap_or(0));
            let [a, b] = address.to_be_bytes();
            let tag = u32::try_from(n).unwrap();
            config.routes.insert(format!("{a}.{b}.0.0/{bits}"), tag);
        }
        let routes = routes(&config).unwrap();
        let subnet = Subnet::new_for(&routes);
        for n in 0..20_000 {
            let [a, b, c, ..] = random(!n);
            let source = std::net::Ipv4Addr::new(a & 7, b, c, 1).to_ipv6_mapped();
            let address = u128::from(source);
            let longest = routes
                .iter()
                .filter(|(prefix, _)| (prefix.first()..=prefix.last()).contains(&address))
                .max_by_key(|(prefix, _)| prefix.bits());
            let expected = longest.and_then(|(_, tag)| *tag);
            assert_eq!(subnet.tag_of(&source.octets()), expected, "{source}");
        }
    }

    impl Subnet {
        fn new_for(routes: &[(Prefix, Option<u32>)]) -> Self {
            Self {
                ranges: ranges(routes, None),
                groups: Groups::default(),
                spill: true,
                by: HashBy::Flow,
                spilled: 0,
                dropped: 0,
            }
        }
    }

    #[test]
    fn clients_of_a_tag_without_backends_spill_or_are_dropped() {
        let config = r#"{"routes": {"10.0.0.0/8": 1, "11.0.0.0/8": 7}, "default": 0}"#;
        let mut spills = driver(config, 3, &[1]).unwrap();
        let picks = spills.pick_all(testing::flows(1).take(100));
        assert!(testing::counts(&picks, 3)[1] == 0 && !picks.contains(&Pick::Drop));
        assert_eq!(spills.counters(), [100, 0]);
        let config = config.replace("\"default\"", "\"spill\": false, \"default\"");
        let mut drops = driver(&config, 3, &[1]).unwrap();
        let picks = drops.pick(&[flow("10.0.0.1"), flow("11.0.0.1"), flow("12.0.0.1")]);
        assert_eq!(picks, [Pick::Drop, Pick::Drop, Pick::Backend(0)]);
        assert_eq!(drops.counters(), [0, 2]);
    }

    #[test]
    fn clients_without_a_prefix_or_default_go_to_any_backend() {
        let mut driver = driver(r#"{"routes": {"192.0.2.0/24": 1}}"#, 4, &[]).unwrap();
        let picks = driver.pick_all(testing::flows(1).take(4000));
        assert!(testing::overload(&testing::counts(&picks, 4), &[1; 4]) < 0.1);
    }

    #[test]
    fn config_errors_say_what_to_write() {
        let cases = r#"
            {"routes": {"10.0.0.1/8": 1}} => write 10.0.0.0/8
            {"routes": {"2001:db8::1/32": 1}} => write 2001:db8::/32
            {"routes": {"10.0.0.0": 1}} => write 10.0.0.0/32
            {"routes": {"10.0.0.0/33": 1}} => 0 to 32 bits
            {"routes": {"::/129": 1}} => 0 to 128 bits
            {"routes": {"10/8": 1}} => an address
            {"routes": {"::ffff:10.0.0.0/104": 1}} => write 10.0.0.0/8
            {"routes": {"2001:db8::/32": 1, "2001:DB8::/32": 1}} => two spellings: 2001:db8::/32
            {"routes": {"10.0.0.0/8": "a"}} => invalid type: string
            {"route": {}} => unknown field `route`
        "#;
        testing::assert_config_errors(cases, |config| driver(config, 1, &[]).err().unwrap());
    }
}
