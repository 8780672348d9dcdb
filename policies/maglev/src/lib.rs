//! Weighted Maglev: consistent hashing by a table (Eisenbud et al., "Maglev: A Fast and Reliable
//! Software Network Load Balancer", NSDI 2016; IPVS's `mh`).
//!
//! Use it when several balancers share the traffic, or connections must survive a restart: all
//! balancers with the same backends send a flow to the same one.
//!
//! Invariant: a pick depends only on the available backends' keys and weights, the size of the
//! table and the flow's hash ([`Table`]). So all workers and balancers of a cluster agree, also
//! after a restart.

use serde::Deserialize;
use waxwing_sdk::maglev::Table;
use waxwing_sdk::{Backends, ConfigError, Flow, Pick, Policy, export_policy};

/// `policy_config = { table = 65537 }`.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Entries of the table, two bytes each: a prime, and for shares within one or two percent at
    /// least a hundred times the number of backends (section 5.3 of the paper).
    table: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self { table: 65_537 }
    }
}

/// Maps the flow's hash to a backend.
pub struct Maglev {
    table: Table,
}

impl Policy for Maglev {
    type Config = Config;

    fn new(config: Config, backends: &Backends<'_>) -> Result<Self, ConfigError> {
        let table = Table::new(backends.available(), config.table);
        let table = table.map_err(|error| error.at("policy_config.table"))?;
        Ok(Self { table })
    }

    fn pick(&mut self, flow: &Flow<'_>, _: &Backends<'_>) -> Pick {
        let index = self.table.get(flow.hash());
        index.map_or(Pick::Fallback, Pick::Backend)
    }
}

export_policy!(Maglev);

#[cfg(test)]
mod tests;
