//! Backends that left the config and may still have sessions.
//!
//! Invariant: a removed backend drains. It takes no new sessions, is checked no more, and what its service
//! says of `drain_timeout` and `on_down`, and what the operator commands, holds until its last session ends.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use waxwing_packet::Protocol;

use super::backend::BackendHealth;
use super::effects::{Effect, drain_timeout, removed_effect};
use super::rules::ServiceRules;
use crate::config::{self, Config, HealthConfig};
use crate::publish::keys::{BackendKey, ServiceKey, backend_key};

/// A backend that left the config.
#[derive(Clone, Debug)]
pub(crate) struct RemovedBackend {
    /// Its service's name.
    pub(crate) service: Arc<str>,
    /// Its entry in the last config that had it.
    pub(crate) entry: config::Backend,
    /// Its service's keys: the current ones, or the last ones of a removed service.
    pub(crate) rules: HealthConfig,
    pub(crate) health: BackendHealth,
    protocol: Protocol,
}

impl RemovedBackend {
    pub(super) fn effect(&self, now: Duration) -> Effect {
        removed_effect(&self.rules, &self.health, self.protocol, now)
    }

    /// Returns when the next change by time alone is due.
    pub(super) fn next_change(&self, now: Duration) -> Option<Duration> {
        let drain_timeout = drain_timeout(&self.rules, self.protocol);
        self.health.next_change(Duration::ZERO, drain_timeout, now)
    }

    /// Takes over the service's keys, if it is still in the config.
    pub(super) fn follow(&mut self, services: &HashMap<ServiceKey, ServiceRules>, key: ServiceKey) {
        if let Some(service) = services.get(&key) {
            self.service = Arc::clone(&service.name);
            self.rules = service.health.clone();
        }
    }
}

/// Returns the backends of a config whose health `take` returns, as removed ones.
pub(super) fn removed_from(
    config: &Config,
    mut take: impl FnMut(&BackendKey) -> Option<BackendHealth>,
    now: Duration,
) -> Vec<(BackendKey, RemovedBackend)> {
    let mut removed = Vec::new();
    for service in &config.services {
        for entry in &service.backends {
            let key = backend_key(service, entry);
            if let Some(mut health) = take(&key) {
                health.remove(now);
                let backend = RemovedBackend {
                    service: Arc::clone(&service.name.value),
                    entry: entry.clone(),
                    rules: service.health.clone(),
                    health,
                    protocol: service.protocol.value,
                };
                removed.push((key, backend));
            }
        }
    }
    removed
}
