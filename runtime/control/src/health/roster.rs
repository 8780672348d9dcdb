//! All backends' health, and what it means for the snapshot.
//!
//! Invariant: it knows no clock and does no I/O. What a backend is known by stays the same over a
//! reload, so that its results, and the operator's word, outlive one.

use std::borrow::Cow;
use std::collections::HashMap;
use std::time::Duration;

use waxwing_dataplane::snapshot::SessionsFate;

use super::backend::{Admin, BackendHealth, Change, Outcome, State};
use crate::catalog::{BackendKey, ServiceKey, backend_key, service_key};
use crate::config::{Backend, Config, Health, OnDown, Pace, Service};

/// What a backend's health means for the snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Effect {
    /// Whether it may take new sessions.
    pub healthy: bool,
    /// What is made of its weight, in percent; 0 takes no new sessions.
    pub percent: u32,
    /// What becomes of its sessions.
    pub sessions: SessionsFate,
}

impl Default for Effect {
    fn default() -> Self {
        Self {
            healthy: true,
            percent: 100,
            sessions: SessionsFate::Keep,
        }
    }
}

/// The effects of all backends' health.
pub type Effects = HashMap<BackendKey, Effect>;

/// All backends' health.
#[derive(Debug, Default)]
pub(crate) struct Roster {
    backends: HashMap<BackendKey, BackendHealth>,
    /// The services' rules.
    services: HashMap<ServiceKey, Rules>,
    /// When time was last let pass.
    settled: Duration,
}

/// What a service says of its backends.
#[derive(Clone, Debug)]
struct Rules {
    name: String,
    health: Health,
    members: HashMap<BackendKey, Member>,
}

#[derive(Clone, Debug)]
struct Member {
    title: String,
    weight: u32,
    backup: bool,
    paces: Vec<Pace>,
}

/// A change of a backend's state, with the names for people.
pub(crate) struct Told {
    pub(crate) service: String,
    pub(crate) backend: String,
    pub(crate) change: Change,
}

impl Roster {
    /// Takes a config up: new backends are unknown, and those that left are forgotten.
    pub(crate) fn adopt(&mut self, config: &Config, now: Duration) {
        let services: HashMap<ServiceKey, Rules> = config
            .services
            .iter()
            .map(|service| (service_key(service), rules(service)))
            .collect();
        let mut before = std::mem::take(&mut self.backends);
        for (key, member) in services.values().flat_map(|rules| &rules.members) {
            let checks = member.paces.len();
            let health = match before.remove(key) {
                Some(mut known) => {
                    known.checks.resize_with(checks, Default::default);
                    known.settle(now);
                    known
                }
                None => BackendHealth::new(checks, now),
            };
            self.backends.insert(*key, health);
        }
        self.services = services;
    }

    /// What the health of a config's backends means, those that are not known yet included.
    pub(crate) fn effects(&self, config: &Config, now: Duration) -> Effects {
        let mut effects = Effects::new();
        for service in &config.services {
            let rules = rules(service);
            self.service_effects(&rules, now, &mut effects);
        }
        effects
    }

    fn service_effects(&self, rules: &Rules, now: Duration, effects: &mut Effects) {
        let all: Vec<Judged<'_>> = rules
            .members
            .iter()
            .map(|(key, member)| {
                let unknown = || Cow::Owned(BackendHealth::new(member.paces.len(), now));
                let known = self.backends.get(key).map(Cow::Borrowed);
                (*key, member, known.unwrap_or_else(unknown))
            })
            .collect();
        let used = |backup: bool| {
            let of_kind = all.iter().filter(|(_, member, _)| member.backup == backup);
            group_usage(&rules.health, of_kind)
        };
        let mut backups = used(true);
        let mains = used(false);
        if mains.any {
            backups.idle = true;
        }
        for (key, member, health) in &all {
            let usage = if member.backup { &backups } else { &mains };
            effects.insert(*key, effect(rules, health, usage, now));
        }
    }

    /// A check's result.
    pub(crate) fn result(
        &mut self,
        key: BackendKey,
        check: usize,
        outcome: &Outcome,
        now: Duration,
    ) -> Option<Told> {
        let member = member(&self.services, key)?;
        let pace = *member.1.paces.get(check)?;
        let change = self
            .backends
            .get_mut(&key)?
            .result(check, outcome, pace, now)?;
        Some(told(member, change))
    }

