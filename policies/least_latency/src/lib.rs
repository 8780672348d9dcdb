//! Least latency: the backend with the lowest `latency * (sessions + 1)`, of all if they are few, else of
//! two drawn by weight. This is Finagle's Peak EWMA (`com.twitter.finagle.loadbalancer.PeakEwma`), applied
//! to the connect time that the balancer measures.
//!
//! Use it when backends are at different distances, or slow down under load. A rising latency
//! counts at once and a falling one gradually, so a backend that slows down is avoided before its
//! queue is long. UDP has no handshake; there this policy is the power of two choices.
//!
//! Invariant: a slow backend is measured again. Its latency counts as long as sessions confirm it; without
//! any it decays, so a backend that is `n` times as slow as the others gets a session at the latest after
//! `decay_ms * ln(n)` or so.

use serde::Deserialize;
use waxwing_sdk::choice::WeightedRandom;
use waxwing_sdk::random::Random;
use waxwing_sdk::{
    Backend, Backends, ConfigError, Flow, PerBackend, Pick, Policy, Saved, export_policy,
};

/// `policy_config = { decay_ms = 10000, failure_penalty = 100, tolerance_us = 1000 }`.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Decay time of a latency peak, and of the latency of a backend without new sessions, in milliseconds.
    /// After this time a third is left.
    decay_ms: u32,
    /// Cost factor of a backend that refuses every session; one that refuses a tenth of them costs
    /// a tenth of that more. 0 ignores failures.
    failure_penalty: u32,
    /// Added to each latency, in microseconds, so that differences far below it do not count. In one rack
    /// they are noise: what a server's scheduler or an interrupt added to one handshake.
    tolerance_us: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            decay_ms: 10_000,
            failure_penalty: 100,
            tolerance_us: 1_000,
        }
    }
}

/// The form of the state: the lowest latency, and the peak of each backend.
const STATE_FORM: u32 = 1;

/// Chooses by the peak latencies of the backends.
pub struct LeastLatency {
    decay_ms: f64,
    penalty_per_ppm: f64,
    tolerance_us: f64,
    backends: WeightedRandom,
    peaks: PerBackend<Peak>,
    /// The lowest latency of the previous pick, in microseconds.
    fastest_us: f64,
    random: Random,
}

impl Policy for LeastLatency {
    type Config = Config;
    const SAVES: bool = true;

    fn new(config: Config, backends: &Backends<'_>) -> Result<Self, ConfigError> {
        if config.decay_ms == 0 {
            return Err(
                "policy_config.decay_ms = 0: expected 1 or more milliseconds, like 10000".into(),
            );
        }
        let mut least = Self {
            decay_ms: f64::from(config.decay_ms),
            penalty_per_ppm: f64::from(config.failure_penalty) / 1e6,
            tolerance_us: f64::from(config.tolerance_us),
            backends: WeightedRandom::default(),
            peaks: PerBackend::default(),
            // Without tolerance, sessions must count before anything was measured.
            fastest_us: 1.0,
            random: Random::new(backends.seed()),
        };
        least.backends_changed(backends)?;
        Ok(least)
    }

    fn pick(&mut self, _: &Flow<'_>, backends: &Backends<'_>) -> Pick {
        let mut fastest_us: Option<f64> = None;
        let least = self.backends.least(&mut self.random, backends, |backend| {
            let peak = self.peaks.get_mut(backend.index());
            let us = peak.and_then(|peak| peak.look(backend, backends.now_ms(), self.decay_ms));
            if let Some(us) = us {
                fastest_us = Some(fastest_us.map_or(us, |fastest| fastest.min(us)));
            }
            // A backend without a measurement gets one soon if it is assumed to be fast.
            let us = us.unwrap_or(self.fastest_us) + self.tolerance_us;
            us * burden(backend, self.penalty_per_ppm)
        });
        self.fastest_us = fastest_us.unwrap_or(self.fastest_us);
        least.into()
    }

    fn backends_changed(&mut self, backends: &Backends<'_>) -> Result<(), ConfigError> {
        self.backends = WeightedRandom::new(backends.available());
        self.peaks.update(backends);
        Ok(())
    }

    fn save(&self, backends: &Backends<'_>, out: &mut Vec<u8>) {
        out.extend(STATE_FORM.to_le_bytes());
        out.extend(self.fastest_us.to_le_bytes());
        for (key, peak) in self.peaks.by_key(backends) {
            out.extend(key.to_le_bytes());
            out.extend(peak.us.to_le_bytes());
            out.extend(peak.looked_ms.to_le_bytes());
        }
    }

    fn restore(config: Config, backends: &Backends<'_>, saved: &[u8]) -> Result<Self, ConfigError> {
        let mut least = Self::new(config, backends)?;
        let mut saved = Saved::of_form(STATE_FORM, saved)?;
        least.fastest_us = latency(&mut saved)?;
        let mut peaks = Vec::new();
        while !saved.is_empty() {
            let key = saved.u64()?;
            let (us, looked_ms) = (latency(&mut saved)?, saved.u64()?);
            let sessions = None;
            let peak = Peak {
                us,
                looked_ms,
                sessions,
            };
            peaks.push((key, peak));
        }
        least.peaks = PerBackend::from_keys(backends, peaks);
        Ok(least)
    }
}

