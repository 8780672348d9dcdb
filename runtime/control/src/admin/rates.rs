//! Moving averages of the workers' counters, for policies and status.
//!
//! Invariant: once a second it reads counters and writes gauges; nobody waits for it.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::MissedTickBehavior;
use waxwing_dataplane::BackendId;
use waxwing_dataplane::counters::FailureRate;

use crate::admin::flood::OpenedSessions;
use crate::admin::report::Reporter;
use crate::admin::symptoms::Counts;

const EVERY: Duration = Duration::from_secs(1);

/// The averages' time constant: a step change is two thirds in after this many seconds.
const TIME_CONSTANT_S: f64 = 5.0;

/// One backend's counts at the last read, and its averages.
#[derive(Clone, Copy, Default)]
struct Rate {
    sessions: u64,
    failures: u64,
    sessions_per_s: f64,
    /// The latest sessions and failures; older ones weigh less.
    samples: f64,
    failed: f64,
    /// Falls from 1 while there is neither a session nor a failure: an old failure says little about now.
    freshness: f64,
}

impl Rate {
    /// Updates the averages with the counts after another `seconds`.
    #[expect(clippy::cast_precision_loss, reason = "counts of a second are small")]
    fn update(&mut self, sessions: u64, failures: u64, seconds: f64) {
        let keep = TIME_CONSTANT_S / (TIME_CONSTANT_S + seconds);
        let new_sessions = sessions.saturating_sub(self.sessions) as f64;
        let new_failures = failures.saturating_sub(self.failures) as f64;
        let per_s = new_sessions / seconds;
        self.sessions_per_s = per_s + keep * (self.sessions_per_s - per_s);
        self.samples = keep * self.samples + new_sessions;
        self.failed = keep * self.failed + new_failures;
        self.freshness = if new_sessions + new_failures > 0.0 {
            1.0
        } else {
            keep * self.freshness
        };
        self.sessions = sessions;
        self.failures = failures;
    }

    fn failures(&self) -> FailureRate {
        // A session that is not answered fails seconds after it began: its failure may be counted where no
        // session is any more.
        let ratio = (self.failed / self.samples.max(self.failed).max(1e-9)).min(1.0);
        FailureRate {
            ppm: whole(ratio * self.freshness * 1e6),
            samples: whole(self.samples),
        }
    }
}

/// Updates the rates of all backends, forever.
pub(crate) async fn keep(reporter: Arc<Reporter>) -> Infallible {
    let mut rates: HashMap<BackendId, Rate> = HashMap::new();
    let mut every = tokio::time::interval(EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = every.tick().await.into_std();
    let opened = || OpenedSessions::of(reporter.counters.workers().iter().map(|it| &**it));
    let mut before = opened();
    loop {
        let now: Instant = every.tick().await.into_std();
        let seconds = now.duration_since(last).as_secs_f64();
        last = now;
        let after = opened();
        reporter.flood.update([before, after], seconds);
        before = after;
        let view = reporter.view.get();
        rates.retain(|id, _| view.snapshot.backend(*id).is_some());
        let counts = |id| {
            let sampled = reporter.gauges.samples().segments(id);
            Counts::new(&reporter.counters.of(id, &reporter.gauges), sampled)
        };
        reporter.symptoms.update(&view.snapshot, counts, now);
        let gauges = &reporter.gauges;
        for id in view.snapshot.backends().map(|backend| backend.id) {
            let sessions = gauges.opened(id);
            let failures = gauges.refused(id) + gauges.unanswered(id);
            let rate = rates.entry(id).or_insert(Rate {
                sessions,
                failures,
                ..Rate::default()
            });
            rate.update(sessions, failures, seconds);
            gauges.set_rates(id, whole(rate.sessions_per_s), rate.failures());
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the value is not negative, and the cast saturates"
)]
fn whole(value: f64) -> u32 {
    value.round() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_rate_is_reached_and_decays() {
        let mut rate = Rate::default();
        for second in 1..=60 {
            rate.update(second * 200, second * 20, 1.0);
        }
        assert_eq!(whole(rate.sessions_per_s), 200);
        let failures = rate.failures();
        assert_eq!((failures.ppm, failures.samples), (100_000, 1200));
        for _ in 0..10 {
            rate.update(12_000, 1_200, 1.0);
        }
        assert!((10..60).contains(&whole(rate.sessions_per_s)));
        for _ in 0..120 {
            rate.update(12_000, 1_200, 1.0);
        }
        assert_eq!(whole(rate.sessions_per_s), 0);
        assert_eq!(rate.failures(), FailureRate::default());
    }

    /// Whether it was one session or a thousand a second.
    #[test]
    fn failures_are_forgotten_where_no_session_comes() {
        for count in [1, 1000] {
            let mut rate = Rate::default();
            for second in 1..=20 {
                rate.update(second * count, second * count, 1.0);
            }
            assert_eq!(rate.failures().ppm, 1_000_000);
            let mut before = 1_000_000;
            for second in 1..=30 {
                rate.update(20 * count, 20 * count, 1.0);
                let ppm = rate.failures().ppm;
                assert!(ppm < before, "{ppm} after {second} s");
                before = ppm;
            }
            assert!(before < 5_000, "{before}");
            // The next one counts in full.
            rate.update(21 * count, 21 * count, 1.0);
            assert_eq!(rate.failures().ppm, 1_000_000);
        }
    }

    #[test]
    fn a_failure_that_comes_late_is_one_of_its_session() {
        let mut rate = Rate::default();
        rate.update(1, 0, 1.0);
        for _ in 0..9 {
            rate.update(1, 0, 1.0);
        }
        rate.update(1, 1, 1.0);
        let failures = rate.failures();
        assert_eq!((failures.ppm, failures.samples), (1_000_000, 0));
    }

    #[test]
    fn a_restarted_count_does_not_raise_the_rate() {
        let mut rate = Rate::default();
        rate.update(1000, 10, 1.0);
        let before = rate.sessions_per_s;
        rate.update(5, 0, 1.0);
        assert!(rate.sessions_per_s < before);
    }
}
