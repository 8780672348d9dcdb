//! Rendezvous hashing, or highest random weight: each backend draws a random number for a flow by
//! the hash of both, and the best goes (Thaler, Ravishankar, "Using Name-Based Mappings to Increase
//! Hit Rates", IEEE/ACM ToN 1998; by weight: Schindelhauer, Schomaker, SPAA 2005).
//!
//! Use it in place of `maglev` when no session may move that need not: a backend that goes moves its
//! own flows and none of the others', one that comes takes its share of each and swaps none. The
//! price is evenness: shares are as even as chance makes them, with a standard deviation of
//! `sqrt(backends / table)` (1.2 % for ten backends, 4 % for a hundred).
//!
//! A draw by every backend for every flow would be too slow where there are thousands. So flows fall
//! into buckets by their hash, and the backends draw for the buckets beforehand, as in a race: each
//! arrives at random buckets at random times, at a rate that is its weight, and a bucket belongs to
//! the first to arrive. First arrivals are independent and exponentially distributed, which is the
//! draw of weighted rendezvous, `-ln(u) / weight`, where the least wins.
//!
//! Invariant: when and where a backend arrives depends on its key and weight and on the table's size
//! alone. So others can only be first in its place, or no longer be; and all balancers agree.

use serde::Deserialize;
use waxwing_sdk::random::Random;
use waxwing_sdk::{Backend, Backends, ConfigError, Flow, Pick, Policy, export_policy, hash};

/// `policy_config = { table = 65536 }`.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Buckets, two bytes each.
    table: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self { table: 65_536 }
    }
}

/// The most buckets, half a MiB: the race for them takes some 100 milliseconds.
const TABLE_MAX: u32 = 262_144;

/// Backends by bucket; empty if no backend is available.
pub struct Rendezvous {
    size: u32,
    buckets: Vec<u16>,
}

impl Policy for Rendezvous {
    type Config = Config;

    fn new(config: Config, backends: &Backends<'_>) -> Result<Self, ConfigError> {
        let size = config.table;
        if !(1..=TABLE_MAX).contains(&size) {
            return Err(format!(
                "policy_config.table = {size}: expected 1 to {TABLE_MAX}, like 65536 (the default), \
                 or 1024 (few backends, many services)"
            ).into());
        }
        let buckets = race(backends, size);
        Ok(Self { size, buckets })
    }

    fn pick(&mut self, flow: &Flow<'_>, _: &Backends<'_>) -> Pick {
        // The upper half of the hash, scaled to the table: a multiplication, not a division.
        let bucket = ((flow.hash() >> 32) * u64::from(self.size)) >> 32;
        let bucket = usize::try_from(bucket).unwrap_or(usize::MAX);
        let index = self.buckets.get(bucket);
        index.map_or(Pick::Fallback, |index| Pick::Backend(usize::from(*index)))
    }

    fn backends_changed(&mut self, backends: &Backends<'_>) -> Result<(), ConfigError> {
        self.buckets = race(backends, self.size);
        Ok(())
    }
}

/// A backend on its way from bucket to bucket.
struct Racer {
    index: u16,
    weight: f64,
    random: Random,
    /// When it arrives at the next bucket.
    arrives: f64,
}

impl Racer {
    fn new(backend: Backend<'_>) -> Option<Self> {
        let mut racer = Self {
            index: u16::try_from(backend.index()).ok()?,
            weight: f64::from(backend.weight()),
            random: Random::new(backend.key()),
            arrives: 0.0,
        };
        racer.go_on();
        Some(racer)
    }

    fn go_on(&mut self) {
        self.arrives += hash::minus_ln(self.random.next()) / self.weight;
    }
}

/// Round by round, all run for a time in which they arrive as often as there are buckets: a bucket
/// that was found in a round was found by its first, as all later rounds are later. Some `ln(size)`
/// rounds find them all.
fn race(backends: &Backends<'_>, size: u32) -> Vec<u16> {
    let mut racers: Vec<_> = backends.available().filter_map(Racer::new).collect();
    if racers.is_empty() {
        return Vec::new();
    }
    let round = f64::from(size) / racers.iter().map(|racer| racer.weight).sum::<f64>();
    let mut buckets = vec![0; size as usize];
    let mut first = vec![f64::INFINITY; size as usize];
    let (mut free, mut until) = (size, 0.0);
    while free > 0 {
        until += round;
        for racer in &mut racers {
            while racer.arrives < until {
                let bucket = racer.random.below(u64::from(size));
                let bucket = usize::try_from(bucket).unwrap_or(0);
                if racer.arrives < first[bucket] {
                    free -= u32::from(first[bucket].is_infinite());
                    first[bucket] = racer.arrives;
                    buckets[bucket] = racer.index;
                }
                racer.go_on();
            }
        }
    }
    buckets
}

export_policy!(Rendezvous);

#[cfg(test)]
mod tests;
