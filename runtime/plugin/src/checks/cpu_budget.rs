//! The processor time and the current activity of one run.
//!
//! Invariant: only the thread's time while it polls the run counts, so neither waiting nor other runs do;
//! a run is polled only while its engine's clock is awake; when its build's quota is used up, computing
//! runs take turns, and their timeouts stand still while they wait.

use std::fmt;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use tokio::task::yield_now;
use tokio::time::timeout_at;

use super::cpu_quota::{CpuQuota, QuotaTurn};
use super::limits::RunLimits;
use crate::build::engine::{ClockWaker, thread_time};
use crate::lock::lock;

/// What a run is doing; a timeout's text names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Activity {
    Computing,
    Connecting,
    Tls,
    Sending,
    Receiving,
    Sleeping,
}

impl Activity {
    const ALL: [Self; 6] = [
        Self::Computing,
        Self::Connecting,
        Self::Tls,
        Self::Sending,
        Self::Receiving,
        Self::Sleeping,
    ];
}

impl fmt::Display for Activity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Computing => "computing",
            Self::Connecting => "connecting",
            Self::Tls => "in the TLS handshake",
            Self::Sending => "sending",
            Self::Receiving => "receiving",
            Self::Sleeping => "sleeping",
        })
    }
}

/// The budget of one run. One thread at a time polls the run, so the atomics need no ordering.
#[derive(Debug)]
pub(super) struct CpuBudget {
    limits: RunLimits,
    /// The build's quota; `None` for a run that cannot wait.
    quota: Option<Arc<CpuQuota>>,
    /// The build's turn, while this run computes above the quota.
    turn: Mutex<Option<QuotaTurn>>,
    /// Whether the run waits only to let others go first.
    yielding: AtomicBool,
    quota_wait: Mutex<QuotaWait>,
    /// Nanoseconds used in all completed polls.
    used: AtomicU64,
    /// The thread's time when the current poll began, in nanoseconds.
    since: AtomicU64,
    activity: AtomicU8,
    /// The first resource that the balancer itself ran out of.
    local_shortage: OnceLock<String>,
}

/// How long a run has waited for its build's quota.
#[derive(Default, Debug)]
struct QuotaWait {
    before: Duration,
    since: Option<Instant>,
}

impl CpuBudget {
    /// Without a quota, the run never waits for one.
    pub(super) fn new(limits: RunLimits, quota: Option<Arc<CpuQuota>>) -> Self {
        Self {
            limits,
            quota,
            turn: Mutex::default(),
            yielding: AtomicBool::new(false),
            quota_wait: Mutex::default(),
            used: AtomicU64::new(0),
            since: AtomicU64::new(0),
            activity: AtomicU8::new(Activity::Computing as u8),
            local_shortage: OnceLock::new(),
        }
    }

    pub(super) fn set_activity(&self, activity: Activity) {
        self.activity.store(activity as u8, Ordering::Relaxed);
    }

    pub(super) fn activity(&self) -> Activity {
        let activity = self.activity.load(Ordering::Relaxed);
        Activity::ALL[usize::from(activity)]
    }

    /// Notes that the balancer itself ran out of a resource.
    pub(super) fn note_local_shortage(&self, text: &str) {
        self.local_shortage.get_or_init(|| text.to_owned());
    }

    /// Returns the first resource that the balancer itself ran out of.
    pub(super) fn local_shortage(&self) -> Option<&str> {
        self.local_shortage.get().map(String::as_str)
    }

    /// Returns the processor time of all completed polls.
    pub(super) fn used(&self) -> Duration {
        Duration::from_nanos(self.used.load(Ordering::Relaxed))
    }

    /// Returns whether the limit is reached. For calls from within a poll.
    pub(super) fn is_over(&self) -> bool {
        let now = nanoseconds(thread_time());
        let here = now.saturating_sub(self.since.load(Ordering::Relaxed));
        self.used() + Duration::from_nanos(here) >= self.limits.cpu
    }

    pub(super) fn limit(&self) -> Duration {
        self.limits.cpu
    }

