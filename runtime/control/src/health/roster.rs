//! All backends' health, and what it means for the snapshot.
//!
//! Invariant: it knows no clock and does no I/O. What a backend is known by stays the same over a
//! reload, so that its results, and the operator's word, outlive one; and a check's results are taken
//! as those of that check alone, whatever stands in its place since.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use waxwing_dataplane::model::SessionAction;

use super::backend::{Admin, BackendHealth, Change, CheckState, Outcome, State};
use crate::config::{self, Backend, Config, Health, OnDown, Pace, Service};
use crate::publish::keys::{BackendKey, ServiceKey, backend_key, service_key};

/// What a backend's health means for the snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Effect {
    /// Whether it may take new sessions.
    pub healthy: bool,
    /// What is made of its weight, in percent; 0 takes no new sessions.
    pub percent: u32,
    /// What becomes of its sessions.
    pub sessions: SessionAction,
}

impl Default for Effect {
    fn default() -> Self {
        Self {
            healthy: true,
            percent: 100,
            sessions: SessionAction::Keep,
        }
    }
}

/// The effects of all backends' health.
pub type Effects = HashMap<BackendKey, Effect>;

/// What makes a check of a backend this one and no other.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Identity {
    module: Arc<str>,
    config: Arc<str>,
    port: u16,
    roots: Option<PathBuf>,
    server_name: Option<Arc<str>>,
    verify: bool,
}

impl Identity {
    pub(crate) fn of(check: &config::Check, backend: &Backend) -> Self {
        let tls = &check.tls;
        let port = backend.health.port.or(check.port);
        Self {
            module: Arc::clone(&check.module.value),
            config: Arc::clone(&check.config.value),
            port: port.unwrap_or_else(|| backend.snapshot_port()),
            roots: tls.roots.as_ref().map(|roots| roots.value.clone()),
            server_name: tls.server_name.as_ref().map(|name| Arc::clone(&name.value)),
            verify: tls.verify,
        }
    }
}

/// All backends' health.
#[derive(Debug, Default)]
pub(crate) struct Roster {
    backends: HashMap<BackendKey, BackendHealth>,
    /// The config that was taken up, and what its services say.
    config: Option<Arc<Config>>,
    services: HashMap<ServiceKey, Rules>,
    /// When something changes by time alone, or before that.
    next_change: Option<Duration>,
}

/// What a service says of its backends.
#[derive(Clone, Debug)]
struct Rules {
    name: Arc<str>,
    health: Health,
    members: HashMap<BackendKey, Member>,
}

#[derive(Clone, Debug)]
struct Member {
    title: String,
    weighs: bool,
    backup: bool,
    checks: Vec<(Identity, Pace)>,
}

/// A change of a backend's state, with the names for people.
pub(crate) struct Told {
    pub(crate) service: Arc<str>,
    pub(crate) backend: String,
    pub(crate) change: Change,
}

/// What came of an event.
#[derive(Default)]
pub(crate) struct Outcomes {
    /// What people should hear of.
    pub(crate) told: Vec<Told>,
    /// Whether effects may be others.
    pub(crate) effects: bool,
}

impl Roster {
    /// Takes a config up: new backends are unknown, and those that left are forgotten.
    pub(crate) fn adopt(&mut self, config: &Arc<Config>, now: Duration) -> Outcomes {
        let services: HashMap<ServiceKey, Rules> = config
            .services
            .iter()
            .map(|service| (service_key(service), rules(service)))
            .collect();
        let mut before = std::mem::take(&mut self.backends);
        let mut outcomes = Outcomes {
            effects: true,
            ..Outcomes::default()
        };
        for rules in services.values() {
            for (key, member) in &rules.members {
                let health = match before.remove(key) {
                    Some(mut known) => {
                        let old = self.member(*key).map(|(_, member)| &member.checks[..]);
                        let checks = carried(&known.checks, old.unwrap_or(&[]), &member.checks);
                        let change = known.adopt(checks, member.weighs, now);
                        outcomes
                            .told
                            .extend(change.map(|change| told((rules, member), change)));
                        known
                    }
                    None => BackendHealth::new(member.checks.len(), member.weighs, now),
                };
                self.backends.insert(*key, health);
            }
        }
        self.services = services;
        self.config = Some(Arc::clone(config));
        self.look_ahead(now);
        outcomes
    }

