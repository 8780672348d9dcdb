//! Limits how many sessions each client begins in a window of time, over all workers of the balancer. Within
//! the limit backends take turns by weight.
//!
//! Use it against clients that open sessions without end. It counts sessions begun, not open ones, and
//! clients behind one address translation are one client.
//!
//! Invariant: memory and time do not grow with the number of clients ([`SessionLimit`]).

use serde::Deserialize;
use waxwing_sdk::client::ClientPrefix;
use waxwing_sdk::limit::SessionLimit;
use waxwing_sdk::round_robin::WeightedRoundRobin;
use waxwing_sdk::{Backends, ConfigError, Flow, Pick, Policy, export_policy, hash};

/// `policy_config = { sessions = 10, window_s = 1 }`.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The most sessions that a client begins in a window.
    pub sessions: u32,
    /// The length of a window, in seconds.
    pub window_s: u32,
    /// Bits of an IPv4 address that identify a client.
    pub prefix_v4: u32,
    /// Bits of an IPv6 address that identify a client.
    pub prefix_v6: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            sessions: 100,
            window_s: 1,
            prefix_v4: 32,
            prefix_v6: 64,
        }
    }
}

pub struct ClientLimit {
    limit: SessionLimit,
    client: ClientPrefix,
    turns: WeightedRoundRobin,
    limited: u64,
}

impl Policy for ClientLimit {
    type Config = Config;
    const SHARED: usize = SessionLimit::CELLS;
    const TICK_MS: u32 = SessionLimit::TICK_MS;
    const COUNTERS: &'static [&'static str] = &["limited"];

    fn new(config: Config, backends: &Backends<'_>) -> Result<Self, ConfigError> {
        for (key, value) in [("sessions", config.sessions), ("window_s", config.window_s)] {
            if value == 0 {
                return Err(format!("policy_config.{key} = 0: expected 1 or more").into());
            }
        }
        let window_ms = u64::from(config.window_s) * 1000;
        Ok(Self {
            limit: SessionLimit::new(config.sessions.into(), window_ms, backends),
            client: ClientPrefix::new(config.prefix_v4, config.prefix_v6)?,
            turns: WeightedRoundRobin::new(backends.available(), backends.seed()),
            limited: 0,
        })
    }

    fn pick(&mut self, flow: &Flow<'_>, backends: &Backends<'_>) -> Pick {
        let client = hash::bytes(&self.client.of(flow).to_be_bytes());
        if self.limit.admit(client, backends) {
            return self.turns.next().map_or(Pick::Fallback, Pick::Backend);
        }
        self.limited += 1;
        Pick::Drop
    }

    fn backends_changed(&mut self, backends: &Backends<'_>) -> Result<(), ConfigError> {
        self.turns.update(backends.available(), backends.seed());
        Ok(())
    }

    fn counters(&self, values: &mut [u64]) {
        values[0] = self.limited;
    }

    fn tick(&mut self, backends: &Backends<'_>) {
        self.limit.tick(backends);
    }
}

export_policy!(ClientLimit);

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

    use waxwing_sdk::testing::{self, Driver, TestFlow};

    use super::*;

    /// Sessions of clients whose addresses end in these bytes.
    fn sessions(client: u8, count: usize) -> impl Iterator<Item = TestFlow> {
        let flows = testing::flows(u64::from(client)).take(count);
        flows.map(move |flow| flow.from_address([192, 0, 2, client].into()))
    }

    fn driver(config: &str) -> Driver<ClientLimit> {
        Driver::start(config, &testing::backends(&[1, 1]), 1).unwrap()
    }

    fn served(driver: &mut Driver<ClientLimit>, client: u8, count: usize) -> usize {
        let picks = driver.pick_all(sessions(client, count));
        testing::counts(&picks, 2).iter().sum()
    }

    #[test]
    fn a_client_gets_its_limit_in_each_window() {
        let mut driver = driver(r#"{ "sessions": 10, "window_s": 2 }"#);
        assert_eq!(served(&mut driver, 1, 50), 10);
        assert_eq!(served(&mut driver, 2, 9), 9);
        assert_eq!(driver.counters(), [40]);
        (0..8).for_each(|_| driver.tick(250));
        assert_eq!(served(&mut driver, 1, 50), 10);
    }

    #[test]
    fn the_limit_goes_on_over_changed_backends() {
        let mut driver = driver(r#"{ "sessions": 10 }"#);
        assert_eq!(served(&mut driver, 1, 6), 6);
        driver.set_backends(&testing::backends(&[1, 2])).unwrap();
        assert_eq!(served(&mut driver, 1, 50), 4);
    }

    #[test]
    fn a_network_may_be_one_client() {
        let mut driver = driver(r#"{ "sessions": 10, "prefix_v4": 24 }"#);
        assert_eq!(served(&mut driver, 1, 6) + served(&mut driver, 2, 6), 10);
    }

    #[test]
    fn wrong_configs_are_refused() {
        let cases = r#"
            {"sessions": 0} => policy_config.sessions = 0
            {"window_s": 0} => policy_config.window_s = 0
            {"prefix_v4": 33} => policy_config.prefix_v4 = 33
            {"burst": 3} => unknown field `burst`
        "#;
        let backends = testing::backends(&[1]);
        testing::assert_config_errors(cases, |config| {
            let started = Driver::<ClientLimit>::start(config, &backends, 1);
            started.err().unwrap()
        });
    }
}
