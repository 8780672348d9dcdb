//! The thread that runs the checks.
//!
//! Invariant: it waits for nothing but its checks. A check that hangs, loops or floods ends by its
//! own limits and does not delay others: a service may take at most as many slots as it leaves
//! free, so that other services always find one. The control loop runs on another thread.

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

use super::check_state::CheckResult;
use super::ejection::Encounters;
use super::monitor::HealthMonitor;
use super::plan::CheckJob;
use super::schedule::{Due, Schedule};
use crate::publish::counter_totals::CounterTotals;
use crate::publish::keys::{BackendKey, ServiceKey, snapshot_key};
use crate::publish::view::CurrentView;

/// Delay of a check whose service has no slot left.
const RETRY_DELAY: Duration = Duration::from_millis(50);

/// How often failures of client connections are counted.
const FAILURE_COUNT_INTERVAL: Duration = Duration::from_millis(250);

/// Minimum time between two warnings that checks are inconclusive.
const WARNING_INTERVAL: Duration = Duration::from_secs(10);

/// A fault of a check's module, not of the backend.
pub(crate) struct CheckFault {
    pub(crate) check: Arc<Check>,
    pub(crate) why: String,
}

pub(crate) struct Runner {
    pub(crate) host: Arc<CheckHost>,
    pub(crate) health: Arc<HealthMonitor>,
    pub(crate) view: Arc<CurrentView>,
    pub(crate) counters: Arc<CounterTotals>,
    pub(crate) gauges: Arc<Gauges>,
    pub(crate) jobs: watch::Receiver<Vec<Arc<CheckJob>>>,
    pub(crate) faults: mpsc::Sender<CheckFault>,
    /// When it last warned that checks are inconclusive.
    pub(crate) warned_at: Option<Duration>,
}

struct RunningChecks {
    /// Maximum concurrent checks; further ones wait.
    max: usize,
    tasks: JoinSet<CheckOutcome>,
    by_task: HashMap<Id, (u64, Arc<CheckJob>)>,
    by_service: HashMap<ServiceKey, usize>,
}

impl RunningChecks {
    fn new(max: usize) -> Self {
        Self {
            max,
            tasks: JoinSet::new(),
            by_task: HashMap::new(),
            by_service: HashMap::new(),
        }
    }

    fn is_full(&self) -> bool {
        self.tasks.len() >= self.max
    }

    fn has_slot_for(&self, job: &CheckJob) -> bool {
        let (service, ..) = job.key.0;
        let own = self.by_service.get(&service).copied().unwrap_or(0);
        own < self.max - self.tasks.len()
    }

    fn start(
        &mut self,
        id: u64,
        job: Arc<CheckJob>,
        run: impl Future<Output = CheckOutcome> + Send + 'static,
    ) {
        let (service, ..) = job.key.0;
        *self.by_service.entry(service).or_default() += 1;
        let task = self.tasks.spawn(run).id();
        self.by_task.insert(task, (id, job));
    }

    /// Waits for the next check to end. Returns its schedule id, job and outcome. Never returns
    /// while none runs.
    async fn ended(&mut self) -> Option<(u64, Arc<CheckJob>, Result<CheckOutcome, JoinError>)> {
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
    /// Starts the thread. It ends when the sender of `jobs` is dropped.
    ///
    /// # Errors
    /// The thread or its event loop cannot be created.
    pub(crate) fn start(self) -> io::Result<()> {
        let (ready, started) = std::sync::mpsc::channel();
        // The runtime is made on its thread: if that does not start, it may not be dropped on this one.
        let thread = move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            // The receiver waits for it.
            match runtime {
                Ok(runtime) => {
                    let _ = ready.send(Ok(()));
                    runtime.block_on(self.run());
                }
                Err(error) => drop(ready.send(Err(error))),
            }
        };
        std::thread::Builder::new()
            .name("health".into())
            .spawn(thread)?;
        started.recv().map_err(io::Error::other)?
    }

