//! Rendezvous hashing, or highest random weight: each backend has a score for a flow, a hash of
//! both, and the best score wins (Thaler, Ravishankar, "Using Name-Based Mappings to Increase Hit
//! Rates", IEEE/ACM ToN 1998; weighted: Schindelhauer, Schomaker, SPAA 2005).
//!
//! Use it instead of `maglev` when only necessary moves are acceptable: removing a backend moves
//! its own flows only, and adding one moves only the flows that it takes over. The price is
//! evenness: shares are random, with a standard deviation of `sqrt(backends / table)` (1.2 % for
//! ten backends, 4 % for a hundred).
//!
//! Scoring every backend for every flow would be too slow for thousands. So flows fall into buckets
//! by their hash, and the backends of the buckets are computed in advance, by a process of
//! arrivals: each backend arrives at random buckets at random times, at a rate equal to its weight,
//! and the first to arrive gets the bucket. First arrivals are independent and exponentially
//! distributed, as are the scores of weighted rendezvous, `-ln(u) / weight`, of which the lowest
//! wins.
//!
//! Invariant: a backend's arrivals depend only on its key and weight and on the size of the table.
//! So adding or removing one changes only its own buckets, and all balancers agree.

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

/// Most buckets, half a MiB; computing them takes about 100 milliseconds.
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
        let buckets = fill(backends, size);
        Ok(Self { size, buckets })
    }

    fn pick(&mut self, flow: &Flow<'_>, _: &Backends<'_>) -> Pick {
        // Scales the upper half of the hash to the table: a multiplication instead of a division.
        let bucket = ((flow.hash() >> 32) * u64::from(self.size)) >> 32;
        let bucket = usize::try_from(bucket).unwrap_or(usize::MAX);
        let index = self.buckets.get(bucket);
        index.map_or(Pick::Fallback, |index| Pick::Backend(usize::from(*index)))
    }
}

/// The arrivals of one backend.
struct Arrivals {
    index: u16,
    weight: f64,
    random: Random,
    /// Time of its next arrival.
    next: f64,
}

impl Arrivals {
    fn new(backend: Backend<'_>) -> Option<Self> {
        let mut arrivals = Self {
            index: u16::try_from(backend.index()).ok()?,
            weight: f64::from(backend.weight()),
            random: Random::new(backend.key()),
            next: 0.0,
        };
        arrivals.advance();
        Some(arrivals)
    }

    fn advance(&mut self) {
        self.next += hash::minus_ln(self.random.next()) / self.weight;
    }
}

/// Computes the backend of each bucket.
///
/// Works in rounds of equal time, in which as many arrivals happen as there are buckets. A bucket
/// that gets a backend in a round has its first arrival there, because later rounds are later.
/// About `ln(size)` rounds fill all buckets.
fn fill(backends: &Backends<'_>, size: u32) -> Vec<u16> {
    let mut backends: Vec<_> = backends.available().filter_map(Arrivals::new).collect();
    if backends.is_empty() {
        return Vec::new();
    }
    let round = f64::from(size) / backends.iter().map(|backend| backend.weight).sum::<f64>();
    let mut buckets = vec![0; size as usize];
    let mut first = vec![f64::INFINITY; size as usize];
    let (mut free, mut until) = (size, 0.0);
    while free > 0 {
        until += round;
        for backend in &mut backends {
            while backend.next < until {
                let bucket = backend.random.below(u64::from(size));
                let bucket = usize::try_from(bucket).unwrap_or(0);
                if backend.next < first[bucket] {
                    free -= u32::from(first[bucket].is_infinite());
                    first[bucket] = backend.next;
                    buckets[bucket] = backend.index;
                }
                backend.advance();
            }
        }
    }
    buckets
}

export_policy!(Rendezvous);

#[cfg(test)]
mod tests;
