//! The health of all backends, shared by the controller, the check runner and the admin socket.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::watch;
use waxwing_packet::Address;

use super::admin_state::AdminState;
use super::backend::{BackendHealth, HealthState, Reach, StateChange};
use super::check_state::{CheckResult, CheckState, Debounced};
use super::effects::Effects;
use super::ejection::Encounters;
use super::kept::KeptHealth;
use super::removed::RemovedBackend;
use super::rules::{CheckIdentity, CheckKey};
use super::service_health::{ServiceHealth, Transition, Update};
use super::status::{BackendHealthStatus, ChangeStatus, CheckStatus, ChecksStatus};
use crate::config::{Config, HealthConfig};
use crate::log_limit::LogLimit;
use crate::publish::keys::BackendKey;
use crate::time::unix_seconds;

/// Check starts whose delays are kept for the status.
const DELAYS_MAX: usize = 4096;

pub(crate) struct HealthMonitor {
    service_health: Mutex<ServiceHealth>,
    zero: Instant,
    /// Notified when the effects may have changed.
    changed: watch::Sender<()>,
    /// Of the lines about transitions.
    log_limit: Mutex<LogLimit>,
    /// How late the last checks started.
    delays: Mutex<VecDeque<Duration>>,
    pub(crate) runs: AtomicU64,
    /// Of these, those that passed and those that failed; the others said nothing of the backend.
    pub(crate) passed: AtomicU64,
    pub(crate) failed: AtomicU64,
    /// Changes of backends' states, by the new state.
    transitions: [AtomicU64; HealthState::ALL.len()],
    pub(crate) running: AtomicU64,
    /// CPU time of the runner's thread, in milliseconds.
    pub(crate) cpu_ms: AtomicU64,
}

impl HealthMonitor {
    /// Its times count from `zero`.
    pub(crate) fn new(zero: Instant) -> Self {
        Self {
            service_health: Mutex::default(),
            zero,
            changed: watch::Sender::default(),
            log_limit: Mutex::default(),
            delays: Mutex::default(),
            runs: AtomicU64::new(0),
            passed: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            transitions: Default::default(),
            running: AtomicU64::new(0),
            cpu_ms: AtomicU64::new(0),
        }
    }

    /// Returns the time, as all times here are.
    pub(crate) fn now(&self) -> Duration {
        self.zero.elapsed()
    }

    /// Converts a time.
    pub(crate) fn instant(&self, at: Duration) -> Instant {
        self.zero + at
    }

