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

use tracing::error;
use waxwing_dataplane::Policy;
use waxwing_dataplane::policy::Vacant;
use waxwing_sdk::abi::Kind;

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

/// Which builds of a module serve which services: what its workers' instances were made of.
#[derive(Clone, Debug)]
pub struct InUse {
    /// The module: the newest that passed.
    pub module: Arc<CompiledModule>,
    /// The module that all workers but the first have, where [`InUse::module`] is a canary.
    pub others: Option<Arc<CompiledModule>>,
    /// What they serve; `None` where no build can, and the native fallback does.
    pub services: Option<Arc<[ServiceBinding]>>,
}

impl InUse {
    /// The build that most workers have.
    #[must_use]
    pub fn mostly(&self) -> &Arc<CompiledModule> {
        self.others.as_ref().unwrap_or(&self.module)
    }

    /// The build of a worker's instance, if it was made for these services.
    fn instance_for(&self, worker: u32, services: &[ServiceBinding]) -> Option<&CompiledModule> {
        let same = self.services.as_deref() == Some(services);
        let build = if worker == 0 {
            &self.module
        } else {
            self.mostly()
        };
        same.then_some(build)
    }
}

/// One module with an instance for each worker.
pub struct Bound {
    /// What the instances are made of.
    pub in_use: InUse,
    /// Instances by worker; [`Vacant`] for those in [`Bound::kept`].
    pub policies: Vec<Box<dyn Policy>>,
    /// The workers whose instance of before goes on, for it is the same module's for the same services.
    pub kept: Vec<usize>,
}

impl Bound {
    /// Whether nothing is new.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.kept.len() == self.policies.len()
    }
}

/// What a module is bound for.
struct Wanted<'a> {
    workers: u32,
    seed: u64,
    services: Arc<[ServiceBinding]>,
    before: Option<&'a InUse>,
}

impl<'a> Wanted<'a> {
    fn new(
        workers: u32,
        seed: u64,
        services: &[ServiceBinding],
        before: Option<&'a InUse>,
    ) -> Self {
        Self {
            workers,
            seed,
            services: services.into(),
            before,
        }
    }
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
            library: Library::new(shipped, folder, options, Kind::Policy),
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
        let wanted = Wanted::new(workers, seed, services, None);
        self.bind_wanted(name, &wanted)
    }

    fn bind_wanted(&self, name: &str, wanted: &Wanted<'_>) -> Result<Bound, ModuleError> {
        self.library.newest_that(&self.engine, name, |build| {
            let others = match self.library.placement(build, Instant::now()) {
                Placement::Canary(current) if wanted.workers > 1 => Some(current),
                Placement::Canary(_) | Placement::Everywhere => None,
            };
            self.bind_builds(build, others, wanted)
        })
    }

    /// [`Host::bind`] for services that are served already, by what was bound `before`. Instances
    /// that would be made of the same module for the same services go on, with all they remember.
    /// Where no build can serve the services any more, the native fallback does, for one bad module
    /// must hold back no change of the others.
    ///
    /// # Errors
    /// If no module of the name can serve these services, and none has before.
    pub fn bind_again(
        &self,
        name: &str,
        workers: u32,
        seed: u64,
        services: &[ServiceBinding],
        before: Option<&InUse>,
    ) -> Result<Bound, ModuleError> {
        let wanted = Wanted::new(workers, seed, services, before);
        let error = match self.bind_wanted(name, &wanted) {
            Ok(bound) => return Ok(bound),
            Err(error) => error,
        };
        let Some(module) = self.library.current(name) else {
            return Err(error);
        };
        error!("{error}; weighted rendezvous chooses until it is mended");
        Ok(Bound {
            in_use: InUse {
                module,
                others: None,
                services: None,
            },
            policies: (0..workers).map(|_| Box::new(Vacant) as _).collect(),
            kept: Vec::new(),
        })
    }

    /// [`Host::bind_again`], by the builds that serve: nothing is read or compiled. Where they cannot
    /// serve these services it looks for one that can.
    ///
    /// # Errors
    /// As [`Host::bind_again`].
    pub fn rebind(
        &self,
        before: &InUse,
        workers: u32,
        seed: u64,
        services: &[ServiceBinding],
    ) -> Result<Bound, ModuleError> {
        let wanted = Wanted::new(workers, seed, services, Some(before));
        match self.bind_builds(&before.module, before.others.clone(), &wanted) {
            Ok(bound) => Ok(bound),
            Err(_) => self.bind_again(&before.module.name, workers, seed, services, Some(before)),
        }
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
        wanted: &Wanted<'_>,
    ) -> Result<Bound, ModuleError> {
        let instances = |module: &Arc<CompiledModule>, of: Range<u32>| {
            of.map(|worker| self.instance(module, worker, wanted))
                .collect::<Result<Vec<_>, _>>()
        };
        let first = wanted.workers.min(1);
        let mut instances_made = instances(module, 0..first)?;
        // Where the config has changed so that only the new build takes it, there is no going back.
        let rest = others.and_then(|others| {
            let rest = instances(&others, first..wanted.workers).ok()?;
            Some((others, rest))
        });
        let (others, rest) = match rest {
            Some((others, rest)) => (Some(others), rest),
            None => (None, instances(module, first..wanted.workers)?),
        };
        instances_made.extend(rest);
        let kept = (0..).zip(&instances_made);
        Ok(Bound {
            in_use: InUse {
                module: Arc::clone(module),
                others,
                services: Some(Arc::clone(&wanted.services)),
            },
            kept: kept
                .filter_map(|(worker, made)| made.is_none().then_some(worker))
                .collect(),
            policies: instances_made
                .into_iter()
                .map(|made| made.unwrap_or_else(|| Box::new(Vacant)))
                .collect(),
        })
    }

    /// A worker's new instance; `None` where the one it has is of the same.
    fn instance(
        &self,
        module: &Arc<CompiledModule>,
        worker: u32,
        wanted: &Wanted<'_>,
    ) -> Result<Option<Box<dyn Policy>>, ModuleError> {
        let before = wanted
            .before
            .and_then(|before| before.instance_for(worker, &wanted.services));
        if before.is_some_and(|before| std::ptr::eq(before, &**module)) {
            return Ok(None);
        }
        self.instantiate(module, worker, wanted.seed, &wanted.services)
            .map(Some)
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
