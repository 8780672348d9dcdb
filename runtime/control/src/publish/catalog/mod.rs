//! Stable ids: makes each config a [`Snapshot`] in which everything that sessions refer to keeps its id.
//!
//! Invariant: an id belongs to one service or backend until no session can refer to it. A service is
//! identified by its VIP, ports and protocol, a backend by its service, address and port; names may
//! change.
//!
//! A backend that left the config is *retired*: it stays in the snapshot with weight 0, outside its
//! service's list, and its sessions live on as its health says. A later [`Catalog::apply`] removes it
//! once it has no sessions, but never the one that retires it: until the workers take that snapshot,
//! they may still give it sessions. Its id then goes to the end of the free queue, so the id is unused
//! for at least one snapshot and never means two backends to two workers. A service's id lives as long
//! as its backends.

mod sources;

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::sync::Arc;

use waxwing_dataplane::model::{NoBackend, Port, SourceUse};
use waxwing_dataplane::{Backend, BackendId, Gauges, Service, ServiceId, Snapshot};
use waxwing_packet::Address;

use crate::config::{self, AllDown, Config, OnRefused, Unserved};
use crate::health::{Effect, Effects};
use crate::publish::keys::{BackendKey, ServiceKey, backend_key, service_key};
use sources::SourceIds;

/// The assigned ids, and the snapshots made with them. Owned by the controller.
#[derive(Clone, Debug)]
pub struct Catalog {
    generation: u64,
    services: Ids<ServiceKey>,
    backends: Ids<BackendKey>,
    /// Backends of the last config.
    live: HashMap<BackendKey, Backend>,
    /// Backends of earlier configs.
    retired: HashMap<BackendKey, Backend>,
    sources: SourceIds,
}

/// Why a config got no snapshot; the catalog is unchanged.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CatalogError {
    /// All service ids are in use.
    #[error(
        "no id for service \"{service}\": all {max} service ids are in use, possibly by removed services \
         that still have sessions; reload after those have ended, or raise `services_max` and restart"
    )]
    Services {
        /// The service without an id.
        service: Arc<str>,
        /// The limit.
        max: usize,
    },
    /// All backend ids are in use.
    #[error(
        "no id for backend {address} port {port} of \"{service}\": all {max} backend ids are in use, \
         {retired} of them by removed backends that may still have sessions; reload after those have \
         ended, or raise `backends_max` and restart"
    )]
    Backends {
        /// Its service.
        service: Arc<str>,
        /// Its address.
        address: Address,
        /// Its port in snapshots.
        port: u16,
        /// The limit.
        max: usize,
        /// How many ids removed backends hold.
        retired: usize,
    },
    /// All ids of source addresses are in use.
    #[error(
        "no id for source address {address}: all {max} ids are in use, possibly by removed addresses that \
         still have sessions; reload after those have ended"
    )]
    Sources {
        /// The address without an id.
        address: Address,
        /// The limit.
        max: usize,
    },
}

impl Catalog {
    /// Creates an empty catalog that assigns ids below these bounds.
    #[must_use]
    pub fn new(services_max: usize, backends_max: usize) -> Self {
        Self {
            generation: 0,
            services: Ids::new(services_max),
            backends: Ids::new(backends_max),
            live: HashMap::new(),
            retired: HashMap::new(),
            sources: SourceIds::new(),
        }
    }

    /// Makes the next snapshot. `gauges` must cover the `backends_max` of [`Catalog::new`]; a backend
    /// without an entry in `effects` is healthy.
    ///
    /// Call it only when every worker has taken the last snapshot: only then does a gauge of 0 mean
    /// that a retired backend gets no more sessions.
    ///
    /// # Errors
    /// [`CatalogError`]; the catalog is unchanged then.
    pub fn apply(
        &mut self,
        config: &Config,
        ports: &[Port],
        gauges: &Gauges,
        effects: &Effects,
    ) -> Result<Snapshot, CatalogError> {
        let mut next = self.clone();
        let snapshot = next.advance(config, ports, gauges, effects)?;
        *self = next;
        Ok(snapshot)
    }

