//! What is known of one backend's health: the results of its checks, what clients' connections met
//! there, and the operator's word.
//!
//! Invariant: it knows no clock and does no I/O; the same events at the same times give the same
//! states. Times are since the balancer's start.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::{Ejection, Pace};

/// The changes that are kept for `status`.
const HISTORY_MAX: usize = 16;
/// A slow start's steps to the full weight.
const RAMP_STEPS: u32 = 10;
/// When steps are taken: at multiples of this.
const RAMP_GRID: Duration = Duration::from_millis(100);

/// What becomes of new sessions that would go to a backend, and why.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It takes them.
    #[default]
    Up,
    /// No check has had a result yet: it takes them only where no other backend is up.
    Checking,
    /// A check fails.
    Down,
    /// Too many clients' connections failed.
    Ejected,
    /// It keeps the sessions it has, by the operator's or its own word.
    Draining,
    /// The operator took it out.
    Disabled,
}

impl State {
    /// Its word in logs and in `status`.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Checking => "checking",
            Self::Down => "down",
            Self::Ejected => "ejected",
            Self::Draining => "draining",
            Self::Disabled => "disabled",
        }
    }
}

/// The operator's word on a backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Admin {
    /// Its health decides.
    #[default]
    Enabled,
    /// It takes no new sessions.
    Draining,
    /// It is as if it were down.
    Disabled,
}

/// A check's result.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Outcome {
    pub(crate) passed: bool,
    /// It is well, and asks for no new sessions.
    pub(crate) draining: bool,
    /// What to make of its weight, in percent.
    pub(crate) weight: Option<u32>,
    pub(crate) reason: String,
    pub(crate) took: Duration,
}

/// What is known by a check.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Known {
    #[default]
    Nothing,
    Passing,
    Failing,
}

/// One check of one backend.
#[derive(Clone, Debug, Default)]
pub(crate) struct CheckState {
    pub(crate) known: Known,
    /// Results in a row that say something else than what is known.
    pub(crate) contrary: u32,
    pub(crate) last: Option<(Duration, Outcome)>,
    weight: Option<u32>,
    draining: bool,
}

impl CheckState {
    /// Of a check that is new to a backend that served without it: it takes as many failures as if it
    /// had passed before.
    pub(crate) fn passing() -> Self {
        Self {
            known: Known::Passing,
            ..Self::default()
        }
    }

    /// Takes in a result. The first one decides at once; later ones by `rise` and `fall`.
    fn take(&mut self, outcome: &Outcome, pace: Pace, now: Duration) {
        let (agrees, enough) = match self.known {
            Known::Nothing => (false, 1),
            Known::Passing => (outcome.passed, pace.fall),
            Known::Failing => (!outcome.passed, pace.rise),
        };
        self.contrary = if agrees { 0 } else { self.contrary + 1 };
        if self.contrary >= enough {
            self.contrary = 0;
            self.known = if outcome.passed {
                Known::Passing
            } else {
                Known::Failing
            };
        }
        if outcome.passed {
            self.draining = outcome.draining;
            self.weight = outcome.weight.or(self.weight);
        }
        self.last = Some((now, outcome.clone()));
    }

    /// Whether the next results matter more than usual.
    pub(crate) fn is_undecided(&self) -> bool {
        self.known == Known::Nothing || self.contrary > 0
    }

    fn reason(&self) -> &str {
        self.last
            .as_ref()
            .map_or("no result yet", |(_, last)| last.reason.as_str())
    }
}

/// A change of a backend's state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Change {
    pub(crate) at: Duration,
    pub(crate) state: State,
    pub(crate) reason: String,
}

/// Failures of clients' connections, and what came of them.
#[derive(Clone, Debug, Default)]
struct Passive {
    /// What was counted when it was last read; `None` before.
    counted: Option<u64>,
    /// New failures, and when they were seen.
    recent: VecDeque<(Duration, u64)>,
    /// How often it was ejected of late.
    times: u32,
    until: Option<Duration>,
    /// When it came back last.
    back: Duration,
    reason: String,
}

