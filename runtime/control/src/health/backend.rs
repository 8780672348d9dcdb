//! The health of one backend: its checks, its ejection, its next hop, and the operator's setting.
//!
//! Invariant: no clock and no I/O; the same events at the same times give the same states. Times
//! are since the balancer's start.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::admin_state::AdminState;
use super::check_state::{CheckResult, CheckState, Debounced};
use super::ejection::{EjectionState, Encounters};
use super::kept::{KeptCheck, KeptHealth, millis};
use super::rules::{BackendRules, CheckIdentity};
use crate::config::{CheckTiming, Ejection};

/// State changes kept for `status`.
const HISTORY_MAX: usize = 16;
/// Steps of a slow start up to the full weight.
const SLOW_START_STEPS: u32 = 10;
/// Steps are taken at multiples of this, so that those of many backends fall together.
const SLOW_START_GRID: Duration = Duration::from_millis(100);

/// Whether a backend takes new sessions, and why.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum HealthState {
    /// It takes new sessions.
    #[default]
    Up,
    /// It takes new sessions, but nothing tells whether it answers: it has no check, and its service no
    /// ejection.
    Unchecked,
    /// No check has a result yet. A backend of a service that has just started counts as up. One that joined
    /// a running service takes new sessions while most backends are in this state, or none is up.
    Checking,
    /// A check fails.
    Down,
    /// No packet can be sent to it: its next hop is not resolved.
    Unreachable,
    /// Too many client connections failed.
    Ejected,
    /// It keeps its sessions and takes no new ones, as the operator, the config or a check asks.
    Draining,
    /// The operator disabled it.
    Disabled,
}

impl HealthState {
    /// All states, in the order of their declaration.
    pub const ALL: [Self; 8] = [
        Self::Up,
        Self::Unchecked,
        Self::Checking,
        Self::Down,
        Self::Unreachable,
        Self::Ejected,
        Self::Draining,
        Self::Disabled,
    ];

    /// The value in logs and in `status`.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Unchecked => "unchecked",
            Self::Checking => "checking",
            Self::Down => "down",
            Self::Unreachable => "unreachable",
            Self::Ejected => "ejected",
            Self::Draining => "draining",
            Self::Disabled => "disabled",
        }
    }

    /// Returns whether it is known to answer, or is trusted to without a check.
    #[must_use]
    pub const fn is_up(self) -> bool {
        matches!(self, Self::Up | Self::Unchecked)
    }
}

/// Whether packets can be sent to a backend.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Reach {
    Reachable,
    /// The neighbour has not answered yet; the text says which.
    Resolving(String),
    /// The neighbour does not answer; the text says why not.
    Unreachable(String),
    /// A port or a route of this host is missing; the text says which.
    CutOff(String),
}

/// A change of a backend's state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct StateChange {
    pub(crate) at: Duration,
    pub(crate) state: HealthState,
    pub(crate) reason: String,
}

#[derive(Clone, Debug)]
pub(crate) struct BackendHealth {
    pub(crate) admin: AdminState,
    /// When the operator's drain is over, whatever `drain_timeout` says.
    pub(crate) drains_until: Option<Duration>,
    /// The operator's weight, in place of the config's.
    pub(crate) weight: Option<u32>,
    pub(crate) checks: Vec<CheckState>,
    ejection: EjectionState,
    /// Never [`Reach::Resolving`]; `None` until it is known.
    reach: Option<Reach>,
    pub(crate) state: HealthState,
    pub(crate) since: Duration,
    pub(crate) reason: String,
    /// Whether its weight in the config is above 0.
    has_weight: bool,
    /// Whether it counts as up until its first result.
    presumed_up: bool,
    /// Whether it left the config.
    removed: bool,
    /// Whether its service ejects backends for failures of client connections.
    may_be_ejected: bool,
    /// Since when the operator, the config or a check asks it to drain.
    drains_since: Option<Duration>,
    /// Whether it was down, unreachable, ejected or disabled since it was last up.
    was_out: bool,
    /// When it last recovered: the start of its slow start.
    recovered_at: Option<Duration>,
    /// Its last changes of state, the oldest first.
    pub(crate) history: VecDeque<StateChange>,
}

