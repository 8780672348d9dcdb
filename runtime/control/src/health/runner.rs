//! The thread that runs the checks.
//!
//! Invariant: it waits for nothing but its own checks. A check that hangs, loops or floods ends by
//! its own limits, and the others' go on meanwhile: a service has as many places as are free at most,
//! so that there is one for the next. The control loop is on another thread.

use std::cell::LazyCell;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::{Id, JoinError, JoinSet};
use waxwing_dataplane::{BackendId, Gauges};
use waxwing_plugin::checks::{Check, CheckHost, CheckOutcome, CheckVerdict};

use super::Health;
use super::backend::Outcome;
use super::plan::Job;
use super::schedule::{Due, Schedule};
use crate::publish::counter_totals::CounterTotals;
use crate::publish::keys::{BackendKey, ServiceKey, snapshot_key};
use crate::publish::view::CurrentView;

/// Checks that run at once; what is due beyond that waits.
const RUNNING_MAX: usize = 1024;

/// When a check is looked at again whose service has no place left.
const AGAIN: Duration = Duration::from_millis(50);

/// How often failures of clients' connections are counted.
const FAILURES_EVERY: Duration = Duration::from_millis(250);

/// How often it is said that the balancer itself cannot check.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);

/// A module failed, and not the backend.
pub(crate) struct Fault {
    pub(crate) check: Arc<Check>,
    pub(crate) why: String,
}

/// What the runner works with.
pub(crate) struct Runner {
    pub(crate) host: Arc<CheckHost>,
    pub(crate) health: Arc<Health>,
    pub(crate) view: Arc<CurrentView>,
    pub(crate) counters: Arc<CounterTotals>,
    pub(crate) gauges: Arc<Gauges>,
    pub(crate) jobs: watch::Receiver<Vec<Arc<Job>>>,
    pub(crate) faults: mpsc::Sender<Fault>,
    /// When it last said that the balancer itself cannot check.
    pub(crate) complained: Option<Duration>,
}

/// The checks that run.
#[derive(Default)]
struct Running {
    tasks: JoinSet<CheckOutcome>,
    by_task: HashMap<Id, (u64, Arc<Job>)>,
    by_service: HashMap<ServiceKey, usize>,
}

impl Running {
    fn is_full(&self) -> bool {
        self.tasks.len() >= RUNNING_MAX
    }

    fn has_place_for(&self, job: &Job) -> bool {
        let (service, ..) = job.key.0;
        let own = self.by_service.get(&service).copied().unwrap_or(0);
        own < RUNNING_MAX - self.tasks.len()
    }

    fn start(
        &mut self,
        id: u64,
        job: Arc<Job>,
        run: impl Future<Output = CheckOutcome> + Send + 'static,
    ) {
        let (service, ..) = job.key.0;
        *self.by_service.entry(service).or_default() += 1;
        let task = self.tasks.spawn(run).id();
        self.by_task.insert(task, (id, job));
    }

    /// The next that has ended, with its schedule's id; waits for ever where none runs.
    async fn ended(&mut self) -> Option<(u64, Arc<Job>, Result<CheckOutcome, JoinError>)> {
        let (task, outcome) = match self.tasks.join_next_with_id().await {
            Some(Ok((task, outcome))) => (task, Ok(outcome)),
            Some(Err(error)) => (error.id(), Err(error)),
            None => std::future::pending().await,
        };
        let (id, job) = self.by_task.remove(&task)?;
        let (service, ..) = job.key.0;
        if let Some(count) = self.by_service.get_mut(&service) {
            *count -= 1;
            if *count == 0 {
                self.by_service.remove(&service);
            }
        }
        Some((id, job, outcome))
    }
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
        let mut running = Running::default();
        let mut failures = tokio::time::interval(FAILURES_EVERY);
        failures.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        schedule.adopt(&self.jobs.borrow_and_update(), health.now());
        loop {
            self.start_due(&mut schedule, &mut running);
            let due = schedule.next_due().filter(|_| !running.is_full());
            tokio::select! {
                ended = running.ended() => {
                    if let Some((id, job, outcome)) = ended {
                        self.take(&job, outcome);
                        schedule.done(id, health.is_undecided(job.key), health.now());
                    }
                }
                changed = self.jobs.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    schedule.adopt(&self.jobs.borrow_and_update(), health.now());
                }
                () = sleep_until(&health, due) => {}
                () = sleep_until(&health, health.next_change()) => health.settle(),
                _ = failures.tick() => self.count(),
            }
        }
    }

    fn start_due(&self, schedule: &mut Schedule<Job>, running: &mut Running) {
        let now = self.health.now();
        while !running.is_full()
            && let Some(Due { id, job, at }) = schedule.take_due(now)
        {
            if !running.has_place_for(&job) {
                schedule.postpone(id, now + AGAIN);
                continue;
            }
            let (host, health) = (Arc::clone(&self.host), Arc::clone(&self.health));
            let own = Arc::clone(&job);
            running.start(id, job, async move {
                health.note_late(health.now().saturating_sub(at));
                host.run(&own.check, &own.target).await
            });
        }
        let count = u64::try_from(running.tasks.len()).unwrap_or(u64::MAX);
        self.health.running.store(count, Ordering::Relaxed);
    }

    fn take(&mut self, job: &Job, outcome: Result<CheckOutcome, JoinError>) {
        self.health.runs.fetch_add(1, Ordering::Relaxed);
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(bug) => {
                tracing::error!("a health check ended with a bug in waxwing: {bug}");
                return;
            }
        };
        if outcome.inconclusive {
            self.complain(&outcome.reason);
            return;
        }
        if outcome.fault {
            let fault = Fault {
                check: Arc::clone(&job.check),
                why: outcome.reason.clone(),
            };
            // Where so many wait already, one more tells nothing new.
            let _ = self.faults.try_send(fault);
        }
        let signals = outcome.signals;
        // A check that left the config has no backend either whose signals it may set.
        if self.health.result(job.key, &job.identity, &plain(outcome)) {
            let set = signals.into_iter().enumerate();
            for (place, value) in set.filter_map(|(place, value)| Some((place, value?))) {
                self.gauges.set_signal(job.backend, place, value);
            }
        }
    }

    /// The balancer itself could not check, which says nothing of the backend.
    fn complain(&mut self, why: &str) {
        let now = self.health.now();
        if self.complained.is_none_or(|at| now - at >= COMPLAIN_EVERY) {
            self.complained = Some(now);
            tracing::warn!("health checks cannot be made, backends stay as they are: {why}");
        }
    }

    /// Counts failures of clients' connections, and the checks' own time.
    fn count(&self) {
        let view = self.view.get();
        let by_key = || -> HashMap<BackendKey, BackendId> {
            let backends = view.snapshot.backends();
            backends
                .map(|backend| (snapshot_key(backend), backend.id))
                .collect()
        };
        // Asked for only where a service ejects.
        let ids = LazyCell::new(by_key);
        // Connections that the backend refused, or whose first SYN it did not answer.
        let failed = |id| {
            let totals = self.counters.since_start(id);
            totals.refused + totals.syn_retransmitted
        };
        self.health
            .failures(|key| ids.get(&key).copied().map(failed));
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
