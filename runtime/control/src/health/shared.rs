//! The one value that the controller, the runner of checks and the admin socket share.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::watch;

use super::backend::{Admin, CheckState, Known, Outcome, State};
use super::plan::CheckKey;
use super::roster::{Effects, Identity, Outcomes, Roster, Told};
use super::status::{BackendHealthStatus, ChangeStatus, CheckStatus, ChecksStatus};
use crate::config::{self, Config};
use crate::publish::keys::BackendKey;
use crate::time::unix_seconds;

/// How many checks' lateness is looked back at.
const LATE_MAX: usize = 4096;

/// All backends' health, and how the checks are getting on.
pub(crate) struct Health {
    roster: Mutex<Roster>,
    started: Instant,
    /// Told of whenever effects may have changed.
    changed: watch::Sender<()>,
    late: Mutex<VecDeque<Duration>>,
    pub(crate) runs: AtomicU64,
    pub(crate) running: AtomicU64,
    /// Processor time of the checks' thread, in milliseconds.
    pub(crate) cpu_ms: AtomicU64,
}

impl Health {
    pub(crate) fn new() -> Self {
        Self {
            roster: Mutex::default(),
            started: Instant::now(),
            changed: watch::Sender::default(),
            late: Mutex::default(),
            runs: AtomicU64::new(0),
            running: AtomicU64::new(0),
            cpu_ms: AtomicU64::new(0),
        }
    }

    /// The roster's time.
    pub(crate) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// A time of the roster's as the system's.
    pub(crate) fn instant(&self, at: Duration) -> Instant {
        self.started + at
    }

    /// Hears of what may have changed effects.
    pub(crate) fn watch(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    pub(crate) fn adopt(&self, config: &Arc<Config>) {
        let outcomes = self.roster().adopt(config, self.now());
        self.tell(outcomes);
    }

    pub(crate) fn effects(&self, config: &Arc<Config>) -> Effects {
        self.roster().effects(config, self.now())
    }

    /// Takes in a check's result; whether the check is still one of the config's.
    pub(crate) fn result(&self, key: CheckKey, identity: &Identity, outcome: &Outcome) -> bool {
        let outcomes = self.roster().result(key, identity, outcome, self.now());
        outcomes.map(|outcomes| self.tell(outcomes)).is_some()
    }

    /// Takes in how many of clients' connections have failed.
    pub(crate) fn failures(&self, counted: impl FnMut(BackendKey) -> Option<u64>) {
        let outcomes = self.roster().failures(self.now(), counted);
        self.tell(outcomes);
    }

    pub(crate) fn set_admin(&self, backend: BackendKey, admin: Admin) {
        let outcomes = self.roster().set_admin(backend, admin, self.now());
        self.tell(outcomes.unwrap_or_default());
    }

    /// Lets time pass.
    pub(crate) fn settle(&self) {
        let outcomes = self.roster().settle(self.now());
        self.tell(outcomes);
    }

    /// When something changes by time alone.
    pub(crate) fn next_change(&self) -> Option<Duration> {
        self.roster().next_change()
    }

    pub(crate) fn is_undecided(&self, key: CheckKey) -> bool {
        self.roster().is_undecided(key)
    }

    fn tell(&self, outcomes: Outcomes) {
        for Told {
            service,
            backend,
            change,
        } in outcomes.told
        {
            let (state, reason) = (change.state.word(), change.reason);
            match change.state {
                State::Down | State::Ejected => {
                    tracing::warn!("{service}: backend {backend} is {state}: {reason}");
                }
                _ => tracing::info!("{service}: backend {backend} is {state}: {reason}"),
            }
        }
        if outcomes.effects {
            self.changed.send_replace(());
        }
    }

    /// A check started so much later than it was due.
    pub(crate) fn note_late(&self, late: Duration) {
        let mut all = self.late.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() == LATE_MAX {
            all.pop_front();
        }
        all.push_back(late);
    }

    /// How the checks are getting on.
    pub(crate) fn checks_status(&self) -> ChecksStatus {
        let late = self.late.lock().unwrap_or_else(PoisonError::into_inner);
        let mut late: Vec<Duration> = late.iter().copied().collect();
        late.sort_unstable();
        let at = |part: usize| late.get(late.len().saturating_sub(1) * part / 100);
        let ms = |late: Option<&Duration>| {
            late.map_or(0, |late| {
                u64::try_from(late.as_millis()).unwrap_or(u64::MAX)
            })
        };
        ChecksStatus {
            runs: self.runs.load(Ordering::Relaxed),
            running: self.running.load(Ordering::Relaxed),
            late_p99_ms: ms(at(99)),
            late_max_ms: ms(late.last()),
            cpu_ms: self.cpu_ms.load(Ordering::Relaxed),
        }
    }

    /// What becomes of new sessions of a backend.
    pub(crate) fn state(&self, key: BackendKey) -> State {
        self.roster()
            .get(key)
            .map_or(State::Up, |health| health.state)
    }

    /// A backend's health, for people.
    pub(crate) fn status(&self, key: BackendKey, rules: &config::Health) -> BackendHealthStatus {
        let now = self.now();
        let today = SystemTime::now();
        let clock = |at: Duration| unix_seconds(today - now.saturating_sub(at));
        let roster = self.roster();
        let Some(health) = roster.get(key) else {
            return BackendHealthStatus::default();
        };
        BackendHealthStatus {
            state: health.state,
            admin: health.admin,
            since: clock(health.since),
            reason: health.reason.clone(),
            weight_percent: health.percent(rules.slow_start, now),
            checks: health
                .checks
                .iter()
                .zip(&rules.checks)
                .map(|(check, rule)| check_status(check, &rule.module.value, clock))
                .collect(),
            history: health
                .history
                .iter()
                .map(|change| ChangeStatus {
                    at: clock(change.at),
                    state: change.state,
                    reason: change.reason.clone(),
                })
                .collect(),
        }
    }

    fn roster(&self) -> MutexGuard<'_, Roster> {
        self.roster.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn check_status(check: &CheckState, name: &str, clock: impl Fn(Duration) -> u64) -> CheckStatus {
    let state = match check.known {
        Known::Nothing => "undecided",
        Known::Passing => "passing",
        Known::Failing => "failing",
    };
    let (at, last) = check
        .last
        .as_ref()
        .map_or((None, None), |(at, last)| (Some(*at), Some(last)));
    CheckStatus {
        check: name.to_owned(),
        state: state.to_owned(),
        contradicting: check.contrary,
        reason: last.map(|last| last.reason.clone()).unwrap_or_default(),
        latency_us: last.map_or(0, |last| {
            u64::try_from(last.took.as_micros()).unwrap_or(u64::MAX)
        }),
        last_at: at.map(clock),
    }
}