    /// What the health of a config's backends means, those that are not known yet included.
    pub(crate) fn effects(&self, config: &Arc<Config>, now: Duration) -> Effects {
        let mut effects = Effects::new();
        let is_adopted = self
            .config
            .as_ref()
            .is_some_and(|own| Arc::ptr_eq(own, config));
        if is_adopted {
            for rules in self.services.values() {
                self.service_effects(rules, now, &mut effects);
            }
        } else {
            for service in &config.services {
                self.service_effects(&rules(service), now, &mut effects);
            }
        }
        effects
    }

    fn service_effects(&self, rules: &Rules, now: Duration, effects: &mut Effects) {
        let all: Vec<Judged<'_>> = rules
            .members
            .iter()
            .map(|(key, member)| {
                let new = || BackendHealth::new(member.checks.len(), member.weighs, now);
                let known = self.backends.get(key).map(Cow::Borrowed);
                (*key, member, known.unwrap_or_else(|| Cow::Owned(new())))
            })
            .collect();
        let of_kind = |backup| {
            all.iter()
                .filter(move |(_, member, _)| member.backup == backup)
        };
        let mut mains = Usage::of(&rules.health, of_kind(false));
        let mut backups = Usage::of(&rules.health, of_kind(true));
        // A backup that may be well goes before mains that are known not to be.
        mains.panic &= mains.takes_new_without_panic() || !backups.takes_new_without_panic();
        backups.idle = mains.takes_new();
        for (key, member, health) in &all {
            let usage = if member.backup { &backups } else { &mains };
            effects.insert(*key, effect(rules, health, usage, now));
        }
    }

    /// A check's result. One of a check that is not there any more says nothing.
    pub(crate) fn result(
        &mut self,
        (key, check): (BackendKey, usize),
        identity: &Identity,
        outcome: &Outcome,
        now: Duration,
    ) -> Option<Outcomes> {
        let member = member(&self.services, key)?;
        let (_, pace) = member
            .1
            .checks
            .get(check)
            .filter(|(it, _)| it == identity)?;
        let health = self.backends.get_mut(&key)?;
        let asked = health.asked();
        let change = health.result(check, outcome, *pace, now);
        Some(Outcomes {
            effects: change.is_some() || health.asked() != asked,
            told: change
                .map(|change| told(member, change))
                .into_iter()
                .collect(),
        })
        .inspect(|_| self.look_at(key, now))
    }

    /// Clients' connections that failed so far, by backend: `counted` is asked for each whose
    /// service ejects.
    pub(crate) fn failures(
        &mut self,
        now: Duration,
        mut counted: impl FnMut(BackendKey) -> Option<u64>,
    ) -> Outcomes {
        let mut outcomes = Outcomes::default();
        let mut changed = Vec::new();
        for rules in self.services.values() {
            let Some(rule) = &rules.health.ejection else {
                continue;
            };
            let mut are_in = count_in(&self.backends, rules);
            for (key, member) in &rules.members {
                let others = are_in - usize::from(is_in(&self.backends, *key, member));
                let may_eject = others * 100 >= rule.min_healthy as usize * rules.members.len();
                let (Some(health), Some(count)) = (self.backends.get_mut(key), counted(*key))
                else {
                    continue;
                };
                if let Some(change) = health.failures(count, rule, may_eject, now) {
                    outcomes.told.push(told((rules, member), change));
                    are_in = count_in(&self.backends, rules);
                    changed.push(*key);
                }
            }
        }
        outcomes.effects = !changed.is_empty();
        changed.into_iter().for_each(|key| self.look_at(key, now));
        outcomes
    }

