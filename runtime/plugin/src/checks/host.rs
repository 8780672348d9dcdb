//! The host of health checks: loads modules, tries their configs, runs checks, and handles faults.
//!
//! Invariant: every run gets a new instance, and at most [`CheckOptions::at_once`] exist at a time, plus
//! one to try configs.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tracing::error;
use wasmtime::{InstancePre, Linker};
use waxwing_sdk::abi::{CONFIG_MAX, Kind};

use super::backoff::Admission;
use super::cpu_budget::{Activity, CpuBudget};
use super::guest::{CheckGuest, RunFailure, poll_to_end};
use super::imports;
use super::limits::RunLimits;
use super::options::CheckOptions;
use super::run_state::{RunContext, RunLog, RunState};
use super::target::{CheckConfig, CheckOutcome, CheckTarget};
use super::verdict::RunVerdict;
use crate::build::engine::Engine;
use crate::build::module::CompiledModule;
use crate::error::{HostError, ModuleError, Refusal};
use crate::lock::lock;
use crate::registry::canary::CanaryRules;
use crate::registry::library::Library;
use crate::registry::options::HostOptions;
use crate::registry::recovery::Recovery;
use crate::registry::status::ModuleStatus;

/// A build of a health check that accepted the configs of its services.
pub struct Check {
    module: Arc<CompiledModule>,
    code: InstancePre<RunState>,
}

impl Check {
    /// Returns the build.
    #[must_use]
    pub fn module(&self) -> &Arc<CompiledModule> {
        &self.module
    }
}

impl std::fmt::Debug for Check {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(&self.module, f)
    }
}

/// Loads, vets and runs health checks.
pub struct CheckHost {
    library: Library,
    linker: Linker<RunState>,
    pub(crate) engine: Engine,
    limits: RunLimits,
    trial_every: Duration,
    /// The engine's instances for runs.
    slots: Semaphore,
    at_once: usize,
    /// The open files left for connections.
    files: Arc<Semaphore>,
    /// Guards the engine's one instance for trying configs.
    config_slot: Mutex<()>,
    /// The origin of the modules' clock.
    start: Instant,
}

impl CheckHost {
    /// Starts the engine. `shipped` are the health checks that come with the program, by name; a file of
    /// the same name in `folder` takes precedence.
    ///
    /// # Errors
    /// If the engine does not work on this machine, or a thread cannot be started.
    pub fn new(
        options: CheckOptions,
        shipped: &[(&'static str, &'static [u8])],
        folder: Option<PathBuf>,
    ) -> Result<Self, HostError> {
        let CheckOptions {
            limits,
            fault_limit,
            compiler,
            cache,
            state,
            start_within,
            at_once,
            connections_max,
            run,
            trial_every,
        } = options;
        let at_once = at_once.max(1);
        let engine = Engine::for_checks(at_once.saturating_add(1))?;
        let linker =
            imports::link(engine.wasmtime()).map_err(|e| HostError::Engine(format!("{e:#}")))?;
        let options = HostOptions {
            limits,
            fault_limit,
            compiler,
            cache,
            state,
            start_within,
            canary: CanaryRules::default(),
            share_percent: 0,
        };
        Ok(Self {
            library: Library::new(shipped, folder, options, Kind::Health),
            linker,
            engine,
            limits: run,
            trial_every,
            slots: Semaphore::new(at_once as usize),
            at_once: at_once as usize,
            files: Arc::new(Semaphore::new(connections_max as usize)),
            config_slot: Mutex::default(),
            start: Instant::now(),
        })
    }

    /// Returns the newest build of a name that accepts all these configs: the folder's file, else the
    /// shipped one. If the newest does not accept them, returns the serving build or the last good
    /// one; the refusal is logged and shown by [`CheckHost::status`]. Compiling takes some 10 ms to
    /// seconds: do not call this on an async executor's thread.
    ///
    /// # Errors
    /// If no build of the name accepts them.
    pub fn bind(&self, name: &str, configs: &[CheckConfig]) -> Result<Arc<Check>, ModuleError> {
        self.library.try_builds(&self.engine, name, |build| {
            let check = self
                .prepare(build)
                .map_err(|refusal| refusal.of(build.label()))?;
            for config in configs {
                self.try_config(&check, config)
                    .map_err(|refusal| refusal.of(build.label()))?;
            }
            Ok(Arc::new(check))
        })
    }

