//! The health of all backends of all services.
//!
//! Invariant: no clock and no I/O. A backend keeps its key over a reload, so its results and the
//! operator's setting survive one. A check's result counts only for a check with the same identity.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::backend::{AdminState, BackendHealth, HealthState, StateChange};
use super::check_state::{CheckResult, CheckState};
use super::effects::{Effects, add_effects};
use super::rules::{BackendRules, CheckIdentity, CheckKey, ServiceRules, rules_of};
use crate::config::{CheckTiming, Config};
use crate::publish::keys::{BackendKey, ServiceKey, service_key};

#[derive(Debug, Default)]
pub(crate) struct ServiceHealth {
    backends: HashMap<BackendKey, BackendHealth>,
    /// The adopted config, and the rules made from it.
    config: Option<Arc<Config>>,
    services: HashMap<ServiceKey, ServiceRules>,
    /// When the next change by time alone is due; may be too early.
    next_change: Option<Duration>,
}

/// A backend's change of state, with names for people.
pub(crate) struct Transition {
    pub(crate) service: Arc<str>,
    pub(crate) backend: String,
    pub(crate) change: StateChange,
}

impl Transition {
    fn new((service, backend): (&ServiceRules, &BackendRules), change: StateChange) -> Self {
        Self {
            service: Arc::clone(&service.name),
            backend: backend.title.clone(),
            change,
        }
    }
}

/// What an event changed.
#[derive(Default)]
pub(crate) struct Update {
    pub(crate) transitions: Vec<Transition>,
    /// Whether the effects may have changed.
    pub(crate) effects_changed: bool,
}

impl ServiceHealth {
    /// Adopts a config: new backends are undecided, removed ones are forgotten.
    pub(crate) fn adopt(&mut self, config: &Arc<Config>, now: Duration) -> Update {
        let services: HashMap<ServiceKey, ServiceRules> = config
            .services
            .iter()
            .map(|service| (service_key(service), ServiceRules::of(service)))
            .collect();
        let mut before = std::mem::take(&mut self.backends);
        let mut transitions = Vec::new();
        for service in services.values() {
            for (key, backend) in &service.backends {
                let health = match before.remove(key) {
                    Some(mut health) => {
                        let old = rules_of(&self.services, *key).map(|(_, it)| &it.checks[..]);
                        let checks =
                            carry_over(&health.checks, old.unwrap_or(&[]), &backend.checks);
                        let change = health.adopt(checks, backend.has_weight, now);
                        transitions.extend(
                            change.map(|change| Transition::new((service, backend), change)),
                        );
                        health
                    }
                    None => BackendHealth::new(backend.checks.len(), backend.has_weight, now),
                };
                self.backends.insert(*key, health);
            }
        }
        self.services = services;
        self.config = Some(Arc::clone(config));
        self.find_next_change(now);
        Update {
            transitions,
            effects_changed: true,
        }
    }

    /// Returns the effects for a config's backends, whether the config is adopted or not.
    pub(crate) fn effects(&self, config: &Arc<Config>, now: Duration) -> Effects {
        let mut effects = Effects::new();
        let adopted = self.config.as_ref();
        if adopted.is_some_and(|adopted| Arc::ptr_eq(adopted, config)) {
            for rules in self.services.values() {
                add_effects(rules, &self.backends, now, &mut effects);
            }
        } else {
            for service in &config.services {
                add_effects(
                    &ServiceRules::of(service),
                    &self.backends,
                    now,
                    &mut effects,
                );
            }
        }
        effects
    }

    /// Records a check's result. Returns `None` if that check is no longer in the config.
    pub(crate) fn record_result(
        &mut self,
        (key, check): CheckKey,
        identity: &CheckIdentity,
        result: &CheckResult,
        now: Duration,
    ) -> Option<Update> {
        let rules = rules_of(&self.services, key)?;
        let current = rules.1.checks.get(check);
        let (_, timing) = current.filter(|(it, _)| it == identity)?;
        let health = self.backends.get_mut(&key)?;
        let requested = health.requested_percent();
        let change = health.record_result(check, result, *timing, now);
        let update = Update {
            effects_changed: change.is_some() || health.requested_percent() != requested,
            transitions: change
                .map(|change| Transition::new(rules, change))
                .into_iter()
                .collect(),
        };
        self.look_at(key, now);
        Some(update)
    }