    /// Returns whether applying the same config again would free an id: of a retired backend or a
    /// removed source address without sessions.
    #[must_use]
    pub fn has_freeable(&self, gauges: &Gauges) -> bool {
        let mut retired = self.retired.values();
        retired.any(|backend| gauges.sessions(backend.id).total() == 0)
            || self.sources.has_freeable(gauges)
    }

    /// Returns whether a backend has an id.
    pub(crate) fn contains(&self, key: &BackendKey) -> bool {
        self.live.contains_key(key) || self.retired.contains_key(key)
    }

    /// Returns whether a removed backend is kept for its sessions.
    pub(crate) fn is_retired(&self, key: &BackendKey) -> bool {
        self.retired.contains_key(key)
    }

    /// [`Catalog::apply`] on a copy, which is discarded on failure.
    fn advance(
        &mut self,
        config: &Config,
        ports: &[Port],
        gauges: &Gauges,
        effects: &Effects,
    ) -> Result<Snapshot, CatalogError> {
        self.generation += 1;
        let mut services = Vec::with_capacity(config.services.len());
        let mut live = HashMap::new();
        let policies = config.policies();
        for entry in &config.services {
            let service = self.service(entry, &policies, effects, &mut live)?;
            services.push(service);
        }
        let left = std::mem::replace(&mut self.live, live);
        self.retire(left, &services, gauges, effects);
        let backends = self
            .live
            .values()
            .chain(self.retired.values())
            .cloned()
            .collect();
        let snapshot = Snapshot::new(self.generation, services, backends, ports.to_vec());
        let sources = self.sources.advance(config, gauges)?;
        Ok(snapshot
            .answering_ping(config.ping)
            .rejecting_unserved(config.unserved == Unserved::Reject)
            .limiting_sources(config.source_limit)
            .with_sources(sources))
    }

    /// Returns a service with its ids, and adds its backends to `live`.
    fn service(
        &mut self,
        entry: &config::Service,
        policies: &[Arc<str>],
        effects: &Effects,
        live: &mut HashMap<BackendKey, Backend>,
    ) -> Result<Service, CatalogError> {
        let key = service_key(entry);
        let name = &entry.name.value;
        let id = self
            .services
            .id(key)
            .ok_or_else(|| CatalogError::Services {
                service: Arc::clone(name),
                max: self.services.max,
            })?;
        let mut service = Service {
            id: ServiceId(id),
            name: Arc::clone(name),
            vip: entry.vip.value,
            ports: entry.ports.value,
            protocol: entry.protocol.value,
            source_nat: entry
                .source_nat
                .map_or_else(SourceUse::default, |uses| uses.value),
            policy: policies
                .iter()
                .position(|p| *p == entry.policy.value)
                .unwrap_or_default(),
            backends: Box::default(),
            mid_stream: entry.mid_stream,
            adopts_replies: entry.adopt_replies.is_some(),
            no_backend: match entry.health.all_down {
                AllDown::Reject => NoBackend::Reject,
                AllDown::Drop => NoBackend::Drop,
            },
            timeouts: entry.timeouts,
            sessions_max: entry.sessions_max,
        };
        let mut ids = Vec::with_capacity(entry.backends.len());
        let weights = weights(entry, effects);
        for (backend, weight) in entry.backends.iter().zip(weights) {
            let (address, port) = (backend.address.value, backend.snapshot_port());
            let backend_key = (key, address, port);
            let effect = effects.get(&backend_key).copied().unwrap_or_default();
            let id = self
                .backends
                .id(backend_key)
                .ok_or_else(|| CatalogError::Backends {
                    service: Arc::clone(name),
                    address,
                    port,
                    max: self.backends.max,
                    retired: self.retired.len(),
                })?;
            let id = BackendId(id);
            ids.push(id);
            let backend = Backend {
                healthy: effect.healthy,
                sessions: effect.sessions,
                retries_refused: entry.health.on_refused == OnRefused::Retry,
                ..Backend::new(id, &service, address, port, weight)
            };
            live.insert(backend_key, backend);
        }
        service.backends = ids.into();
        Ok(service)
    }