/// One backend.
#[derive(Clone, Debug)]
pub(crate) struct BackendHealth {
    pub(crate) admin: Admin,
    pub(crate) checks: Vec<CheckState>,
    passive: Passive,
    pub(crate) state: State,
    pub(crate) since: Duration,
    pub(crate) reason: String,
    /// Whether it takes new sessions by the config's weight.
    weighs: bool,
    /// Since when somebody wants it to drain: the operator, the config or a check.
    drains_since: Option<Duration>,
    /// Whether it was out since it last took new sessions.
    is_cold: bool,
    /// When it came back: its weight grows from then on.
    ramp_from: Option<Duration>,
    pub(crate) history: VecDeque<Change>,
}

impl BackendHealth {
    /// One with so many checks, none of which has had a result; `weighs` as of the config.
    pub(crate) fn new(checks: usize, weighs: bool, now: Duration) -> Self {
        let mut health = Self {
            admin: Admin::Enabled,
            checks: vec![CheckState::default(); checks],
            passive: Passive::default(),
            state: State::Up,
            since: now,
            reason: String::new(),
            weighs,
            drains_since: None,
            is_cold: false,
            ramp_from: None,
            history: VecDeque::new(),
        };
        (health.state, health.reason) = health.judge(now);
        health.drains_since = (health.state == State::Draining).then_some(now);
        health
    }

    /// The config has these checks now, and a weight.
    pub(crate) fn adopt(
        &mut self,
        checks: Vec<CheckState>,
        weighs: bool,
        now: Duration,
    ) -> Option<Change> {
        self.checks = checks;
        self.weighs = weighs;
        self.settle(now)
    }

    /// Takes in a check's result; gives the change that it made.
    pub(crate) fn result(
        &mut self,
        check: usize,
        outcome: &Outcome,
        pace: Pace,
        now: Duration,
    ) -> Option<Change> {
        self.checks.get_mut(check)?.take(outcome, pace, now);
        self.settle(now)
    }

    /// Takes in how many clients' connections have failed there so far. `may_eject`: enough other
    /// backends are in.
    pub(crate) fn failures(
        &mut self,
        counted: u64,
        rule: &Ejection,
        may_eject: bool,
        now: Duration,
    ) -> Option<Change> {
        let passive = &mut self.passive;
        let new = counted.saturating_sub(passive.counted.unwrap_or(counted));
        passive.counted = Some(counted);
        // While it is out they are of sessions from before.
        if new > 0 && passive.until.is_none() {
            passive.recent.push_back((now, new));
        }
        passive
            .recent
            .retain(|(at, _)| now.saturating_sub(*at) < rule.window);
        let sum: u64 = passive.recent.iter().map(|(_, count)| count).sum();
        if passive.until.is_none() && sum >= u64::from(rule.failures) && may_eject {
            // In for as long as it was out the last time: what was before is forgiven.
            let last = time_out(rule, passive.times);
            if now.saturating_sub(passive.back) > last {
                passive.times = 0;
            }
            passive.times += 1;
            let time = time_out(rule, passive.times);
            passive.until = Some(now + time);
            passive.recent.clear();
            let window = rule.window.as_secs_f64();
            passive.reason = format!(
                "{sum} connections refused or not answered in {window} s; out for {} s",
                time.as_secs_f64()
            );
        }
        self.settle(now)
    }

    /// The operator's word.
    pub(crate) fn set_admin(&mut self, admin: Admin, now: Duration) -> Option<Change> {
        self.admin = admin;
        self.settle(now)
    }

