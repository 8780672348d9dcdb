//! Which module a name stands for: a file in the watched folder, else the one that shipped.
//!
//! Invariant: a module that serves is replaced only by one that passed; the last good one stays
//! whenever a new file is bad. A hash that was quarantined comes back only where nothing else can
//! serve the name, and a change asks for it: that gives it another try, watched as before.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tracing::{info, warn};

use crate::engine::Engine;
use crate::error::{ModuleError, Refusal};
use crate::module::{CompiledModule, Hash, Source, label};
use crate::validate::Limits;

/// The extension of module files.
pub(crate) const EXTENSION: &str = "wasm";

/// The longest module name.
const NAME_MAX: usize = 64;

/// Why a build is not served, kept for `status`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refused {
    /// The build, where its bytes could be read.
    pub hash: Option<Hash>,
    /// The whole message.
    pub reason: String,
    /// When.
    pub at: SystemTime,
}

/// What is known of one name.
#[derive(Default)]
struct Entry {
    /// The one that serves.
    current: Option<Arc<CompiledModule>>,
    /// Compiled, but not yet tried on services, or refused by them.
    candidate: Option<Arc<CompiledModule>>,
    /// The one that served before, to roll back to.
    previous: Option<Arc<CompiledModule>>,
    refused: Option<Refused>,
    /// When instances of the current module faulted.
    faults: Vec<Instant>,
}

/// What is known of all names.
#[derive(Default)]
struct Shelf {
    entries: HashMap<String, Entry>,
    /// Builds that faulted too often, and what they did.
    quarantined: HashMap<Hash, String>,
}

/// How often a module may fault before it is rolled back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FaultLimit {
    /// This many faults, over all workers ...
    pub faults: usize,
    /// ... within this time.
    pub window: Duration,
}

impl Default for FaultLimit {
    fn default() -> Self {
        Self {
            faults: 3,
            window: Duration::from_secs(60),
        }
    }
}

/// What is to be done after a fault.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Recovery {
    /// Make new instances of the same module.
    Rebuild,
    /// The module is quarantined; make instances of the one that the name stands for now.
    RolledBack,
    /// It faults too often and there is nothing to roll back to: leave its instances disabled
    /// and the native fallback in charge, until the file changes.
    Exhausted,
}

/// A module's bytes, and where they are from.
struct Found {
    source: Source,
    bytes: Cow<'static, [u8]>,
}

/// The modules by name.
pub(crate) struct Library {
    shipped: Vec<(&'static str, &'static [u8])>,
    folder: Option<PathBuf>,
    limits: Limits,
    fault_limit: FaultLimit,
    shelf: Mutex<Shelf>,
    /// Held while one module is loaded, so that `shelf` is free for `status` meanwhile.
    loading: Mutex<()>,
}

impl Library {
    pub(crate) fn new(
        shipped: &[(&'static str, &'static [u8])],
        folder: Option<PathBuf>,
        limits: Limits,
        fault_limit: FaultLimit,
    ) -> Self {
        Self {
            shipped: shipped.to_vec(),
            folder,
            limits,
            fault_limit,
            shelf: Mutex::default(),
            loading: Mutex::default(),
        }
    }

