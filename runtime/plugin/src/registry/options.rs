//! Settings of a host.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::build::cache::CodeCache;
use crate::build::compile::Compiler;
use crate::build::validate::ModuleLimits;
use crate::registry::canary::CanaryRules;

/// Settings of a [`Host`](crate::Host).
#[derive(Clone, Debug, Default)]
pub struct HostOptions {
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
    /// How long files are compiled, from the making of the host to
    /// [`Host::end_start`](crate::Host::end_start), if another build can serve meanwhile; `None`: as long as
    /// it takes.
    pub start_within: Option<Duration>,
    /// How a replacement build is tried on the first worker.
    pub canary: CanaryRules,
    /// What one module may take of a worker's time, in percent; 0: all.
    pub share_percent: u32,
}

/// How many faults, within how long, quarantine a build.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FaultLimit {
    /// Faults over all workers.
    pub faults: usize,
    /// The sliding window in which they are counted.
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
