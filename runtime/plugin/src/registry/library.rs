//! Which build a module's name stands for: a file of the watched folder, else the last good build,
//! else the shipped module.
//!
//! Invariant: a serving build is replaced only by one that passed; when a new file is bad, the last
//! good build stays. A quarantined build returns only if nothing else can serve the name, at a start
//! or a change; its faults are counted as before.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Instant, SystemTime};

use tracing::{info, warn};
use waxwing_sdk::abi::Kind;

use crate::build::compile::Compiler;
use crate::build::engine::Engine;
use crate::build::module::{CompiledModule, ModuleHash, ModuleSource, label};
use crate::build::read::check_name;
use crate::error::{ModuleError, Refusal};
use crate::lock::lock;
use crate::policy::outcomes::Sides;
use crate::registry::canary::judge;
use crate::registry::lifecycle::{CanaryBuild, CompiledBuild, Lifecycles, RefusedBuild};
use crate::registry::options::HostOptions;
use crate::registry::sources::{ModuleBytes, Sources};
use crate::registry::start::StartPhase;
use crate::registry::status::ModuleStatus;
use crate::registry::store::Store;

/// The workers on which a build serves.
pub(crate) enum Placement {
    AllWorkers,
    /// The first worker; the others keep this build.
    Canary(Arc<CompiledModule>),
}

/// The modules of one kind, by name.
pub(crate) struct Library {
    pub(super) sources: Sources,
    pub(super) options: HostOptions,
    pub(super) store: Store,
    pub(super) lifecycles: Mutex<Lifecycles>,
    pub(super) start: StartPhase,
    /// Serializes loading by name, so that `lifecycles` stays free for `status` meanwhile, and modules are
    /// compiled side by side.
    loading: Mutex<HashMap<String, Arc<Mutex<()>>>>,
}

impl Library {
    pub(crate) fn new(
        shipped: &[(&'static str, &'static [u8])],
        folder: Option<PathBuf>,
        options: HostOptions,
        kind: Kind,
    ) -> Self {
        let store = Store::new(options.state.as_deref(), kind);
        Self {
            sources: Sources::new(shipped, folder, options.limits.file_bytes_max),
            start: StartPhase::new(options.start_within, &store),
            options,
            lifecycles: Mutex::new(Lifecycles::new(store.quarantined())),
            store,
            loading: Mutex::default(),
        }
    }

    /// Calls `make` with the newest build of a name, then with each substitute, until one succeeds.
    /// If the newest fails, its refusal is logged and kept for `status`.
    pub(crate) fn try_builds<T>(
        &self,
        engine: &Engine,
        name: &str,
        make: impl Fn(&Arc<CompiledModule>) -> Result<T, ModuleError>,
    ) -> Result<T, ModuleError> {
        let newest = self.load(engine, name)?;
        let error = match make(&newest) {
            Ok(made) => return Ok(made),
            Err(error) => error,
        };
        self.refuse(name, Some(newest.hash), &error);
        let mut tried = vec![newest.hash];
        while let Some(other) = self.substitute(engine, name, &tried) {
            match make(&other) {
                Ok(made) => return Ok(made),
                Err(error) => warn!("{error}"),
            }
            tried.push(other.hash);
        }
        Err(error)
    }

    /// Returns the newest build of a name: the file, else the shipped module. If that is bad, returns
    /// the serving build, else the last good one. The build does not serve before
    /// [`Library::promote`] or [`Library::start_canary`].
    pub(crate) fn load(
        &self,
        engine: &Engine,
        name: &str,
    ) -> Result<Arc<CompiledModule>, ModuleError> {
        check_name(name)?;
        let of_name = Arc::clone(lock(&self.loading).entry(name.to_owned()).or_default());
        let _one_at_a_time = lock(&of_name);
        let error = match self.load_newest(engine, name) {
            Ok(module) => return Ok(module),
            Err(error) => error,
        };
        if let Some(current) = self.current(name) {
            return Ok(current);
        }
        if let Some(module) = self.load_last_good(engine, name) {
            return Ok(module);
        }
        let has_file = self.sources.file(name).is_some();
        if let Some(bytes) = self.sources.shipped(name).filter(|_| has_file) {
            return self.compile(engine, name, ModuleSource::Shipped, bytes);
        }
        if let (Refusal::Quarantined(_), Ok(Some(found))) =
            (&error.refusal, self.sources.find(name))
        {
            warn!("{error}; tried again because no other build can serve");
            return self.compile(engine, name, found.source, &found.bytes);
        }
        Err(error)
    }

