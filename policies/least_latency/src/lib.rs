//! Least latency: of two backends drawn by weight, the one with the lower `latency * (active + 1)`.
//! This is Finagle's Peak EWMA (`com.twitter.finagle.loadbalancer.PeakEwma`), applied to the
//! connect time that the balancer measures.
//!
//! Use it when backends are at different distances, or slow down under load. A rising latency
//! counts at once and a falling one gradually, so a backend that slows down is avoided before its
//! queue is long. UDP has no handshake; there this policy is the power of two choices.
//!
//! Invariant: a pick examines two backends, drawn by weight alone. So a slow backend is drawn as
//! often as a fast one, and gets a session, which measures it again, whenever the other one is busy
//! enough.

use serde::Deserialize;
use waxwing_sdk::choice::WeightedRandom;
use waxwing_sdk::random::Random;
use waxwing_sdk::{Backend, Backends, ConfigError, Flow, PerBackend, Pick, Policy, export_policy};

/// `policy_config = { decay_ms = 10000, failure_penalty = 100 }`.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Decay time of a latency peak, in milliseconds. After this time a third of the peak is left.
    decay_ms: u32,
    /// Cost factor of a backend that refuses every session; one that refuses a tenth of them costs
    /// a tenth of that more. 0 ignores failures.
    failure_penalty: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            decay_ms: 10_000,
            failure_penalty: 100,
        }
    }
}

/// Chooses by the peak latencies of the backends.
pub struct LeastLatency {
    decay_ms: f64,
    penalty_per_ppm: f64,
    backends: WeightedRandom,
    peaks: PerBackend<Peak>,
    random: Random,
}

impl Policy for LeastLatency {
    type Config = Config;

    fn new(config: Config, backends: &Backends<'_>) -> Result<Self, ConfigError> {
        if config.decay_ms == 0 {
            return Err(
                "policy_config.decay_ms = 0: expected 1 or more milliseconds, like 10000".into(),
            );
        }
        let mut least = Self {
            decay_ms: f64::from(config.decay_ms),
            penalty_per_ppm: f64::from(config.failure_penalty) / 1e6,
            backends: WeightedRandom::default(),
            peaks: PerBackend::default(),
            random: Random::new(backends.seed()),
        };
        least.backends_changed(backends)?;
        Ok(least)
    }

    fn pick(&mut self, _: &Flow<'_>, backends: &Backends<'_>) -> Pick {
        let random = (self.random.next(), self.random.next());
        let two = self.backends.pick_two(random);
        let two = two.and_then(|(a, b)| Some((backends.get(a)?, backends.get(b)?)));
        let Some((a, b)) = two else {
            return Pick::Fallback;
        };
        let now_ms = backends.now_ms();
        let (of_a, of_b) = (self.latency(&a, now_ms), self.latency(&b, now_ms));
        // A backend without a measurement is assumed to be like the other.
        let cost_a = of_a.or(of_b).unwrap_or(1.0) * self.burden(&a);
        let cost_b = of_b.or(of_a).unwrap_or(1.0) * self.burden(&b);
        Pick::from(if cost_b < cost_a { b } else { a })
    }

    fn backends_changed(&mut self, backends: &Backends<'_>) -> Result<(), ConfigError> {
        self.backends = WeightedRandom::new(backends.available());
        self.peaks.update(backends);
        Ok(())
    }
}

impl LeastLatency {
    /// Returns a backend's latency in microseconds, or what is left of a higher peak.
    fn latency(&mut self, backend: &Backend<'_>, now_ms: u64) -> Option<f64> {
        let latency_us = f64::from(backend.latency_us()?);
        let peak = self.peaks.get_mut(backend.index())?;
        Some(peak.look(latency_us, now_ms, self.decay_ms))
    }

    /// Returns the cost of a session per unit of latency: the sessions that share the backend, and
    /// its failures.
    fn burden(&self, backend: &Backend<'_>) -> f64 {
        let sessions = f64::from(backend.load()) + 1.0;
        let failures = f64::from(backend.failures_ppm()) * self.penalty_per_ppm;
        sessions * (1.0 + failures) / f64::from(backend.weight())
    }
}

/// A latency that rises at once and decays slowly.
#[derive(Clone, Copy, Default)]
struct Peak {
    us: f64,
    looked_ms: u64,
}

impl Peak {
    /// Updates the peak. It decays exponentially, by one implicit step per look, which is exact
    /// arithmetic in Wasm and natively, and never falls below the latency.
    fn look(&mut self, latency_us: f64, now_ms: u64, decay_ms: f64) -> f64 {
        let elapsed_ms = now_ms.saturating_sub(self.looked_ms);
        let elapsed_ms = f64::from(u32::try_from(elapsed_ms).unwrap_or(u32::MAX));
        let above = (self.us - latency_us).max(0.0);
        self.us = latency_us + above * decay_ms / (decay_ms + elapsed_ms);
        self.looked_ms = now_ms;
        self.us
    }
}

