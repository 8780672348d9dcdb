//! What a run does and how much processor time it has used.
//!
//! Invariant: time is that of the thread while it polls the run, so neither waiting nor other runs
//! count; a run is polled only with its engine's clock awake; and a run that goes on computing where
//! its build's share is used up does so one at a time, while its timeout stands still.

use std::fmt;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use tokio::task::yield_now;
use tokio::time::timeout_at;

use super::options::RunLimits;
use super::share::{Share, Turn};
use crate::engine::{Pulse, thread_time};
use crate::library::lock;

/// What a run does: what a timeout says that it was at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Doing {
    Computing,
    Connecting,
    Tls,
    Sending,
    Receiving,
    Sleeping,
}

impl Doing {
    const ALL: [Self; 6] = [
        Self::Computing,
        Self::Connecting,
        Self::Tls,
        Self::Sending,
        Self::Receiving,
        Self::Sleeping,
    ];
}

impl fmt::Display for Doing {
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

/// One run's. It is polled by one thread at a time, so nothing here need be ordered.
#[derive(Debug)]
pub(super) struct Meter {
    limits: RunLimits,
    /// The build's; `None` where nothing can be waited for.
    share: Option<Arc<Share>>,
    /// The build's turn, while this run computes beyond the share.
    turn: Mutex<Option<Turn>>,
    /// Whether it waits only to let others go first.
    gives_way: AtomicBool,
    held: Mutex<Held>,
    /// Nanoseconds used up in all polls that ended.
    used: AtomicU64,
    /// The thread's time when this poll began, in nanoseconds.
    since: AtomicU64,
    doing: AtomicU8,
    /// What the balancer itself was short of first.
    hindrance: OnceLock<String>,
}

/// For how long a run waited for its build's share.
#[derive(Default, Debug)]
struct Held {
    before: Duration,
    since: Option<Instant>,
}

impl Meter {
    /// For a run of a build, or for what cannot wait for its share.
    pub(super) fn new(limits: RunLimits, share: Option<Arc<Share>>) -> Self {
        Self {
            limits,
            share,
            turn: Mutex::default(),
            gives_way: AtomicBool::new(false),
            held: Mutex::default(),
            used: AtomicU64::new(0),
            since: AtomicU64::new(0),
            doing: AtomicU8::new(Doing::Computing as u8),
            hindrance: OnceLock::new(),
        }
    }

    pub(super) fn set_doing(&self, doing: Doing) {
        self.doing.store(doing as u8, Ordering::Relaxed);
    }

    pub(super) fn doing(&self) -> Doing {
        let doing = self.doing.load(Ordering::Relaxed);
        Doing::ALL[usize::from(doing)]
    }

    /// The balancer itself was short of something.
    pub(super) fn hinder(&self, words: &str) {
        self.hindrance.get_or_init(|| words.to_owned());
    }

    /// What the balancer itself was short of, if anything.
    pub(super) fn hindrance(&self) -> Option<&str> {
        self.hindrance.get().map(String::as_str)
    }

    /// The processor time of all polls that ended.
    pub(super) fn used(&self) -> Duration {
        Duration::from_nanos(self.used.load(Ordering::Relaxed))
    }

    /// Whether the limit is passed, asked from within a poll.
    pub(super) fn is_over(&self) -> bool {
        let now = nanoseconds(thread_time());
        let here = now.saturating_sub(self.since.load(Ordering::Relaxed));
        self.used() + Duration::from_nanos(here) >= self.limits.cpu
    }

    pub(super) fn limit(&self) -> Duration {
        self.limits.cpu
    }

    /// For how long it waited for its build's share.
    pub(super) fn held(&self) -> Duration {
        let held = lock(&self.held);
        held.before + held.since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Lets others go first, and where the build's share is used up, waits for more of it. Unlike a
    /// plain yield, it lets the executor look for other runs' answers.
    pub(super) async fn give_way(self: Arc<Self>) {
        self.gives_way.store(true, Ordering::Relaxed);
        yield_now().await;
        if let Some(share) = &self.share
            && share.wait(Instant::now(), &self.limits).is_some()
        {
            lock(&self.held).since = Some(Instant::now());
            self.wait_for(share).await;
            let mut held = lock(&self.held);
            let since = held.since.take();
            held.before += since.map_or(Duration::ZERO, |since| since.elapsed());
        }
        self.gives_way.store(false, Ordering::Relaxed);
    }

    /// Who has the turn keeps it until the run waits for something else, so that those that loop come to
    /// their ends one after the other.
    async fn wait_for(&self, share: &Share) {
        let has_turn = lock(&self.turn).is_some();
        if has_turn {
            share.refill(&self.limits).await;
        } else {
            let turn = share.turn(&self.limits).await;
            *lock(&self.turn) = Some(turn);
        }
    }

    /// What a run gives within its time, which stands still while it waits for its build's share.
    pub(super) async fn within<T>(
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
            let later = start + time + self.held();
            if later <= end {
                return None;
            }
            end = later;
        }
    }

    /// Counts the time that a future takes when it is polled.
    pub(super) async fn watch<T>(&self, pulse: Pulse, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        poll_fn(|context| {
            pulse.mark();
            let start = nanoseconds(thread_time());
            self.since.store(start, Ordering::Relaxed);
            let polled = future.as_mut().poll(context);
            let spent = nanoseconds(thread_time()).saturating_sub(start);
            self.used.fetch_add(spent, Ordering::Relaxed);
            self.charge(Duration::from_nanos(spent));
            if polled.is_ready() || !self.gives_way.load(Ordering::Relaxed) {
                *lock(&self.turn) = None;
            }
            polled
        })
        .await
    }

    fn charge(&self, spent: Duration) {
        if let Some(share) = &self.share {
            share.charge(spent, Instant::now(), &self.limits);
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
    async fn a_timeout_stands_still_while_a_run_waits_for_its_builds_share() {
        let limits = RunLimits::default();
        let share = Arc::new(Share::default());
        // More than its burst is used: it takes 200 ms to have some again.
        share.charge(550 * MS, Instant::now(), &limits);
        let meter = Arc::new(Meter::new(limits, Some(share)));
        let held = Arc::clone(&meter).give_way();
        assert_eq!(meter.within(50 * MS, held).await, Some(()));
        assert!(meter.held() >= 100 * MS, "{:?}", meter.held());
        let never = std::future::pending::<()>();
        assert_eq!(meter.within(50 * MS, never).await, None);
    }

    #[tokio::test]
    async fn a_run_keeps_its_turn_while_it_computes_and_no_longer() {
        let limits = RunLimits::default();
        let share = Arc::new(Share::default());
        share.charge(limits.share_burst + MS, Instant::now(), &limits);
        let meter = Arc::new(Meter::new(limits, Some(Arc::clone(&share))));
        let watched = meter.watch(Pulse::default(), async {
            Arc::clone(&meter).give_way().await;
            assert!(share.is_taken(), "it computes");
            yield_now().await;
            assert!(!share.is_taken(), "it waited for something");
            Arc::clone(&meter).give_way().await;
        });
        watched.await;
        assert!(!share.is_taken(), "it ended");
    }
}