    pub(crate) fn prepare(&self, build: &Arc<CompiledModule>) -> Result<Check, Refusal> {
        let code = self.linker.instantiate_pre(&build.code);
        Ok(Check {
            module: Arc::clone(build),
            code: code.map_err(|error| Refusal::Instantiate(format!("{error:#}")))?,
        })
    }

    /// Passes a config to an instance, as each run does.
    pub(crate) fn try_config(&self, check: &Check, config: &CheckConfig) -> Result<(), Refusal> {
        let CheckConfig { service, json } = config;
        if json.len() > CONFIG_MAX {
            return Err(Refusal::Abi {
                service: service.to_string(),
                why: format!(
                    "its config has {} bytes; the limit is {CONFIG_MAX}",
                    json.len()
                ),
            });
        }
        let budget = Arc::new(CpuBudget::new(self.limits, None));
        let context = RunContext {
            module: Arc::clone(&check.module),
            target: CheckTarget::of_config(config),
            log: RunLog::default(),
        };
        let _one_at_a_time = lock(&self.config_slot);
        let configured = poll_to_end(budget.measure(self.engine.waker(), async {
            let mut guest = self.guest(check, context, &budget).await?;
            guest.configure(json).await
        }));
        configured.map_err(|failure| failure.refusal(service))
    }

    async fn guest(
        &self,
        check: &Check,
        context: RunContext,
        budget: &Arc<CpuBudget>,
    ) -> Result<CheckGuest, RunFailure> {
        let (budget, files) = (Arc::clone(budget), Arc::clone(&self.files));
        let state = RunState::new(context, self.limits, self.start, budget, files);
        CheckGuest::new(self.engine.wasmtime(), &check.code, state).await
    }

    /// Returns the most checks that run at once.
    #[must_use]
    pub fn at_once(&self) -> usize {
        self.at_once
    }

    /// Records that a build now serves. The build before becomes the target of a roll-back.
    pub fn activate(&self, check: &Arc<Check>) {
        self.library.promote(&check.module);
    }

    /// Checks a backend once. Waits first for a free slot, and for processor time if the build has used
    /// up its quota; neither counts in `took` or the timeout. A build that is quarantined without a
    /// replacement runs only as an occasional trial. Requires a tokio runtime with I/O and time.
    pub async fn run(&self, check: &Check, target: &CheckTarget) -> CheckOutcome {
        let build = &check.module;
        if build.cpu_quota.wait(Instant::now(), &self.limits).is_some() {
            drop(build.cpu_quota.turn(&self.limits).await);
        }
        let _slot = self.slots.acquire().await;
        let admission = build.backoff.admit(Instant::now(), self.trial_every);
        if let Admission::Refused(why) = admission {
            let reason = format!("quarantined: {why}");
            return RunVerdict::unhealthy(reason).outcome(Duration::ZERO, false);
        }
        let outcome = self.run_now(check, target).await;
        if admission == Admission::Trial && !outcome.fault && !outcome.inconclusive {
            self.library.release(build);
            build.backoff.end();
        }
        outcome
    }

    async fn run_now(&self, check: &Check, target: &CheckTarget) -> CheckOutcome {
        let start = Instant::now();
        let quota = Arc::clone(&check.module.cpu_quota);
        let budget = Arc::new(CpuBudget::new(self.limits, Some(quota)));
        let log = RunLog::default();
        let context = RunContext {
            module: Arc::clone(&check.module),
            target: target.clone(),
            log: Arc::clone(&log),
        };
        let run = budget.measure(self.engine.waker(), self.run_once(check, context, &budget));
        let (verdict, fault) = match budget.with_timeout(target.timeout, run).await {
            Some(Ok(verdict)) => (verdict, false),
            Some(Err(failure)) => (RunVerdict::unhealthy(failure.to_string()), true),
            None => timed_out(&budget, target.timeout),
        };
        let verdict = match budget.local_shortage() {
            Some(text) => verdict.with_local_shortage(text, fault),
            None => verdict,
        };
        let took = start.elapsed().saturating_sub(budget.quota_wait());
        CheckOutcome {
            log: std::mem::take(&mut lock(&log)),
            ..verdict.outcome(took, fault)
        }
    }

