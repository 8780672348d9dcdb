//! What the backends' health means for the snapshot.

use std::borrow::Cow;
use std::collections::HashMap;
use std::time::Duration;

use waxwing_dataplane::model::SessionAction;
use waxwing_packet::Protocol;

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
    /// The operator's weight, in place of the config's.
    pub weight: Option<u32>,
}

impl Default for Effect {
    fn default() -> Self {
        Self {
            healthy: true,
            percent: 100,
            sessions: SessionAction::Keep,
            weight: None,
        }
    }
}

pub type Effects = HashMap<BackendKey, Effect>;

/// Adds the effects for a service's backends. `known` holds no backend that is new to this config;
/// `is_new`: the service is new too.
pub(super) fn add_effects(
    rules: &ServiceRules,
    known: &HashMap<BackendKey, BackendHealth>,
    is_new: bool,
    now: Duration,
    effects: &mut Effects,
) {
    let backends = rules.backends.iter().map(|(key, backend)| {
        let new = || backend.new_health(is_new, now);
        let known = known.get(key).map(Cow::Borrowed);
        (*key, backend, known.unwrap_or_else(|| Cow::Owned(new())))
    });
    let backends: Vec<(BackendKey, &BackendRules, Cow<'_, BackendHealth>)> = backends.collect();
    let tier = |backup: bool| {
        let members = backends.iter().filter(|(_, it, _)| it.backup == backup);
        Tier::of(&rules.health, members.map(|(.., health)| &**health))
    };
    let (mut mains, mut backups) = (tier(false), tier(true));
    // Backups that may be healthy are preferred to main backends that are known not to be.
    mains.panic &= mains.takes_new_without_panic() || !backups.takes_new_without_panic();
    backups.idle = mains.takes_new();
    mains.waits = backends.iter().all(|(.., health)| !health.is_reachable());
    for (key, backend, health) in &backends {
        let tier = if backend.backup { &backups } else { &mains };
        let ((.., protocol), ..) = *key;
        effects.insert(*key, effect(&rules.health, health, (tier, protocol), now));
    }
}

/// The main backends of a service, or its backups.
#[derive(Clone, Copy)]
struct Tier {
    /// Backends that are up, or count as up until their first result.
    up: usize,
    /// Other backends whose checks have no result yet.
    undecided: usize,
    /// Backends that are reachable and neither draining nor disabled.
    eligible: usize,
    /// Too few are up, so health is ignored.
    panic: bool,
    /// They take no new sessions, because the main backends do.
    idle: bool,
    /// No backend of the service is reachable, so one that only this host cannot send to takes new sessions:
    /// their first packets are dropped, and clients that try again get through once the port or the route is
    /// back. A refusal would be final.
    waits: bool,
}

impl Tier {
    /// Nothing takes the place of a removed backend.
    const REMOVED: Self = Self {
        up: 0,
        undecided: 0,
        eligible: 0,
        panic: false,
        idle: true,
        waits: false,
    };

    fn of<'a>(rules: &HealthConfig, members: impl Iterator<Item = &'a BackendHealth>) -> Self {
        let is_out = |state| matches!(state, HealthState::Draining | HealthState::Disabled);
        let members = members.filter(|it| it.is_reachable() && !is_out(it.state));
        let state = |health: &BackendHealth| match health.is_presumed_up() {
            true => HealthState::Up,
            false => health.state,
        };
        let states: Vec<HealthState> = members.map(state).collect();
        let count = |of: fn(&HealthState) -> bool| states.iter().filter(|it| of(it)).count();
        let (up, eligible) = (count(|state| state.is_up()), states.len());
        Self {
            up,
            undecided: count(|state| *state == HealthState::Checking),
            eligible,
            panic: up * 100 < rules.panic_threshold as usize * eligible,
            idle: false,
            waits: false,
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

/// Returns the effect for a backend that left the config: no new sessions, and at the end of
/// `drain_timeout` none at all, whatever its state.
pub(super) fn removed_effect(
    rules: &HealthConfig,
    health: &BackendHealth,
    protocol: Protocol,
    now: Duration,
) -> Effect {
    let effect = effect(rules, health, (&Tier::REMOVED, protocol), now);
    if health.is_drained(drain_timeout(rules, protocol), now) {
        return Effect {
            sessions: drained_sessions(protocol),
            ..effect
        };
    }
    effect
}

/// Returns how long a removed backend keeps its sessions; `None`: until they end. A UDP flow has no end, so
/// without a `drain_timeout` it moves at once.
pub(super) fn drain_timeout(rules: &HealthConfig, protocol: Protocol) -> Option<Duration> {
    match protocol {
        Protocol::Tcp => rules.drain_timeout,
        Protocol::Udp => Some(rules.drain_timeout.unwrap_or_default()),
    }
}

/// What happens to the sessions of a backend that has drained for long enough. A connection is reset; a flow
/// of datagrams goes on at another backend.
const fn drained_sessions(protocol: Protocol) -> SessionAction {
    match protocol {
        Protocol::Tcp => SessionAction::Reset,
        Protocol::Udp => SessionAction::Repick,
    }
}

fn effect(
    rules: &HealthConfig,
    health: &BackendHealth,
    (tier, protocol): (&Tier, Protocol),
    now: Duration,
) -> Effect {
    let down = Effect {
        healthy: false,
        percent: 100,
        sessions: match rules.on_down {
            OnDown::Keep => SessionAction::Keep,
            OnDown::Reset => SessionAction::Reset,
            OnDown::Repick => SessionAction::Repick,
        },
        weight: None,
    };
    let out = Effect {
        sessions: SessionAction::Keep,
        ..down
    };
    // Panic distrusts checks and ejections, but no packet can be sent to an unreachable backend.
    let panic = tier.panic && health.is_reachable();
    let mut effect = match health.state {
        HealthState::Up | HealthState::Unchecked => Effect {
            percent: health.weight_percent(rules.slow_start, now),
            ..Effect::default()
        },
        HealthState::Disabled => down,
        HealthState::Down if !panic => down,
        HealthState::Ejected if !panic => out,
        HealthState::Checking if !(health.is_presumed_up() || tier.uses_undecided() || panic) => {
            out
        }
        HealthState::Unreachable if tier.waits && health.is_cut_off() => Effect::default(),
        HealthState::Unreachable => out,
        HealthState::Down | HealthState::Ejected | HealthState::Checking => Effect::default(),
        HealthState::Draining => Effect {
            percent: 0,
            sessions: if health.is_drained(rules.drain_timeout, now) {
                drained_sessions(protocol)
            } else {
                SessionAction::Keep
            },
            ..Effect::default()
        },
    };
    if tier.idle {
        effect.percent = 0;
    }
    Effect {
        weight: health.weight,
        ..effect
    }
}
