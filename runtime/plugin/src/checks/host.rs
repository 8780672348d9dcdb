//! Health checks: modules that connect to one backend and say whether it is well.
//!
//! A [`CheckHost`] finds, vets and compiles them as [`Host`](crate::Host) does policies, and runs
//! each check as a future of the control side's executor, in an instance that is made for this run
//! and freed after it. What a run may do is bounded: `meter` by processor time, `state` by memory,
//! connections and bytes, the target's timeout by real time; and `imports` reach one address only. What
//! all runs of one build do is bounded too: `share` by processor time, and `rest` once it is quarantined.
//!
//! Invariant: a run always ends in a [`CheckOutcome`], whatever the module or the backend does; one
//! that is dropped before frees all that it held.

mod connection;
mod guest;
mod imports;
mod meter;
mod options;
mod rest;
mod share;
mod state;
mod target;
mod tls;
mod verdict;

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tracing::error;
use wasmtime::{InstancePre, Linker};
use waxwing_sdk::abi::{CONFIG_MAX, Kind};

use crate::engine::Engine;
use crate::error::{HostError, ModuleError, Refusal};
use crate::host;
use crate::library::{Library, Recovery, lock};
use crate::module::CompiledModule;
use crate::status::{self, ModuleStatus};

use guest::{Failure, Guest, run_through};
use meter::{Doing, Meter};
use rest::Leave;
use state::{Scene, State};
use verdict::Findings;

pub use options::{CheckOptions, RunLimits};
pub(crate) use rest::Rest;
pub(crate) use share::Share;
pub use target::{CheckConfig, CheckOutcome, CheckTarget, CheckVerdict};
pub use tls::{CheckRoots, CheckTls};

/// A build of a health check that took the configs of its services.
pub struct Check {
    module: Arc<CompiledModule>,
    code: InstancePre<State>,
}

impl Check {
    /// The build.
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
    linker: Linker<State>,
    pub(crate) engine: Engine,
    limits: RunLimits,
    trial_every: Duration,
    /// A place for each run, as the engine has set them aside.
    places: Semaphore,
    /// Held by who tries a config: the engine has one more place, for that.
    trying: Mutex<()>,
    /// What modules see as the start of time.
    start: Instant,
}

impl CheckHost {
    /// Starts the engine. `shipped` are the health checks that come with the program, by name; those
    /// in `folder` go before them.
    ///
    /// # Errors
    /// If the engine does not work on this machine, or no thread can be had.
    pub fn new(
        options: CheckOptions,
        shipped: &[(&'static str, &'static [u8])],
        folder: Option<PathBuf>,
    ) -> Result<Self, HostError> {
        let CheckOptions {
            limits,
            fault_limit,
            compiler,
            at_once,
            run,
            trial_every,
        } = options;
        let at_once = at_once.max(1);
        let engine = Engine::for_checks(at_once.saturating_add(1))?;
        let linker =
            imports::link(engine.wasmtime()).map_err(|e| HostError::Engine(format!("{e:#}")))?;
        let options = host::Options {
            limits,
            fault_limit,
            compiler,
            canary: Duration::ZERO,
        };
        Ok(Self {
            library: Library::new(shipped, folder, options, Kind::Health),
            linker,
            engine,
            limits: run,
            trial_every,
            places: Semaphore::new(at_once as usize),
            trying: Mutex::default(),
            start: Instant::now(),
        })
    }

