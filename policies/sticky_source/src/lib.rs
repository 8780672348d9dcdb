//! Sticky source: a client stays with its backend for some time after its last session, even if
//! backends come or change weight. For servers that keep state of a client.
//!
//! A client that is not in the table goes by weighted rendezvous hashing of its address. So if the
//! table is lost (as after a fault of the module) or too small, nearly all clients go
//! where they were; the table only keeps those that would have moved since. If that is not worth a
//! table, use `source_hash`. New builds, changed configs and restarts keep the table, up to 37,000
//! clients of each worker.
//!
//! Invariant: the table has a fixed number of entries, in sets of eight. A pick examines one set,
//! selected with the worker's seed so that clients cannot choose it. A full set evicts its longest
//! idle client.

mod table;

use serde::Deserialize;
use waxwing_sdk::client::ClientPrefix;
use waxwing_sdk::group::Group;
use waxwing_sdk::{Backends, ConfigError, Flow, Pick, Policy, Saved, export_policy, hash};

use crate::table::{Lookup, SET_ENTRIES, Table};

/// `policy_config = { timeout_s = 300, clients_max = 16384, prefix_v4 = 32, prefix_v6 = 128 }`.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How long a client stays after its last session began, in seconds.
    timeout_s: u32,
    /// Most clients in the table, 32 bytes each, rounded up to a multiple of eight.
    clients_max: usize,
    /// Bits of an IPv4 address that identify a client, 1 to 32.
    prefix_v4: u32,
    /// Bits of an IPv6 address that identify a client, 1 to 128; 64 for clients that change their
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

/// The form of the state: the keys of the backends, and the clients.
const STATE_FORM: u32 = 1;

/// Most clients: a table of 2 MiB.
const CLIENTS_MAX: usize = 65_536;
/// Entries that a tick examines, in about ten microseconds.
const SWEEP_ENTRIES: usize = 8_192;

/// The table of clients, and where new clients go.
pub struct StickySource {
    table: Table,
    prefix: ClientPrefix,
    seed: u64,
    /// Chooses the backends of new clients.
    backends: Group,
    /// Ids of the backends, by the indices in the table.
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

impl Counts {
    const fn count(&mut self, lookup: Lookup) {
        match lookup {
            Lookup::Hit => self.hits += 1,
            Lookup::NewInFree => self.new += 1,
            Lookup::NewInExpired => {
                self.new += 1;
                self.expired += 1;
            }
            Lookup::NewInEvicted => {
                self.new += 1;
                self.evicted += 1;
            }
        }
    }
}

impl Policy for StickySource {
    type Config = Config;
    const TICK_MS: u32 = 1_000;
    const SAVES: bool = true;
    const COUNTERS: &'static [&'static str] = &["hits", "new", "expired", "released", "evicted"];
    const GAUGES: &'static [&'static str] = &["clients"];

    fn new(config: Config, backends: &Backends<'_>) -> Result<Self, ConfigError> {
        check(&config)?;
        let mut sticky = Self {
            table: Table::new(config.clients_max, u64::from(config.timeout_s) * 1000),
            prefix: ClientPrefix::new(config.prefix_v4, config.prefix_v6)?,
            seed: backends.seed(),
            backends: Group::default(),
            ids: Vec::new(),
            counts: Counts::default(),
        };
        sticky.backends_changed(backends)?;
        Ok(sticky)
    }

    fn pick(&mut self, flow: &Flow<'_>, backends: &Backends<'_>) -> Pick {
        let client = self.prefix.of(flow);
        let hash = hash::bytes(&client.to_be_bytes());
        let place = hash::mix(hash ^ self.seed);
        let first = || self.backends.by_hash(hash);
        let Some((lookup, backend)) =
            self.table
                .find_or_insert(client, place, backends.now_ms(), first)
        else {
            return Pick::Fallback;
        };
        self.counts.count(lookup);
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
        self.counts.released += self.table.reindex(index_now);
        self.ids = backends.iter().map(|backend| backend.id()).collect();
        Ok(())
    }

    fn tick(&mut self, backends: &Backends<'_>) {
        self.counts.expired += self
            .table
            .sweep(SWEEP_ENTRIES / SET_ENTRIES, backends.now_ms());
    }

    fn save(&self, backends: &Backends<'_>, out: &mut Vec<u8>) {
        out.extend(STATE_FORM.to_le_bytes());
        out.extend((backends.len() as u64).to_le_bytes());
        for backend in backends.iter() {
            out.extend(backend.key().to_le_bytes());
        }
        self.table.save(out, backends.now_ms());
    }

    fn restore(config: Config, backends: &Backends<'_>, saved: &[u8]) -> Result<Self, ConfigError> {
        let mut sticky = Self::new(config, backends)?;
        let mut saved = Saved::of_form(STATE_FORM, saved)?;
        let mut by_key: Vec<_> = backends.available().map(|b| (b.key(), b.index())).collect();
        by_key.sort_unstable();
        let mut indices = Vec::new();
        for _ in 0..saved.u64()? {
            let key = saved.u64()?;
            let at = by_key.binary_search_by_key(&key, |(key, _)| *key);
            indices.push(at.ok().map(|at| by_key[at].1));
        }
        // The policy before this one has counted them as new.
        let mut counts = Counts::default();
        while !saved.is_empty() {
            let client = u128::from_le_bytes(saved.bytes()?);
            let (last_ms, before) = (saved.u64()?, saved.u32()?);
            let Some(Some(backend)) = indices.get(before as usize) else {
                counts.released += 1;
                continue;
            };
            let place = hash::mix(hash::bytes(&client.to_be_bytes()) ^ sticky.seed);
            let backend = || Some(*backend);
            if let Some((lookup, _)) = sticky.table.find_or_insert(client, place, last_ms, backend)
            {
                counts.count(lookup);
            }
        }
        (counts.hits, counts.new) = (0, 0);
        sticky.counts = counts;
        Ok(sticky)
    }

    fn counters(&self, values: &mut [u64]) {
        let Counts {
            hits,
            new,
            expired,
            released,
            evicted,
        } = self.counts;
        let clients = self.table.clients();
        values.copy_from_slice(&[hits, new, expired, released, evicted, clients]);
    }
}

fn check(config: &Config) -> Result<(), ConfigError> {
    let Config {
        timeout_s,
        clients_max,
        ..
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
    Ok(())
}

export_policy!(StickySource);

#[cfg(test)]
mod tests;
