//! Least signal: of two backends drawn by weight, the one that reports the lower signal, such as
//! the requests in its queue, its load, or its memory use. A health check or something outside sets
//! a backend's four signals.
//!
//! Use it when sessions differ a lot in cost, and the servers know their load better than a count
//! of sessions does, as inference servers do.
//!
//! A signal is as old as its report. Trusting it alone would send all sessions until the next
//! report to the backend that was lowest (Mitzenmacher, "How Useful Is Old Information?", 2000). So
//! each of this worker's picks adds `per_session` until the signal changes. If it does not change,
//! half of the added picks are dropped every half second.
//!
//! Invariant: a pick examines at most [`PAIRS`] pairs. A backend over `max` gets a session only if
//! all examined ones are over it.

use serde::Deserialize;
use waxwing_sdk::abi::SIGNALS;
use waxwing_sdk::choice::{Load, WeightedRandom};
use waxwing_sdk::random::Random;
use waxwing_sdk::{Backend, Backends, ConfigError, Flow, PerBackend, Pick, Policy, export_policy};

/// Most pairs that a pick draws while all examined backends are full.
pub const PAIRS: usize = 4;

/// `policy_config = { signal = 0, per_session = 1, per_weight = false, max = 200 }`.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Index of the signal, 0 to 3.
    signal: usize,
    /// What a session adds to the signal until the backend reports again.
    per_session: u32,
    /// Whether the signal is divided by the weight. Set it for a signal that counts work, such as a
    /// queue length; not for a ratio, such as a percentage.
    per_weight: bool,
    /// A backend that reports this much or more is avoided.
    max: Option<u32>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            signal: 0,
            per_session: 1,
            per_weight: false,
            max: None,
        }
    }
}

/// Chooses by the reported signals and the picks since the reports.
pub struct LeastSignal {
    config: Config,
    backends: WeightedRandom,
    since: PerBackend<SinceReport>,
    random: Random,
    full: u64,
}

/// This worker's picks of a backend since its signal changed.
#[derive(Clone, Copy, Default)]
struct SinceReport {
    signal: u32,
    picks: u32,
}

/// Full backends last, then by signal.
type Rank = (bool, Load);

impl Policy for LeastSignal {
    type Config = Config;
    const TICK_MS: u32 = 500;
    const COUNTERS: &'static [&'static str] = &["full"];

    fn new(config: Config, backends: &Backends<'_>) -> Result<Self, ConfigError> {
        if config.signal >= SIGNALS {
            return Err(
                format!("policy_config.signal = {}: expected 0 to 3", config.signal).into(),
            );
        }
        if config.max == Some(0) {
            return Err(
                "policy_config.max = 0: every backend would be full; leave it out, or write the \
                 signal of a full backend"
                    .into(),
            );
        }
        let mut least = Self {
            config,
            backends: WeightedRandom::default(),
            since: PerBackend::default(),
            random: Random::new(backends.seed()),
            full: 0,
        };
        least.backends_changed(backends)?;
        Ok(least)
    }

    fn pick(&mut self, _: &Flow<'_>, backends: &Backends<'_>) -> Pick {
        let mut least: Option<(Rank, Backend<'_>)> = None;
        for _ in 0..PAIRS {
            let random = (self.random.next(), self.random.next());
            let Some((a, b)) = self.backends.pick_two(random) else {
                return Pick::Fallback;
            };
            for backend in [a, b].into_iter().filter_map(|index| backends.get(index)) {
                let rank = self.rank(&backend);
                if least.as_ref().is_none_or(|(least, _)| rank < *least) {
                    least = Some((rank, backend));
                }
            }
            if least.as_ref().is_some_and(|((is_full, _), _)| !is_full) {
                break;
            }
        }
        let Some(((is_full, _), backend)) = least else {
            return Pick::Fallback;
        };
        self.full += u64::from(is_full);
        if let Some(since) = self.since.get_mut(backend.index()) {
            since.picks = since.picks.saturating_add(1);
        }
        backend.into()
    }

    fn backends_changed(&mut self, backends: &Backends<'_>) -> Result<(), ConfigError> {
        self.backends = WeightedRandom::new(backends.available());
        self.since.update(backends);
        Ok(())
    }

    fn tick(&mut self, _: &Backends<'_>) {
        // A report of the same value is invisible, so old picks must not count for ever.
        for since in self.since.iter_mut() {
            since.picks /= 2;
        }
    }

    fn counters(&self, values: &mut [u64]) {
        values[0] = self.full;
    }
}

impl LeastSignal {
    fn rank(&mut self, backend: &Backend<'_>) -> Rank {
        let signal = backend.signals()[self.config.signal];
        let since = self.since.get_mut(backend.index());
        let picks = since.map_or(0, |since| {
            if since.signal != signal {
                *since = SinceReport { signal, picks: 0 };
            }
            since.picks
        });
        let picked = u64::from(picks) * u64::from(self.config.per_session);
        let now = u64::from(signal).saturating_add(picked);
        let is_full = self.config.max.is_some_and(|max| now >= u64::from(max));
        let weight = if self.config.per_weight {
            backend.weight()
        } else {
            1
        };
        (is_full, Load::new(now, weight))
    }
}

