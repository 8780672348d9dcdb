//! The plugin host: what the control side asks for modules and their instances.
//!
//! Invariant: everything here happens on the control side; a worker meets only finished
//! instances.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tracing::{error, warn};
use waxwing_dataplane::policy::PickContext;
use waxwing_dataplane::{NewFlow, Pick, Policy, PolicyFault, ServiceId};

use crate::bind::{Owner, ServiceBinding, bind};
use crate::compile::Compiler;
use crate::engine::Engine;
use crate::error::{HostError, ModuleError};
use crate::instance::{FaultReport, FaultSink};
use crate::library::{Library, Placement, Recovery, lock};
use crate::module::CompiledModule;
use crate::records::Records;
use crate::shelf::FaultLimit;
use crate::status::{self, ModuleStatus};
use crate::validate::Limits;
use crate::vetting::vet;
use crate::watch::Watcher;

/// What may be set.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Options {
    /// Sizes that modules must keep to.
    pub limits: Limits,
    /// How often a module may fault before it is rolled back.
    pub fault_limit: FaultLimit,
    /// Who compiles the folder's modules.
    pub compiler: Compiler,
    /// How long a new build serves on the first worker only, in the place of one that serves; 0
    /// gives it to all at once.
    pub canary: Duration,
}

/// What the host tells the control side of, on threads of its own and of the workers: the
/// receiver must not block.
#[derive(Clone, Debug)]
pub enum Event {
    /// A module's file came, changed or went, and has settled: [`Host::bind`] it anew where it
    /// is in use.
    Changed {
        /// The module's name.
        name: String,
    },
    /// An instance failed and is disabled: ask [`Host::recover`] what to do.
    Fault(FaultReport),
}

/// One module with an instance for each worker.
pub struct Bound {
    /// The module: the newest that passed.
    pub module: Arc<CompiledModule>,
    /// The module that all workers but the first have, where [`Bound::module`] is a canary.
    pub others: Option<Arc<CompiledModule>>,
    /// Instances by worker.
    pub policies: Vec<Box<dyn Policy>>,
}

/// Loads, vets, runs and watches modules.
pub struct Host {
    engine: Engine,
    library: Library,
    faults: FaultSink,
    generation: AtomicU64,
    /// By module name.
    records: Mutex<HashMap<String, Arc<Records>>>,
    /// Dropped with the host, which ends its thread.
    _watcher: Option<Watcher>,
}

impl Host {
    /// Starts the engine, and the watcher if there is a folder (it may be made later).
    ///
    /// `shipped` are the modules that come with the program, by name. `events` is called with
    /// what happens.
    ///
    /// # Errors
    /// If the engine does not work on this machine, or no thread can be had.
    pub fn new(
        options: Options,
        shipped: &[(&'static str, &'static [u8])],
        folder: Option<PathBuf>,
        events: impl Fn(Event) + Send + Sync + 'static,
    ) -> Result<Self, HostError> {
        let events = Arc::new(events);
        let on_change = Arc::clone(&events);
        let watcher = folder
            .clone()
            .map(|folder| Watcher::new(folder, move |name| on_change(Event::Changed { name })))
            .transpose()?;
        Ok(Self {
            engine: Engine::new()?,
            library: Library::new(shipped, folder, options),
            faults: Arc::new(move |report| events(Event::Fault(report))),
            generation: AtomicU64::new(0),
            records: Mutex::default(),
            _watcher: watcher,
        })
    }

    /// The newest module of a name: the folder's file, else the shipped one; where the newest is
    /// bad, the one that serves (the refusal is logged and kept for [`Host::status`]). Compiling
    /// takes some 10 ms to seconds: not for an async executor's thread.
    ///
    /// # Errors
    /// If no module of the name can serve.
    pub fn policy(&self, name: &str) -> Result<Arc<CompiledModule>, ModuleError> {
        self.library.load(&self.engine, name)
    }