    /// Returns a receiver that is notified when the effects may have changed.
    pub(crate) fn watch(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    pub(crate) fn adopt(&self, config: &Arc<Config>) {
        let update = self.service_health().adopt(config, self.now());
        self.publish(update);
    }

    pub(crate) fn effects(&self, config: &Arc<Config>) -> Effects {
        self.service_health().effects(config, self.now())
    }

    /// Records a check's result. Returns whether the check is still in the config.
    pub(crate) fn record_result(
        &self,
        key: CheckKey,
        identity: &CheckIdentity,
        result: &CheckResult,
    ) -> bool {
        let mut service_health = self.service_health();
        let update = service_health.record_result(key, identity, result, self.now());
        drop(service_health);
        update.map(|update| self.publish(update)).is_some()
    }

    /// Records how many client connections have failed, by backend.
    pub(crate) fn record_failures(&self, counted: impl FnMut(BackendKey) -> Option<Encounters>) {
        let update = self.service_health().record_failures(self.now(), counted);
        self.publish(update);
    }

    /// Records whether packets can be sent to the backends, by address.
    pub(crate) fn record_reach(&self, reach: impl Fn(Address) -> Option<Reach>) {
        let update = self.service_health().record_reach(self.now(), reach);
        self.publish(update);
    }

    /// Sets a backend's admin state; see [`BackendHealth::set_admin`].
    pub(crate) fn set_admin(
        &self,
        backend: BackendKey,
        admin: AdminState,
        within: Option<Duration>,
    ) {
        self.set(backend, |health, now| health.set_admin(admin, within, now));
    }

    /// Sets the operator's weight of a backend; `None`: that of the config.
    pub(crate) fn set_weight(&self, backend: BackendKey, weight: Option<u32>) {
        self.set(backend, |health, now| health.set_weight(weight, now));
    }

    fn set(
        &self,
        backend: BackendKey,
        change: impl FnOnce(&mut BackendHealth, Duration) -> Option<StateChange>,
    ) {
        let now = self.now();
        let change = |health: &mut BackendHealth| change(health, now);
        let update = self.service_health().set(backend, now, change);
        self.publish(update.unwrap_or_default());
    }

    /// Returns what goes on of a backend's health in the next process.
    pub(crate) fn keep(&self, backend: BackendKey) -> KeptHealth {
        self.service_health().keep(backend, self.now())
    }

    /// Goes on with what another process kept of a backend's health `elapsed` ago.
    pub(crate) fn resume(&self, backend: BackendKey, kept: &KeptHealth, elapsed: Duration) {
        let now = self.now();
        let update = self.service_health().resume(backend, kept, (elapsed, now));
        self.publish(update.unwrap_or_default());
    }

    /// Applies the changes that are due by time alone.
    pub(crate) fn advance(&self) {
        let update = self.service_health().advance(self.now());
        self.publish(update);
    }

    /// Returns when [`HealthMonitor::advance`] is due next.
    pub(crate) fn next_change(&self) -> Option<Duration> {
        self.service_health().next_change()
    }

    pub(crate) fn is_undecided(&self, key: CheckKey) -> bool {
        self.service_health().is_undecided(key)
    }

    /// Logs the transitions and notifies the watchers.
    fn publish(&self, update: Update) {
        let now = Instant::now();
        for Transition {
            service,
            backend,
            change,
        } in update.transitions
        {
            self.transitions[change.state as usize].fetch_add(1, Ordering::Relaxed);
            let (state, reason) = (change.state.label(), change.reason);
            match change.state {
                _ if !self.log_limit().allows(state, now) => {
                    tracing::debug!("{service}: backend {backend} is {state}: {reason}");
                }
                HealthState::Down | HealthState::Ejected | HealthState::Unreachable => {
                    tracing::warn!("{service}: backend {backend} is {state}: {reason}");
                }
                _ => tracing::info!("{service}: backend {backend} is {state}: {reason}"),
            }
        }
        if update.effects_changed {
            self.changed.send_replace(());
        }
    }

    /// Logs how many transitions got no line of their own. Call it every second or so.
    pub(crate) fn log_summary(&self) {
        if let Some(counts) = self.log_limit().summary(Instant::now()) {
            tracing::info!("backends that changed too, each logged at level debug: {counts}");
        }
    }

    fn log_limit(&self) -> MutexGuard<'_, LogLimit> {
        self.log_limit
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Records how late a check started.
    pub(crate) fn record_delay(&self, delay: Duration) {
        let mut delays = self.delays.lock().unwrap_or_else(PoisonError::into_inner);
        if delays.len() == DELAYS_MAX {
            delays.pop_front();
        }
        delays.push_back(delay);
    }

    pub(crate) fn checks_status(&self, running_max: usize) -> ChecksStatus {
        let delays = self.delays.lock().unwrap_or_else(PoisonError::into_inner);
        let mut delays: Vec<Duration> = delays.iter().copied().collect();
        delays.sort_unstable();
        let p99 = delays.get(delays.len().saturating_sub(1) * 99 / 100);
        let ms = |delay: Option<&Duration>| {
            let ms = delay.map_or(0, Duration::as_millis);
            u64::try_from(ms).unwrap_or(u64::MAX)
        };
        ChecksStatus {
            runs: self.runs.load(Ordering::Relaxed),
            passed: self.passed.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            running: self.running.load(Ordering::Relaxed),
            running_max: u64::try_from(running_max).unwrap_or(u64::MAX),
            late_p99_ms: ms(p99),
            late_max_ms: ms(delays.last()),
            cpu_ms: self.cpu_ms.load(Ordering::Relaxed),
        }
    }

    /// Forgets the removed backends for which `is_kept` is false.
    pub(crate) fn keep_removed(&self, is_kept: impl Fn(&BackendKey) -> bool) {
        self.service_health().keep_removed(is_kept);
    }

    /// Returns the backends of earlier configs that may still have sessions.
    pub(crate) fn removed(&self) -> HashMap<BackendKey, RemovedBackend> {
        let service_health = self.service_health();
        let removed = service_health.removed();
        removed.map(|(key, it)| (*key, it.clone())).collect()
    }

    /// Returns how often backends changed to a state.
    pub(crate) fn transitions(&self, to: HealthState) -> u64 {
        self.transitions[to as usize].load(Ordering::Relaxed)
    }

    /// Returns what `look` makes of a backend's health; `None` if it is not known. Checks wait meanwhile.
    pub(crate) fn look<T>(
        &self,
        key: BackendKey,
        look: impl FnOnce(&BackendHealth) -> T,
    ) -> Option<T> {
        self.service_health().get(key).map(look)
    }

    /// Returns a backend's state and the reason.
    pub(crate) fn state(&self, key: BackendKey) -> Option<(HealthState, String)> {
        self.look(key, |health| (health.state, health.reason.clone()))
    }

    pub(crate) fn status(&self, key: BackendKey, rules: &HealthConfig) -> BackendHealthStatus {
        let service_health = self.service_health();
        let health = service_health.get(key);
        health.map_or_else(BackendHealthStatus::default, |health| {
            self.status_by(health, rules)
        })
    }

    /// Returns the status of a backend that left the config.
    pub(crate) fn status_of_removed(&self, removed: &RemovedBackend) -> BackendHealthStatus {
        self.status_by(&removed.health, &removed.rules)
    }

    fn status_by(&self, health: &BackendHealth, rules: &HealthConfig) -> BackendHealthStatus {
        let now = self.now();
        let today = SystemTime::now();
        let clock = |at: Duration| unix_seconds(today - now.saturating_sub(at));
        BackendHealthStatus {
            state: health.state,
            admin: health.admin,
            drains_until: health
                .drains_until
                .map(|until| unix_seconds(today + until.saturating_sub(now))),
            operator_weight: health.weight,
            since: clock(health.since),
            reason: health.reason.clone(),
            weight_percent: health.weight_percent(rules.slow_start, now),
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

    fn service_health(&self) -> MutexGuard<'_, ServiceHealth> {
        let lock = self.service_health.lock();
        lock.unwrap_or_else(PoisonError::into_inner)
    }
}

fn check_status(check: &CheckState, name: &str, clock: impl Fn(Duration) -> u64) -> CheckStatus {
    let state = match check.debounced {
        Debounced::Undecided => "undecided",
        Debounced::Passing => "passing",
        Debounced::Failing => "failing",
    };
    let last = check.last.as_ref();
    let us = last.map_or(0, |(_, result)| result.took.as_micros());
    CheckStatus {
        check: name.to_owned(),
        state: state.to_owned(),
        contradicting: check.contradicting,
        reason: last.map_or_else(String::new, |(_, result)| result.reason.clone()),
        latency_us: u64::try_from(us).unwrap_or(u64::MAX),
        last_at: last.map(|(at, _)| clock(*at)),
        log: last.map_or_else(Vec::new, |(_, result)| result.log.clone()),
    }
}
