//! The host of policies: loads modules, binds them to services, and handles their faults.
//!
//! Invariant: everything here runs on the control side; a worker gets only finished instances.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tracing::error;
use waxwing_dataplane::Policy;
use waxwing_dataplane::counters::Distribution;
use waxwing_dataplane::policy::Vacant;
use waxwing_sdk::abi::Kind;

use crate::build::compile::Compiler;
use crate::build::engine::Engine;
use crate::build::module::CompiledModule;
use crate::error::{HostError, ModuleError};
use crate::lock::lock;
use crate::policy::bind::{InstanceOwner, bind};
use crate::policy::bind_request::BindRequest;
use crate::policy::builds_in_use::{BoundModule, BuildsInUse};
use crate::policy::call_times::CallTimes;
use crate::policy::hosted::ServiceBinding;
use crate::policy::instance::{FaultReport, FaultSink};
use crate::policy::module_counters::{ModuleCounters, ModuleValues};
use crate::policy::module_log::ModuleLog;
use crate::policy::outcomes::ModuleOutcomes;
use crate::policy::recent_flows::RecentFlows;
use crate::policy::saved_states::{SavedState, SavedStates, StateDesk};
use crate::policy::shared_cells::ModuleCells;
use crate::policy::vetting::vet;
use crate::registry::library::{Library, Placement};
use crate::registry::options::HostOptions;
use crate::registry::recovery::Recovery;
use crate::registry::status::ModuleStatus;
use crate::registry::watch::Watcher;

/// What a host reports. Sent on the host's and the workers' threads: the receiver must not block.
#[derive(Clone, Debug)]
pub enum HostEvent {
    /// A module's file appeared, changed or disappeared, and has settled. Call [`Host::bind`] again if
    /// the module is in use.
    Changed {
        /// The module's name.
        name: String,
    },
    /// An instance failed and is disabled. [`Host::recover`] returns what to do.
    Fault(FaultReport),
}

/// What outlives the instances of a module, over all its builds and workers.
#[derive(Clone, Default)]
struct ModuleHistory {
    counters: Arc<ModuleCounters>,
    cells: Arc<ModuleCells>,
    desk: Arc<StateDesk>,
    outcomes: Arc<ModuleOutcomes>,
    recent_flows: Arc<RecentFlows>,
    log: Arc<ModuleLog>,
    times: Arc<CallTimes>,
}

/// Loads, vets, runs and watches policies.
pub struct Host {
    engine: Engine,
    library: Library,
    compiler: Compiler,
    faults: FaultSink,
    generation: AtomicU64,
    share_percent: u32,
    /// By module name.
    histories: Mutex<HashMap<String, ModuleHistory>>,
    /// Dropping it ends the watcher's thread.
    watcher: Option<Watcher>,
}

impl Host {
    /// Starts the engine, and the watcher if there is a folder (which may be created later).
    ///
    /// `shipped` are the modules that come with the program, by name. `events` is called with each
    /// [`HostEvent`].
    ///
    /// # Errors
    /// If the engine does not work on this machine, or a thread cannot be started.
    pub fn new(
        options: HostOptions,
        shipped: &[(&'static str, &'static [u8])],
        folder: Option<PathBuf>,
        events: impl Fn(HostEvent) + Send + Sync + 'static,
    ) -> Result<Self, HostError> {
        let events = Arc::new(events);
        let on_change = Arc::clone(&events);
        let watcher = folder
            .clone()
            .map(|folder| Watcher::new(folder, move |name| on_change(HostEvent::Changed { name })))
            .transpose()?;
        let share_percent = options.share_percent;
        Ok(Self {
            share_percent,
            engine: Engine::new()?,
            compiler: options.compiler.clone(),
            library: Library::new(shipped, folder, options, Kind::Policy),
            faults: Arc::new(move |report| events(HostEvent::Fault(report))),
            generation: AtomicU64::new(0),
            histories: Mutex::default(),
            watcher,
        })
    }

    /// Ends the start: from now on files are compiled however long it takes. Returns the modules whose files
    /// are still to be compiled.
    pub fn end_start(&self) -> BTreeSet<String> {
        self.library.end_start()
    }

