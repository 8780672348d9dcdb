//! A module that passed: compiled once, shared by all its instances.
//!
//! Invariant: it is immutable but for its counters; a changed file is another module with
//! another hash.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::SystemTime;

use sha2::{Digest, Sha256};
use waxwing_sdk::abi::ModuleInfo;

use crate::checks::{Rest, Share};
use crate::compile::Compiler;
use crate::engine::Engine;
use crate::error::ModuleError;
use crate::validate::{Limits, validate};

/// The SHA-256 of a module's bytes: tells builds apart.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Hash([u8; 32]);

impl Hash {
    /// Of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// All 64 hexadecimal digits, as `sha256sum` prints them.
    pub(crate) fn digits(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Display for Hash {
    /// The first 12 hexadecimal digits, as `sha256sum` prints them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..6]
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Where a module's bytes came from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Source {
    /// It came with the program.
    Shipped,
    /// From the watched folder.
    File(PathBuf),
    /// What was kept of the build that served before the start.
    LastGood(PathBuf),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shipped => f.write_str("shipped"),
            Self::File(path) | Self::LastGood(path) => path.display().fmt(f),
        }
    }
}

/// What all instances of a module count together. Rarely written: only when something is wrong.
#[derive(Default, Debug)]
pub struct ModuleCounters {
    /// Calls that trapped, ran too long or gave no valid answer.
    pub(crate) faults: AtomicU64,
    /// Picks of a backend that takes no new sessions, answered by the native fallback instead.
    pub(crate) unavailable_picks: AtomicU64,
}

impl ModuleCounters {
    /// See the field.
    pub fn faults(&self) -> u64 {
        self.faults.load(Ordering::Relaxed)
    }

    /// See the field.
    pub fn unavailable_picks(&self) -> u64 {
        self.unavailable_picks.load(Ordering::Relaxed)
    }
}

/// A validated and compiled module.
pub struct CompiledModule {
    /// The name that services use: the file's stem.
    pub name: String,
    /// What the module says of itself: its author's name and version, its SDK, its payload.
    pub info: ModuleInfo,
    /// Tells builds apart.
    pub hash: Hash,
    /// Where it came from.
    pub source: Source,
    /// Its file's bytes.
    pub image: Arc<[u8]>,
    /// When it was loaded.
    pub since: SystemTime,
    /// What went wrong in its instances.
    pub counters: ModuleCounters,
    /// Whether it answered test flows well (see `vetting.rs`).
    pub(crate) vetted: AtomicBool,
    /// What a health check's runs have of the processor together.
    pub(crate) share: Arc<Share>,
    /// Whether a health check is left alone, for it is quarantined.
    pub(crate) rest: Rest,
    pub(crate) code: wasmtime::Module,
}

impl CompiledModule {
    /// Validates and compiles.
    pub(crate) fn new(
        engine: &Engine,
        compiler: &Compiler,
        limits: &Limits,
        name: &str,
        source: Source,
        bytes: &[u8],
    ) -> Result<Self, ModuleError> {
        let label = label(name, &source);
        let info = validate(bytes, engine.kind(), limits).map_err(|refusal| refusal.of(&label))?;
        let code = compiler
            .compile(engine, bytes)
            .map_err(|refusal| refusal.of(&label))?;
        Ok(Self {
            name: name.into(),
            info,
            hash: Hash::of(bytes),
            source,
            image: bytes.into(),
            since: SystemTime::now(),
            counters: ModuleCounters::default(),
            vetted: AtomicBool::new(false),
            share: Arc::default(),
            rest: Rest::default(),
            code,
        })
    }

    /// The same build under another name, or from another place.
    pub(crate) fn renamed(&self, name: &str, source: Source) -> Self {
        Self {
            name: name.into(),
            info: self.info.clone(),
            hash: self.hash,
            source,
            image: Arc::clone(&self.image),
            since: SystemTime::now(),
            counters: ModuleCounters::default(),
            vetted: AtomicBool::new(false),
            share: Arc::default(),
            rest: Rest::default(),
            code: self.code.clone(),
        }
    }

    /// Bytes of payload it wants of each flow.
    #[must_use]
    pub fn payload_len(&self) -> usize {
        self.info.payload
    }

    /// Name and source, for messages.
    pub(crate) fn label(&self) -> String {
        label(&self.name, &self.source)
    }
}

impl fmt::Debug for CompiledModule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.label(), self.hash)
    }
}

/// A module's name and where it came from, for messages.
pub(crate) fn label(name: &str, source: &Source) -> String {
    format!("{name} ({source})")
}