export_policy!(LeastSignal);

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

    use waxwing_sdk::testing::{self, Driver, counts};

    use super::*;

    /// Makes a driver whose backends have these weights and report these signals.
    fn driver(config: &str, weights: &[u32], signals: &[u32]) -> Driver<LeastSignal> {
        let mut driver = Driver::start(config, &testing::backends(weights), 1).unwrap();
        report(&mut driver, 0, signals);
        driver
    }

    fn report(driver: &mut Driver<LeastSignal>, which: usize, signals: &[u32]) {
        for (backend, signal) in driver.backends_mut().iter_mut().zip(signals) {
            backend.signals[which] = *signal;
        }
    }

    fn picks(driver: &mut Driver<LeastSignal>, n: usize) -> Vec<usize> {
        let backends = driver.backends_mut().len();
        counts(&driver.pick_all(testing::flows(1).take(n)), backends)
    }

    #[test]
    fn a_batch_spreads_to_the_level_of_the_signals() {
        let mut driver = driver("{}", &[1, 1], &[10, 50]);
        assert_eq!(picks(&mut driver, 20), [20, 0]);
        // Ten reported and fifty picked are sixty; then both take turns.
        assert_eq!(picks(&mut driver, 60), [40, 20]);
    }

    #[test]
    fn a_report_replaces_the_added_picks() {
        let mut driver = driver("{}", &[1, 1], &[10, 20]);
        assert_eq!(picks(&mut driver, 10), [10, 0]);
        report(&mut driver, 0, &[12, 20]);
        assert_eq!(picks(&mut driver, 8), [8, 0]);
    }

    #[test]
    fn added_picks_decay_while_the_signal_stays() {
        let mut driver = driver("{}", &[1, 1], &[10, 50]);
        assert_eq!(picks(&mut driver, 40), [40, 0]);
        driver.tick(500);
        assert_eq!(picks(&mut driver, 20), [20, 0]);
        for _ in 0..10 {
            driver.tick(500);
        }
        assert_eq!(picks(&mut driver, 40), [40, 0]);
    }

    #[test]
    fn full_backends_are_avoided_while_others_are_drawn() {
        let mut driver = driver(r#"{"max": 100}"#, &[1; 3], &[100, 200, 95]);
        assert_eq!(picks(&mut driver, 5), [0, 0, 5]);
        assert_eq!(driver.counters(), [0]);
        // Now all are full, and the lowest of the examined ones is picked.
        let all_full = picks(&mut driver, 30);
        assert_eq!(all_full[1], 0, "{all_full:?}");
        assert_eq!(driver.counters(), [30]);
    }

    #[test]
    fn among_thousands_two_are_compared() {
        let mut signals = vec![50; 1000];
        signals[3] = 1_000_000;
        let mut driver = driver(r#"{"per_session": 50}"#, &[1; 1000], &signals);
        let picks = picks(&mut driver, 10_000);
        assert_eq!(picks[3], 0);
        let most = picks.iter().max().unwrap();
        assert!(*most <= 15, "{most} on one backend; the mean is ten");
    }

    #[test]
    fn per_weight_divides_the_signal_by_the_weight() {
        let mut plain = driver("{}", &[1, 3], &[0, 0]);
        assert_eq!(picks(&mut plain, 400), [200, 200]);
        let mut per_weight = driver(r#"{"per_weight": true}"#, &[1, 3], &[0, 0]);
        assert_eq!(picks(&mut per_weight, 400), [100, 300]);
    }

    #[test]
    fn any_of_the_four_signals_may_be_used() {
        for which in 0..4 {
            let config = format!(r#"{{"signal": {which}}}"#);
            let mut driver = driver(&config, &[1, 1], &[0, 0]);
            report(&mut driver, which, &[70, 5]);
            assert_eq!(picks(&mut driver, 50), [0, 50]);
        }
    }

    #[test]
    fn unavailable_backends_take_no_sessions() {
        let mut backends = testing::backends(&[1, 0, 1]);
        backends[0].flags = 0;
        let mut driver = Driver::<LeastSignal>::start("{}", &backends, 1).unwrap();
        assert_eq!(picks(&mut driver, 100), [0, 0, 100]);
        driver.set_backends(&[]).unwrap();
        assert_eq!(driver.pick_all(testing::flows(1).take(1)), [Pick::Fallback]);
    }

    #[test]
    fn config_errors_say_what_to_write() {
        let cases = r#"
            {"signal": 4} => expected 0 to 3
            {"max": 0} => leave it out
            {"per_weight": 1} => policy_config.per_weight
            {"signals": 0} => unknown field `signals`
        "#;
        testing::assert_config_errors(cases, |config| {
            Driver::<LeastSignal>::start(config, &[], 1).err().unwrap()
        });
    }
}