    /// The newest build of a name that takes all these configs: the folder's file, else the shipped
    /// one; where the newest does not, the one that serves, or the last good one (the refusal is
    /// logged and kept for [`CheckHost::status`]). Compiling takes some 10 ms to seconds: not for an
    /// async executor's thread.
    ///
    /// # Errors
    /// If no build of the name takes them.
    pub fn bind(&self, name: &str, configs: &[CheckConfig]) -> Result<Arc<Check>, ModuleError> {
        self.library.newest_that(&self.engine, name, |build| {
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

    /// Has an instance take a config, as each run's does.
    pub(crate) fn try_config(&self, check: &Check, config: &CheckConfig) -> Result<(), Refusal> {
        let CheckConfig { service, json } = config;
        if json.len() > CONFIG_MAX {
            return Err(Refusal::Abi {
                service: service.to_string(),
                why: format!(
                    "its config has {} bytes; at most {CONFIG_MAX} fit",
                    json.len()
                ),
            });
        }
        let meter = Arc::new(Meter::new(self.limits, None));
        let scene = Scene {
            module: Arc::clone(&check.module),
            target: CheckTarget::of_config(config),
        };
        let _one_at_a_time = lock(&self.trying);
        let configured = run_through(meter.watch(self.engine.pulse(), async {
            let mut guest = self.guest(check, scene, &meter).await?;
            guest.configure(json).await
        }));
        configured.map_err(|failure| failure.refusal(service))
    }

    async fn guest(
        &self,
        check: &Check,
        scene: Scene,
        meter: &Arc<Meter>,
    ) -> Result<Guest, Failure> {
        let state = State::new(scene, self.limits, self.start, Arc::clone(meter));
        Guest::new(self.engine.wasmtime(), &check.code, state).await
    }

    /// A build was put to work: it is what a roll-back leaves, and the one before is what it goes to.
    pub fn put_to_work(&self, check: &Arc<Check>) {
        self.library.promote(&check.module);
    }

    /// Checks a backend once. It waits first, for a place where very many checks run, and for processor
    /// time where the build has used up its share; `took` and the timeout do not count that. A build that
    /// is quarantined and has no other to take its place is not run, but for a trial now and then. To be
    /// polled by a tokio runtime that has I/O and time.
    pub async fn run(&self, check: &Check, target: &CheckTarget) -> CheckOutcome {
        let build = &check.module;
        if build.share.wait(Instant::now(), &self.limits).is_some() {
            drop(build.share.turn(&self.limits).await);
        }
        let _place = self.places.acquire().await;
        let leave = build.rest.ask(Instant::now(), self.trial_every);
        if let Leave::Rest(why) = leave {
            let reason = format!("quarantined: {why}");
            return Findings::unhealthy(reason).outcome(Duration::ZERO, false);
        }
        let outcome = self.run_now(check, target).await;
        if leave == Leave::Trial && !outcome.fault && !outcome.inconclusive {
            self.library.release(build);
            build.rest.end();
        }
        outcome
    }

    async fn run_now(&self, check: &Check, target: &CheckTarget) -> CheckOutcome {
        let start = Instant::now();
        let share = Arc::clone(&check.module.share);
        let meter = Arc::new(Meter::new(self.limits, Some(share)));
        let run = meter.watch(self.engine.pulse(), self.run_once(check, target, &meter));
        let (findings, fault) = match meter.within(target.timeout, run).await {
            Some(Ok(findings)) => (findings, false),
            Some(Err(failure)) => (Findings::unhealthy(failure.to_string()), true),
            None => timed_out(&meter, target.timeout),
        };
        let findings = match meter.hindrance() {
            Some(words) => findings.hindered(words, fault),
            None => findings,
        };
        let took = start.elapsed().saturating_sub(meter.held());
        findings.outcome(took, fault)
    }

    async fn run_once(
        &self,
        check: &Check,
        target: &CheckTarget,
        meter: &Arc<Meter>,
    ) -> Result<Findings, Failure> {
        let scene = Scene {
            module: Arc::clone(&check.module),
            target: target.clone(),
        };
        let mut guest = self.guest(check, scene, meter).await?;
        guest.configure(&target.config_json).await?;
        guest.check(&target.json()).await
    }

    /// Counts a fault and says what to do about it: a build with too many of them within the limit is
    /// quarantined, and the one before comes back. Where there is none, the build's runs are answered
    /// at once and unhealthy, until a trial ends without fault or another build is put to work.
    pub fn recover(&self, check: &Check, why: &str) -> Recovery {
        let (build, now) = (&check.module, Instant::now());
        build.counters.faults.fetch_add(1, Ordering::Relaxed);
        let recovery = self.library.faulted(&self.engine, build, why, now);
        if recovery == Recovery::Exhausted {
            let why = self.library.quarantined(build);
            let why = why.unwrap_or_default();
            if build.rest.begin(why.clone(), now + self.trial_every) {
                let (label, seconds) = (build.label(), self.trial_every.as_secs_f32());
                error!(
                    "module {label}: {why}; there is no other build to go back to, so it is tried once \
                     in {seconds} s and its backends are unhealthy meanwhile; put a mended file in its \
                     place"
                );
            }
        }
        recovery
    }

    /// Only these modules are in use: forgets the others.
    pub fn retain(&self, names: &[Arc<str>]) {
        self.library.retain(names);
    }

    /// Every health check that was asked for, by name.
    #[must_use]
    pub fn status(&self) -> Vec<ModuleStatus> {
        let status = |(name, entry, quarantined)| {
            status::of(name, entry, quarantined, self.library.canary())
        };
        self.library.list().into_iter().map(status).collect()
    }
}

/// What is said of a backend whose check did not end. It is the module's own fault only if that
/// computed most of the time, which a busy machine does not make it look like.
fn timed_out(meter: &Meter, timeout: Duration) -> (Findings, bool) {
    let doing = meter.doing();
    let seconds = timeout.as_secs_f32();
    let fault = doing == Doing::Computing && meter.used() >= timeout / 2;
    let reason = format!("no answer within {seconds} s (while {doing})");
    (Findings::unhealthy(reason), fault)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_check_that_computes_through_its_timeout_is_at_fault() {
        let meter = Meter::new(RunLimits::default(), None);
        let timeout = Duration::from_millis(2);
        assert!(!timed_out(&meter, timeout).1, "it had no time to compute");
        let before = crate::engine::thread_time();
        let computes = async { while crate::engine::thread_time() - before < timeout {} };
        meter.watch(crate::engine::Pulse::default(), computes).await;
        assert!(timed_out(&meter, timeout).1);
        meter.set_doing(Doing::Receiving);
        assert!(!timed_out(&meter, timeout).1, "it waits for the server");
    }
}