    fn load_newest(&self, engine: &Engine, name: &str) -> Result<Arc<CompiledModule>, ModuleError> {
        let refused = |hash, error| {
            self.refuse(name, hash, &error);
            error
        };
        let found = self.sources.find(name).map_err(|e| refused(None, e))?;
        let Some(ModuleBytes { source, bytes }) = found else {
            return self.keep_serving(engine, name);
        };
        let hash = ModuleHash::of(&bytes);
        let quarantined = lock(&self.lifecycles).quarantined(hash);
        if let Some(why) = quarantined {
            let error = Refusal::Quarantined(why).of(label(name, &source));
            return Err(refused(Some(hash), error));
        }
        if let Some(compiled) = self.compiled(name, hash, &source) {
            return Ok(compiled);
        }
        let until = self.compile_until(name, hash, &source);
        let failed = lock(&self.lifecycles).module(name).failed_compile(hash);
        let failed = failed.or_else(|| until.and_then(|_| self.refused_before(hash)));
        if let Some(why) = failed {
            let error = Refusal::Compile(why).of(label(name, &source));
            return Err(refused(Some(hash), error));
        }
        let label = label(name, &source);
        let compiled = self.compile_by(engine, name, (source, &bytes), until);
        let is_late = until.is_some_and(|until| Instant::now() >= until);
        match compiled {
            Err(_) if is_late => {
                self.postpone(name);
                Err(refused(Some(hash), Refusal::Later.of(label)))
            }
            Err(error) => {
                if let Refusal::Compile(why) = &error.refusal {
                    self.remember(name, hash, Some(why));
                }
                Err(refused(Some(hash), error))
            }
            Ok(module) => {
                self.remember(name, hash, None);
                Ok(module)
            }
        }
    }

    /// Returns the serving build, or the last good one, of a name that has no file and no shipped
    /// module any more.
    fn keep_serving(
        &self,
        engine: &Engine,
        name: &str,
    ) -> Result<Arc<CompiledModule>, ModuleError> {
        let kept = self.current(name);
        let kept = kept.or_else(|| self.load_last_good(engine, name));
        let kept = kept.ok_or_else(|| self.sources.unknown(name))?;
        warn!(
            "module {}: its file was removed; this build continues to serve",
            kept.label()
        );
        Ok(kept)
    }

    /// Loads the build that the store kept before this process started.
    fn load_last_good(&self, engine: &Engine, name: &str) -> Option<Arc<CompiledModule>> {
        let max = self.options.limits.file_bytes_max as u64;
        let (path, bytes) = self.store.last_good(name, max)?;
        let hash = ModuleHash::of(&bytes);
        if lock(&self.lifecycles).quarantined(hash).is_some() {
            return None;
        }
        let source = ModuleSource::LastGood(path);
        if let Some(compiled) = self.compiled(name, hash, &source) {
            return Some(compiled);
        }
        match self.compile(engine, name, source, &bytes) {
            Ok(module) => {
                warn!("module {}: {hash} serves instead", module.label());
                Some(module)
            }
            Err(error) => {
                warn!("{error}");
                None
            }
        }
    }

    /// Returns the build if it is compiled already.
    fn compiled(
        &self,
        name: &str,
        hash: ModuleHash,
        source: &ModuleSource,
    ) -> Option<Arc<CompiledModule>> {
        let mut lifecycles = lock(&self.lifecycles);
        let lifecycle = lifecycles.module(name);
        match lifecycle.compiled(|module| module.hash == hash && module.source == *source)? {
            CompiledBuild::Current(current) => {
                lifecycle.refused = None;
                Some(current)
            }
            CompiledBuild::Other(other) => {
                lifecycle.candidate = Some(Arc::clone(&other));
                Some(other)
            }
        }
    }

    pub(super) fn compile(
        &self,
        engine: &Engine,
        name: &str,
        source: ModuleSource,
        bytes: &[u8],
    ) -> Result<Arc<CompiledModule>, ModuleError> {
        self.compile_by(engine, name, (source, bytes), None)
    }