    /// Frees retired backends without sessions, then retires those that left the config.
    fn retire(
        &mut self,
        left: HashMap<BackendKey, Backend>,
        services: &[Service],
        gauges: &Gauges,
        effects: &Effects,
    ) {
        let Self {
            retired,
            live,
            backends,
            ..
        } = self;
        retired.retain(|key, backend| {
            let is_back = live.contains_key(key);
            let is_over = !is_back && gauges.sessions(backend.id).total() == 0;
            if is_over {
                backends.free(key);
            }
            !is_back && !is_over
        });
        let gone = left.into_iter().filter(|(key, _)| !live.contains_key(key));
        retired.extend(gone.map(|(key, backend)| {
            (
                key,
                Backend {
                    weight: 0,
                    ..backend
                },
            )
        }));
        let timeouts: HashMap<_, _> = services.iter().map(|s| (s.id, s.timeouts)).collect();
        for (key, backend) in retired.iter_mut() {
            let effect = effects.get(key).copied().unwrap_or_default();
            (backend.healthy, backend.sessions) = (effect.healthy, effect.sessions);
            if let Some(timeouts) = timeouts.get(&backend.service) {
                backend.timeouts = (*timeouts).into();
            }
        }
        let mut in_use: HashSet<ServiceKey> =
            retired.keys().map(|(service, ..)| *service).collect();
        in_use.extend(services.iter().map(|s| (s.vip, s.ports, s.protocol)));
        self.services.keep(&in_use);
    }
}

/// The largest weight of a backend, in a config and in a snapshot.
pub(crate) const WEIGHT_MAX: u64 = 65_535;

/// Returns a service's weights, adjusted by its backends' health. If any is adjusted, all are scaled up
/// by one factor, so that a part of a small weight is still above 0.
fn weights(service: &config::Service, effects: &Effects) -> Vec<u32> {
    let effect = |backend: &config::Backend| {
        let effect = effects.get(&backend_key(service, backend));
        effect.copied().unwrap_or_default()
    };
    let changed = |backend: &config::Backend| !matches!(effect(backend).percent, 0 | 100);
    let scale = if service.backends.iter().any(changed) {
        1
    } else {
        100
    };
    let parts = service.backends.iter().map(|backend| {
        let Effect {
            percent, weight, ..
        } = effect(backend);
        u64::from(weight.unwrap_or(backend.weight)) * u64::from(percent) / scale
    });
    let parts: Vec<u64> = parts.collect();
    let largest = parts.iter().copied().max().unwrap_or(0).max(WEIGHT_MAX);
    let fitted = |part: u64| match part {
        0 => 0,
        part => (part * WEIGHT_MAX / largest).max(1),
    };
    parts
        .into_iter()
        .map(|part| u32::try_from(fitted(part)).unwrap_or(u32::MAX))
        .collect()
}

/// The ids assigned to keys. A freed id goes to the end of the queue, to be reused as late as possible.
#[derive(Clone, Debug)]
struct Ids<K> {
    max: usize,
    taken: HashMap<K, u32>,
    free: VecDeque<u32>,
}

impl<K: Eq + Hash + Copy> Ids<K> {
    fn new(max: usize) -> Self {
        Self {
            max,
            taken: HashMap::new(),
            free: (0..).take(max).collect(),
        }
    }

    /// Returns the key's id, assigning one if needed; `None` if all are in use.
    fn id(&mut self, key: K) -> Option<u32> {
        if let Some(id) = self.taken.get(&key) {
            return Some(*id);
        }
        let id = self.free.pop_front()?;
        self.taken.insert(key, id);
        Some(id)
    }

    fn free(&mut self, key: &K) {
        self.free.extend(self.taken.remove(key));
    }

    /// Frees the ids of all other keys.
    fn keep(&mut self, keys: &HashSet<K>) {
        self.retain(|key, _| keys.contains(key));
    }

    /// Frees the ids for which `keeps` returns false.
    fn retain(&mut self, keeps: impl Fn(&K, u32) -> bool) {
        let Self { taken, free, .. } = self;
        taken.retain(|key, id| {
            let keep = keeps(key, *id);
            if !keep {
                free.push_back(*id);
            }
            keep
        });
    }

    fn iter(&self) -> impl Iterator<Item = (K, u32)> {
        self.taken.iter().map(|(key, id)| (*key, *id))
    }
}

#[cfg(test)]
mod tests;