    /// Returns how long the run has waited for its build's quota.
    pub(super) fn quota_wait(&self) -> Duration {
        let wait = lock(&self.quota_wait);
        wait.before + wait.since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Yields to other runs and, if the build's quota is used up, waits for more of it. Unlike a plain
    /// yield, this lets the executor poll for other runs' I/O.
    pub(super) async fn yield_to_others(self: Arc<Self>) {
        self.yielding.store(true, Ordering::Relaxed);
        yield_now().await;
        if let Some(quota) = &self.quota
            && quota.wait(Instant::now(), &self.limits).is_some()
        {
            lock(&self.quota_wait).since = Some(Instant::now());
            self.wait_for(quota).await;
            let mut wait = lock(&self.quota_wait);
            let since = wait.since.take();
            wait.before += since.map_or(Duration::ZERO, |since| since.elapsed());
        }
        self.yielding.store(false, Ordering::Relaxed);
    }

    /// Waits for the build's quota. A run keeps its turn until it waits for something else, so that
    /// endless loops reach their limits one after the other.
    async fn wait_for(&self, quota: &CpuQuota) {
        let has_turn = lock(&self.turn).is_some();
        if has_turn {
            quota.refill(&self.limits).await;
        } else {
            let turn = quota.turn(&self.limits).await;
            *lock(&self.turn) = Some(turn);
        }
    }

    /// Runs a future with a timeout, which stands still while the run waits for its build's quota.
    /// Returns `None` at the timeout.
    pub(super) async fn with_timeout<T>(
        &self,
        time: Duration,
        run: impl Future<Output = T>,
    ) -> Option<T> {
        let mut run = pin!(run);
        let start = tokio::time::Instant::now();
        let mut end = start + time;
        loop {
            if let Ok(done) = timeout_at(end, &mut run).await {
                return Some(done);
            }
            let later = start + time + self.quota_wait();
            if later <= end {
                return None;
            }
            end = later;
        }
    }

    /// Counts the processor time of a future's polls.
    pub(super) async fn measure<T>(&self, waker: ClockWaker, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        poll_fn(|context| {
            waker.mark_call();
            let start = nanoseconds(thread_time());
            self.since.store(start, Ordering::Relaxed);
            let polled = future.as_mut().poll(context);
            let spent = nanoseconds(thread_time()).saturating_sub(start);
            self.used.fetch_add(spent, Ordering::Relaxed);
            self.charge(Duration::from_nanos(spent));
            if polled.is_ready() || !self.yielding.load(Ordering::Relaxed) {
                *lock(&self.turn) = None;
            }
            polled
        })
        .await
    }

    fn charge(&self, spent: Duration) {
        if let Some(quota) = &self.quota {
            quota.charge(spent, Instant::now(), &self.limits);
        }
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[tokio::test]
    async fn a_timeout_stands_still_while_a_run_waits_for_its_builds_quota() {
        let limits = RunLimits::default();
        let quota = Arc::new(CpuQuota::default());
        // 50 ms above the burst: the quota allows more after 200 ms.
        quota.charge(550 * MS, Instant::now(), &limits);
        let budget = Arc::new(CpuBudget::new(limits, Some(quota)));
        let waits = Arc::clone(&budget).yield_to_others();
        assert_eq!(budget.with_timeout(50 * MS, waits).await, Some(()));
        assert!(budget.quota_wait() >= 100 * MS, "{:?}", budget.quota_wait());
        let never = std::future::pending::<()>();
        assert_eq!(budget.with_timeout(50 * MS, never).await, None);
    }

    #[tokio::test]
    async fn a_run_keeps_its_turn_only_while_it_computes() {
        let limits = RunLimits::default();
        let quota = Arc::new(CpuQuota::default());
        quota.charge(limits.quota_burst + MS, Instant::now(), &limits);
        let budget = Arc::new(CpuBudget::new(limits, Some(Arc::clone(&quota))));
        let run = budget.measure(ClockWaker::default(), async {
            Arc::clone(&budget).yield_to_others().await;
            assert!(quota.is_taken(), "the run computes");
            yield_now().await;
            assert!(!quota.is_taken(), "the run waited for something else");
            Arc::clone(&budget).yield_to_others().await;
        });
        run.await;
        assert!(!quota.is_taken(), "the run has ended");
    }
}