    async fn run(mut self) {
        let health = Arc::clone(&self.health);
        let mut schedule = Schedule::new(RandomState::new().build_hasher().finish());
        let mut running = RunningChecks::new(self.host.at_once());
        let mut failures = tokio::time::interval(FAILURE_COUNT_INTERVAL);
        failures.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        schedule.adopt(&self.jobs.borrow_and_update(), health.now());
        loop {
            self.start_due(&mut schedule, &mut running);
            let due = schedule.next_due().filter(|_| !running.is_full());
            tokio::select! {
                ended = running.ended() => {
                    if let Some((id, job, outcome)) = ended {
                        self.record(&job, outcome);
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
                () = sleep_until(&health, health.next_change()) => health.advance(),
                _ = failures.tick() => self.count_failures(),
            }
        }
    }

    fn start_due(&self, schedule: &mut Schedule<CheckJob>, running: &mut RunningChecks) {
        let now = self.health.now();
        while !running.is_full()
            && let Some(Due { id, job, at }) = schedule.take_due(now)
        {
            if !running.has_slot_for(&job) {
                schedule.postpone(id, now + RETRY_DELAY);
                continue;
            }
            let (host, health) = (Arc::clone(&self.host), Arc::clone(&self.health));
            let own = Arc::clone(&job);
            running.start(id, job, async move {
                health.record_delay(health.now().saturating_sub(at));
                host.run(&own.check, &own.target).await
            });
        }
        let count = u64::try_from(running.tasks.len()).unwrap_or(u64::MAX);
        self.health.running.store(count, Ordering::Relaxed);
    }

    fn record(&mut self, job: &CheckJob, outcome: Result<CheckOutcome, JoinError>) {
        self.health.runs.fetch_add(1, Ordering::Relaxed);
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(bug) => {
                tracing::error!("a health check panicked, which is a bug in waxwing: {bug}");
                return;
            }
        };
        if outcome.inconclusive {
            self.warn_inconclusive(&outcome.reason);
            return;
        }
        if outcome.fault {
            let fault = CheckFault {
                check: Arc::clone(&job.check),
                why: outcome.reason.clone(),
            };
            // If the queue is full, one more fault is no news.
            let _ = self.faults.try_send(fault);
        }
        let signals = outcome.signals;
        let result = result(outcome);
        let count = match result.passed {
            true => &self.health.passed,
            false => &self.health.failed,
        };
        count.fetch_add(1, Ordering::Relaxed);
        // A check that was removed from the config must not set signals.
        if self.health.record_result(job.key, &job.identity, &result) {
            let set = signals.into_iter().enumerate();
            for (place, value) in set.filter_map(|(place, value)| Some((place, value?))) {
                self.gauges.set_signal(job.backend, place, value);
            }
        }
    }

    /// Warns that checks are inconclusive: the balancer could not run them, which says nothing about
    /// the backends.
    fn warn_inconclusive(&mut self, why: &str) {
        let now = self.health.now();
        if self.warned_at.is_none_or(|at| now - at >= WARNING_INTERVAL) {
            self.warned_at = Some(now);
            tracing::warn!("health checks cannot run, backends keep their state: {why}");
        }
    }

    /// Counts failures of client connections, and this thread's CPU time.
    fn count_failures(&self) {
        let view = self.view.get();
        let by_key = || -> HashMap<BackendKey, BackendId> {
            let backends = view.snapshot.backends();
            backends
                .map(|backend| (snapshot_key(backend), backend.id))
                .collect()
        };
        // Built only if a service has ejection.
        let ids = LazyCell::new(by_key);
        let counted = |id| {
            let totals = self.counters.since_start(id);
            let refused = self.gauges.refused(id);
            Encounters {
                // Refused, or the first SYN was not answered, or nobody is there.
                failures: refused + totals.syn_retransmitted + totals.unreachable,
                sent: totals.forward.packets,
                replies: totals.reply.packets,
            }
        };
        self.health
            .record_failures(|key| ids.get(&key).copied().map(counted));
        let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        let cpu = Duration::try_from(cpu).unwrap_or_default().as_millis();
        let cpu = u64::try_from(cpu).unwrap_or(u64::MAX);
        self.health.cpu_ms.store(cpu, Ordering::Relaxed);
    }
}

async fn sleep_until(health: &HealthMonitor, at: Option<Duration>) {
    match at {
        Some(at) => tokio::time::sleep_until(health.instant(at).into()).await,
        None => std::future::pending().await,
    }
}

fn result(outcome: CheckOutcome) -> CheckResult {
    CheckResult {
        passed: outcome.verdict != CheckVerdict::Unhealthy,
        draining: outcome.verdict == CheckVerdict::Draining,
        weight: outcome.weight.map(u32::from),
        reason: outcome.reason,
        took: outcome.took,
        log: outcome.log,
    }
}