    /// Records failures of client connections. `counted` returns a backend's failures so far; it is
    /// called only for services with ejection.
    pub(crate) fn record_failures(
        &mut self,
        now: Duration,
        mut counted: impl FnMut(BackendKey) -> Option<u64>,
    ) -> Update {
        let mut update = Update::default();
        let mut changed = Vec::new();
        for service in self.services.values() {
            let Some(rule) = &service.health.ejection else {
                continue;
            };
            let mut in_service = count_in_service(&self.backends, service);
            for (key, backend) in &service.backends {
                let itself = usize::from(is_in_service(&self.backends, *key, backend));
                let minimum = rule.min_healthy as usize * service.backends.len();
                let may_eject = (in_service - itself) * 100 >= minimum;
                let (Some(health), Some(count)) = (self.backends.get_mut(key), counted(*key))
                else {
                    continue;
                };
                if let Some(change) = health.record_failures(count, rule, may_eject, now) {
                    let transition = Transition::new((service, backend), change);
                    update.transitions.push(transition);
                    in_service = count_in_service(&self.backends, service);
                    changed.push(*key);
                }
            }
        }
        update.effects_changed = !changed.is_empty();
        changed.into_iter().for_each(|key| self.look_at(key, now));
        update
    }

    /// Applies the operator's setting. Returns `None` if there is no such backend.
    pub(crate) fn set_admin(
        &mut self,
        key: BackendKey,
        admin: AdminState,
        now: Duration,
    ) -> Option<Update> {
        let change = self.backends.get_mut(&key)?.set_admin(admin, now);
        self.look_at(key, now);
        let rules = rules_of(&self.services, key)?;
        let transition = change.map(|change| Transition::new(rules, change));
        Some(Update {
            transitions: transition.into_iter().collect(),
            effects_changed: true,
        })
    }

    /// Applies the changes that are due by time alone.
    pub(crate) fn advance(&mut self, now: Duration) -> Update {
        let mut transitions = Vec::new();
        for service in self.services.values() {
            for (key, backend) in &service.backends {
                let health = self.backends.get_mut(key);
                let change = health.and_then(|health| health.update(now));
                transitions
                    .extend(change.map(|change| Transition::new((service, backend), change)));
            }
        }
        self.find_next_change(now);
        Update {
            transitions,
            effects_changed: true,
        }
    }

    /// Returns when [`ServiceHealth::advance`] is due next; may be too early, never too late.
    pub(crate) fn next_change(&self) -> Option<Duration> {
        self.next_change
    }

    fn find_next_change(&mut self, now: Duration) {
        let all = self.services.values().flat_map(|service| {
            let keys = service.backends.keys();
            keys.filter_map(|key| self.next_change_of(service, *key, now))
        });
        self.next_change = all.min();
    }

    /// Updates `next_change` after a change of one backend.
    fn look_at(&mut self, key: BackendKey, now: Duration) {
        let service = self.services.get(&key.0);
        let change = service.and_then(|service| self.next_change_of(service, key, now));
        self.next_change = self.next_change.into_iter().chain(change).min();
    }

    fn next_change_of(
        &self,
        service: &ServiceRules,
        key: BackendKey,
        now: Duration,
    ) -> Option<Duration> {
        let rules = &service.health;
        let health = self.backends.get(&key)?;
        health.next_change(rules.slow_start, rules.drain_timeout, now)
    }

    /// Returns whether a check's next result may change its state, so that it is wanted soon.
    pub(crate) fn is_undecided(&self, (key, check): CheckKey) -> bool {
        let checks = self.backends.get(&key).map(|health| &health.checks);
        checks
            .and_then(|checks| checks.get(check))
            .is_some_and(CheckState::is_undecided)
    }

    pub(crate) fn get(&self, key: BackendKey) -> Option<&BackendHealth> {
        self.backends.get(&key)
    }
}

/// Returns the states for a backend's `new` checks, given the states of its `old` ones. A check
/// with the same identity keeps its state. A new check starts as passing, because the backend
/// served without it.
fn carry_over(
    states: &[CheckState],
    old: &[(CheckIdentity, CheckTiming)],
    new: &[(CheckIdentity, CheckTiming)],
) -> Vec<CheckState> {
    let old = old.iter().map(|(identity, _)| identity);
    let mut left: Vec<Option<(&CheckIdentity, &CheckState)>> = old.zip(states).map(Some).collect();
    let carry = |(wanted, _): &(CheckIdentity, CheckTiming)| {
        let is = |slot: &&mut Option<(&CheckIdentity, &CheckState)>| {
            slot.is_some_and(|(identity, _)| identity == wanted)
        };
        let same = left.iter_mut().find(is).and_then(Option::take);
        same.map_or_else(CheckState::passing, |(_, state)| state.clone())
    };
    new.iter().map(carry).collect()
}

/// Counts a service's backends that are in service.
fn count_in_service(
    backends: &HashMap<BackendKey, BackendHealth>,
    service: &ServiceRules,
) -> usize {
    let members = service.backends.iter();
    members
        .filter(|(key, backend)| is_in_service(backends, **key, backend))
        .count()
}

fn is_in_service(
    backends: &HashMap<BackendKey, BackendHealth>,
    key: BackendKey,
    backend: &BackendRules,
) -> bool {
    let state = backends.get(&key).map(|health| health.state);
    backend.has_weight && matches!(state, Some(HealthState::Up | HealthState::Checking))
}
