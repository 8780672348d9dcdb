//! What a module may take of one worker over time. Each call is bounded by its own budget, but forty services
//! whose module spins just below that would take the worker from all others.
//!
//! Invariant: over any stretch of time a module's calls take at most its share of it, a burst, and the last
//! call. What is above is left to the native fallback, and counted.

use std::time::{Duration, Instant};

use crate::policy::call_times::WorkerCallTimes;

/// How much may be used at once: a reload's or a failover's many picks, or a worker that the kernel
/// descheduled during a call.
const BURST: Duration = Duration::from_millis(100);

/// A module's share of one worker's time: a leaky bucket that calls fill and time drains.
#[derive(Debug)]
pub(crate) struct WorkerShare {
    /// 0: all of it.
    percent: u32,
    used: Duration,
    drained_at: Option<Instant>,
    times: WorkerCallTimes,
}

impl WorkerShare {
    pub(crate) const fn new(percent: u32, times: WorkerCallTimes) -> Self {
        Self {
            percent,
            used: Duration::ZERO,
            drained_at: None,
            times,
        }
    }

    /// Returns when a call starts; `None` if the module has used its share.
    #[inline]
    pub(crate) fn start(&mut self) -> Option<CallStart> {
        if self.percent == 0 {
            return Some(CallStart(None));
        }
        let now = Instant::now();
        self.may_start(now).then_some(CallStart(Some(now)))
    }

    /// Returns when a call starts that is made whatever the module has used.
    #[inline]
    pub(crate) fn start_anyway(&self) -> CallStart {
        CallStart((self.percent > 0).then(Instant::now))
    }

    /// Charges a call that has ended, and counts its time.
    #[inline]
    pub(crate) fn end(&mut self, CallStart(start): CallStart) {
        if let Some(start) = start {
            let took = start.elapsed();
            self.used += took;
            self.times.count(took);
        }
    }

    fn may_start(&mut self, now: Instant) -> bool {
        let since = self.drained_at.replace(now);
        let passed = since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        let drained = passed.saturating_mul(self.percent) / 100;
        self.used = self.used.saturating_sub(drained);
        self.used <= BURST
    }
}

/// When a call started, if its time is charged.
#[must_use]
pub(crate) struct CallStart(Option<Instant>);

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn calls_take_a_tenth_of_the_time_on_average() {
        let mut share = WorkerShare::new(10, WorkerCallTimes::default());
        let start = Instant::now();
        // Calls of 1 ms each, whenever they may start, for ten seconds.
        let mut taken = 0;
        let mut at = Duration::ZERO;
        while at < 10_000 * MS {
            if share.may_start(start + at) {
                share.used += MS;
                taken += 1;
            }
            at += MS;
        }
        assert!((1_095..=1_105).contains(&taken), "{taken}");
    }

    #[test]
    fn a_share_of_0_is_no_limit() {
        let mut share = WorkerShare::new(0, WorkerCallTimes::default());
        share.used = 1000 * BURST;
        assert!(share.start().is_some());
    }
}