    /// Returns the newest build of a module: the folder's file, else the shipped module. If the newest
    /// is bad, returns the serving build; the refusal is logged and shown by [`Host::status`]. Compiling
    /// takes some 10 ms to seconds: do not call this on an async executor's thread.
    ///
    /// # Errors
    /// If no build of the name can serve.
    pub fn policy(&self, name: &str) -> Result<Arc<CompiledModule>, ModuleError> {
        self.library.load(&self.engine, name)
    }

    /// Makes a worker's instance of a build for its services, as on the last worker. The first time, the
    /// build has to answer test flows for these services.
    ///
    /// # Errors
    /// If the module refuses a service, breaks the ABI or fails on the test flows.
    pub fn instantiate(
        &self,
        module: &Arc<CompiledModule>,
        worker: u32,
        seed: u64,
        services: &[ServiceBinding],
    ) -> Result<Box<dyn Policy>, ModuleError> {
        self.instance(module, (worker, worker + 1), seed, services, None)
    }

    /// As [`Host::instantiate`], for one worker of some.
    fn instance(
        &self,
        module: &Arc<CompiledModule>,
        (worker, workers): (u32, u32),
        seed: u64,
        services: &[ServiceBinding],
        saved: Option<Arc<SavedStates>>,
    ) -> Result<Box<dyn Policy>, ModuleError> {
        let history = self.history(&module.name);
        if !module.vetted.load(Ordering::Acquire) {
            let vetted = vet(&self.engine, module, services, &history.recent_flows)?;
            module.vetted.store(true, Ordering::Release);
            let (flows, services) = (vetted.flows, services.len());
            let text = format!("answered {flows} test flows for {services} services");
            self.library.log_step(module, text);
        }
        let generation = self.generation.fetch_add(1, Ordering::Relaxed) + 1;
        let owner = InstanceOwner {
            worker,
            workers,
            seed,
            generation,
            faults: Arc::clone(&self.faults),
            counters: history.counters,
            cells: history.cells,
            desk: history.desk,
            saved,
            outcomes: history.outcomes,
            recent_flows: history.recent_flows,
            log: history.log,
            share_percent: self.share_percent,
            times: history.times.of_worker(worker),
        };
        let policy = bind(&self.engine, module, &owner, services)?;
        Ok(Box::new(policy))
    }

    /// Makes an instance of the build that most workers have, for its services, that reports to nobody;
    /// `None` if no build serves.
    ///
    /// # Errors
    /// If the module refuses a service or breaks the ABI.
    pub fn spare(
        &self,
        in_use: &BuildsInUse,
        seed: u64,
    ) -> Option<Result<Box<dyn Policy>, ModuleError>> {
        let services = in_use.services.as_ref()?;
        let owner = InstanceOwner::unheard(seed, Arc::new(|_| {}));
        let made = bind(&self.engine, in_use.majority(), &owner, services);
        Some(made.map(|policy| Box::new(policy) as _))
    }

    /// Records that a build's instances now serve, on all workers or as a canary. The build before
    /// becomes the target of a roll-back. Do not call this for instances that only checked a config.
    pub fn activate(&self, module: &Arc<CompiledModule>, is_canary: bool) {
        if is_canary {
            let outcomes = self.history(&module.name).outcomes.sides();
            self.library.start_canary(module, outcomes);
        } else {
            self.library.promote(module);
        }
    }

    /// Judges the canaries whose time is over. [`Host::bind`] then gives a build that passed to all workers,
    /// and replaces one that failed, which is quarantined, by the serving build.
    pub fn judge_canaries(&self) {
        for module in self.library.canaries_to_judge(Instant::now()) {
            let outcomes = self.history(&module.name).outcomes.sides();
            self.library.judge_canary(&module, &outcomes);
        }
    }

    /// Returns when the first canary period ends: call [`Host::judge_canaries`] and [`Host::bind`] then.
    #[must_use]
    pub fn canary_ends(&self) -> Option<Instant> {
        self.library.canary_ends()
    }

    /// Loads a module and makes an instance for each of `workers` workers. A replacement build goes
    /// to the first worker only, as a canary, for a while. If the newest build does not pass on these
    /// services, the serving one is taken; the refusal is logged and shown by [`Host::status`].
    ///
    /// # Errors
    /// If no build of the name can serve these services.
    pub fn bind(
        &self,
        name: &str,
        workers: u32,
        seed: u64,
        services: &[ServiceBinding],
    ) -> Result<BoundModule, ModuleError> {
        self.bind_newest(name, &BindRequest::new(workers, seed, services, None))
    }