    /// Makes a worker's instance of a module for its services. A module that is new to the host
    /// answers test flows for these services first.
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
        if !module.vetted.load(Ordering::Acquire) {
            let flows = vet(&self.engine, module, services, &self.records(&module.name))?;
            module.vetted.store(true, Ordering::Release);
            let services = services.len();
            let text = format!("answered {flows} test flows for {services} services");
            self.library.step(module, text);
        }
        let generation = self.generation.fetch_add(1, Ordering::Relaxed) + 1;
        let owner = Owner {
            worker,
            seed,
            generation,
            faults: Arc::clone(&self.faults),
            records: self.records(&module.name),
        };
        let policy = bind(&self.engine, module, owner, services)?;
        Ok(Box::new(policy))
    }

    /// Instances were put to work: the module serves from now on, on all workers or as a canary, and
    /// the one before is what a roll-back goes to. (Instances that were made to check a config
    /// change nothing.)
    pub fn put_to_work(&self, module: &Arc<CompiledModule>, is_canary: bool) {
        if is_canary {
            self.library.start_canary(module);
        } else {
            self.library.promote(module);
        }
    }

    /// When the first canary is over: [`Host::bind`] then gives the build to all workers.
    #[must_use]
    pub fn canary_ends(&self) -> Option<Instant> {
        self.library.canary_ends()
    }

    /// The whole way from a name to an instance for each of `workers` workers. A build that is to
    /// replace another is given to the first worker only, as its canary, for a while. If the newest
    /// module does not pass on these services, the one that serves is taken, and the refusal
    /// logged and kept for [`Host::status`].
    ///
    /// # Errors
    /// If no module of the name can serve these services.
    pub fn bind(
        &self,
        name: &str,
        workers: u32,
        seed: u64,
        services: &[ServiceBinding],
    ) -> Result<Bound, ModuleError> {
        let newest = self.policy(name)?;
        let others = match self.library.placement(&newest, Instant::now()) {
            Placement::Canary(current) if workers > 1 => Some(current),
            Placement::Canary(_) | Placement::Everywhere => None,
        };
        let error = match self.bind_builds(&newest, others, workers, seed, services) {
            Ok(bound) => return Ok(bound),
            Err(error) => error,
        };
        self.library.refuse(name, Some(newest.hash), &error);
        let mut tried = vec![newest.hash];
        while let Some(other) = self.library.stand_in(&self.engine, name, &tried) {
            match self.bind_builds(&other, None, workers, seed, services) {
                Ok(bound) => return Ok(bound),
                Err(error) => warn!("{error}"),
            }
            tried.push(other.hash);
        }
        Err(error)
    }

    /// [`Host::bind`] for services that are served already: where no build can serve them any more,
    /// the native fallback does, for one bad module must hold back no change of the others.
    ///
    /// # Errors
    /// If no module of the name can serve these services, and none has before.
    pub fn bind_again(
        &self,
        name: &str,
        workers: u32,
        seed: u64,
        services: &[ServiceBinding],
    ) -> Result<Bound, ModuleError> {
        let error = match self.bind(name, workers, seed, services) {
            Ok(bound) => return Ok(bound),
            Err(error) => error,
        };
        let Some(module) = self.library.current(name) else {
            return Err(error);
        };
        error!("{error}; weighted rendezvous chooses until it is mended");
        Ok(Bound {
            module,
            others: None,
            policies: (0..workers).map(|_| Box::new(NoPolicy) as _).collect(),
        })
    }

    /// Only these modules are in use: forgets the others.
    pub fn retain(&self, names: &[Arc<str>]) {
        self.library.retain(names);
        lock(&self.records).retain(|name, _| names.iter().any(|used| **used == **name));
    }

    fn bind_builds(
        &self,
        module: &Arc<CompiledModule>,
        others: Option<Arc<CompiledModule>>,
        workers: u32,
        seed: u64,
        services: &[ServiceBinding],
    ) -> Result<Bound, ModuleError> {
        let instances = |module: &Arc<CompiledModule>, of: Range<u32>| {
            of.map(|worker| self.instantiate(module, worker, seed, services))
                .collect::<Result<Vec<_>, _>>()
        };
        let mut policies = instances(module, 0..workers.min(1))?;
        // Where the config has changed so that only the new build takes it, there is no going back.
        let rest = others.and_then(|others| {
            let rest = instances(&others, 1..workers).ok()?;
            Some((others, rest))
        });
        let (others, rest) = match rest {
            Some((others, rest)) => (Some(others), rest),
            None => (None, instances(module, workers.min(1)..workers)?),
        };
        policies.extend(rest);
        Ok(Bound {
            module: Arc::clone(module),
            others,
            policies,
        })
    }

    /// Counts a fault and says what to do about it. Too many of them within the limit quarantine
    /// the build and bring the one before back.
    pub fn recover(&self, report: &FaultReport) -> Recovery {
        self.library
            .faulted(&self.engine, &report.module, &report.text, Instant::now())
    }

    /// What the modules' own counters say, by module and service: counted up over all workers and
    /// builds since the start.
    #[must_use]
    pub fn counters(&self, module: &str) -> HashMap<Arc<str>, BTreeMap<String, u64>> {
        let records = lock(&self.records).get(module).cloned();
        let (Some(records), Some(current)) = (records, self.library.current(module)) else {
            return HashMap::new();
        };
        records.counters(&current.info.counters)
    }

    fn records(&self, module: &str) -> Arc<Records> {
        let mut records = lock(&self.records);
        let records = records.entry(module.into()).or_default();
        records.make_room();
        Arc::clone(records)
    }

    /// Every module that was asked for, by name.
    #[must_use]
    pub fn status(&self) -> Vec<ModuleStatus> {
        let period = self.library.canary();
        let status = |(name, entry, quarantined)| status::of(name, entry, quarantined, period);
        self.library.list().into_iter().map(status).collect()
    }
}

/// In the place of a module that cannot serve: leaves every choice to the native fallback.
struct NoPolicy;

impl Policy for NoPolicy {
    fn payload_len(&self) -> usize {
        0
    }

    fn pick(
        &mut self,
        _: ServiceId,
        _: PickContext<'_>,
        _: &[NewFlow],
        _: &mut [Pick],
    ) -> Result<(), PolicyFault> {
        Err(PolicyFault::Disabled)
    }
}