/// Reads a latency.
fn latency(saved: &mut Saved<'_>) -> Result<f64, ConfigError> {
    let us = f64::from_le_bytes(saved.bytes()?);
    if us.is_finite() && us >= 0.0 {
        Ok(us)
    } else {
        Err(format!("the state has a latency of {us} microseconds").into())
    }
}

/// Returns the cost of a session per unit of latency: the sessions that share the backend, and its failures.
fn burden(backend: &Backend<'_>, penalty_per_ppm: f64) -> f64 {
    let sessions = f64::from(backend.load()) + 1.0;
    let failures = f64::from(backend.failures_ppm()) * penalty_per_ppm;
    sessions * (1.0 + failures) / f64::from(backend.weight())
}

/// A latency that rises at once and decays slowly.
#[derive(Clone, Copy, Default)]
struct Peak {
    us: f64,
    looked_ms: u64,
    /// The backend's sessions so far. More of them confirm its latency.
    sessions: Option<u64>,
}

impl Peak {
    /// Returns the backend's latency in microseconds, or what is left of a higher one; `None` if it was
    /// not measured.
    fn look(&mut self, backend: &Backend<'_>, now_ms: u64, decay_ms: f64) -> Option<f64> {
        let latency_us = f64::from(backend.latency_us()?);
        let sessions = Some(backend.sessions_total());
        let is_confirmed = self.sessions != sessions;
        self.sessions = sessions;
        let elapsed_ms = now_ms.saturating_sub(self.looked_ms);
        self.looked_ms = now_ms;
        Some(self.decay(latency_us, is_confirmed, elapsed_ms, decay_ms))
    }

    /// Decays exponentially, by one implicit step per look, which is exact arithmetic in Wasm and natively:
    /// a confirmed latency never falls below what was measured, another one decays to nothing. A
    /// measurement that is higher counts at once.
    fn decay(
        &mut self,
        latency_us: f64,
        is_confirmed: bool,
        elapsed_ms: u64,
        decay_ms: f64,
    ) -> f64 {
        let elapsed_ms = f64::from(u32::try_from(elapsed_ms).unwrap_or(u32::MAX));
        let left = decay_ms / (decay_ms + elapsed_ms);
        self.us = if is_confirmed {
            latency_us + (self.us - latency_us).max(0.0) * left
        } else {
            self.us * left
        };
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
    fn noise_below_the_tolerance_does_not_count() {
        let mut tolerant = simulator("{}", &[100, 300]);
        let got = sessions(&mut tolerant, 10_000);
        assert!(got[1] > got[0] * 8 / 10, "{got:?}");
        let mut exact = simulator(r#"{"tolerance_us": 0}"#, &[100, 300]);
        let got = sessions(&mut exact, 10_000);
        assert!(got[1] < got[0] / 2, "{got:?}");
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
            for (is_confirmed, at_last) in [(true, 1_000.0), (false, 0.0)] {
                let mut peak = Peak::default();
                peak.decay(1_000_000.0 + at_last, true, 0, 10_000.0);
                let mut us = 0.0;
                for _ in 0..steps {
                    us = peak.decay(1_000.0, is_confirmed, 10_000 / steps, 10_000.0);
                }
                let left = (us - at_last) / 1_000_000.0;
                assert!((0.36..0.38).contains(&left), "{steps} steps: {left}");
            }
        }
    }

    #[test]
    fn a_backend_without_a_measurement_is_assumed_to_be_fast() {
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
    fn a_backend_that_was_slow_is_measured_again_under_low_load() {
        let mut simulator = simulator("{}", &[1_000, 1_000, 1_000, 1_000_000]);
        simulator.sessions_per_s = 10;
        // No other backend ever has two sessions.
        simulator.durations = Durations::Fixed(10);
        sessions(&mut simulator, 10_000);
        let first_minute = sessions(&mut simulator, 50_000);
        let second_minute = sessions(&mut simulator, 60_000);
        assert_eq!(first_minute[3], 0, "a thousand times as slow");
        assert!((1..=2).contains(&second_minute[3]), "{second_minute:?}");
        simulator.backends_mut()[3].latency_us = 1_000;
        sessions(&mut simulator, 100_000);
        let recovered = sessions(&mut simulator, 100_000);
        assert!(recovered[3] > 150, "{recovered:?}");
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
            {"tolerance_us": -1} => policy_config.tolerance_us
            {"decay": 5} => unknown field `decay`
        "#;
        testing::assert_config_errors(cases, |config| {
            Driver::<LeastLatency>::start(config, &[], 1).err().unwrap()
        });
    }
}
