//! What a config says about health: per service, and per backend.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use waxwing_packet::Protocol;

use super::backend::BackendHealth;
use crate::config::{Backend, CheckTiming, HealthCheck, HealthConfig, Service};
use crate::publish::keys::{BackendKey, ServiceKey, backend_key};

/// A check of a backend: the backend, and the index among its service's checks.
pub(crate) type CheckKey = (BackendKey, usize);

/// What a check does. Results of a check with another identity do not count for this one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct CheckIdentity {
    module: Arc<str>,
    config: Arc<str>,
    port: u16,
    roots: Option<PathBuf>,
    server_name: Option<Arc<str>>,
    verify: bool,
}

impl CheckIdentity {
    /// Returns it as text, equal for equal checks also in another process.
    pub(super) fn text(&self) -> String {
        let Self {
            module,
            config,
            port,
            roots,
            server_name,
            verify,
        } = self;
        format!("{module} {port} {roots:?} {server_name:?} {verify} {config}")
    }

    pub(crate) fn of(check: &HealthCheck, backend: &Backend) -> Self {
        let tls = &check.tls;
        Self {
            module: Arc::clone(&check.module.value),
            config: Arc::clone(&check.config.value),
            port: check_port(check, backend),
            roots: tls.roots.as_ref().map(|roots| roots.value.clone()),
            server_name: tls.server_name.as_ref().map(|name| Arc::clone(&name.value)),
            verify: tls.verify,
        }
    }
}

/// Returns the port that a check connects to.
pub(super) fn check_port(check: &HealthCheck, backend: &Backend) -> u16 {
    let port = backend.health.port.or(check.port);
    port.unwrap_or_else(|| backend.snapshot_port())
}

#[derive(Clone, Debug)]
pub(super) struct ServiceRules {
    pub(super) name: Arc<str>,
    pub(super) is_udp: bool,
    pub(super) health: HealthConfig,
    pub(super) backends: HashMap<BackendKey, BackendRules>,
}

#[derive(Clone, Debug)]
pub(super) struct BackendRules {
    pub(super) title: String,
    /// Whether its weight is above 0.
    pub(super) has_weight: bool,
    pub(super) backup: bool,
    /// Whether its service has ejection.
    pub(super) may_be_ejected: bool,
    pub(super) checks: Vec<(CheckIdentity, CheckTiming)>,
}

impl ServiceRules {
    pub(super) fn of(service: &Service) -> Self {
        let backends = service.backends.iter();
        let rules = |backend| {
            let key = backend_key(service, backend);
            (key, BackendRules::of(service, backend))
        };
        Self {
            name: Arc::clone(&service.name.value),
            is_udp: service.protocol.value == Protocol::Udp,
            health: service.health.clone(),
            backends: backends.map(rules).collect(),
        }
    }
}

impl BackendRules {
    fn of(service: &Service, backend: &Backend) -> Self {
        let enabled = |_: &&HealthCheck| backend.health.enabled;
        let check = |check: &HealthCheck| {
            let timing = backend.health.apply(check.timing);
            (CheckIdentity::of(check, backend), timing)
        };
        let checks = service.health.checks.iter();
        Self {
            title: backend.title(),
            has_weight: backend.weight > 0,
            backup: backend.backup,
            may_be_ejected: service.health.ejection.is_some(),
            checks: checks.filter(enabled).map(check).collect(),
        }
    }

    /// Returns the health of a backend that has just joined a service.
    pub(super) fn new_health(&self, service_is_new: bool, now: Duration) -> BackendHealth {
        let health = BackendHealth::new(self, now);
        match service_is_new {
            true => health.presume_up(),
            false => health,
        }
    }
}

/// Returns the rules of a backend and of its service.
pub(super) fn rules_of(
    services: &HashMap<ServiceKey, ServiceRules>,
    key: BackendKey,
) -> Option<(&ServiceRules, &BackendRules)> {
    let rules = services.get(&key.0)?;
    Some((rules, rules.backends.get(&key)?))
}