    /// Lets time pass.
    pub(crate) fn settle(&mut self, now: Duration) -> Option<Change> {
        if self.passive.until.is_some_and(|until| until <= now) {
            self.passive.until = None;
            self.passive.back = now;
        }
        self.drains_since = match self.wants_to_drain() {
            Some(_) => self.drains_since.or(Some(now)),
            None => None,
        };
        let (state, reason) = self.judge(now);
        let before = std::mem::replace(&mut self.state, state);
        if state == before {
            self.reason = reason;
            return None;
        }
        self.is_cold |= matches!(before, State::Down | State::Ejected | State::Disabled);
        if state == State::Up && std::mem::take(&mut self.is_cold) {
            self.ramp_from = Some(now);
        }
        self.since = now;
        self.reason.clone_from(&reason);
        let change = Change {
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

    fn judge(&self, now: Duration) -> (State, String) {
        let failing = |check: &&CheckState| check.known == Known::Failing;
        if self.admin == Admin::Disabled {
            return (State::Disabled, "by the operator".into());
        }
        if let Some(check) = self.checks.iter().find(failing) {
            return (State::Down, check.reason().into());
        }
        if self.passive.until.is_some_and(|until| now < until) {
            return (State::Ejected, self.passive.reason.clone());
        }
        if let Some(reason) = self.wants_to_drain() {
            return (State::Draining, reason.into());
        }
        if self
            .checks
            .iter()
            .any(|check| check.known == Known::Nothing)
        {
            return (State::Checking, "no result yet".into());
        }
        let reason = self
            .checks
            .first()
            .map_or("not checked", CheckState::reason);
        (State::Up, reason.into())
    }

    /// Who wants it to take no new sessions, and keep those it has.
    fn wants_to_drain(&self) -> Option<&str> {
        let asks = |check: &&CheckState| check.draining || check.weight == Some(0);
        if self.admin == Admin::Draining {
            Some("by the operator")
        } else if !self.weighs {
            Some("weight 0 in the config")
        } else {
            self.checks.iter().find(asks).map(CheckState::reason)
        }
    }

    /// What its checks make of its weight, in percent.
    pub(crate) fn asked(&self) -> u64 {
        let weights = self.checks.iter().filter_map(|check| check.weight);
        let product = weights.fold(100, |product, weight| product * u64::from(weight) / 100);
        // A part of a part is still a part.
        let none = self.checks.iter().any(|check| check.weight == Some(0));
        product.max(u64::from(!none))
    }

    /// What its health makes of its weight, in percent.
    pub(crate) fn percent(&self, slow_start: Duration, now: Duration) -> u32 {
        let asked = self.asked();
        let percent = asked * u64::from(self.ramp(slow_start, now)) / 100;
        u32::try_from(percent.max(asked.min(1))).unwrap_or(u32::MAX)
    }

    fn ramp(&self, slow_start: Duration, now: Duration) -> u32 {
        let Some(from) = self.ramp_from.filter(|_| slow_start > Duration::ZERO) else {
            return 100;
        };
        let step = slow_start / RAMP_STEPS;
        let done = now.saturating_sub(from).as_nanos() / step.as_nanos().max(1);
        let done = u32::try_from(done).unwrap_or(u32::MAX);
        100 / RAMP_STEPS * done.saturating_add(1).min(RAMP_STEPS)
    }

    /// When something changes by time alone: a weight's next step, the end of an ejection, or of the
    /// time that a draining backend's sessions have.
    pub(crate) fn next_change(
        &self,
        slow_start: Duration,
        drain_timeout: Option<Duration>,
        now: Duration,
    ) -> Option<Duration> {
        let ramp = self.ramp_from.filter(|_| slow_start > Duration::ZERO);
        let step = ramp.and_then(|from| {
            let steps = (1..RAMP_STEPS).map(|n| from + slow_start / RAMP_STEPS * n);
            // Steps of many backends fall together.
            steps.map(|at| round_up(at, RAMP_GRID)).find(|at| *at > now)
        });
        let drained = self.drained_at(drain_timeout).filter(|at| *at > now);
        [step, drained, self.passive.until]
            .into_iter()
            .flatten()
            .min()
    }

    fn drained_at(&self, drain_timeout: Option<Duration>) -> Option<Duration> {
        let is_draining = self.state == State::Draining;
        Some(self.drains_since.filter(|_| is_draining)? + drain_timeout?)
    }

    /// Whether its sessions have had their time to end.
    pub(crate) fn is_drained(&self, drain_timeout: Option<Duration>, now: Duration) -> bool {
        self.drained_at(drain_timeout).is_some_and(|at| at <= now)
    }
}

/// The next multiple of a span.
fn round_up(at: Duration, span: Duration) -> Duration {
    let spans = at.as_nanos().div_ceil(span.as_nanos());
    span * u32::try_from(spans).unwrap_or(u32::MAX)
}

/// How long the `n`-th ejection in a row lasts.
fn time_out(rule: &Ejection, n: u32) -> Duration {
    let factor = 1_u32.checked_shl(n.saturating_sub(1)).unwrap_or(u32::MAX);
    rule.time.saturating_mul(factor).min(rule.time_max)
}
