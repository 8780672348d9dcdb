//! Limits of health check runs.

use std::time::Duration;

/// Limits of one run, and of all runs of one build together, in addition to 16 MiB of memory and the
/// target's timeout.
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
    /// Log lines; further ones are discarded.
    pub log_lines: usize,
    /// Processor time, including the host's on the module's behalf.
    pub cpu: Duration,
    /// Average processor time of all runs of one build together, in percent of one processor. Runs
    /// above it wait, and their timeouts stand still.
    pub quota_percent: u32,
    /// Processor time that one build may use in a burst before that average applies.
    pub quota_burst: Duration,
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
            quota_percent: 25,
            quota_burst: Duration::from_millis(500),
        }
    }
}
