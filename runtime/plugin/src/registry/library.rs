//! Which module a name stands for: a file in the watched folder, else the last good build of it,
//! else the one that shipped.
//!
//! Invariant: a module that serves is replaced only by one that passed; the last good one stays
//! whenever a new file is bad. A build that was quarantined comes back only where nothing else can
//! serve the name, and a start or a change asks for it: that gives it another try, watched as before.

use std::borrow::Cow;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tracing::{error, info, warn};
use waxwing_sdk::abi::Kind;

use crate::compile::Compiler;
use crate::engine::Engine;
use crate::error::{ModuleError, Refusal};
use crate::host::Options;
use crate::module::{CompiledModule, Hash, Source, label};
use crate::read::{check_name, read_capped};
use crate::shelf::{Entry, Judgement, Known, Refused, Shelf};
use crate::store::{Quarantined, Store};

/// The extension of module files.
pub(crate) const EXTENSION: &str = "wasm";

/// What is to be done after a fault.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Recovery {
    /// The instance is not in use any more.
    Nothing,
    /// Make new instances of the same module.
    Rebuild,
    /// The module is quarantined; make instances of the one that the name stands for now.
    RolledBack,
    /// It faults too often and there is nothing to roll back to: leave its instances disabled
    /// and the native fallback in charge, until the file changes.
    Exhausted,
}

/// On which workers a build is to serve.
pub(crate) enum Placement {
    /// On all.
    Everywhere,
    /// On the first; the others have this one.
    Canary(Arc<CompiledModule>),
}

/// A module's bytes, and where they are from.
struct Found {
    source: Source,
    bytes: Cow<'static, [u8]>,
}

/// The modules of one kind, by name.
pub(crate) struct Library {
    shipped: Vec<(&'static str, &'static [u8])>,
    folder: Option<PathBuf>,
    options: Options,
    store: Store,
    shelf: Mutex<Shelf>,
    /// Held while one module is loaded, so that `shelf` is free for `status` meanwhile.
    loading: Mutex<()>,
}

impl Library {
    pub(crate) fn new(
        shipped: &[(&'static str, &'static [u8])],
        folder: Option<PathBuf>,
        options: Options,
        kind: Kind,
    ) -> Self {
        let store = Store::new(folder.as_deref(), kind);
        Self {
            shipped: shipped.to_vec(),
            folder,
            options,
            shelf: Mutex::new(Shelf::new(store.quarantined())),
            store,
            loading: Mutex::default(),
        }
    }

    /// Makes something of the newest build that a name stands for and that is good for it. Where that
    /// is not the newest of all, its refusal is logged and kept.
    pub(crate) fn newest_that<T>(
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
        while let Some(other) = self.stand_in(engine, name, &tried) {
            match make(&other) {
                Ok(made) => return Ok(made),
                Err(error) => warn!("{error}"),
            }
            tried.push(other.hash);
        }
        Err(error)
    }

    /// The newest module that a name stands for: the file's, else the shipped one; where that is
    /// bad, the one that serves, or the last good one. It serves once it is put to work.
    pub(crate) fn load(
        &self,
        engine: &Engine,
        name: &str,
    ) -> Result<Arc<CompiledModule>, ModuleError> {
        let _one_at_a_time = lock(&self.loading);
        check_name(name)?;
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
        if let Some(bytes) = self.shipped(name).filter(|_| self.file(name).is_some()) {
            return self.compile(engine, name, Source::Shipped, bytes);
        }
        if let (Refusal::Quarantined(_), Ok(Some(found))) = (&error.refusal, self.find(name)) {
            warn!("{error}; nothing else can serve, so it gets another try");
            return self.compile(engine, name, found.source, &found.bytes);
        }
        Err(error)
    }

    fn load_newest(&self, engine: &Engine, name: &str) -> Result<Arc<CompiledModule>, ModuleError> {
        let refused = |hash, error| {
            self.refuse(name, hash, &error);
            error
        };
        let Some(Found { source, bytes }) = self.find(name).map_err(|e| refused(None, e))? else {
            return self.keep(engine, name);
        };
        let hash = Hash::of(&bytes);
        let quarantined = lock(&self.shelf).quarantined(hash);
        if let Some(why) = quarantined {
            let error = Refusal::Quarantined(why).of(label(name, &source));
            return Err(refused(Some(hash), error));
        }
        if let Some(known) = self.known(name, hash, &source) {
            return Ok(known);
        }
        let uncompiled = lock(&self.shelf).entry(name).uncompiled(hash);
        if let Some(why) = uncompiled {
            let error = Refusal::Compile(why).of(label(name, &source));
            return Err(refused(Some(hash), error));
        }
        self.compile(engine, name, source, &bytes).map_err(|error| {
            if let Refusal::Compile(why) = &error.refusal {
                lock(&self.shelf).entry(name).note_uncompiled(hash, why);
            }
            refused(Some(hash), error)
        })
    }

