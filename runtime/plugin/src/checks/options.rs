//! Settings of the host of health checks.
//!
//! Invariant: the defaults are ample for an honest check and bound every other.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::limits::RunLimits;
use crate::build::cache::CodeCache;
use crate::build::compile::Compiler;
use crate::build::engine::CHECK_MEMORY_BYTES;
use crate::build::validate::ModuleLimits;
use crate::registry::options::FaultLimit;

/// Settings of a [`CheckHost`](super::CheckHost).
#[derive(Clone, Debug)]
pub struct CheckOptions {
    /// Size limits of modules.
    pub limits: ModuleLimits,
    /// How many faults quarantine a build.
    pub fault_limit: FaultLimit,
    /// What compiles the modules of the folder.
    pub compiler: Compiler,
    /// Keeps machine code for the next start.
    pub cache: Option<Arc<CodeCache>>,
    /// The folder of what survives a restart; `None`: nothing does.
    pub state: Option<PathBuf>,
    /// As [`HostOptions::start_within`](crate::HostOptions::start_within).
    pub start_within: Option<Duration>,
    /// The most checks that run at once, at least 1; others wait for a slot. Address space for this many
    /// instances is reserved, some 16 MiB each.
    pub at_once: u32,
    /// The most connections of all runs together. One more fails as a shortage of the balancer, which
    /// says nothing about the backend.
    pub connections_max: u32,
    /// Limits of one run.
    pub run: RunLimits,
    /// How often a quarantined build without a replacement is tried.
    pub trial_every: Duration,
}

/// The most checks at once, however many files may be open.
const AT_ONCE_MAX: u32 = 1024;

/// Open files for everything but checks and admin clients: sockets, maps, module files, compilers.
const OTHER_FILES: u64 = 256;

impl CheckOptions {
    /// Limits the runs at once and their connections for a process that may open this many files: all but 256
    /// and those of admin clients, but at least half.
    #[must_use]
    pub fn within_open_files(self, files: u64, clients: u64) -> Self {
        let others = OTHER_FILES + clients;
        let share = files.saturating_sub(others).max(files / 2).max(1);
        let share = u32::try_from(share).unwrap_or(u32::MAX);
        Self {
            at_once: self.at_once.min(share),
            connections_max: self.connections_max.min(share),
            ..self
        }
    }
}

impl Default for CheckOptions {
    fn default() -> Self {
        Self {
            limits: ModuleLimits {
                memory_bytes_max: CHECK_MEMORY_BYTES as u64,
                ..ModuleLimits::default()
            },
            fault_limit: FaultLimit::default(),
            compiler: Compiler::default(),
            cache: None,
            state: None,
            start_within: None,
            at_once: AT_ONCE_MAX,
            connections_max: u32::MAX,
            run: RunLimits::default(),
            trial_every: Duration::from_secs(30),
        }
    }
}
