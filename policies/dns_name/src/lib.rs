//! DNS name: routes a query by the name in its question. Names under a suffix go to the resolvers
//! of a tag. All other names are hashed, so that each name is cached by one resolver and the caches
//! add up.
//!
//! A session is a flow, and its first query decides. Resolvers and stubs use a new port for each
//! query (RFC 5452 section 9.2), so in practice every query is routed by its own name.
//!
//! Invariant: a name is read in one bounded pass over the payload's start, and a pick compares at
//! most [`LABELS_MAX`] suffixes for any payload.

mod name;

use std::collections::BTreeMap;

use serde::Deserialize;
use waxwing_sdk::group::{Group, Groups};
use waxwing_sdk::{Backends, ConfigError, Flow, Pick, Policy, Protocol, export_policy, hash};

use crate::name::Name;

/// Most labels of a suffix; `a.b.example.com` has four.
pub const LABELS_MAX: usize = 8;

/// `policy_config = { suffixes = { "example.com" = 1 }, default = 2, malformed = "pick" }`.
#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Suffixes in whole labels, each with the tag of its backends. The longest match wins.
    suffixes: BTreeMap<String, u32>,
    /// The tag for names without a matching suffix. Without it, any backend may serve them.
    default: Option<u32>,
    /// What to do with a UDP payload that is not a query.
    malformed: Malformed,
}

/// What to do with a payload that is not a query.
#[derive(Deserialize, Default, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Malformed {
    /// Pick any backend by the flow's hash, so that the server may answer with an error.
    #[default]
    Pick,
    /// Drop the packet.
    Drop,
}

/// The suffixes, and the backends by tag.
pub struct DnsName {
    /// By suffix in wire form, lower case.
    suffixes: BTreeMap<Vec<u8>, u32>,
    /// Labels of the longest suffix: the most that a pick compares.
    labels: usize,
    default: Option<u32>,
    malformed: Malformed,
    groups: Groups,
    counts: Counts,
}

#[derive(Default)]
struct Counts {
    matched: u64,
    unmatched: u64,
    malformed: u64,
}

impl Policy for DnsName {
    type Config = Config;
    const PAYLOAD_BYTES: usize = 128;
    const COUNTERS: &'static [&'static str] = &["matched", "unmatched", "malformed"];

    fn new(config: Config, backends: &Backends<'_>) -> Result<Self, ConfigError> {
        let mut suffixes = BTreeMap::new();
        let mut labels = 0;
        for (text, tag) in &config.suffixes {
            let (suffix, count) = name::suffix(text, LABELS_MAX)
                .map_err(|error| error.at(&format!("policy_config.suffixes has {text:?}")))?;
            if suffixes.insert(suffix, *tag).is_some() {
                return Err(format!(
                    "policy_config.suffixes has {text:?} in two spellings; case and a dot at the \
                     end make no difference"
                )
                .into());
            }
            labels = labels.max(count);
        }
        Ok(Self {
            suffixes,
            labels,
            default: config.default,
            malformed: config.malformed,
            groups: Groups::new(backends),
            counts: Counts::default(),
        })
    }

    fn pick(&mut self, flow: &Flow<'_>, _: &Backends<'_>) -> Pick {
        if flow.protocol() == Protocol::Tcp {
            // A TCP connection opens without a query.
            return self.group(self.default).pick(flow.hash());
        }
        let Some(name) = name::question(flow.payload(), Self::PAYLOAD_BYTES) else {
            self.counts.malformed += 1;
            return match self.malformed {
                Malformed::Pick => self.groups.all().pick(flow.hash()),
                Malformed::Drop => Pick::Drop,
            };
        };
        let tag = self.tag_of(&name);
        let counter = match tag {
            Some(_) => &mut self.counts.matched,
            None => &mut self.counts.unmatched,
        };
        *counter += 1;
        let group = self.group(tag.or(self.default));
        group.pick(hash::bytes(name.wire()))
    }

    fn counters(&self, values: &mut [u64]) {
        let Counts {
            matched,
            unmatched,
            malformed,
        } = self.counts;
        values.copy_from_slice(&[matched, unmatched, malformed]);
    }
}

impl DnsName {
    /// Returns the tag of the longest suffix of the name.
    fn tag_of(&self, name: &Name) -> Option<u32> {
        name.suffixes(self.labels)
            .find_map(|suffix| self.suffixes.get(suffix).copied())
    }

    /// Returns the backends of a tag; all backends if there is no tag, or none of its backends is
    /// available.
    fn group(&self, tag: Option<u32>) -> &Group {
        tag.and_then(|tag| self.groups.tagged(tag))
            .unwrap_or(self.groups.all())
    }
}

export_policy!(DnsName);

#[cfg(test)]
mod tests;
