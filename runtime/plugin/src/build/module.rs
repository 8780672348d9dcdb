//! A validated and compiled module, shared by all its instances.
//!
//! Invariant: it is immutable except for its counters and its run state; a changed file is another
//! module with another hash.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::SystemTime;

use sha2::{Digest, Sha256};
use waxwing_sdk::abi::ModuleInfo;

use crate::build::cache::CodeCache;
use crate::build::compile::Compiler;
use crate::build::engine::Engine;
use crate::build::validate::{ModuleLimits, validate};
use crate::checks::backoff::Backoff;
use crate::checks::cpu_quota::CpuQuota;
use crate::error::ModuleError;

/// The SHA-256 of a module's bytes, which identifies a build.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ModuleHash([u8; 32]);

impl ModuleHash {
    /// Hashes a module's bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// Returns all 64 hexadecimal digits, as `sha256sum` prints them.
    pub(crate) fn digits(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Display for ModuleHash {
    /// Writes the first 12 hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..6]
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ModuleHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Where a module's bytes came from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ModuleSource {
    /// The module came with the program.
    Shipped,
    /// From the watched folder.
    File(PathBuf),
    /// The copy that was kept of the build that served before the last restart.
    LastGood(PathBuf),
}

impl fmt::Display for ModuleSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shipped => f.write_str("shipped"),
            Self::File(path) | Self::LastGood(path) => path.display().fmt(f),
        }
    }
}

/// What all instances of a build count together. Rarely written: only when something is wrong.
#[derive(Default, Debug)]
pub struct BuildCounters {
    /// Calls that trapped, ran too long or returned an invalid answer.
    pub(crate) faults: AtomicU64,
    /// Picks of a backend that takes no new sessions; the native fallback answered these flows.
    pub(crate) unavailable_picks: AtomicU64,
    /// Flows that the native fallback answered because the module had used its share of the worker.
    pub(crate) over_share_flows: AtomicU64,
    /// Whether it failed to save a state, and is not asked again.
    pub(crate) saves_badly: AtomicBool,
}

impl BuildCounters {
    /// Returns how many calls trapped, ran too long or returned an invalid answer.
    pub fn faults(&self) -> u64 {
        self.faults.load(Ordering::Relaxed)
    }

    /// Returns how many picks named a backend that takes no new sessions.
    pub fn unavailable_picks(&self) -> u64 {
        self.unavailable_picks.load(Ordering::Relaxed)
    }

    /// Returns how many flows went to the fallback because the module had used its share of the worker.
    pub fn over_share_flows(&self) -> u64 {
        self.over_share_flows.load(Ordering::Relaxed)
    }
}

/// A build of a module, validated and compiled.
pub struct CompiledModule {
    /// The name that services use: the file's stem.
    pub name: String,
    /// The contents of the module's section: the author's name and version, the SDK, the wanted
    /// payload.
    pub info: ModuleInfo,
    /// Identifies the build.
    pub hash: ModuleHash,
    /// Where it came from.
    pub source: ModuleSource,
    /// Its file's bytes.
    pub image: Arc<[u8]>,
    /// When it was loaded.
    pub since: SystemTime,
    /// Faults of its instances.
    pub counters: BuildCounters,
    /// Whether it passed `policy::vetting`.
    pub(crate) vetted: AtomicBool,
    /// The processor time of a health check's runs, over all targets.
    pub(crate) cpu_quota: Arc<CpuQuota>,
    /// Holds back a health check that is quarantined without a replacement.
    pub(crate) backoff: Backoff,
    pub(crate) code: wasmtime::Module,
    /// Whether an earlier start compiled it.
    pub(crate) was_kept: bool,
}

impl CompiledModule {
    pub(crate) fn new(
        engine: &Engine,
        (compiler, cache): (&Compiler, Option<&CodeCache>),
        limits: &ModuleLimits,
        name: &str,
        source: ModuleSource,
        bytes: &[u8],
    ) -> Result<Self, ModuleError> {
        let label = label(name, &source);
        let info = validate(bytes, engine.kind(), limits).map_err(|refusal| refusal.of(&label))?;
        let hash = ModuleHash::of(bytes);
        let kept = cache.and_then(|cache| cache.get(engine, hash));
        let was_kept = kept.is_some();
        let code = kept
            .map_or_else(|| compiler.compile(engine, bytes), Ok)
            .map_err(|refusal| refusal.of(&label))?;
        if let Some(cache) = cache.filter(|_| !was_kept) {
            cache.keep(engine, hash, &code);
        }
        Ok(Self {
            name: name.into(),
            info,
            hash,
            source,
            image: bytes.into(),
            since: SystemTime::now(),
            counters: BuildCounters::default(),
            vetted: AtomicBool::new(false),
            cpu_quota: Arc::default(),
            backoff: Backoff::default(),
            code,
            was_kept,
        })
    }

    /// Returns the same build under another name, or from another source.
    pub(crate) fn renamed(&self, name: &str, source: ModuleSource) -> Self {
        Self {
            name: name.into(),
            info: self.info.clone(),
            hash: self.hash,
            source,
            image: Arc::clone(&self.image),
            since: SystemTime::now(),
            counters: BuildCounters::default(),
            vetted: AtomicBool::new(false),
            cpu_quota: Arc::default(),
            backoff: Backoff::default(),
            code: self.code.clone(),
            was_kept: self.was_kept,
        }
    }

    /// Returns how many bytes of payload it wants from each flow.
    #[must_use]
    pub fn payload_len(&self) -> usize {
        self.info.payload
    }

    /// Returns whether its instances are asked for their state.
    pub(crate) fn keeps_state(&self) -> bool {
        self.info.saves && !self.counters.saves_badly.load(Ordering::Relaxed)
    }

    /// Returns the names of its imports.
    #[must_use]
    pub fn imports(&self) -> Vec<String> {
        let names = self.code.imports().map(|import| import.name().to_owned());
        names.collect()
    }

    /// Returns the names of its exports.
    #[must_use]
    pub fn exports(&self) -> Vec<String> {
        let names = self.code.exports().map(|export| export.name().to_owned());
        names.collect()
    }

    /// Returns the name and source, for messages.
    #[must_use]
    pub fn label(&self) -> String {
        label(&self.name, &self.source)
    }
}

impl fmt::Debug for CompiledModule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.label(), self.hash)
    }
}

/// Returns a module's name and source, for messages.
pub(crate) fn label(name: &str, source: &ModuleSource) -> String {
    format!("{name} ({source})")
}
