//! Stable ids of source addresses.
//!
//! Invariant: as with backends, a removed address keeps its id until its last session has ended, and is
//! freed by a later change than the one that removed it.

use std::collections::HashSet;

use waxwing_dataplane::model::SOURCES_MAX;
use waxwing_dataplane::model::{SourcePool, Sources};
use waxwing_dataplane::{Gauges, SourceId};
use waxwing_packet::Address;

use super::{CatalogError, Ids};
use crate::config::Config;

/// The assigned ids.
#[derive(Clone, Debug)]
pub(super) struct SourceIds {
    ids: Ids<Address>,
    /// Addresses of the last config.
    live: HashSet<Address>,
}

impl SourceIds {
    pub(super) fn new() -> Self {
        Self {
            ids: Ids::new(SOURCES_MAX.into()),
            live: HashSet::new(),
        }
    }

    /// Returns the source addresses of the next snapshot.
    pub(super) fn advance(
        &mut self,
        config: &Config,
        gauges: &Gauges,
    ) -> Result<Sources, CatalogError> {
        let mut live = HashSet::new();
        let mut pools = Vec::with_capacity(config.source_nat.len());
        for table in &config.source_nat {
            let mut addresses = Vec::with_capacity(table.addresses.len());
            for address in table.addresses.iter().map(|address| address.value) {
                let id = self.ids.id(address).ok_or(CatalogError::Sources {
                    address,
                    max: SOURCES_MAX.into(),
                })?;
                addresses.push(source_id(id));
                live.insert(address);
            }
            pools.push(SourcePool {
                clients: table.clients.iter().map(|prefix| prefix.value).collect(),
                addresses: addresses.into(),
                ports: table.ports,
            });
        }
        let left = std::mem::replace(&mut self.live, live);
        self.ids.retain(|address, id| {
            self.live.contains(address)
                || left.contains(address)
                || gauges.sessions_from(source_id(id)) > 0
        });
        let taken: Vec<_> = self
            .ids
            .iter()
            .map(|(address, id)| (source_id(id), address))
            .collect();
        Ok(Sources::new(&taken, &pools))
    }

    /// Returns whether a removed address has no sessions left.
    pub(super) fn has_freeable(&self, gauges: &Gauges) -> bool {
        self.ids.iter().any(|(address, id)| {
            !self.live.contains(&address) && gauges.sessions_from(source_id(id)) == 0
        })
    }
}

/// Source id 0 stands for the client's own address.
fn source_id(id: u32) -> SourceId {
    SourceId(u8::try_from(id + 1).unwrap_or(u8::MAX))
}
