//! Ejection of a backend for failures of client connections (outlier detection).

use std::collections::VecDeque;
use std::time::Duration;

use crate::config::Ejection;

#[derive(Clone, Debug, Default)]
pub(super) struct EjectionState {
    /// The failure counter when it was last read; `None` before.
    counted: Option<u64>,
    /// New failures, and when they were counted.
    recent: VecDeque<(Duration, u64)>,
    /// Ejections in a row.
    ejections: u32,
    /// When the current ejection ends.
    pub(super) until: Option<Duration>,
    /// When the last ejection ended.
    returned: Duration,
    pub(super) reason: String,
}

impl EjectionState {
    /// Reads the failure counter, and starts an ejection if `rule` says so. `may_eject`: enough
    /// other backends are in service.
    pub(super) fn record(&mut self, counted: u64, rule: &Ejection, may_eject: bool, now: Duration) {
        let new = counted.saturating_sub(self.counted.unwrap_or(counted));
        self.counted = Some(counted);
        // Failures during an ejection belong to sessions from before it.
        if new > 0 && self.until.is_none() {
            self.recent.push_back((now, new));
        }
        self.recent
            .retain(|(at, _)| now.saturating_sub(*at) < rule.window);
        let sum: u64 = self.recent.iter().map(|(_, count)| count).sum();
        if self.until.is_some() || sum < u64::from(rule.failures) || !may_eject {
            return;
        }
        // A backend that stayed in for longer than its last ejection starts anew.
        if now.saturating_sub(self.returned) > ejection_time(rule, self.ejections) {
            self.ejections = 0;
        }
        self.ejections += 1;
        let time = ejection_time(rule, self.ejections);
        self.until = Some(now + time);
        self.recent.clear();
        self.reason = format!(
            "{sum} connections refused or not answered within {} s; ejected for {} s",
            rule.window.as_secs_f64(),
            time.as_secs_f64()
        );
    }

    /// Ends the ejection if its time is over.
    pub(super) fn update(&mut self, now: Duration) {
        if self.until.is_some_and(|until| until <= now) {
            self.until = None;
            self.returned = now;
        }
    }
}

/// Returns how long the `n`-th ejection in a row lasts.
fn ejection_time(rule: &Ejection, n: u32) -> Duration {
    let factor = 1_u32.checked_shl(n.saturating_sub(1)).unwrap_or(u32::MAX);
    rule.time.saturating_mul(factor).min(rule.time_max)
}