    /// There are no bytes for the name any more: what serves goes on serving.
    fn keep(&self, engine: &Engine, name: &str) -> Result<Arc<CompiledModule>, ModuleError> {
        let kept = self.current(name);
        let kept = kept.or_else(|| self.load_last_good(engine, name));
        let kept = kept.ok_or_else(|| self.unknown(name))?;
        warn!(
            "module {}: its file is gone; this build goes on serving",
            kept.label()
        );
        Ok(kept)
    }

    /// The build that served last before the program was started.
    fn load_last_good(&self, engine: &Engine, name: &str) -> Option<Arc<CompiledModule>> {
        let path = self.store.last_good(name)?;
        let bytes = read_capped(&path, self.options.limits.file_bytes_max).ok()?;
        let hash = Hash::of(&bytes);
        if lock(&self.shelf).quarantined(hash).is_some() {
            return None;
        }
        let source = Source::LastGood(path);
        if let Some(known) = self.known(name, hash, &source) {
            return Some(known);
        }
        match self.compile(engine, name, source, &bytes) {
            Ok(module) => {
                warn!("module {}: {hash} is taken instead", module.label());
                Some(module)
            }
            Err(error) => {
                warn!("{error}");
                None
            }
        }
    }

    /// The module, if it is compiled already.
    fn known(&self, name: &str, hash: Hash, source: &Source) -> Option<Arc<CompiledModule>> {
        let mut shelf = lock(&self.shelf);
        let entry = shelf.entry(name);
        match entry.known(|module| module.hash == hash && module.source == *source)? {
            Known::Current(current) => {
                entry.refused = None;
                Some(current)
            }
            Known::Other(other) => {
                entry.candidate = Some(Arc::clone(&other));
                Some(other)
            }
        }
    }

    fn compile(
        &self,
        engine: &Engine,
        name: &str,
        source: Source,
        bytes: &[u8],
    ) -> Result<Arc<CompiledModule>, ModuleError> {
        // What ships with the program is trusted as the program is.
        let compiler = match source {
            Source::Shipped => &Compiler::Here,
            Source::File(_) | Source::LastGood(_) => &self.options.compiler,
        };
        let same = lock(&self.shelf).of_hash(Hash::of(bytes));
        let (module, text) = match same {
            Some(same) => {
                let text = format!("is the same build as that of {}", same.label());
                (same.renamed(name, source), text)
            }
            None => {
                let start = Instant::now();
                let limits = &self.options.limits;
                let module = CompiledModule::new(engine, compiler, limits, name, source, bytes)?;
                let took = start.elapsed().as_millis();
                (module, format!("validated and compiled in {took} ms"))
            }
        };
        let module = Arc::new(module);
        self.step(&module, text);
        lock(&self.shelf).entry(name).candidate = Some(Arc::clone(&module));
        Ok(module)
    }

    fn find(&self, name: &str) -> Result<Option<Found>, ModuleError> {
        if let Some(path) = self.file(name) {
            let bytes = read_capped(&path, self.options.limits.file_bytes_max);
            let source = Source::File(path);
            match bytes {
                Ok(bytes) => {
                    let bytes = bytes.into();
                    return Ok(Some(Found { source, bytes }));
                }
                Err(Refusal::Read(error)) if error.kind() == ErrorKind::NotFound => {}
                Err(refusal) => return Err(refusal.of(label(name, &source))),
            }
        }
        Ok(self.shipped(name).map(|bytes| Found {
            source: Source::Shipped,
            bytes: bytes.into(),
        }))
    }

