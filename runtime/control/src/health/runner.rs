//! The thread that runs the checks.
//!
//! Invariant: it waits for nothing but its own checks. A check that hangs, loops or floods ends by
//! its own limits, and the others' go on meanwhile; the control loop is on another thread.

use std::cell::LazyCell;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use waxwing_dataplane::BackendId;
use waxwing_plugin::checks::{Check, CheckHost, CheckOutcome, CheckVerdict};

use super::Health;
use super::backend::Outcome;
use super::plan::Job;
use super::schedule::{Due, Schedule};
use crate::catalog::{BackendKey, key_of};
use crate::report::Reporter;

/// Checks that run at once; what is due beyond that waits.
const RUNNING_MAX: usize = 512;

/// How often failures of clients' connections are counted.
const FAILURES_EVERY: Duration = Duration::from_millis(250);

/// A module failed, and not the backend.
pub(crate) struct Fault {
    pub(crate) check: Arc<Check>,
    pub(crate) why: String,
}

/// What the runner works with.
pub(crate) struct Runner {
    pub(crate) host: Arc<CheckHost>,
    pub(crate) health: Arc<Health>,
    pub(crate) reporter: Arc<Reporter>,
    pub(crate) jobs: watch::Receiver<Vec<Arc<Job>>>,
    pub(crate) faults: mpsc::UnboundedSender<Fault>,
}

/// A check that has ended.
struct Done {
    id: u64,
    job: Arc<Job>,
    outcome: CheckOutcome,
}

impl Runner {
    /// Starts the thread, which ends when the sender of jobs is dropped.
    ///
    /// # Errors
    /// There is no thread or event loop to be had.
    pub(crate) fn start(self) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        std::thread::Builder::new()
            .name("health".into())
            .spawn(move || runtime.block_on(self.run()))?;
        Ok(())
    }

    async fn run(mut self) {
        let health = Arc::clone(&self.health);
        let mut schedule = Schedule::new(RandomState::new().build_hasher().finish());
        let mut running = JoinSet::new();
        let mut failures = tokio::time::interval(FAILURES_EVERY);
        failures.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        schedule.adopt(&self.jobs.borrow_and_update(), self.health.now());
        loop {
            self.start_due(&mut schedule, &mut running);
            let due = if running.len() < RUNNING_MAX {
                schedule.next_due()
            } else {
                None
            };
            let change = self.health.next_change();
            tokio::select! {
                Some(done) = running.join_next() => {
                    if let Ok(done) = done {
                        self.take(&mut schedule, done);
                    }
                }
                changed = self.jobs.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    schedule.adopt(&self.jobs.borrow_and_update(), self.health.now());
                }
                () = sleep_until(&health, due) => {}
                () = sleep_until(&health, change) => health.settle(),
                _ = failures.tick() => self.count(),
            }
        }
    }

    fn start_due(&self, schedule: &mut Schedule, running: &mut JoinSet<Done>) {
        while running.len() < RUNNING_MAX
            && let Some(due) = schedule.take_due(self.health.now())
        {
            let Due { id, job, at } = due;
            let (host, health) = (Arc::clone(&self.host), Arc::clone(&self.health));
            running.spawn(async move {
                health.note_late(health.now().saturating_sub(at));
                let outcome = host.run(&job.check, &job.target).await;
                Done { id, job, outcome }
            });
        }
        let count = u64::try_from(running.len()).unwrap_or(u64::MAX);
        self.health.running.store(count, Ordering::Relaxed);
    }

    fn take(&self, schedule: &mut Schedule, done: Done) {
        let Done { id, job, outcome } = done;
        self.health.runs.fetch_add(1, Ordering::Relaxed);
        if outcome.fault {
            // The controller is gone only at the end.
            let _ = self.faults.send(Fault {
                check: Arc::clone(&job.check),
                why: outcome.reason.clone(),
            });
        }
        for (place, value) in outcome.signals.iter().enumerate() {
            if let Some(value) = value {
                self.reporter.gauges.set_signal(job.backend, place, *value);
            }
        }
        let (key, outcome) = (job.key, plain(outcome));
        self.health.result(key, &outcome);
        schedule.done(id, self.health.is_undecided(key), self.health.now());
    }

    /// Counts failures of clients' connections.
    fn count(&self) {
        let view = self.reporter.view();
        let by_key = || -> HashMap<BackendKey, BackendId> {
            let backends = view.snapshot.backends();
            backends
                .map(|backend| (key_of(backend), backend.id))
                .collect()
        };
        // Asked for only where a service ejects.
        let ids = LazyCell::new(by_key);
        let reporter = &self.reporter;
        self.health
            .failures(|key| ids.get(&key).map(|id| reporter.failed_connections(*id)));
        let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        let cpu = Duration::try_from(cpu).unwrap_or_default().as_millis();
        let cpu = u64::try_from(cpu).unwrap_or(u64::MAX);
        self.health.cpu_ms.store(cpu, Ordering::Relaxed);
    }
}

async fn sleep_until(health: &Health, at: Option<Duration>) {
    match at {
        Some(at) => tokio::time::sleep_until(health.instant(at).into()).await,
        None => std::future::pending().await,
    }
}

fn plain(outcome: CheckOutcome) -> Outcome {
    Outcome {
        passed: outcome.verdict != CheckVerdict::Unhealthy,
        draining: outcome.verdict == CheckVerdict::Draining,
        weight: outcome.weight.map(u32::from),
        reason: outcome.reason,
        took: outcome.took,
    }
}