impl BackendHealth {
    /// Creates a backend whose checks have no result yet.
    pub(super) fn new(rules: &BackendRules, now: Duration) -> Self {
        let mut health = Self {
            admin: AdminState::Enabled,
            drains_until: None,
            weight: None,
            checks: vec![CheckState::default(); rules.checks.len()],
            ejection: EjectionState::default(),
            reach: None,
            state: HealthState::Up,
            since: now,
            reason: String::new(),
            has_weight: rules.has_weight,
            may_be_ejected: rules.may_be_ejected,
            presumed_up: false,
            removed: false,
            drains_since: None,
            was_out: false,
            recovered_at: None,
            history: VecDeque::new(),
        };
        (health.state, health.reason) = health.evaluate(now);
        health.drains_since = (health.state == HealthState::Draining).then_some(now);
        health
    }

    /// Makes it count as up until its first result. Its service has just started, so to leave it out would
    /// move the flows that a consistent policy keeps over a restart.
    pub(crate) fn presume_up(self) -> Self {
        Self {
            presumed_up: true,
            ..self
        }
    }

    /// Returns whether it counts as up although no check has a result.
    pub(crate) fn is_presumed_up(&self) -> bool {
        self.presumed_up && self.state == HealthState::Checking
    }

    /// Returns what goes on of it in the next process. `checks` are its checks' identities.
    pub(super) fn keep<'a>(
        &self,
        checks: impl Iterator<Item = &'a CheckIdentity>,
        now: Duration,
    ) -> KeptHealth {
        let checks = checks.zip(&self.checks);
        KeptHealth {
            admin: self.admin,
            weight: self.weight,
            drain_left_ms: self
                .drains_until
                .map(|until| millis(until.saturating_sub(now))),
            drained_ms: self
                .drains_since
                .map(|since| millis(now.saturating_sub(since))),
            checks: checks
                .filter_map(|(identity, state)| KeptCheck::of(identity.text(), state))
                .collect(),
            ejection: self.ejection.keep(now),
        }
    }

    /// Goes on with what [`BackendHealth::keep`] returned `elapsed` ago.
    pub(super) fn resume<'a>(
        &mut self,
        kept: &KeptHealth,
        checks: impl Iterator<Item = &'a CheckIdentity>,
        (elapsed, now): (Duration, Duration),
    ) -> Option<StateChange> {
        self.admin = kept.admin;
        self.weight = kept.weight;
        self.drains_until = kept.drain_left_ms.map(|ms| {
            let left = Duration::from_millis(ms).saturating_sub(elapsed);
            now.saturating_add(left)
        });
        for (identity, state) in checks.zip(&mut self.checks) {
            let identity = identity.text();
            if let Some(kept) = kept.checks.iter().find(|kept| kept.is_of(&identity)) {
                *state = kept.state(now);
            }
        }
        if self.may_be_ejected {
            self.ejection.resume(kept.ejection.as_ref(), elapsed, now);
        }
        let change = self.update(now);
        if let (Some(since), Some(ms)) = (&mut self.drains_since, kept.drained_ms) {
            let drained = Duration::from_millis(ms).saturating_add(elapsed);
            *since = now.saturating_sub(drained);
        }
        change
    }

    /// Records that it left the config.
    pub(crate) fn remove(&mut self, now: Duration) {
        self.removed = true;
        self.update(now);
    }

    /// Replaces the checks and the rules by those of a new config.
    pub(super) fn adopt(
        &mut self,
        checks: Vec<CheckState>,
        rules: &BackendRules,
        now: Duration,
    ) -> Option<StateChange> {
        self.checks = checks;
        self.has_weight = rules.has_weight;
        self.may_be_ejected = rules.may_be_ejected;
        self.update(now)
    }

    /// Records a check's result. Returns the change of state, if any.
    pub(crate) fn record_result(
        &mut self,
        check: usize,
        result: &CheckResult,
        timing: CheckTiming,
        now: Duration,
    ) -> Option<StateChange> {
        self.checks.get_mut(check)?.record(result, timing, now);
        self.update(now)
    }

    /// Counts what client connections have met so far. Returns the replies of the rule's window.
    pub(crate) fn count_encounters(
        &mut self,
        counted: Encounters,
        rule: &Ejection,
        now: Duration,
    ) -> u64 {
        self.ejection.count(counted, rule, now)
    }

    /// Starts an ejection if `rule` says so; `None` if too few other backends are in service.
    /// `expects_replies`: silence is a failure.
    pub(crate) fn eject_if_failing(
        &mut self,
        rule: Option<&Ejection>,
        expects_replies: bool,
        now: Duration,
    ) -> Option<StateChange> {
        if let Some(rule) = rule {
            self.ejection.eject_if_failing(rule, expects_replies, now);
        }
        self.update(now)
    }

    /// Records whether packets can be sent to it. A next hop that is being resolved again, as a kernel
    /// does that gets no answer, keeps what was known.
    pub(crate) fn record_reach(&mut self, reach: Reach, now: Duration) -> Option<StateChange> {
        self.reach = match (reach, self.reach.take()) {
            (Reach::Resolving(_), Some(known)) => Some(known),
            (Reach::Resolving(why), None) => Some(Reach::Unreachable(why)),
            (known, _) => Some(known),
        };
        self.update(now)
    }

    /// Returns whether packets can be sent to it; true until it is known.
    pub(crate) fn is_reachable(&self) -> bool {
        !matches!(self.reach, Some(Reach::Unreachable(_) | Reach::CutOff(_)))
    }

    /// Returns whether it is this host that cannot send to it.
    pub(crate) fn is_cut_off(&self) -> bool {
        matches!(self.reach, Some(Reach::CutOff(_)))
    }

    /// `within`: how long a drain may take; by default `drain_timeout`.
    pub(crate) fn set_admin(
        &mut self,
        admin: AdminState,
        within: Option<Duration>,
        now: Duration,
    ) -> Option<StateChange> {
        self.admin = admin;
        let until = within.filter(|_| admin == AdminState::Draining);
        self.drains_until = until.map(|within| now.saturating_add(within));
        self.update(now)
    }

    /// Sets the operator's weight; `None`: that of the config.
    pub(crate) fn set_weight(&mut self, weight: Option<u32>, now: Duration) -> Option<StateChange> {
        self.weight = weight;
        self.update(now)
    }

    /// Evaluates the state. Returns the change, if any.
    pub(crate) fn update(&mut self, now: Duration) -> Option<StateChange> {
        self.ejection.update(now);
        self.drains_since = match self.drain_reason() {
            Some(_) => self.drains_since.or(Some(now)),
            None => None,
        };
        let (state, reason) = self.evaluate(now);
        let before = std::mem::replace(&mut self.state, state);
        if state == before {
            self.reason = reason;
            return None;
        }
        self.was_out |= matches!(
            before,
            HealthState::Down
                | HealthState::Unreachable
                | HealthState::Ejected
                | HealthState::Disabled
        );
        if state.is_up() && std::mem::take(&mut self.was_out) {
            self.recovered_at = Some(now);
        }
        self.since = now;
        self.reason.clone_from(&reason);
        let change = StateChange {
            at: now,
            state,
            reason,
        };
        if self.history.len() == HISTORY_MAX {
            self.history.pop_front();
        }
        self.history.push_back(change.clone());
        Some(change)
    }

    fn evaluate(&self, now: Duration) -> (HealthState, String) {
        let failing = |check: &&CheckState| check.debounced == Debounced::Failing;
        if self.admin == AdminState::Disabled {
            return (HealthState::Disabled, "set by the operator".into());
        }
        if let Some(check) = self.checks.iter().find(failing) {
            return (HealthState::Down, check.reason().into());
        }
        if self.ejection.until.is_some_and(|until| now < until) {
            return (HealthState::Ejected, self.ejection.reason.clone());
        }
        if let Some(reason) = self.drain_reason() {
            return (HealthState::Draining, reason.into());
        }
        if let Some(Reach::Unreachable(why) | Reach::CutOff(why)) = &self.reach {
            return (HealthState::Unreachable, why.clone());
        }
        let undecided = |check: &CheckState| check.debounced == Debounced::Undecided;
        match self.checks.first() {
            Some(_) if self.checks.iter().any(undecided) => {
                (HealthState::Checking, "no result yet".into())
            }
            Some(check) => (HealthState::Up, check.reason().into()),
            None if self.may_be_ejected => (HealthState::Up, "no check; may be ejected".into()),
            None => (HealthState::Unchecked, "no health check".into()),
        }
    }

    /// Returns why it should drain, if it should.
    fn drain_reason(&self) -> Option<&str> {
        let asks = |check: &&CheckState| check.draining || check.weight == Some(0);
        if self.admin == AdminState::Draining {
            Some("set by the operator")
        } else if self.removed {
            Some("removed from the config")
        } else if self.weight == Some(0) {
            Some("weight 0, set by the operator")
        } else if !self.has_weight && self.weight.is_none() {
            Some("weight 0 in the config")
        } else {
            self.checks.iter().find(asks).map(CheckState::reason)
        }
    }

    /// Returns the share of its weight that its checks ask for, in percent.
    pub(crate) fn requested_percent(&self) -> u64 {
        let weights = self.checks.iter().filter_map(|check| check.weight);
        let product = weights.fold(100, |product, weight| product * u64::from(weight) / 100);
        // Rounding must not make it 0, which drains, unless a check asks for 0.
        let none = self.checks.iter().any(|check| check.weight == Some(0));
        product.max(u64::from(!none))
    }

    /// Returns the effective share of its weight, slow start included, in percent.
    pub(crate) fn weight_percent(&self, slow_start: Duration, now: Duration) -> u32 {
        let requested = self.requested_percent();
        let percent = requested * u64::from(self.slow_start_percent(slow_start, now)) / 100;
        u32::try_from(percent.max(requested.min(1))).unwrap_or(u32::MAX)
    }

    fn slow_start_percent(&self, slow_start: Duration, now: Duration) -> u32 {
        let Some(from) = self.recovered_at.filter(|_| slow_start > Duration::ZERO) else {
            return 100;
        };
        let step = slow_start / SLOW_START_STEPS;
        let done = now.saturating_sub(from).as_nanos() / step.as_nanos().max(1);
        let done = u32::try_from(done).unwrap_or(u32::MAX);
        100 / SLOW_START_STEPS * done.saturating_add(1).min(SLOW_START_STEPS)
    }

    /// Returns when the next change by time alone is due: a step of a slow start, the end of an
    /// ejection, or the end of `drain_timeout`.
    pub(crate) fn next_change(
        &self,
        slow_start: Duration,
        drain_timeout: Option<Duration>,
        now: Duration,
    ) -> Option<Duration> {
        let recovered = self.recovered_at.filter(|_| slow_start > Duration::ZERO);
        let step = recovered.and_then(|from| {
            let steps = (1..SLOW_START_STEPS).map(|n| from + slow_start / SLOW_START_STEPS * n);
            steps
                .map(|at| round_up(at, SLOW_START_GRID))
                .find(|at| *at > now)
        });
        let drained = self.drained_at(drain_timeout).filter(|at| *at > now);
        [step, drained, self.ejection.until]
            .into_iter()
            .flatten()
            .min()
    }

    /// Returns when the drain is over: when the operator said, else by `drain_timeout`. A removed backend
    /// drains in every state.
    fn drained_at(&self, drain_timeout: Option<Duration>) -> Option<Duration> {
        let is_draining = self.removed || self.state == HealthState::Draining;
        if let Some(until) = self.drains_until.filter(|_| is_draining) {
            return Some(until);
        }
        Some(self.drains_since.filter(|_| is_draining)? + drain_timeout?)
    }

    /// Returns whether `drain_timeout` is over, so that its sessions end.
    pub(crate) fn is_drained(&self, drain_timeout: Option<Duration>, now: Duration) -> bool {
        self.drained_at(drain_timeout).is_some_and(|at| at <= now)
    }
}

/// Rounds up to a multiple of a span.
fn round_up(at: Duration, span: Duration) -> Duration {
    let spans = at.as_nanos().div_ceil(span.as_nanos());
    span * u32::try_from(spans).unwrap_or(u32::MAX)
}