    /// Compiles a build within the compiler's limits, and until then.
    fn compile_by(
        &self,
        engine: &Engine,
        name: &str,
        (source, bytes): (ModuleSource, &[u8]),
        until: Option<Instant>,
    ) -> Result<Arc<CompiledModule>, ModuleError> {
        // Shipped modules are as trusted as this program.
        let compiler = match source {
            ModuleSource::Shipped => Compiler::Here,
            ModuleSource::File(_) | ModuleSource::LastGood(_) => self.options.compiler.until(until),
        };
        let same = lock(&self.lifecycles).with_hash(ModuleHash::of(bytes));
        let (module, text) = match same {
            Some(same) => {
                let text = format!("is the same build as {}", same.label());
                (same.renamed(name, source), text)
            }
            None => {
                let start = Instant::now();
                let limits = &self.options.limits;
                let compiler = (&compiler, self.options.cache.as_deref());
                let module = CompiledModule::new(engine, compiler, limits, name, source, bytes)?;
                let took = start.elapsed().as_millis();
                let text = match module.was_kept {
                    true => format!("validated in {took} ms; its machine code was kept"),
                    false => format!("validated and compiled in {took} ms"),
                };
                (module, text)
            }
        };
        let module = Arc::new(module);
        self.log_step(&module, text);
        lock(&self.lifecycles).module(name).candidate = Some(Arc::clone(&module));
        Ok(module)
    }

    /// Returns the workers on which a build that passed on its services is to serve.
    pub(crate) fn placement(&self, module: &Arc<CompiledModule>) -> Placement {
        let lifecycles = lock(&self.lifecycles);
        let Some(lifecycle) = lifecycles.get(&module.name) else {
            return Placement::AllWorkers;
        };
        let mut canary = lifecycle.canary.iter();
        let passed = canary.any(|canary| canary.passed && Arc::ptr_eq(&canary.module, module));
        let done = passed || self.options.canary.time.is_zero();
        match &lifecycle.current {
            Some(current) if !done && !Arc::ptr_eq(current, module) => {
                Placement::Canary(Arc::clone(current))
            }
            _ => Placement::AllWorkers,
        }
    }

    /// Records that a build now serves on the first worker, and each service's counts.
    pub(crate) fn start_canary(
        &self,
        module: &Arc<CompiledModule>,
        before: BTreeMap<Arc<str>, Sides>,
    ) {
        let started = lock(&self.lifecycles)
            .module(&module.name)
            .start_canary(module, before);
        if started {
            let seconds = self.options.canary.time.as_secs_f32();
            self.log_step(module, format!("serves on worker 0, for {seconds} s"));
        }
    }

    /// Returns when the first canary period ends.
    pub(crate) fn canary_ends(&self) -> Option<Instant> {
        let lifecycles = lock(&self.lifecycles);
        let ends = lifecycles.modules().filter_map(|(_, lifecycle)| {
            let canary = lifecycle.canary.as_ref()?;
            Some(canary.since + self.options.canary.time)
        });
        ends.min()
    }

    /// Returns the canaries whose time is over.
    pub(crate) fn canaries_to_judge(&self, now: Instant) -> Vec<Arc<CompiledModule>> {
        let lifecycles = lock(&self.lifecycles);
        let canaries = lifecycles
            .modules()
            .filter_map(|(_, it)| it.canary.as_ref());
        let over = |canary: &&CanaryBuild| {
            !canary.passed && now >= canary.since + self.options.canary.time
        };
        let modules = canaries
            .filter(over)
            .map(|canary| Arc::clone(&canary.module));
        modules.collect()
    }

    /// Lets a canary pass, or quarantines its build.
    pub(crate) fn judge_canary(
        &self,
        module: &Arc<CompiledModule>,
        now: &BTreeMap<Arc<str>, Sides>,
    ) {
        let before = {
            let mut lifecycles = lock(&self.lifecycles);
            let Some(canary) = &mut lifecycles.module(&module.name).canary else {
                return;
            };
            canary.passed = true;
            canary.before.clone()
        };
        // A service that came meanwhile has no counts of before.
        let services = before
            .iter()
            .filter_map(|(name, before)| Some((Arc::clone(name), *now.get(name)? - *before)));
        match judge(&services.collect(), &self.options.canary) {
            Ok(figures) => self.log_step(module, format!("passed as a canary: {figures}")),
            Err(why) => {
                lock(&self.lifecycles)
                    .module(&module.name)
                    .end_canary(module);
                self.quarantine(module, &format!("failed on its first worker: {why}"));
            }
        }
    }

