//! The health of all backends of all services.
//!
//! Invariant: no clock and no I/O. A backend keeps its key over a reload, so its results and the
//! operator's setting survive one. A check's result counts only for a check with the same identity.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use waxwing_packet::Address;

use super::backend::{BackendHealth, HealthState, Reach, StateChange};
use super::check_state::{CheckResult, CheckState};
use super::effects::{Effects, add_effects};
use super::ejection::Encounters;
use super::kept::KeptHealth;
use super::removed::{RemovedBackend, removed_from};
use super::rules::{BackendRules, CheckIdentity, CheckKey, ServiceRules, rules_of};
use crate::config::{CheckTiming, Config};
use crate::publish::keys::{BackendKey, ServiceKey, service_key};

#[derive(Debug, Default)]
pub(crate) struct ServiceHealth {
    backends: HashMap<BackendKey, BackendHealth>,
    /// Backends of earlier configs.
    removed: HashMap<BackendKey, RemovedBackend>,
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
    /// Adopts a config: new backends are undecided, removed ones drain.
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
                        let change = health.adopt(checks, backend, now);
                        transitions.extend(
                            change.map(|change| Transition::new((service, backend), change)),
                        );
                        health
                    }
                    None => {
                        let service_is_new = !self.services.contains_key(&key.0);
                        backend.new_health(service_is_new, now)
                    }
                };
                self.backends.insert(*key, health);
            }
        }
        self.services = services;
        let left = self.config.replace(Arc::clone(config));
        let left = left.map(|config| removed_from(&config, |key| before.remove(key), now));
        self.removed.extend(left.into_iter().flatten());
        self.removed
            .retain(|key, _| !self.backends.contains_key(key));
        for (key, removed) in &mut self.removed {
            removed.follow(&self.services, key.0);
        }
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
                add_effects(rules, &self.backends, false, now, &mut effects);
            }
        } else {
            for service in &config.services {
                let is_new = !self.services.contains_key(&service_key(service));
                let rules = ServiceRules::of(service);
                add_effects(&rules, &self.backends, is_new, now, &mut effects);
            }
            self.add_left(&mut effects, now);
        }
        for (key, removed) in &self.removed {
            effects.entry(*key).or_insert_with(|| removed.effect(now));
        }
        effects
    }

    /// Adds the effects for the backends of the adopted config that are not in `effects`: another config is
    /// about to remove them.
    fn add_left(&self, effects: &mut Effects, now: Duration) {
        let Some(adopted) = &self.config else { return };
        let left = |key: &BackendKey| {
            let health = self.backends.get(key)?;
            (!effects.contains_key(key)).then(|| health.clone())
        };
        for (key, removed) in removed_from(adopted, left, now) {
            effects.insert(key, removed.effect(now));
        }
    }

    /// Returns what goes on of a backend's health in the next process.
    pub(crate) fn keep(&self, key: BackendKey, now: Duration) -> KeptHealth {
        let found = rules_of(&self.services, key).zip(self.backends.get(&key));
        let Some(((_, rules), health)) = found else {
            return KeptHealth::default();
        };
        health.keep(rules.checks.iter().map(|(identity, _)| identity), now)
    }

    /// Goes on with what another process kept of a backend's health `elapsed` ago. Returns `None` if there is
    /// no such backend.
    pub(crate) fn resume(
        &mut self,
        key: BackendKey,
        kept: &KeptHealth,
        (elapsed, now): (Duration, Duration),
    ) -> Option<Update> {
        let rules = rules_of(&self.services, key)?;
        let health = self.backends.get_mut(&key)?;
        let checks = rules.1.checks.iter().map(|(identity, _)| identity);
        let change = health.resume(kept, checks, (elapsed, now));
        let transition = change.map(|change| Transition::new(rules, change));
        self.look_at(key, now);
        Some(Update {
            transitions: transition.into_iter().collect(),
            effects_changed: true,
        })
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

    /// Records what client connections have met. `counted` returns that of a backend so far; it is called
    /// only for services with ejection.
    pub(crate) fn record_failures(
        &mut self,
        now: Duration,
        mut counted: impl FnMut(BackendKey) -> Option<Encounters>,
    ) -> Update {
        let mut update = Update::default();
        let mut changed = Vec::new();
        for service in self.services.values() {
            let Some(rule) = &service.health.ejection else {
                continue;
            };
            // Where no backend replies, the protocol may have no replies.
            let mut replies = 0;
            for key in service.backends.keys() {
                if let (Some(health), Some(count)) = (self.backends.get_mut(key), counted(*key)) {
                    replies += health.count_encounters(count, rule, now);
                }
            }
            let expects_replies = service.is_udp && replies > 0;
            let mut in_service = count_in_service(&self.backends, service);
            for (key, backend) in &service.backends {
                let itself = usize::from(is_in_service(&self.backends, *key, backend));
                let minimum = rule.min_healthy as usize * service.backends.len();
                let may_eject = (in_service - itself) * 100 >= minimum;
                let Some(health) = self.backends.get_mut(key) else {
                    continue;
                };
                let rule = Some(rule).filter(|_| may_eject);
                if let Some(change) = health.eject_if_failing(rule, expects_replies, now) {
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

    /// Records whether packets can be sent to the backends. `reach` returns `None` for an address that has
    /// not been looked up.
    pub(crate) fn record_reach(
        &mut self,
        now: Duration,
        reach: impl Fn(Address) -> Option<Reach>,
    ) -> Update {
        let mut update = Update::default();
        for service in self.services.values() {
            for (key, backend) in &service.backends {
                let (Some(health), Some(reach)) = (self.backends.get_mut(key), reach(key.1)) else {
                    continue;
                };
                let was_reachable = health.is_reachable();
                let change = health.record_reach(reach, now);
                let change = change.map(|change| Transition::new((service, backend), change));
                update.transitions.extend(change);
                update.effects_changed |= health.is_reachable() != was_reachable;
            }
        }
        if update.effects_changed {
            self.find_next_change(now);
        }
        update
    }

    /// Applies the operator's setting. Returns `None` if there is no such backend.
    /// Changes a backend's health, a removed one's too, as the operator asks.
    pub(crate) fn set(
        &mut self,
        key: BackendKey,
        now: Duration,
        change: impl FnOnce(&mut BackendHealth) -> Option<StateChange>,
    ) -> Option<Update> {
        let transition = if let Some(health) = self.backends.get_mut(&key) {
            let rules = rules_of(&self.services, key)?;
            change(health).map(|change| Transition::new(rules, change))
        } else {
            let removed = self.removed.get_mut(&key)?;
            change(&mut removed.health).map(|change| Transition {
                service: Arc::clone(&removed.service),
                backend: removed.entry.title(),
                change,
            })
        };
        self.look_at(key, now);
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
        for removed in self.removed.values_mut() {
            // Its state is in the status; the log had its removal.
            removed.health.update(now);
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
        let removed = self.removed.values();
        let removed = removed.filter_map(|removed| removed.next_change(now));
        self.next_change = all.chain(removed).min();
    }

    /// Updates `next_change` after a change of one backend.
    fn look_at(&mut self, key: BackendKey, now: Duration) {
        let service = self.services.get(&key.0);
        let change = match self.removed.get(&key) {
            Some(removed) => removed.next_change(now),
            None => service.and_then(|service| self.next_change_of(service, key, now)),
        };
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

    /// Forgets the removed backends for which `is_kept` is false: their last session has ended.
    pub(crate) fn keep_removed(&mut self, is_kept: impl Fn(&BackendKey) -> bool) {
        self.removed.retain(|key, _| is_kept(key));
    }

    /// Returns the backends of earlier configs that may still have sessions.
    pub(crate) fn removed(&self) -> impl Iterator<Item = (&BackendKey, &RemovedBackend)> {
        self.removed.iter()
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
    let may_serve = |state: HealthState| state.is_up() || state == HealthState::Checking;
    backend.has_weight && state.is_some_and(may_serve)
}
