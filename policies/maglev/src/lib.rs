//! Maglev, weighted: a table that gives each backend its share of entries and changes little when
//! backends come or go (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load
//! Balancer", NSDI 2016, section 3.4).
//!
//! Invariant: the table depends on nothing but the available backends' keys and weights and its
//! own size, and a pick on nothing but the table and the flow's hash; so every worker and every
//! balancer of a cluster sends a flow to the same backend, and so does one that was restarted.

use serde::Deserialize;
use waxwing_sdk::{Backend, Backends, Flow, Pick, Policy, export_policy, hash};

/// `policy_config = { table = 65537 }`.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Entries in the table, two bytes each: a prime, and for shares within a percent or two at
    /// least a hundred times the number of backends (section 5.3 of the paper).
    table: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self { table: 65_537 }
    }
}

/// The largest table, 2 MiB: a hundred entries for each of ten thousand backends.
const TABLE_MAX: u32 = 1_048_573;

/// Backend indices by hash; empty if no backend is available.
pub struct Maglev {
    size: u32,
    table: Vec<u16>,
}

/// An entry of a table being filled that is nobody's yet.
const FREE: u16 = u16::MAX;

impl Policy for Maglev {
    type Config = Config;

    fn new(config: Config, backends: &Backends<'_>) -> Result<Self, String> {
        let size = config.table;
        if size > TABLE_MAX || !is_prime(size) {
            return Err(format!(
                "policy_config.table = {size}: expected a prime up to {TABLE_MAX}, like 251 (few \
                 backends, many services), 65537 (the default) or 655373 (thousands of backends)"
            ));
        }
        let mut maglev = Self {
            size,
            table: Vec::new(),
        };
        maglev.backends_changed(backends)?;
        Ok(maglev)
    }

    fn pick(&mut self, flow: &Flow<'_>, _: &Backends<'_>) -> Pick {
        // The upper half of the hash, scaled to the table: a multiplication, not a division.
        let entry = ((flow.hash() >> 32) * u64::from(self.size)) >> 32;
        let index = usize::try_from(entry)
            .ok()
            .and_then(|entry| self.table.get(entry));
        index.map_or(Pick::Fallback, |index| Pick::Backend(usize::from(*index)))
    }

    fn backends_changed(&mut self, backends: &Backends<'_>) -> Result<(), String> {
        let available = backends.available().count();
        if available > self.size as usize {
            return Err(format!(
                "policy_config.table = {}: fewer entries than the {available} backends; expected a \
                 prime of at least {}",
                self.size,
                available * 100
            ));
        }
        self.table = fill(self.size, backends);
        Ok(())
    }
}

/// A backend taking its turns: it claims the free entry that comes first in its permutation.
struct Turns {
    index: u16,
    /// What it may still claim, in parts of the heaviest backend's weight.
    credit: u64,
    weight: u64,
    next: u32,
    skip: u32,
}

impl Turns {
    fn new(backend: Backend<'_>, size: u32) -> Option<Self> {
        let below = |limit: u32, random: u64| {
            u32::try_from(((random >> 32) * u64::from(limit)) >> 32).unwrap_or(0)
        };
        Some(Self {
            index: u16::try_from(backend.index()).ok()?,
            credit: 0,
            weight: u64::from(backend.weight()),
            next: below(size, hash::mix(backend.key())),
            // From 1 to size - 1: as the size is a prime, the steps visit every entry.
            skip: 1 + below(size - 1, hash::mix(!backend.key())),
        })
    }

    fn claim(&mut self, table: &mut [u16], size: u32) {
        while table[self.next as usize] != FREE {
            self.step(size);
        }
        table[self.next as usize] = self.index;
        self.step(size);
    }

    fn step(&mut self, size: u32) {
        self.next += self.skip;
        if self.next >= size {
            self.next -= size;
        }
    }
}

/// In each round a backend earns its weight and claims an entry for every `heaviest` earned: the
/// heaviest claims one a round, one of half its weight one in two rounds.
fn fill(size: u32, backends: &Backends<'_>) -> Vec<u16> {
    // By key, since the order in which backends claim must not hang on the order in the config.
    let mut ordered: Vec<_> = backends.available().collect();
    ordered.sort_unstable_by_key(|backend| (backend.key(), backend.id()));
    let heaviest = ordered
        .iter()
        .map(|b| u64::from(b.weight()))
        .max()
        .unwrap_or(0);
    let mut turns: Vec<_> = ordered
        .into_iter()
        .filter_map(|b| Turns::new(b, size))
        .collect();
    if turns.is_empty() {
        return Vec::new();
    }
    let mut table = vec![FREE; size as usize];
    let mut free = size;
    loop {
        for backend in &mut turns {
            backend.credit += backend.weight;
            if backend.credit >= heaviest {
                backend.credit -= heaviest;
                backend.claim(&mut table, size);
                free -= 1;
                if free == 0 {
                    return table;
                }
            }
        }
    }
}

fn is_prime(n: u32) -> bool {
    n >= 2 && (2..=n.isqrt()).all(|divisor| n % divisor != 0)
}

export_policy!(Maglev);

#[cfg(test)]
mod tests;