    /// Where a build that passed on its services is to serve.
    pub(crate) fn placement(&self, module: &Arc<CompiledModule>, now: Instant) -> Placement {
        let shelf = lock(&self.shelf);
        let Some(entry) = shelf.get(&module.name) else {
            return Placement::Everywhere;
        };
        let served = entry.canary.as_ref().and_then(|canary| {
            Arc::ptr_eq(&canary.module, module).then(|| now.duration_since(canary.since))
        });
        let done = served.unwrap_or(Duration::ZERO) >= self.options.canary;
        match &entry.current {
            Some(current) if !done && !Arc::ptr_eq(current, module) => {
                Placement::Canary(Arc::clone(current))
            }
            _ => Placement::Everywhere,
        }
    }

    /// A build serves on the first worker from now on.
    pub(crate) fn start_canary(&self, module: &Arc<CompiledModule>) {
        let new = lock(&self.shelf).entry(&module.name).start_canary(module);
        if new {
            let seconds = self.options.canary.as_secs_f32();
            self.step(module, format!("serves on worker 0, for {seconds} s"));
        }
    }

    /// When the first canary is over.
    pub(crate) fn canary_ends(&self) -> Option<Instant> {
        let shelf = lock(&self.shelf);
        let ends = shelf.entries().filter_map(|(_, entry)| {
            let canary = entry.canary.as_ref()?;
            Some(canary.since + self.options.canary)
        });
        ends.min()
    }

    /// A module passed on its services: it serves on all workers from now on.
    pub(crate) fn promote(&self, module: &Arc<CompiledModule>) {
        let replaced = {
            let mut shelf = lock(&self.shelf);
            let entry = shelf.entry(&module.name);
            let new = entry.promote(module);
            if new && !self.is_stand_in(module) {
                entry.refused = None;
            }
            new
        };
        if !replaced {
            return;
        }
        self.step(module, "serves on all workers".into());
        match module.source {
            Source::File(_) => self.store.keep(&module.name, &module.image),
            Source::Shipped if !self.is_stand_in(module) => self.store.forget(&module.name),
            Source::Shipped | Source::LastGood(_) => {}
        }
    }

    /// Whether a build serves in the place of a file that cannot.
    fn is_stand_in(&self, module: &CompiledModule) -> bool {
        let has_file = || self.file(&module.name).is_some_and(|path| path.exists());
        !matches!(module.source, Source::File(_)) && has_file()
    }

    pub(crate) fn refuse(&self, name: &str, hash: Option<Hash>, error: &ModuleError) {
        let reason = error.to_string();
        let mut shelf = lock(&self.shelf);
        let entry = shelf.entry(name);
        let known = entry
            .refused
            .as_ref()
            .is_some_and(|r| r.hash == hash && r.reason == reason);
        if known || matches!(error.refusal, Refusal::Changing) {
            return;
        }
        match &entry.current {
            Some(current) => warn!("{reason}; {} {} stays", current.label(), current.hash),
            None => warn!("{reason}"),
        }
        if let Some(hash) = hash {
            entry.step(hash, format!("refused: {}", error.refusal));
        }
        entry.refused = Some(Refused {
            hash,
            reason,
            at: SystemTime::now(),
        });
    }

    /// What may serve in the place of a build that could not be set up for its services, and of those
    /// tried after it: the one that serves, the last good one, the shipped one. Of the one that
    /// serves itself nothing takes the place: then it is the config that is wrong.
    pub(crate) fn stand_in(
        &self,
        engine: &Engine,
        name: &str,
        tried: &[Hash],
    ) -> Option<Arc<CompiledModule>> {
        let untried = |module: &Arc<CompiledModule>| !tried.contains(&module.hash);
        if let Some(current) = self.current(name) {
            return Some(current).filter(untried);
        }
        let shipped = || {
            let bytes = self.shipped(name)?;
            if tried.contains(&Hash::of(bytes)) {
                return None;
            }
            self.compile(engine, name, Source::Shipped, bytes).ok()
        };
        self.load_last_good(engine, name)
            .filter(untried)
            .or_else(shipped)
    }

    /// Forgets all that no service names.
    pub(crate) fn retain(&self, names: &[Arc<str>]) {
        lock(&self.shelf).retain(|name| names.iter().any(|used| **used == *name));
    }

