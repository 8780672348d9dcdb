//! Sticky source: a client stays with its backend for some time since its last session, also when
//! backends come or change weight in the meantime. For servers that keep a client's state.
//!
//! A client that is not known goes by weighted rendezvous on its address. So a table that is lost
//! (every instance begins with an empty one) or too small sends nearly all clients where they were:
//! what is left to remember is who would have moved since. Where that is not worth a table, take
//! `source_hash`.
//!
//! Invariant: the table has a fixed number of entries, in sets of eight; a pick looks at one set,
//! whose place hangs on the worker's seed so that clients cannot choose it. A full set gives up its
//! longest idle client. Clients remembered are `new - expired - released - evicted`.

mod table;

use serde::Deserialize;
use waxwing_sdk::group::Group;
use waxwing_sdk::{Backends, ConfigError, Flow, Pick, Policy, export_policy, hash};

use crate::table::{Found, Table, WAYS};

/// `policy_config = { timeout_s = 300, clients_max = 16384, prefix_v4 = 32, prefix_v6 = 128 }`.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How long a client stays since its last session began, in seconds.
    timeout_s: u32,
    /// How many clients are remembered, 32 bytes each; rounded up to a multiple of eight.
    clients_max: usize,
    /// How many bits of an IPv4 address are one client, 1 to 32.
    prefix_v4: u32,
    /// How many bits of an IPv6 address are one client, 1 to 128: 64 for those that change their
    /// address within their network (RFC 8981).
    prefix_v6: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            timeout_s: 300,
            clients_max: 16_384,
            prefix_v4: 32,
            prefix_v6: 128,
        }
    }
}

/// The most clients: 2 MiB of them.
const CLIENTS_MAX: usize = 65_536;
/// How many entries a tick looks at: some ten microseconds.
const SWEEP: usize = 8_192;

/// Who is where.
pub struct StickySource {
    table: Table,
    mask_v4: u128,
    mask_v6: u128,
    seed: u64,
    /// Where clients begin.
    backends: Group,
    /// The backends' ids, by the index that the table knows them by.
    ids: Vec<u32>,
    counts: Counts,
}

#[derive(Default)]
struct Counts {
    hits: u64,
    new: u64,
    expired: u64,
    released: u64,
    evicted: u64,
}

impl Policy for StickySource {
    type Config = Config;
    const TICK_MS: u32 = 1_000;
    const KEEP_STATE: bool = true;
    const COUNTERS: &'static [&'static str] = &["hits", "new", "expired", "released", "evicted"];

    fn new(config: Config, backends: &Backends<'_>) -> Result<Self, ConfigError> {
        check(&config)?;
        let mut sticky = Self {
            table: Table::new(config.clients_max, u64::from(config.timeout_s) * 1000),
            // In the mapped form an IPv4 address has 96 bits in front.
            mask_v4: mask(96 + config.prefix_v4),
            mask_v6: mask(config.prefix_v6),
            seed: backends.seed(),
            backends: Group::default(),
            ids: Vec::new(),
            counts: Counts::default(),
        };
        sticky.backends_changed(backends)?;
        Ok(sticky)
    }

    fn pick(&mut self, flow: &Flow<'_>, backends: &Backends<'_>) -> Pick {
        let client = self.client(flow);
        let hash = hash::bytes(&client.to_be_bytes());
        let place = hash::mix(hash ^ self.seed);
        let first = || self.backends.by_hash(hash);
        let Some((found, backend)) = self.table.find(client, place, backends.now_ms(), first)
        else {
            return Pick::Fallback;
        };
        match found {
            Found::Known => self.counts.hits += 1,
            Found::InFree => self.counts.new += 1,
            Found::InExpired => {
                self.counts.new += 1;
                self.counts.expired += 1;
            }
            Found::InEvicted => {
                self.counts.new += 1;
                self.counts.evicted += 1;
            }
        }
        Pick::Backend(backend)
    }

    fn backends_changed(&mut self, backends: &Backends<'_>) -> Result<(), ConfigError> {
        self.backends = Group::new(backends.iter());
        let mut by_id: Vec<_> = backends.available().map(|b| (b.id(), b.index())).collect();
        by_id.sort_unstable();
        let ids = &self.ids;
        let index_now = |before: usize| {
            let id = *ids.get(before)?;
            let at = by_id.binary_search_by_key(&id, |(id, _)| *id).ok()?;
            Some(by_id[at].1)
        };
        self.counts.released += self.table.rename(index_now);
        self.ids = backends.iter().map(|backend| backend.id()).collect();
        Ok(())
    }

    fn tick(&mut self, backends: &Backends<'_>) {
        self.counts.expired += self.table.sweep(SWEEP / WAYS, backends.now_ms());
    }

    fn counters(&self, values: &mut [u64]) {
        let Counts {
            hits,
            new,
            expired,
            released,
            evicted,
        } = self.counts;
        values.copy_from_slice(&[hits, new, expired, released, evicted]);
    }
}

impl StickySource {
    /// The bits of the address that tell clients apart.
    fn client(&self, flow: &Flow<'_>) -> u128 {
        let mask = if flow.source().is_ipv4() {
            self.mask_v4
        } else {
            self.mask_v6
        };
        u128::from_be_bytes(*flow.source_octets()) & mask
    }
}

fn mask(bits: u32) -> u128 {
    !u128::MAX.checked_shr(bits).unwrap_or(0)
}

fn check(config: &Config) -> Result<(), ConfigError> {
    let Config {
        timeout_s,
        clients_max,
        prefix_v4,
        prefix_v6,
    } = *config;
    if timeout_s == 0 {
        return Err("policy_config.timeout_s = 0: expected 1 or more seconds, like 300".into());
    }
    if !(1..=CLIENTS_MAX).contains(&clients_max) {
        return Err(format!(
            "policy_config.clients_max = {clients_max}: expected 1 to {CLIENTS_MAX}"
        )
        .into());
    }
    if !(1..=32).contains(&prefix_v4) {
        return Err(format!("policy_config.prefix_v4 = {prefix_v4}: expected 1 to 32 bits").into());
    }
    if !(1..=128).contains(&prefix_v6) {
        return Err(
            format!("policy_config.prefix_v6 = {prefix_v6}: expected 1 to 128 bits").into(),
        );
    }
    Ok(())
}

export_policy!(StickySource);

#[cfg(test)]
mod tests;