    /// Records that a build now serves on all workers.
    pub(crate) fn promote(&self, module: &Arc<CompiledModule>) {
        let replaced = {
            let mut lifecycles = lock(&self.lifecycles);
            let lifecycle = lifecycles.module(&module.name);
            let replaced = lifecycle.promote(module);
            if replaced && !self.is_substitute(module) {
                lifecycle.refused = None;
            }
            replaced
        };
        if !replaced {
            return;
        }
        self.log_step(module, "serves on all workers".into());
        match module.source {
            ModuleSource::File(_) => self.store.keep(&module.name, &module.image),
            ModuleSource::Shipped if !self.is_substitute(module) => {
                self.store.forget(&module.name);
            }
            ModuleSource::Shipped | ModuleSource::LastGood(_) => {}
        }
    }

    /// Returns whether a build serves instead of a bad file.
    fn is_substitute(&self, module: &CompiledModule) -> bool {
        let has_file = || {
            let file = self.sources.file(&module.name);
            file.is_some_and(|path| path.exists())
        };
        !matches!(module.source, ModuleSource::File(_)) && has_file()
    }

    /// Logs a refusal and keeps it for `status`. A repeated refusal is not logged again.
    pub(crate) fn refuse(&self, name: &str, hash: Option<ModuleHash>, error: &ModuleError) {
        let reason = error.to_string();
        let mut lifecycles = lock(&self.lifecycles);
        let lifecycle = lifecycles.module(name);
        let repeated = lifecycle
            .refused
            .as_ref()
            .is_some_and(|r| r.hash == hash && r.reason == reason);
        if repeated || matches!(error.refusal, Refusal::Changing) {
            return;
        }
        match &lifecycle.current {
            Some(current) if Some(current.hash) == hash => {
                warn!("{reason}; no other build can serve");
            }
            Some(current) => warn!(
                "{reason}; {} {} continues to serve",
                current.label(),
                current.hash
            ),
            None => warn!("{reason}"),
        }
        if let Some(hash) = hash {
            lifecycle.log_step(hash, format!("refused: {}", error.refusal));
        }
        lifecycle.refused = Some(RefusedBuild {
            hash,
            reason,
            at: SystemTime::now(),
        });
    }

    /// Returns the next build to try after the builds in `tried` failed: the serving one, the last good
    /// one, the shipped one. If the serving build failed too, the config is at fault, so nothing
    /// else is tried.
    fn substitute(
        &self,
        engine: &Engine,
        name: &str,
        tried: &[ModuleHash],
    ) -> Option<Arc<CompiledModule>> {
        let untried = |module: &Arc<CompiledModule>| !tried.contains(&module.hash);
        if let Some(current) = self.current(name) {
            return Some(current).filter(untried);
        }
        let shipped = || {
            let bytes = self.sources.shipped(name)?;
            if tried.contains(&ModuleHash::of(bytes)) {
                return None;
            }
            self.compile(engine, name, ModuleSource::Shipped, bytes)
                .ok()
        };
        self.load_last_good(engine, name)
            .filter(untried)
            .or_else(shipped)
    }

    /// Forgets all modules except these.
    pub(crate) fn retain(&self, names: &[Arc<str>]) {
        let is_used = |name: &str| names.iter().any(|used| **used == *name);
        lock(&self.lifecycles).retain(is_used);
        lock(&self.loading).retain(|name, _| is_used(name));
    }

    /// Logs a step of a build's life and keeps it for `status`.
    pub(crate) fn log_step(&self, module: &CompiledModule, text: String) {
        info!("module {} {}: {text}", module.label(), module.hash);
        lock(&self.lifecycles)
            .module(&module.name)
            .log_step(module.hash, text);
    }

    /// Returns the state of each requested module, sorted by name.
    pub(crate) fn status(&self) -> Vec<ModuleStatus> {
        let lifecycles = lock(&self.lifecycles);
        let mut list: Vec<ModuleStatus> = lifecycles
            .modules()
            .map(|(name, lifecycle)| {
                let quarantined = lifecycles.quarantined_of(name);
                ModuleStatus::new(
                    name.clone(),
                    lifecycle.clone(),
                    quarantined,
                    self.options.canary.time,
                )
            })
            .collect();
        list.sort_by(|a, b| a.name.cmp(&b.name));
        list
    }

    /// Returns the build that serves a name.
    pub(crate) fn current(&self, name: &str) -> Option<Arc<CompiledModule>> {
        lock(&self.lifecycles).get(name)?.current.clone()
    }
}
