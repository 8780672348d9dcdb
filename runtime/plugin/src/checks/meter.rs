//! What a run does and how much processor time it has used.
//!
//! Invariant: time is that of the thread while it polls the run, so neither waiting nor other runs
//! count; and a run is polled only with its engine's clock awake.

use std::fmt;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use crate::engine::{Pulse, thread_time};

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
    limit: Duration,
    /// Nanoseconds used up in all polls that ended.
    used: AtomicU64,
    /// The thread's time when this poll began, in nanoseconds.
    since: AtomicU64,
    doing: AtomicU8,
    /// What the balancer itself was short of first.
    hindrance: OnceLock<String>,
}

impl Meter {
    pub(super) fn new(limit: Duration) -> Self {
        Self {
            limit,
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
        self.used() + Duration::from_nanos(here) >= self.limit
    }

    pub(super) fn limit(&self) -> Duration {
        self.limit
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
            polled
        })
        .await
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