    fn bind_newest(
        &self,
        name: &str,
        request: &BindRequest<'_>,
    ) -> Result<BoundModule, ModuleError> {
        self.library.try_builds(&self.engine, name, |build| {
            let others = match self.library.placement(build) {
                Placement::Canary(current) if request.workers > 1 => Some(current),
                Placement::Canary(_) | Placement::AllWorkers => None,
            };
            self.bind_builds(build, others, request)
        })
    }

    /// As [`Host::bind`], for services that `before` serves now. A worker keeps its instance, with its
    /// state, if the new one would have the same build and the same services. If no build can serve
    /// the services any more, the native fallback does, so that one bad module does not block changes
    /// of the others.
    ///
    /// # Errors
    /// If no build of the name can serve these services, and none has served before.
    pub fn bind_or_fall_back(
        &self,
        name: &str,
        workers: u32,
        seed: u64,
        services: &[ServiceBinding],
        before: Option<&BuildsInUse>,
    ) -> Result<BoundModule, ModuleError> {
        let mut request = BindRequest::new(workers, seed, services, before);
        request.first = self.history(name).desk.take_first();
        let error = match self.bind_newest(name, &request) {
            Ok(bound) => return Ok(bound),
            Err(error) => error,
        };
        let Some(module) = self.library.current(name) else {
            return Err(error);
        };
        error!("{error}; its services use weighted rendezvous until a good build is installed");
        Ok(BoundModule {
            in_use: BuildsInUse {
                module,
                others: None,
                services: None,
            },
            policies: (0..workers).map(|_| Box::new(Vacant) as _).collect(),
            kept: Vec::new(),
        })
    }

    /// As [`Host::bind_or_fall_back`], with the builds that serve now: reads and compiles nothing,
    /// unless these builds cannot serve the services.
    ///
    /// # Errors
    /// As [`Host::bind_or_fall_back`].
    pub fn rebind(
        &self,
        before: &BuildsInUse,
        workers: u32,
        seed: u64,
        services: &[ServiceBinding],
    ) -> Result<BoundModule, ModuleError> {
        let request = BindRequest::new(workers, seed, services, Some(before));
        match self.bind_builds(&before.module, before.others.clone(), &request) {
            Ok(bound) => Ok(bound),
            Err(_) => {
                self.bind_or_fall_back(&before.module.name, workers, seed, services, Some(before))
            }
        }
    }

    /// Has the instances that serve save their state.
    pub fn save(&self, in_use: &BuildsInUse, workers: u32) -> Vec<SavedState> {
        in_use.save(&self.history(&in_use.module.name).desk, workers)
    }

    /// Gives the first instances of a module a state to start with.
    pub fn start_with(&self, module: &str, states: Vec<SavedState>) {
        self.history(module).desk.start_with(states);
    }

    /// Forgets all modules except these.
    pub fn retain(&self, names: &[Arc<str>]) {
        self.library.retain(names);
        lock(&self.histories).retain(|name, _| names.iter().any(|used| **used == **name));
    }

    fn bind_builds(
        &self,
        module: &Arc<CompiledModule>,
        others: Option<Arc<CompiledModule>>,
        request: &BindRequest<'_>,
    ) -> Result<BoundModule, ModuleError> {
        let ask = |before: &BuildsInUse| {
            let builds = (module, others.as_ref().unwrap_or(module));
            let desk = self.history(&module.name).desk;
            let is_quarantined = |build: &CompiledModule| self.library.quarantined(build).is_some();
            before.ask_for_states(
                &desk,
                builds,
                request.workers,
                &request.services,
                is_quarantined,
            )
        };
        let saved = match request.before {
            Some(before) => ask(before),
            None => request.first.clone(),
        };
        let instances = |module: &Arc<CompiledModule>, workers: Range<u32>| {
            workers
                .map(|worker| self.new_instance(module, worker, request, saved.as_ref()))
                .collect::<Result<Vec<_>, _>>()
        };
        let first = request.workers.min(1);
        let mut made = instances(module, 0..first)?;
        // If only the new build accepts a changed config, it serves on all workers.
        let rest = others.and_then(|others| {
            let rest = instances(&others, first..request.workers).ok()?;
            Some((others, rest))
        });
        let (others, rest) = match rest {
            Some((others, rest)) => (Some(others), rest),
            None => (None, instances(module, first..request.workers)?),
        };
        made.extend(rest);
        let kept = (0..).zip(&made);
        Ok(BoundModule {
            in_use: BuildsInUse {
                module: Arc::clone(module),
                others,
                services: Some(Arc::clone(&request.services)),
            },
            kept: kept
                .filter_map(|(worker, made)| made.is_none().then_some(worker))
                .collect(),
            policies: made
                .into_iter()
                .map(|made| made.unwrap_or_else(|| Box::new(Vacant)))
                .collect(),
        })
    }

