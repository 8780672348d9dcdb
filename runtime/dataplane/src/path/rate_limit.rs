//! A rate limit with a burst.

use crate::Now;

/// A token bucket, stored as the time at which it is full again (generic cell rate algorithm, ITU-T I.371).
pub(super) struct RateLimiter {
    interval_us: u64,
    /// How far `full_at_us` may be ahead of the clock for one more to pass.
    ahead_us_max: u64,
    full_at_us: u64,
}

impl RateLimiter {
    pub(super) const fn new(per_s: u64, burst: u64) -> Self {
        let interval_us = 1_000_000 / per_s;
        Self {
            interval_us,
            ahead_us_max: (burst - 1) * interval_us,
            full_at_us: 0,
        }
    }

    /// Takes a token; `false` if there is none.
    pub(super) const fn take(&mut self, now: Now) -> bool {
        let now_us = now.micros();
        let ahead_us = self.full_at_us.saturating_sub(now_us);
        let may = ahead_us <= self.ahead_us_max;
        if may {
            self.full_at_us = now_us + ahead_us + self.interval_us;
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// How many are let through at once, at this many microseconds.
    fn at_once(limit: &mut RateLimiter, us: u64) -> u64 {
        let now = Now::from_start(Duration::from_micros(us));
        (0..10_000).take_while(|_| limit.take(now)).count() as u64
    }

    #[test]
    fn a_burst_is_let_through_and_then_the_rate() {
        let mut limit = RateLimiter::new(1000, 100);
        for (us, let_through) in [
            (0, 100),
            (999, 0),
            (1000, 1),
            (1001, 0),
            (11_000, 10),
            (111_000, 100),
            (10_000_000, 100),
            // A clock that stands still, or is behind, lets nothing more through.
            (10_000_000, 0),
            (9_000_000, 0),
            (10_001_500, 1),
            (10_002_000, 1),
        ] {
            assert_eq!(at_once(&mut limit, us), let_through, "at {us} us");
        }
    }

    #[test]
    fn over_a_second_no_more_pass_than_rate_and_burst() {
        for (per_s, burst) in [(1000, 100), (10_000, 1000)] {
            let mut limit = RateLimiter::new(per_s, burst);
            let passed: u64 = (0..1_000_000)
                .step_by(37)
                .map(|us| at_once(&mut limit, us))
                .sum();
            let most = per_s + burst;
            assert!((most - 2..=most).contains(&passed), "{passed} of {most}");
        }
    }
}
