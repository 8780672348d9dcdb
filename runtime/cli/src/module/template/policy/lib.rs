//! A policy: a client stays on one backend, whatever its port, until that backend is full.
//!
//! The client's backend depends only on its address and the backends' keys, so all workers and
//! balancers agree, also after a restart. When the backend has `sessions_max` sessions and others
//! have room, new sessions spill over, evenly, by the hash of the whole flow.
//!
//! `by_hash` scores every backend, which is fast enough for a hundred. For thousands build a table
//! in `new` and `backends_changed`, as the shipped `maglev` does. `waxwing module check` shows what
//! a pick costs.

use serde::Deserialize;
use waxwing_sdk::{Backends, ConfigError, Flow, Pick, Policy, export_policy, hash};

/// `policy_config = { sessions_max = 10000 }`; all keys are optional.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Most sessions of a backend before new ones spill over; 0 for no limit.
    pub sessions_max: u32,
}

/// Serves one service. Each worker has its own value.
pub struct ClientHash {
    sessions_max: u32,
    /// Sessions that went to another backend than their client's.
    spilled: u64,
}

impl Policy for ClientHash {
    type Config = Config;

    /// `waxwing status` shows these for each service.
    const COUNTERS: &'static [&'static str] = &["spilled"];

    /// Runs off the hot path: check the config and build tables here. The host shows an error to
    /// the operator and keeps what ran before.
    fn new(config: Config, _: &Backends<'_>) -> Result<Self, ConfigError> {
        if config.sessions_max > 10_000_000 {
            return Err(format!(
                "policy_config.sessions_max = {}: expected 0 (no limit) to 10000000",
                config.sessions_max
            )
            .into());
        }
        Ok(Self {
            sessions_max: config.sessions_max,
            spilled: 0,
        })
    }

    /// Runs on the hot path, up to 64 times in 100 microseconds. `None` becomes `Pick::Fallback`:
    /// the host chooses.
    fn pick(&mut self, flow: &Flow<'_>, backends: &Backends<'_>) -> Pick {
        let own = backends.by_hash(hash::bytes(flow.source_octets()));
        if own.is_none_or(|backend| !self.is_full(backend.load())) {
            return own.into();
        }
        let other = backends.by_hash(flow.hash());
        if other.is_some_and(|backend| !self.is_full(backend.load())) {
            self.spilled += 1;
            return other.into();
        }
        own.into()
    }

    fn counters(&self, values: &mut [u64]) {
        values[0] = self.spilled;
    }
}

impl ClientHash {
    fn is_full(&self, sessions: u32) -> bool {
        self.sessions_max > 0 && sessions >= self.sessions_max
    }
}

export_policy!(ClientHash);

// The tests run the policy natively, through the records that the host writes for a module.
#[cfg(test)]
mod tests {
    use waxwing_sdk::testing::{self, Driver, TestFlow};

    use super::*;

    fn policy(config: &str, weights: &[u32]) -> Result<Driver<ClientHash>, ConfigError> {
        Driver::start(config, &testing::backends(weights), 1)
    }

    fn one_client() -> impl Iterator<Item = TestFlow> {
        testing::flows(1).map(|flow| flow.from_address([192, 0, 2, 7].into()))
    }

    #[test]
    fn a_client_stays_on_its_backend() -> Result<(), ConfigError> {
        let picks = policy("{}", &[1, 1, 1])?.pick_all(one_client().take(300));
        assert!(picks.iter().all(|pick| *pick == picks[0]));
        Ok(())
    }

    #[test]
    fn clients_spread_by_weight() -> Result<(), ConfigError> {
        let weights = [1, 1, 2];
        let picks = policy("{}", &weights)?.pick_all(testing::flows(2).take(10_000));
        assert!(testing::overload(&testing::counts(&picks, 3), &weights) < 0.05);
        Ok(())
    }

    #[test]
    fn a_full_backend_spills_over() -> Result<(), ConfigError> {
        let mut policy = policy(r#"{ "sessions_max": 10 }"#, &[1, 1, 1])?;
        let counts = testing::counts(&policy.pick_all(one_client().take(20)), 3);
        assert_eq!(counts.iter().filter(|count| **count >= 10).count(), 1);
        assert!(policy.counters()[0] > 0);
        Ok(())
    }

    #[test]
    fn without_available_backends_the_host_chooses() -> Result<(), ConfigError> {
        let picks = policy("{}", &[0, 1])?.pick_all(testing::flows(3).take(100));
        assert_eq!(testing::counts(&picks, 2), [0, 100]);
        let picks = policy("{}", &[0, 0])?.pick_all(testing::flows(3).take(100));
        assert!(picks.iter().all(|pick| *pick == Pick::Fallback));
        Ok(())
    }

    #[test]
    fn a_misspelled_key_is_an_error_that_names_the_key() {
        let error = policy(r#"{ "session_max": 10 }"#, &[1])
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default();
        assert!(error.contains("session_max"), "{error}");
    }
}
