//! Moving averages of the workers' counters, for policies and status.
//!
//! Invariant: once a second it reads counters and writes gauges; nobody waits for it.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::MissedTickBehavior;
use waxwing_dataplane::BackendId;

use crate::admin::report::Reporter;

const EVERY: Duration = Duration::from_secs(1);

/// The averages' time constant: a step change is two thirds in after this many seconds.
const TIME_CONSTANT_S: f64 = 5.0;

/// One backend's counts at the last read, and its averages.
#[derive(Clone, Copy, Default)]
struct Rate {
    sessions: u64,
    failures: u64,
    sessions_per_s: f64,
    failures_per_s: f64,
}

impl Rate {
    /// Updates the averages with the counts after another `seconds`.
    fn update(&mut self, sessions: u64, failures: u64, seconds: f64) {
        let gain = seconds / (TIME_CONSTANT_S + seconds);
        let blend = |average: &mut f64, count: u64, before: u64| {
            #[expect(clippy::cast_precision_loss, reason = "counts of a second are small")]
            let rate = count.saturating_sub(before) as f64 / seconds;
            *average += gain * (rate - *average);
        };
        blend(&mut self.sessions_per_s, sessions, self.sessions);
        blend(&mut self.failures_per_s, failures, self.failures);
        self.sessions = sessions;
        self.failures = failures;
    }

    fn failures_ppm(&self) -> u32 {
        // Far below one session a minute the ratio has no meaning.
        if self.sessions_per_s < 0.001 {
            return 0;
        }
        whole((self.failures_per_s / self.sessions_per_s * 1e6).min(1e6))
    }
}

/// Updates the rates of all backends, forever.
pub(crate) async fn keep(reporter: Arc<Reporter>) -> Infallible {
    let mut rates: HashMap<BackendId, Rate> = HashMap::new();
    let mut every = tokio::time::interval(EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = every.tick().await.into_std();
    loop {
        let now: Instant = every.tick().await.into_std();
        let seconds = now.duration_since(last).as_secs_f64();
        last = now;
        let view = reporter.view.get();
        rates.retain(|id, _| view.snapshot.backend(*id).is_some());
        for backend in view.snapshot.backends() {
            let totals = reporter.counters.since_start(backend.id);
            let (sessions, failures) = (totals.sessions, totals.refused + totals.unanswered);
            let rate = rates.entry(backend.id).or_insert(Rate {
                sessions,
                failures,
                ..Rate::default()
            });
            rate.update(sessions, failures, seconds);
            let sessions_per_s = whole(rate.sessions_per_s);
            reporter
                .gauges
                .set_rates(backend.id, sessions_per_s, rate.failures_ppm());
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
        assert_eq!(rate.failures_ppm(), 100_000);
        for _ in 0..10 {
            rate.update(12_000, 1_200, 1.0);
        }
        assert!((10..60).contains(&whole(rate.sessions_per_s)));
        for _ in 0..120 {
            rate.update(12_000, 1_200, 1.0);
        }
        assert_eq!((whole(rate.sessions_per_s), rate.failures_ppm()), (0, 0));
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
