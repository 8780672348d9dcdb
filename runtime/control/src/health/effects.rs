//! What the backends' health means for the snapshot.

use std::borrow::Cow;
use std::collections::HashMap;
use std::time::Duration;

use waxwing_dataplane::model::SessionAction;

use super::backend::{BackendHealth, HealthState};
use super::rules::{BackendRules, ServiceRules};
use crate::config::{HealthConfig, OnDown};
use crate::publish::keys::BackendKey;

/// What a backend's health means for the snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Effect {
    /// Whether it may take new sessions.
    pub healthy: bool,
    /// The effective share of its weight, in percent; 0: no new sessions.
    pub percent: u32,
    /// What happens to its existing sessions.
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

pub type Effects = HashMap<BackendKey, Effect>;

/// Adds the effects for a service's backends. `known` holds no backend that is new to this config.
pub(super) fn add_effects(
    rules: &ServiceRules,
    known: &HashMap<BackendKey, BackendHealth>,
    now: Duration,
    effects: &mut Effects,
) {
    let backends = rules.backends.iter().map(|(key, backend)| {
        let new = || BackendHealth::new(backend.checks.len(), backend.has_weight, now);
        let known = known.get(key).map(Cow::Borrowed);
        (*key, backend, known.unwrap_or_else(|| Cow::Owned(new())))
    });
    let backends: Vec<(BackendKey, &BackendRules, Cow<'_, BackendHealth>)> = backends.collect();
    let tier = |backup: bool| {
        let members = backends.iter().filter(|(_, it, _)| it.backup == backup);
        Tier::of(&rules.health, members.map(|(.., health)| health.state))
    };
    let (mut mains, mut backups) = (tier(false), tier(true));
    // Backups that may be healthy are preferred to main backends that are known not to be.
    mains.panic &= mains.takes_new_without_panic() || !backups.takes_new_without_panic();
    backups.idle = mains.takes_new();
    for (key, backend, health) in &backends {
        let tier = if backend.backup { &backups } else { &mains };
        effects.insert(*key, effect(&rules.health, health, tier, now));
    }
}

/// The main backends of a service, or its backups.
#[derive(Clone, Copy)]
struct Tier {
    /// Backends that are up.
    up: usize,
    /// Backends whose checks have no result yet.
    undecided: usize,
    /// Backends that are neither draining nor disabled.
    eligible: usize,
    /// Too few are up, so health is ignored.
    panic: bool,
    /// They take no new sessions, because the main backends do.
    idle: bool,
}

impl Tier {
    fn of(rules: &HealthConfig, states: impl Iterator<Item = HealthState>) -> Self {
        let is_out = |state: &_| matches!(state, HealthState::Draining | HealthState::Disabled);
        let states: Vec<HealthState> = states.filter(|state| !is_out(state)).collect();
        let count = |of| states.iter().filter(|state| **state == of).count();
        let (up, eligible) = (count(HealthState::Up), states.len());
        Self {
            up,
            undecided: count(HealthState::Checking),
            eligible,
            panic: up * 100 < rules.panic_threshold as usize * eligible,
            idle: false,
        }
    }

    /// Returns whether undecided backends take new sessions: while they are the majority, or none
    /// is up. Otherwise the first backends with a result would get the share of all others.
    const fn uses_undecided(&self) -> bool {
        self.up == 0 || self.undecided * 2 > self.eligible
    }

    const fn takes_new_without_panic(&self) -> bool {
        self.up > 0 || (self.uses_undecided() && self.undecided > 0)
    }

    const fn takes_new(&self) -> bool {
        self.takes_new_without_panic() || (self.panic && self.eligible > 0)
    }
}

fn effect(rules: &HealthConfig, health: &BackendHealth, tier: &Tier, now: Duration) -> Effect {
    let down = Effect {
        healthy: false,
        percent: 100,
        sessions: match rules.on_down {
            OnDown::Keep => SessionAction::Keep,
            OnDown::Reset => SessionAction::Reset,
            OnDown::Repick => SessionAction::Repick,
        },
    };
    let out = Effect {
        sessions: SessionAction::Keep,
        ..down
    };
    let mut effect = match health.state {
        HealthState::Up => Effect {
            percent: health.weight_percent(rules.slow_start, now),
            ..Effect::default()
        },
        HealthState::Disabled => down,
        HealthState::Down if !tier.panic => down,
        HealthState::Ejected if !tier.panic => out,
        HealthState::Checking if !(tier.uses_undecided() || tier.panic) => out,
        HealthState::Down | HealthState::Ejected | HealthState::Checking => Effect::default(),
        HealthState::Draining => Effect {
            percent: 0,
            sessions: if health.is_drained(rules.drain_timeout, now) {
                SessionAction::Reset
            } else {
                SessionAction::Keep
            },
            ..Effect::default()
        },
    };
    if tier.idle {
        effect.percent = 0;
    }
    effect
}