    /// Clients' connections that failed so far, by backend: `counted` is asked for each whose
    /// service ejects.
    pub(crate) fn failures(
        &mut self,
        now: Duration,
        mut counted: impl FnMut(BackendKey) -> Option<u64>,
    ) -> Vec<Told> {
        let mut changes = Vec::new();
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
                let change = health.failures(count, rule, may_eject, now);
                if change.is_some() {
                    are_in = count_in(&self.backends, rules);
                }
                changes.extend(change.map(|change| told((rules, member), change)));
            }
        }
        changes
    }

    /// The operator's word on a backend; whether there is such a one.
    pub(crate) fn set_admin(
        &mut self,
        key: BackendKey,
        admin: Admin,
        now: Duration,
    ) -> Option<Told> {
        let change = self.backends.get_mut(&key)?.set_admin(admin, now)?;
        Some(told(member(&self.services, key)?, change))
    }

    /// Lets time pass.
    pub(crate) fn settle(&mut self, now: Duration) -> Vec<Told> {
        self.settled = now;
        let mut changes = Vec::new();
        for rules in self.services.values() {
            for (key, member) in &rules.members {
                let health = self.backends.get_mut(key);
                let change = health.and_then(|health| health.settle(now));
                changes.extend(change.map(|change| told((rules, member), change)));
            }
        }
        changes
    }

    /// When something changes by time alone, since [`Roster::settle`]: perhaps a moment ago.
    pub(crate) fn next_change(&self) -> Option<Duration> {
        let now = self.settled;
        let of_service = |rules: &Rules| {
            let Health {
                slow_start,
                drain_timeout,
                ..
            } = rules.health;
            let backends = rules.members.keys().filter_map(|key| {
                let health = self.backends.get(key)?;
                health.next_change(slow_start, drain_timeout, now)
            });
            backends.min()
        };
        self.services.values().filter_map(of_service).min()
    }

    /// Whether the next results of a check matter more than usual.
    pub(crate) fn is_undecided(&self, key: BackendKey, check: usize) -> bool {
        let checks = self.backends.get(&key).map(|health| &health.checks);
        checks
            .and_then(|checks| checks.get(check))
            .is_some_and(super::backend::CheckState::is_undecided)
    }

    pub(crate) fn get(&self, key: BackendKey) -> Option<&BackendHealth> {
        self.backends.get(&key)
    }
}

/// A backend, as its service has it, and its health.
type Judged<'a> = (BackendKey, &'a Member, Cow<'a, BackendHealth>);

/// How a service's backends of one kind, main or backup, are used.
struct Usage {
    /// Too few are up: health is ignored.
    panic: bool,
    /// None is known to be up: those that are not known yet are used.
    undecided: bool,
    /// None is used: others are.
    idle: bool,
    /// Whether any takes new sessions.
    any: bool,
}

fn group_usage<'a>(rules: &Health, group: impl Iterator<Item = &'a Judged<'a>>) -> Usage {
    let eligible = group.filter(|(_, member, health)| {
        let asked_out = matches!(health.state, State::Draining | State::Disabled);
        member.weight > 0 && !asked_out
    });
    let states: Vec<State> = eligible.map(|(_, _, health)| health.state).collect();
    let up = states.iter().filter(|state| **state == State::Up).count();
    let panic = up * 100 < rules.panic_threshold as usize * states.len();
    let undecided = up == 0;
    let usable = |state: &State| match state {
        State::Up => true,
        State::Checking => undecided || panic,
        State::Down | State::Ejected => panic,
        State::Draining | State::Disabled => false,
    };
    Usage {
        panic,
        undecided,
        idle: false,
        any: states.iter().any(usable),
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
        OnDown::Keep => SessionsFate::Keep,
        OnDown::Reset => SessionsFate::Reset,
        OnDown::Repick => SessionsFate::Repick,
    };
    let down = Effect {
        healthy: false,
        percent: 100,
        sessions: fate,
    };
    let kept = SessionsFate::Keep;
    let percent = health.percent(slow_start, now);
    let mut effect = match health.state {
        State::Up => Effect {
            healthy: true,
            percent,
            sessions: kept,
        },
        State::Disabled => down,
        State::Down if !usage.panic => down,
        State::Ejected if !usage.panic => Effect {
            sessions: kept,
            ..down
        },
        State::Checking if !(usage.undecided || usage.panic) => Effect {
            sessions: kept,
            ..down
        },
        State::Down | State::Ejected | State::Checking => Effect::default(),
        State::Draining => Effect {
            healthy: true,
            percent: 0,
            sessions: if health.is_drained(drain_timeout, now) {
                SessionsFate::Reset
            } else {
                kept
            },
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
        weight: backend.weight,
        backup: backend.backup,
        paces: if backend.health.enabled {
            let checks = service.health.checks.iter();
            checks
                .map(|check| backend.health.pace(check.pace))
                .collect()
        } else {
            Vec::new()
        },
    };
    let backends = service.backends.iter();
    Rules {
        name: service.name.value.to_string(),
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
        service: rules.name.clone(),
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
    member.weight > 0 && matches!(state, Some(State::Up | State::Checking))
}