    /// The newest module that a name stands for: the file's, else the shipped one; where that is
    /// bad, the one that serves. It serves once it is promoted.
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
        match self.shipped(name).filter(|_| self.file(name).is_some()) {
            Some(bytes) => self.compile(engine, name, Source::Shipped, bytes),
            None => Err(error),
        }
    }

    fn load_newest(&self, engine: &Engine, name: &str) -> Result<Arc<CompiledModule>, ModuleError> {
        let refused = |hash, error| {
            self.refuse(name, hash, &error);
            error
        };
        let Some(Found { source, bytes }) = self.find(name).map_err(|e| refused(None, e))? else {
            return self.keep(name);
        };
        let hash = Hash::of(&bytes);
        let quarantined = lock(&self.shelf).quarantined.get(&hash).cloned();
        if let Some(why) = quarantined {
            let error = Refusal::Quarantined(why).of(label(name, &source));
            return Err(refused(Some(hash), error));
        }
        if let Some(known) = self.known(name, hash, &source) {
            return Ok(known);
        }
        self.compile(engine, name, source, &bytes)
            .map_err(|error| refused(Some(hash), error))
    }

    /// There are no bytes for the name any more: what serves goes on serving.
    fn keep(&self, name: &str) -> Result<Arc<CompiledModule>, ModuleError> {
        let current = self.current(name).ok_or_else(|| self.unknown(name))?;
        warn!(
            "module {}: its file is gone; it goes on serving",
            current.label()
        );
        Ok(current)
    }

    /// The module, if it is compiled already.
    fn known(&self, name: &str, hash: Hash, source: &Source) -> Option<Arc<CompiledModule>> {
        let mut shelf = lock(&self.shelf);
        let entry = shelf.entry(name);
        let same = |module: &&Arc<CompiledModule>| module.hash == hash && module.source == *source;
        if let Some(current) = entry.current.as_ref().filter(same) {
            entry.refused = None;
            return Some(Arc::clone(current));
        }
        entry.candidate.as_ref().filter(same).cloned()
    }

    fn compile(
        &self,
        engine: &Engine,
        name: &str,
        source: Source,
        bytes: &[u8],
    ) -> Result<Arc<CompiledModule>, ModuleError> {
        let module = Arc::new(CompiledModule::new(
            engine,
            &self.limits,
            name,
            source,
            bytes,
        )?);
        lock(&self.shelf).entry(name).candidate = Some(Arc::clone(&module));
        Ok(module)
    }

    fn find(&self, name: &str) -> Result<Option<Found>, ModuleError> {
        if let Some(path) = self.file(name) {
            let bytes = read_capped(&path, self.limits.file_bytes_max);
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

    /// A module passed on its services: it serves from now on.
    pub(crate) fn promote(&self, module: &Arc<CompiledModule>) {
        let mut shelf = lock(&self.shelf);
        let entry = shelf.entry(&module.name);
        if entry
            .candidate
            .as_ref()
            .is_none_or(|candidate| !Arc::ptr_eq(candidate, module))
        {
            return;
        }
        entry.candidate = None;
        entry.faults.clear();
        let shipped_instead = module.source == Source::Shipped
            && self.file(&module.name).is_some_and(|path| path.exists());
        if !shipped_instead {
            entry.refused = None;
        }
        entry.previous = entry.current.replace(Arc::clone(module));
        info!("module {} {} serves", module.label(), module.hash);
    }

    fn refuse(&self, name: &str, hash: Option<Hash>, error: &ModuleError) {
        let reason = error.to_string();
        let mut shelf = lock(&self.shelf);
        let entry = shelf.entry(name);
        let known = entry
            .refused
            .as_ref()
            .is_some_and(|r| r.hash == hash && r.reason == reason);
        if !known {
            match &entry.current {
                Some(current) => warn!("{reason}; {} {} stays", current.label(), current.hash),
                None => warn!("{reason}"),
            }
            entry.refused = Some(Refused {
                hash,
                reason,
                at: SystemTime::now(),
            });
        }
    }

    /// A module could not be set up for its services: gives the one that serves, if that is
    /// another. The next load tries the newest once more, for a config change may mend it.
    pub(crate) fn demote(
        &self,
        module: &Arc<CompiledModule>,
        error: &ModuleError,
    ) -> Option<Arc<CompiledModule>> {
        self.refuse(&module.name, Some(module.hash), error);
        self.current(&module.name)
            .filter(|current| !Arc::ptr_eq(current, module))
    }

    /// Puts the module before, else the shipped one, in a module's place.
    fn roll_back(
        &self,
        engine: &Engine,
        module: &Arc<CompiledModule>,
    ) -> Option<Arc<CompiledModule>> {
        let name = &module.name;
        let good = |shelf: &Shelf, hash| !shelf.quarantined.contains_key(&hash);
        let previous = {
            let mut shelf = lock(&self.shelf);
            let entry = shelf.entry(name);
            entry.faults.clear();
            let previous = entry.previous.take();
            previous.filter(|previous| good(&shelf, previous.hash))
        };
        let shipped = || {
            let bytes = self.shipped(name)?;
            good(&lock(&self.shelf), Hash::of(bytes)).then_some(bytes)
        };
        let back = match previous {
            Some(previous) => previous,
            None => self
                .compile(engine, name, Source::Shipped, shipped()?)
                .ok()?,
        };
        warn!("module {}: {} serves again", back.label(), back.hash);
        let mut shelf = lock(&self.shelf);
        let entry = shelf.entry(name);
        entry.candidate = None;
        entry.current = Some(Arc::clone(&back));
        Some(back)
    }

    /// Counts a fault and says what is to be done.
    pub(crate) fn faulted(
        &self,
        engine: &Engine,
        module: &Arc<CompiledModule>,
        why: &str,
        now: Instant,
    ) -> Recovery {
        let too_often = {
            let mut shelf = lock(&self.shelf);
            let entry = shelf.entry(&module.name);
            if entry
                .current
                .as_ref()
                .is_some_and(|current| current.hash != module.hash)
            {
                return Recovery::Rebuild;
            }
            let window = self.fault_limit.window;
            entry.faults.retain(|at| now.duration_since(*at) < window);
            entry.faults.push(now);
            let count = entry.faults.len();
            let too_often = count >= self.fault_limit.faults;
            if too_often {
                let text = format!("{count} faults in {} s, the last: {why}", window.as_secs());
                shelf.quarantined.insert(module.hash, text);
            }
            too_often
        };
        if !too_often {
            return Recovery::Rebuild;
        }
        let error = Refusal::Quarantined(why.into()).of(module.label());
        self.refuse(&module.name, Some(module.hash), &error);
        match self.roll_back(engine, module) {
            Some(_) => Recovery::RolledBack,
            None => Recovery::Exhausted,
        }
    }

    /// The names that were asked for, with what serves them and what was refused.
    pub(crate) fn list(&self) -> Vec<(String, Option<Arc<CompiledModule>>, Option<Refused>)> {
        let shelf = lock(&self.shelf);
        let mut list: Vec<_> = shelf
            .entries
            .iter()
            .map(|(name, entry)| (name.clone(), entry.current.clone(), entry.refused.clone()))
            .collect();
        list.sort_by(|a, b| a.0.cmp(&b.0));
        list
    }

    fn current(&self, name: &str) -> Option<Arc<CompiledModule>> {
        lock(&self.shelf).entries.get(name)?.current.clone()
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

impl Shelf {
    fn entry(&mut self, name: &str) -> &mut Entry {
        self.entries.entry(name.into()).or_default()
    }
}

/// A panic while it was held leaves whole entries behind, so the lock may be taken anyway.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a name can be a module's: a file's stem with no way out of the folder.
pub(crate) fn is_name(name: &str) -> bool {
    (1..=NAME_MAX).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

pub(crate) fn check_name(name: &str) -> Result<(), ModuleError> {
    if is_name(name) {
        Ok(())
    } else {
        Err(Refusal::Name.of(format!(
            "{:?}",
            name.chars().take(NAME_MAX).collect::<String>()
        )))
    }
}

/// Reads a regular file once, no further than the limit.
pub(crate) fn read_capped(path: &Path, max: usize) -> Result<Vec<u8>, Refusal> {
    // Without O_NONBLOCK, opening a named pipe would wait for its writer.
    let file: File = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(Refusal::NotAFile);
    }
    let max = max as u64;
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.len().min(max)).unwrap_or(0));
    file.take(max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max {
        let bytes = metadata.len().max(bytes.len() as u64);
        return Err(Refusal::TooLarge { bytes, max });
    }
    Ok(bytes)
}
