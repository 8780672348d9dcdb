//! The processor time of one build over all its runs: an endless loop on many backends is one build's.
//!
//! Invariant: time used above the quota is paid back by waiting before more is granted; waiting runs get
//! their turns in order of arrival.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::{Mutex as Queue, OwnedMutexGuard};
use tokio::time::sleep;

use super::limits::RunLimits;
use crate::lock::lock;

/// The right to compute above the quota; other runs wait until this is dropped.
pub(super) type QuotaTurn = OwnedMutexGuard<()>;

/// The quota of one build. It starts with its whole burst unused.
#[derive(Default, Debug)]
pub(crate) struct CpuQuota {
    bucket: Mutex<LeakyBucket>,
    queue: Arc<Queue<()>>,
}

/// Runs fill it; time drains it.
#[derive(Default, Debug)]
struct LeakyBucket {
    used: Duration,
    at: Option<Instant>,
}

impl LeakyBucket {
    fn drain(&mut self, now: Instant, limits: &RunLimits) {
        let since = self.at.replace(now);
        let passed = since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        let drained = passed.saturating_mul(limits.quota_percent) / 100;
        self.used = self.used.saturating_sub(drained);
    }
}

impl CpuQuota {
    /// Adds used processor time.
    pub(super) fn charge(&self, used: Duration, now: Instant, limits: &RunLimits) {
        let mut bucket = lock(&self.bucket);
        bucket.drain(now, limits);
        bucket.used += used;
    }

    /// Returns how long it takes until the quota allows more; `None` if it does now.
    pub(super) fn wait(&self, now: Instant, limits: &RunLimits) -> Option<Duration> {
        let mut bucket = lock(&self.bucket);
        bucket.drain(now, limits);
        let over = bucket.used.checked_sub(limits.quota_burst)?;
        (!over.is_zero()).then(|| over.saturating_mul(100) / limits.quota_percent.max(1))
    }

    /// Waits for this run's turn, then until the quota allows more.
    pub(super) async fn turn(&self, limits: &RunLimits) -> QuotaTurn {
        let turn = Arc::clone(&self.queue).lock_owned().await;
        self.refill(limits).await;
        turn
    }

    /// Returns whether a run has the turn.
    #[cfg(test)]
    pub(super) fn is_taken(&self) -> bool {
        self.queue.try_lock().is_err()
    }

    /// Waits until the quota allows more.
    pub(super) async fn refill(&self, limits: &RunLimits) {
        while let Some(wait) = self.wait(Instant::now(), limits) {
            sleep(wait).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_build_gets_a_quarter_of_a_processor_on_average() {
        let (quota, limits, start) = (CpuQuota::default(), RunLimits::default(), Instant::now());
        // Milliseconds used, at which time, and how long the next run waits after that.
        let steps = [
            (500, 0, None),
            (1, 0, Some(4)),
            (0, 3, Some(1)),
            (0, 4, None),
            (50, 4, Some(200)),
            (0, 204, None),
            // One second later half of the burst is back, two seconds later all of it, never more.
            (250, 1_204, None),
            (1, 1_204, Some(4)),
            (501, 10_000, Some(4)),
        ];
        for (used, at, wait) in steps {
            let now = start + at * MS;
            quota.charge(used * MS, now, &limits);
            assert_eq!(
                quota.wait(now, &limits),
                wait.map(|ms: u32| ms * MS),
                "{at} ms"
            );
        }
    }
}