    /// Counts a fault and says what is to be done.
    pub(crate) fn faulted(
        &self,
        engine: &Engine,
        module: &Arc<CompiledModule>,
        why: &str,
        now: Instant,
    ) -> Recovery {
        if lock(&self.shelf).is_exhausted(module) {
            return Recovery::Exhausted;
        }
        let limit = self.options.fault_limit;
        let judgement = lock(&self.shelf)
            .entry(&module.name)
            .faulted(module, why, now, limit);
        match judgement {
            Judgement::Stale => Recovery::Nothing,
            Judgement::Tolerated => Recovery::Rebuild,
            Judgement::Quarantined { reason, is_canary } => {
                self.quarantine(module, &reason);
                if is_canary || self.roll_back(engine, module) {
                    Recovery::RolledBack
                } else {
                    Recovery::Exhausted
                }
            }
        }
    }

    fn quarantine(&self, module: &Arc<CompiledModule>, reason: &str) {
        let all = lock(&self.shelf).quarantine(module, reason);
        self.store.set_quarantined(&all);
        let error = Refusal::Quarantined(reason.into()).of(module.label());
        self.refuse(&module.name, Some(module.hash), &error);
    }

    /// Why a build is quarantined, if it is.
    pub(crate) fn quarantined(&self, module: &CompiledModule) -> Option<String> {
        lock(&self.shelf).quarantined(module.hash)
    }

    /// A quarantined build that serves for want of another works again: it is watched as before. No file is
    /// written, for this is on no thread that may wait: after a restart it has to earn that again.
    pub(crate) fn release(&self, module: &CompiledModule) {
        lock(&self.shelf).release(module);
        self.step(module, "works again, and is quarantined no more".into());
    }

    /// Puts the module before, else the shipped one, in a module's place; says whether there was
    /// one.
    fn roll_back(&self, engine: &Engine, module: &Arc<CompiledModule>) -> bool {
        let name = &module.name;
        let previous = lock(&self.shelf).entry(name).previous.take();
        let good = |hash| lock(&self.shelf).quarantined(hash).is_none();
        let shipped = || {
            let bytes = self.shipped(name).filter(|bytes| good(Hash::of(bytes)))?;
            self.compile(engine, name, Source::Shipped, bytes)
                .inspect_err(|error| error!("{error}"))
                .ok()
        };
        let back = previous
            .filter(|previous| good(previous.hash))
            .or_else(shipped);
        let Some(back) = back else {
            self.store.forget(name);
            return false;
        };
        lock(&self.shelf).entry(name).roll_back_to(&back);
        match back.source {
            Source::Shipped => self.store.forget(name),
            Source::File(_) | Source::LastGood(_) => self.store.keep(name, &back.image),
        }
        self.step(&back, "serves again on all workers".into());
        true
    }

    /// Takes note of what happened to a build.
    pub(crate) fn step(&self, module: &CompiledModule, text: String) {
        info!("module {} {}: {text}", module.label(), module.hash);
        lock(&self.shelf)
            .entry(&module.name)
            .step(module.hash, text);
    }

    /// The names that were asked for, with all that is known of them.
    pub(crate) fn list(&self) -> Vec<(String, Entry, Vec<Quarantined>)> {
        let shelf = lock(&self.shelf);
        let mut list: Vec<_> = shelf
            .entries()
            .map(|(name, entry)| (name.clone(), entry.clone(), shelf.quarantined_of(name)))
            .collect();
        list.sort_by(|a, b| a.0.cmp(&b.0));
        list
    }

    /// How long a new build serves on one worker only.
    pub(crate) const fn canary(&self) -> Duration {
        self.options.canary
    }

    pub(crate) fn current(&self, name: &str) -> Option<Arc<CompiledModule>> {
        lock(&self.shelf).get(name)?.current.clone()
    }

    fn shipped(&self, name: &str) -> Option<&'static [u8]> {
        self.shipped
            .iter()
            .find(|(shipped, _)| *shipped == name)
            .map(|(_, bytes)| *bytes)
    }

    fn file(&self, name: &str) -> Option<PathBuf> {
        Some(self.folder.as_ref()?.join(format!("{name}.{EXTENSION}")))
    }

    fn unknown(&self, name: &str) -> ModuleError {
        let mut shipped: Vec<&str> = self.shipped.iter().map(|(name, _)| *name).collect();
        shipped.sort_unstable();
        Refusal::Unknown {
            folder: self.folder.clone(),
            shipped: shipped.join(", "),
        }
        .of(format!("\"{name}\""))
    }
}

/// A panic while it was held leaves whole entries behind, so the lock may be taken anyway.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