    /// The operator's word on a backend; `None` where there is no such one.
    pub(crate) fn set_admin(
        &mut self,
        key: BackendKey,
        admin: Admin,
        now: Duration,
    ) -> Option<Outcomes> {
        let change = self.backends.get_mut(&key)?.set_admin(admin, now);
        self.look_at(key, now);
        let member = member(&self.services, key)?;
        let told = change.map(|change| told(member, change));
        Some(Outcomes {
            told: told.into_iter().collect(),
            effects: true,
        })
    }

    /// Lets time pass.
    pub(crate) fn settle(&mut self, now: Duration) -> Outcomes {
        let mut outcomes = Outcomes {
            effects: true,
            ..Outcomes::default()
        };
        for rules in self.services.values() {
            for (key, member) in &rules.members {
                let health = self.backends.get_mut(key);
                let change = health.and_then(|health| health.settle(now));
                outcomes
                    .told
                    .extend(change.map(|change| told((rules, member), change)));
            }
        }
        self.look_ahead(now);
        outcomes
    }

    /// When something changes by time alone since [`Roster::settle`]: then, or a moment ago, it is to
    /// be called again.
    pub(crate) fn next_change(&self) -> Option<Duration> {
        self.next_change
    }

    /// Finds when something changes by time alone.
    fn look_ahead(&mut self, now: Duration) {
        let all = self.services.values().flat_map(|rules| {
            let keys = rules.members.keys();
            keys.filter_map(|key| self.change_of(rules, *key, now))
        });
        self.next_change = all.min();
    }

    /// The same, where one backend alone is another than before.
    fn look_at(&mut self, key: BackendKey, now: Duration) {
        let rules = self.services.get(&key.0);
        let change = rules.and_then(|rules| self.change_of(rules, key, now));
        self.next_change = self.next_change.into_iter().chain(change).min();
    }

    fn change_of(&self, rules: &Rules, key: BackendKey, now: Duration) -> Option<Duration> {
        let Health {
            slow_start,
            drain_timeout,
            ..
        } = rules.health;
        let health = self.backends.get(&key)?;
        health.next_change(slow_start, drain_timeout, now)
    }

    /// Whether the next results of a check matter more than usual.
    pub(crate) fn is_undecided(&self, (key, check): (BackendKey, usize)) -> bool {
        let checks = self.backends.get(&key).map(|health| &health.checks);
        checks
            .and_then(|checks| checks.get(check))
            .is_some_and(CheckState::is_undecided)
    }

    pub(crate) fn get(&self, key: BackendKey) -> Option<&BackendHealth> {
        self.backends.get(&key)
    }

    fn member(&self, key: BackendKey) -> Option<(&Rules, &Member)> {
        member(&self.services, key)
    }
}

/// What is known by the checks of a backend that another config has others of: what stays is known,
/// and what is new is to fail as often as if it had passed, for the backend served without it.
fn carried(
    known: &[CheckState],
    old: &[(Identity, Pace)],
    new: &[(Identity, Pace)],
) -> Vec<CheckState> {
    let mut left: Vec<Option<(&Identity, &CheckState)>> = old
        .iter()
        .map(|(identity, _)| identity)
        .zip(known)
        .map(Some)
        .collect();
    let carry = |(wanted, _): &(Identity, Pace)| {
        let is = |slot: &&mut Option<(&Identity, &CheckState)>| {
            slot.is_some_and(|(identity, _)| identity == wanted)
        };
        let same = left.iter_mut().find(is).and_then(Option::take);
        same.map_or_else(CheckState::passing, |(_, state)| state.clone())
    };
    new.iter().map(carry).collect()
}

/// A backend, as its service has it, and its health.
type Judged<'a> = (BackendKey, &'a Member, Cow<'a, BackendHealth>);

/// How a service's backends of one kind, main or backup, are used.
#[derive(Clone, Copy)]
struct Usage {
    /// Those that are known to be up.
    up: usize,
    /// Those of which nothing is known yet.
    unknown: usize,
    /// All that could take new sessions.
    eligible: usize,
    /// Too few are up: health is ignored.
    panic: bool,
    /// They take none: others do.
    idle: bool,
}

