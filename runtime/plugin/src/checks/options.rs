//! What may be set of health checks.
//!
//! Invariant: the defaults are ample for an honest check and bound every other.

use std::time::Duration;

use crate::compile::Compiler;
use crate::engine::CHECK_MEMORY_BYTES;
use crate::shelf::FaultLimit;
use crate::validate::Limits;

/// What may be set.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CheckOptions {
    /// Sizes that modules must keep to.
    pub limits: Limits,
    /// How often a module may fault before it is rolled back.
    pub fault_limit: FaultLimit,
    /// Who compiles the folder's modules.
    pub compiler: Compiler,
    /// The most checks that run at once, at least 1; others wait for a place. Address space for so many instances
    /// is set aside, some 16 MiB each, and a run takes one open file at least.
    pub at_once: u32,
    /// What one run may take.
    pub run: RunLimits,
    /// How often a quarantined build is tried, where there is no other to go back to.
    pub trial_every: Duration,
}

impl Default for CheckOptions {
    fn default() -> Self {
        Self {
            limits: Limits {
                memory_bytes_max: CHECK_MEMORY_BYTES as u64,
                ..Limits::default()
            },
            fault_limit: FaultLimit::default(),
            compiler: Compiler::default(),
            at_once: 1024,
            run: RunLimits::default(),
            trial_every: Duration::from_secs(30),
        }
    }
}

/// What one run may take, and all runs of one build together, beside 16 MiB of memory and its target's timeout.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RunLimits {
    /// Connections open at the same time.
    pub open: usize,
    /// Connections in all.
    pub connections: usize,
    /// Bytes received, over all connections; a datagram counts 28 more.
    pub received: usize,
    /// Bytes sent, over all connections; a datagram counts 28 more.
    pub sent: usize,
    /// Lines of the log; more are not written.
    pub log_lines: usize,
    /// Processor time, with what the host spends on the module's behalf.
    pub cpu: Duration,
    /// Processor time of all runs of one build together, in percent of one processor, on average: what
    /// would take more waits, and its timeout with it.
    pub share_percent: u32,
    /// Processor time that one build may use at once, before that.
    pub share_burst: Duration,
}

impl Default for RunLimits {
    fn default() -> Self {
        Self {
            open: 8,
            connections: 16,
            received: 1 << 20,
            sent: 64 << 10,
            log_lines: 16,
            cpu: Duration::from_millis(50),
            share_percent: 25,
            share_burst: Duration::from_millis(500),
        }
    }
}
