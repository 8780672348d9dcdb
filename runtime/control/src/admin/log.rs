//! The state of the program's log, for the status.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::admin::events::EventLog;
use crate::admin::status::LogStatus;

/// What the log's writer reports.
#[derive(Debug, Default)]
pub struct LogState {
    lines_dropped: AtomicU64,
    is_dropping: AtomicBool,
    reason: Mutex<String>,
    events: EventLog,
}

impl LogState {
    /// Returns the newest events.
    #[must_use]
    pub fn events(&self) -> &EventLog {
        &self.events
    }

    /// Counts a dropped line.
    pub fn dropped(&self, why: impl Into<String>) {
        *self.reason.lock().unwrap_or_else(PoisonError::into_inner) = why.into();
        self.lines_dropped.fetch_add(1, Ordering::Relaxed);
        self.is_dropping.store(true, Ordering::Relaxed);
    }

    /// Records that a line was written.
    pub fn written(&self) {
        self.is_dropping.store(false, Ordering::Relaxed);
    }

    /// Returns how many lines were dropped since the start.
    #[must_use]
    pub fn lines_dropped(&self) -> u64 {
        self.lines_dropped.load(Ordering::Relaxed)
    }

    /// Returns why the last dropped line was dropped.
    #[must_use]
    pub fn reason(&self) -> String {
        let reason = self.reason.lock().unwrap_or_else(PoisonError::into_inner);
        reason.clone()
    }

    /// Returns the status.
    #[must_use]
    pub fn status(&self) -> LogStatus {
        let is_dropping = self.is_dropping.load(Ordering::Relaxed);
        LogStatus {
            lines_dropped: self.lines_dropped(),
            problem: is_dropping.then(|| self.reason()),
        }
    }
}
