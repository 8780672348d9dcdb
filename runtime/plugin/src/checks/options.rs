//! Settings of the host of health checks.
//!
//! Invariant: the defaults are ample for an honest check and bound every other.

use std::time::Duration;

use super::limits::RunLimits;
use crate::build::compile::Compiler;
use crate::build::engine::CHECK_MEMORY_BYTES;
use crate::build::validate::ModuleLimits;
use crate::registry::options::FaultLimit;

/// Settings of a [`CheckHost`](super::CheckHost).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CheckOptions {
    /// Size limits of modules.
    pub limits: ModuleLimits,
    /// How many faults quarantine a build.
    pub fault_limit: FaultLimit,
    /// What compiles the modules of the folder.
    pub compiler: Compiler,
    /// The most checks that run at once, at least 1; others wait for a slot. Address space for this many
    /// instances is reserved, some 16 MiB each, and each run takes at least one open file.
    pub at_once: u32,
    /// Limits of one run.
    pub run: RunLimits,
    /// How often a quarantined build without a replacement is tried.
    pub trial_every: Duration,
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
            at_once: 1024,
            run: RunLimits::default(),
            trial_every: Duration::from_secs(30),
        }
    }
}