    async fn run_once(
        &self,
        check: &Check,
        context: RunContext,
        budget: &Arc<CpuBudget>,
    ) -> Result<RunVerdict, RunFailure> {
        let (config, target) = (
            Arc::clone(&context.target.config_json),
            context.target.json(),
        );
        let mut guest = self.guest(check, context, budget).await?;
        guest.configure(&config).await?;
        guest.check(&target).await
    }

    /// Counts a fault and returns what to do. When the fault limit is reached, the build is
    /// quarantined and the one before it is brought back. If there is none, the build's runs end at
    /// once as unhealthy, until a trial succeeds or another build is activated.
    pub fn recover(&self, check: &Check, why: &str) -> Recovery {
        let (build, now) = (&check.module, Instant::now());
        build.counters.faults.fetch_add(1, Ordering::Relaxed);
        self.library.note_fault(build, why.to_owned());
        let recovery = self.library.faulted(&self.engine, build, why, now);
        if recovery == Recovery::Exhausted {
            let why = self.library.quarantined(build);
            let why = why.unwrap_or_default();
            if build.backoff.begin(why.clone(), now + self.trial_every) {
                let (label, seconds) = (build.label(), self.trial_every.as_secs_f32());
                error!(
                    "module {label}: {why}; there is no other build to roll back to: it is tried every \
                     {seconds} s and its backends are unhealthy meanwhile; replace its file with a \
                     corrected build"
                );
            }
        }
        recovery
    }

    /// Ends the quarantine of a check's builds whose hashes start with `hash`. Returns those hashes.
    pub fn lift(&self, name: &str, hash: &str) -> Vec<String> {
        let lifted = self.library.lift(name, hash);
        if let Some(build) = self.library.current(name).filter(|_| !lifted.is_empty()) {
            build.backoff.end();
        }
        lifted
    }

    /// Ends the start: from now on files are compiled however long it takes. Returns the modules whose files
    /// are still to be compiled.
    pub fn end_start(&self) -> BTreeSet<String> {
        self.library.end_start()
    }

    /// Forgets all modules except these.
    pub fn retain(&self, names: &[Arc<str>]) {
        self.library.retain(names);
    }

    /// Returns the state of each requested health check, sorted by name.
    #[must_use]
    pub fn status(&self) -> Vec<ModuleStatus> {
        self.library.status()
    }
}

/// Returns the verdict of a run that timed out, and whether that is the module's fault: it is if the module
/// computed for at least half of the time, which does not happen to a good module on a busy machine.
fn timed_out(budget: &CpuBudget, timeout: Duration) -> (RunVerdict, bool) {
    let activity = budget.activity();
    let seconds = timeout.as_secs_f32();
    let fault = activity == Activity::Computing && budget.used() >= timeout / 2;
    let reason = format!("no answer within {seconds} s (while {activity})");
    (RunVerdict::unhealthy(reason), fault)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::engine::{ClockWaker, thread_time};

    #[tokio::test]
    async fn a_timeout_is_the_modules_fault_only_if_it_computed() {
        let budget = CpuBudget::new(RunLimits::default(), None);
        let timeout = Duration::from_millis(2);
        assert!(!timed_out(&budget, timeout).1, "it had no time to compute");
        let before = thread_time();
        let computes = async { while thread_time() - before < timeout {} };
        budget.measure(ClockWaker::default(), computes).await;
        assert!(timed_out(&budget, timeout).1);
        budget.set_activity(Activity::Receiving);
        assert!(!timed_out(&budget, timeout).1, "it waits for the server");
    }
}