export_policy!(LeastLatency);

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

    use waxwing_sdk::testing::{self, Driver, Durations, Simulator};

    use super::*;

    /// Returns a simulator with backends of weight 1 and these connect times in microseconds; 0 is
    /// not measured.
    fn simulator(config: &str, latencies_us: &[u32]) -> Simulator<LeastLatency> {
        let mut backends = testing::backends(&vec![1; latencies_us.len()]);
        for (backend, latency_us) in backends.iter_mut().zip(latencies_us) {
            backend.latency_us = *latency_us;
        }
        let mut simulator = Simulator::start(config, &backends, 5).unwrap();
        simulator.sessions_per_s = 1000;
        simulator.durations = Durations::Exponential(50);
        simulator
    }

    /// Returns the sessions of each backend in the next `ms` milliseconds.
    fn sessions(simulator: &mut Simulator<LeastLatency>, ms: u64) -> Vec<usize> {
        simulator.reset();
        simulator.run(ms);
        let ids: Vec<_> = simulator.backends_mut().iter().map(|b| b.id).collect();
        ids.iter().map(|id| simulator.stats(*id).sessions).collect()
    }

    #[test]
    fn faster_backends_get_more_sessions() {
        let mut simulator = simulator("{}", &[1_000, 1_000, 2_000, 20_000]);
        let got = sessions(&mut simulator, 20_000);
        assert!(got[0].abs_diff(got[1]) < got[0] / 10, "{got:?}");
        assert!(got[2] < got[0] * 3 / 4 && got[2] > got[0] / 4, "{got:?}");
        // Twenty times slower: few sessions, but more than none.
        assert!(got[3] < got[0] / 5 && got[3] > 0, "{got:?}");
    }

    #[test]
    fn backends_of_equal_latency_share_by_weight() {
        let mut backends = testing::backends(&[1, 2, 5]);
        for backend in &mut backends {
            backend.latency_us = 500;
        }
        let mut driver = Driver::<LeastLatency>::start("{}", &backends, 1).unwrap();
        driver.pick_all(testing::flows(1).take(8_000));
        for (load, expected) in driver.loads().iter().zip([1_000, 2_000, 5_000]) {
            assert!(load.abs_diff(expected) < expected / 50, "{load}");
        }
    }

    #[test]
    fn a_peak_counts_at_once_and_decays_gradually() {
        let mut simulator = simulator(r#"{"decay_ms": 5000}"#, &[1_000, 1_000]);
        sessions(&mut simulator, 2_000);
        simulator.backends_mut()[1].latency_us = 50_000;
        let at_peak = sessions(&mut simulator, 100)[1];
        simulator.backends_mut()[1].latency_us = 1_000;
        let just_after = sessions(&mut simulator, 100)[1];
        let later = sessions(&mut simulator, 10_000);
        sessions(&mut simulator, 40_000);
        let in_the_end = sessions(&mut simulator, 1_000)[1];
        assert!(at_peak <= 10 && just_after <= 10, "{at_peak}, {just_after}");
        assert!(later[1] < later[0], "{later:?}");
        assert!((450..550).contains(&in_the_end), "{in_the_end} of 1000");
    }

    #[test]
    fn a_peak_decays_to_a_third_in_decay_ms_for_any_number_of_looks() {
        for steps in [20, 100, 1_000, 10_000] {
            let mut peak = Peak::default();
            peak.look(1_001_000.0, 0, 10_000.0);
            let mut us = 0.0;
            for step in 1..=steps {
                us = peak.look(1_000.0, step * 10_000 / steps, 10_000.0);
            }
            let left = (us - 1_000.0) / 1_000_000.0;
            assert!((0.36..0.38).contains(&left), "{steps} steps: {left}");
        }
    }

    #[test]
    fn a_backend_without_a_measurement_is_assumed_average() {
        let mut simulator = simulator("{}", &[1_000, 1_000, 0]);
        let got = sessions(&mut simulator, 10_000);
        assert!(
            got[2] > got[0] * 9 / 10 && got[2] < got[0] * 11 / 10,
            "{got:?}"
        );
        // No latency is measured, as over UDP: the power of two choices.
        let mut simulator = self::simulator("{}", &[0, 0, 0]);
        simulator.run(10_000);
        assert!(simulator.fairness() > 0.999);
    }

    #[test]
    fn a_failing_backend_gets_few_sessions() {
        let mut simulator = simulator("{}", &[1_000, 1_000, 1_000]);
        simulator.backends_mut()[2].failures_ppm = 500_000;
        let got = sessions(&mut simulator, 10_000);
        assert!(got[2] < got[0] / 5, "{got:?}");
        let mut ignores = self::simulator(r#"{"failure_penalty": 0}"#, &[1_000; 3]);
        ignores.backends_mut()[2].failures_ppm = 500_000;
        let drawn = sessions(&mut ignores, 10_000);
        assert!(
            drawn[2] > drawn[0],
            "{drawn:?}: refused sessions look like idleness"
        );
    }

    #[test]
    fn unavailable_backends_take_no_sessions() {
        let mut backends = testing::backends(&[1, 0, 1]);
        backends[0].flags = 0;
        let mut driver = Driver::<LeastLatency>::start("{}", &backends, 1).unwrap();
        let picks = driver.pick_all(testing::flows(1).take(100));
        assert_eq!(testing::counts(&picks, 3), [0, 0, 100]);
        driver.set_backends(&[]).unwrap();
        assert_eq!(driver.pick_all(testing::flows(1).take(1)), [Pick::Fallback]);
    }

    #[test]
    fn config_errors_say_what_to_write() {
        let cases = r#"
            {"decay_ms": 0} => like 10000
            {"failure_penalty": -1} => policy_config.failure_penalty
            {"decay": 5} => unknown field `decay`
        "#;
        testing::assert_config_errors(cases, |config| {
            Driver::<LeastLatency>::start(config, &[], 1).err().unwrap()
        });
    }
}