impl Usage {
    fn of<'a>(rules: &Health, group: impl Iterator<Item = &'a Judged<'a>>) -> Self {
        let states: Vec<State> = group
            .map(|(_, _, health)| health.state)
            .filter(|state| !matches!(state, State::Draining | State::Disabled))
            .collect();
        let count = |wanted| states.iter().filter(|state| **state == wanted).count();
        let (up, unknown, eligible) = (count(State::Up), count(State::Checking), states.len());
        Self {
            up,
            unknown,
            eligible,
            panic: up * 100 < rules.panic_threshold as usize * eligible,
            idle: false,
        }
    }

    /// Whether those that are not known yet are used: while they are most, or no other is up. Else the
    /// first to answer would have the others' share until they do.
    const fn uses_unknown(&self) -> bool {
        self.up == 0 || self.unknown * 2 > self.eligible
    }

    const fn takes_new_without_panic(&self) -> bool {
        self.up > 0 || (self.uses_unknown() && self.unknown > 0)
    }

    const fn takes_new(&self) -> bool {
        self.takes_new_without_panic() || (self.panic && self.eligible > 0)
    }
}

fn effect(rules: &Rules, health: &BackendHealth, usage: &Usage, now: Duration) -> Effect {
    let Health {
        on_down,
        slow_start,
        drain_timeout,
        ..
    } = rules.health;
    let fate = match on_down {
        OnDown::Keep => SessionAction::Keep,
        OnDown::Reset => SessionAction::Reset,
        OnDown::Repick => SessionAction::Repick,
    };
    let down = Effect {
        healthy: false,
        percent: 100,
        sessions: fate,
    };
    let kept = SessionAction::Keep;
    let out = Effect {
        sessions: kept,
        ..down
    };
    let mut effect = match health.state {
        State::Up => Effect {
            percent: health.percent(slow_start, now),
            ..Effect::default()
        },
        State::Disabled => down,
        State::Down if !usage.panic => down,
        State::Ejected if !usage.panic => out,
        State::Checking if !(usage.uses_unknown() || usage.panic) => out,
        State::Down | State::Ejected | State::Checking => Effect::default(),
        State::Draining => Effect {
            percent: 0,
            sessions: if health.is_drained(drain_timeout, now) {
                SessionAction::Reset
            } else {
                kept
            },
            ..Effect::default()
        },
    };
    if usage.idle {
        effect.percent = 0;
    }
    effect
}

fn rules(service: &Service) -> Rules {
    let member = |backend: &Backend| Member {
        title: backend.title(),
        weighs: backend.weight > 0,
        backup: backend.backup,
        checks: if backend.health.enabled {
            let checks = service.health.checks.iter();
            let own = |check| {
                (
                    Identity::of(check, backend),
                    backend.health.pace(check.pace),
                )
            };
            checks.map(own).collect()
        } else {
            Vec::new()
        },
    };
    let backends = service.backends.iter();
    Rules {
        name: Arc::clone(&service.name.value),
        health: service.health.clone(),
        members: backends
            .map(|backend| (backend_key(service, backend), member(backend)))
            .collect(),
    }
}

fn member(services: &HashMap<ServiceKey, Rules>, key: BackendKey) -> Option<(&Rules, &Member)> {
    let rules = services.get(&key.0)?;
    Some((rules, rules.members.get(&key)?))
}

fn told((rules, member): (&Rules, &Member), change: Change) -> Told {
    Told {
        service: Arc::clone(&rules.name),
        backend: member.title.clone(),
        change,
    }
}

/// How many of a service's backends are in.
fn count_in(backends: &HashMap<BackendKey, BackendHealth>, rules: &Rules) -> usize {
    let members = rules.members.iter();
    members
        .filter(|(key, member)| is_in(backends, **key, member))
        .count()
}

fn is_in(backends: &HashMap<BackendKey, BackendHealth>, key: BackendKey, member: &Member) -> bool {
    let state = backends.get(&key).map(|health| health.state);
    member.weighs && matches!(state, Some(State::Up | State::Checking))
}
