//! DNS name: a query goes by the name it asks for. Names under a suffix go to the resolvers of a
//! tag; all others by their hash, so that one resolver caches a name and not all of them: the caches
//! add up instead of holding the same.
//!
//! A session is a flow, and the name that counts is its first query's. Resolvers and stubs that ask
//! from a port of its own each time, as they should (RFC 5452 section 9.2), get what is said here.
//!
//! Invariant: a name is read in one bounded pass over the payload's start, and nothing that a client
//! sends makes a pick look at more than [`LABELS_MAX`] suffixes.

mod name;

use std::collections::BTreeMap;

use serde::Deserialize;
use waxwing_sdk::group::{Group, Groups};
use waxwing_sdk::{Backends, ConfigError, Flow, Pick, Policy, Protocol, export_policy, hash};

use crate::name::Name;

/// The most labels of a suffix: `a.b.example.com` has four.
pub const LABELS_MAX: usize = 8;

/// `policy_config = { suffixes = { "example.com" = 1 }, default = 2, malformed = "pick" }`.
#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// From the end of a name, in whole labels, to the tag of its backends. The longest wins.
    suffixes: BTreeMap<String, u32>,
    /// The tag for names of no suffix; without it any backend may serve them.
    default: Option<u32>,
    /// What to do with a UDP payload that is no query.
    malformed: Malformed,
}

/// What to do with a payload that is no query.
#[derive(Deserialize, Default, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Malformed {
    /// Any backend by the flow's hash: the server may answer with an error.
    #[default]
    Pick,
    /// Drop it.
    Drop,
}

/// The suffixes and the backends by tag.
pub struct DnsName {
    /// By the suffix in wire form, lower case.
    suffixes: BTreeMap<Vec<u8>, u32>,
    /// The labels of the longest suffix: what a pick looks at.
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
            // A connection opens without a query.
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

    fn backends_changed(&mut self, backends: &Backends<'_>) -> Result<(), ConfigError> {
        self.groups = Groups::new(backends);
        Ok(())
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
    /// The tag of the longest suffix that a name ends with.
    fn tag_of(&self, name: &Name) -> Option<u32> {
        name.suffixes(self.labels)
            .find_map(|suffix| self.suffixes.get(suffix).copied())
    }

    /// The backends of a tag; all of them without a tag, or where it has none available.
    fn group(&self, tag: Option<u32>) -> &Group {
        tag.and_then(|tag| self.groups.tagged(tag))
            .unwrap_or(self.groups.all())
    }
}

export_policy!(DnsName);

#[cfg(test)]
mod tests;