    /// Makes a worker's instance; returns `None` if the worker keeps the one it has.
    fn new_instance(
        &self,
        module: &Arc<CompiledModule>,
        worker: u32,
        request: &BindRequest<'_>,
        saved: Option<&Arc<SavedStates>>,
    ) -> Result<Option<Box<dyn Policy>>, ModuleError> {
        let present = request
            .before
            .and_then(|before| before.build_for(worker, &request.services));
        if present.is_some_and(|present| std::ptr::eq(present, &**module)) {
            return Ok(None);
        }
        let place = (worker, request.workers);
        self.instance(
            module,
            place,
            request.seed,
            &request.services,
            saved.cloned(),
        )
        .map(Some)
    }

    /// Counts a fault and returns what to do. When the fault limit is reached, the build is
    /// quarantined and the one before it is brought back.
    pub fn recover(&self, report: &FaultReport) -> Recovery {
        let (service, worker) = (&report.service, report.worker);
        let what = format!("service {service}, worker {worker}: {}", report.text);
        self.library.note_fault(&report.module, what);
        if report.replaced {
            return Recovery::Nothing;
        }
        self.library
            .faulted(&self.engine, &report.module, &report.text, Instant::now())
    }

    /// Quarantines a module's newest build in use, a canary if there is one. Returns its hash and that of the
    /// build that serves now, for people; `None` if there is no other. Call [`Host::bind`] then.
    pub fn roll_back(&self, name: &str) -> Option<(String, String)> {
        let builds = self.library.roll_back_from_newest(&self.engine, name)?;
        let [from, to] = builds.map(|build| build.hash.digits().chars().take(12).collect());
        Some((from, to))
    }

    /// Ends the quarantine of a module's builds whose hashes start with `hash`. Returns those hashes. Call
    /// [`Host::bind`] then, which tries the newest build.
    pub fn lift(&self, name: &str, hash: &str) -> Vec<String> {
        self.library.lift(name, hash)
    }

    /// Returns what is wrong with the watched folder and the names of its files.
    #[must_use]
    pub fn folder_problems(&self) -> Vec<String> {
        let watcher = self.watcher.as_ref();
        watcher.map_or_else(Vec::new, Watcher::problems)
    }

    /// Returns the values of a module's own counters and gauges by service.
    #[must_use]
    pub fn counters(&self, module: &str) -> HashMap<Arc<str>, ModuleValues> {
        let history = lock(&self.histories).get(module).cloned();
        let (Some(history), Some(current)) = (history, self.library.current(module)) else {
            return HashMap::new();
        };
        history.counters.values(&current.info)
    }

    /// Returns how long a module's calls took, over all workers and builds since the start, in
    /// [`CALL_TIME_UNIT_NS`](crate::CALL_TIME_UNIT_NS). Not measured if a module may take all of a worker's
    /// time.
    #[must_use]
    pub fn call_times(&self, module: &str) -> Distribution {
        let history = lock(&self.histories).get(module).cloned();
        history.map_or_else(Distribution::default, |history| history.times.read())
    }

    fn history(&self, module: &str) -> ModuleHistory {
        let mut histories = lock(&self.histories);
        let history = histories.entry(module.into()).or_default();
        history.recent_flows.reserve();
        history.clone()
    }

    /// Returns why no new module can be compiled, with the remedy.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        self.compiler.problem()
    }

    /// Returns the state of each requested module, sorted by name.
    #[must_use]
    pub fn status(&self) -> Vec<ModuleStatus> {
        let mut modules = self.library.status();
        for module in &mut modules {
            module.log = self.history(&module.name).log.lines();
        }
        modules
    }
}
