//! The plugin host: what the control side asks for modules and their instances.
//!
//! Invariant: everything here happens on the control side; a worker meets only finished
//! instances.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Instant, SystemTime};

use serde::Serialize;
use waxwing_dataplane::Policy;
use waxwing_sdk::abi::ModuleInfo;

use crate::bind::{Owner, ServiceBinding, bind};
use crate::engine::Engine;
use crate::error::{HostError, ModuleError};
use crate::instance::{FaultReport, FaultSink};
use crate::library::{FaultLimit, Library, Recovery, Refused, lock, read_capped};
use crate::module::{CompiledModule, Source, label};
use crate::records::Records;
use crate::validate::Limits;
use crate::vetting::vet;
use crate::watch::Watcher;

/// What may be set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Options {
    /// Sizes that modules must keep to.
    pub limits: Limits,
    /// How often a module may fault before it is rolled back.
    pub fault_limit: FaultLimit,
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
    /// Instances by worker.
    pub policies: Vec<Box<dyn Policy>>,
}

/// What is known of a module, for people.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ModuleStatus {
    /// The name that services use.
    pub name: String,
    /// The module that serves.
    pub serving: Option<Serving>,
    /// The build that was refused last, while that one serves.
    pub refused: Option<RefusedStatus>,
}

/// A module that serves.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Serving {
    /// `shipped`, or the file's path.
    pub source: String,
    /// The author's name for it.
    pub title: String,
    /// The author's version; may be empty.
    pub version: String,
    /// The SDK it was made with; may be empty.
    pub sdk: String,
    /// The first 12 digits of the file's SHA-256.
    pub hash: String,
    /// Its file's size, in bytes.
    pub bytes: usize,
    /// When it was loaded, in seconds since 1970.
    pub since: u64,
    /// Calls that failed.
    pub faults: u64,
    /// Picks of a backend that takes no new sessions.
    pub unavailable_picks: u64,
}

/// A build that was refused.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct RefusedStatus {
    /// The first 12 digits of the file's SHA-256, if it could be read.
    pub hash: Option<String>,
    /// Why, as it was logged.
    pub reason: String,
    /// When, in seconds since 1970.
    pub at: u64,
}

/// Loads, vets, runs and watches modules.
pub struct Host {
    engine: Engine,
    library: Library,
    limits: Limits,
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
            library: Library::new(shipped, folder, options.limits, options.fault_limit),
            limits: options.limits,
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
            vet(&self.engine, module, services, &self.records(&module.name))?;
            module.vetted.store(true, Ordering::Release);
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

    /// A module's instances were put to work: it serves from now on, and the one before is what a
    /// roll-back goes to. (Instances that were made to check a config change nothing.)
    pub fn promote(&self, module: &Arc<CompiledModule>) {
        self.library.promote(module);
    }

    /// The whole way from a name to an instance for each of `workers` workers. If the newest
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
        let error = match self.bind_module(&newest, workers, seed, services) {
            Ok(bound) => return Ok(bound),
            Err(error) => error,
        };
        match self.library.demote(&newest, &error) {
            Some(serving) => self.bind_module(&serving, workers, seed, services),
            None => Err(error),
        }
    }

    fn bind_module(
        &self,
        module: &Arc<CompiledModule>,
        workers: u32,
        seed: u64,
        services: &[ServiceBinding],
    ) -> Result<Bound, ModuleError> {
        let policies = (0..workers)
            .map(|worker| self.instantiate(module, worker, seed, services))
            .collect::<Result<_, _>>()?;
        Ok(Bound {
            module: Arc::clone(module),
            policies,
        })
    }

    /// Counts a fault and says what to do about it. Too many of them within the limit quarantine
    /// the build and bring the one before back.
    pub fn recover(&self, report: &FaultReport) -> Recovery {
        self.library
            .faulted(&self.engine, &report.module, &report.text, Instant::now())
    }

    /// Reads, validates and compiles a file, and does no more with it.
    ///
    /// # Errors
    /// Why it would be refused.
    pub fn check(&self, path: &Path) -> Result<ModuleInfo, ModuleError> {
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let source = Source::File(path.into());
        let bytes = read_capped(path, self.limits.file_bytes_max)
            .map_err(|refusal| refusal.of(label(&name, &source)))?;
        let module = CompiledModule::new(&self.engine, &self.limits, &name, source, &bytes)?;
        Ok(module.info)
    }

    /// What the modules' own counters say, by module and service: counted up over all workers and
    /// builds since the start.
    #[must_use]
    pub fn counters(&self, module: &str) -> HashMap<Arc<str>, BTreeMap<String, u64>> {
        let records = lock(&self.records).get(module).cloned();
        records.map_or_else(HashMap::new, |records| records.counters())
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
        self.library
            .list()
            .into_iter()
            .map(|(name, current, refused)| ModuleStatus {
                name,
                serving: current.as_deref().map(Serving::from),
                refused: refused.map(RefusedStatus::from),
            })
            .collect()
    }
}

impl From<&CompiledModule> for Serving {
    fn from(module: &CompiledModule) -> Self {
        Self {
            source: module.source.to_string(),
            title: module.info.name.clone(),
            version: module.info.version.clone(),
            sdk: module.info.sdk.clone(),
            hash: module.hash.to_string(),
            bytes: module.bytes,
            since: seconds(module.since),
            faults: module.counters.faults(),
            unavailable_picks: module.counters.unavailable_picks(),
        }
    }
}

impl From<Refused> for RefusedStatus {
    fn from(refused: Refused) -> Self {
        let Refused { hash, reason, at } = refused;
        Self {
            hash: hash.map(|hash| hash.to_string()),
            reason,
            at: seconds(at),
        }
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
