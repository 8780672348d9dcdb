//! A build's share of the processor, over all its runs: a loop on many backends is still one build's.
//!
//! Invariant: what is used above the share is made up for before more is given, by waiting; those who
//! wait get their turns in the order in which they came.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::{Mutex as Queue, OwnedMutexGuard};
use tokio::time::sleep;

use super::options::RunLimits;
use crate::library::lock;

/// Whose turn it is, where the share is used up: others wait until this is dropped.
pub(super) type Turn = OwnedMutexGuard<()>;

/// One build's. It begins with all of its burst.
#[derive(Default, Debug)]
pub(crate) struct Share {
    level: Mutex<Level>,
    queue: Arc<Queue<()>>,
}

/// A bucket that runs fill, and time empties.
#[derive(Default, Debug)]
struct Level {
    used: Duration,
    at: Option<Instant>,
}

impl Level {
    fn drain(&mut self, now: Instant, limits: &RunLimits) {
        let since = self.at.replace(now);
        let passed = since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        let made_up = passed.saturating_mul(limits.share_percent) / 100;
        self.used = self.used.saturating_sub(made_up);
    }
}

impl Share {
    /// This much was used.
    pub(super) fn charge(&self, used: Duration, now: Instant, limits: &RunLimits) {
        let mut level = lock(&self.level);
        level.drain(now, limits);
        level.used += used;
    }

    /// How long it takes until there is some left; `None` if there is.
    pub(super) fn wait(&self, now: Instant, limits: &RunLimits) -> Option<Duration> {
        let mut level = lock(&self.level);
        level.drain(now, limits);
        let over = level.used.checked_sub(limits.share_burst)?;
        (!over.is_zero()).then(|| over.saturating_mul(100) / limits.share_percent.max(1))
    }

    /// Waits until there is some left, and gives the turn.
    pub(super) async fn turn(&self, limits: &RunLimits) -> Turn {
        let turn = Arc::clone(&self.queue).lock_owned().await;
        self.refill(limits).await;
        turn
    }

    /// Whether somebody has the turn.
    #[cfg(test)]
    pub(super) fn is_taken(&self) -> bool {
        self.queue.try_lock().is_err()
    }

    /// Waits until there is some left.
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
    fn a_quarter_of_a_processor_is_there_on_average() {
        let (share, limits, start) = (Share::default(), RunLimits::default(), Instant::now());
        // What is used, when, and how long the next one waits after.
        let steps = [
            (500, 0, None),
            (1, 0, Some(4)),
            (0, 3, Some(1)),
            (0, 4, None),
            (50, 4, Some(200)),
            (0, 204, None),
            // A second later half of the burst is back, two seconds later all of it, and never more.
            (250, 1_204, None),
            (1, 1_204, Some(4)),
            (501, 10_000, Some(4)),
        ];
        for (used, at, wait) in steps {
            let now = start + at * MS;
            share.charge(used * MS, now, &limits);
            assert_eq!(
                share.wait(now, &limits),
                wait.map(|ms: u32| ms * MS),
                "{at} ms"
            );
        }
    }
}
