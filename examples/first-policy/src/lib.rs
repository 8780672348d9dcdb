//! A first policy: a client stays on one backend, whatever its port.

use waxwing_sdk::{Backends, ConfigError, Flow, NoConfig, Pick, Policy, export_policy, hash};

/// Chooses by the client's address.
pub struct BySource;

impl Policy for BySource {
    type Config = NoConfig;

    fn new(_: NoConfig, _: &Backends<'_>) -> Result<Self, ConfigError> {
        Ok(Self)
    }

    fn pick(&mut self, flow: &Flow<'_>, backends: &Backends<'_>) -> Pick {
        backends.by_hash(hash::bytes(flow.source_octets())).into()
    }
}

export_policy!(BySource);

#[cfg(test)]
mod tests {
    use waxwing_sdk::testing::{self, Driver};

    use super::*;

    #[test]
    fn a_client_stays_and_clients_spread() -> Result<(), ConfigError> {
        let mut driver = Driver::<BySource>::start("{}", &testing::backends(&[1, 1, 2]), 1)?;
        let client = testing::flows(1).map(|flow| flow.from_address([192, 0, 2, 7].into()));
        let picks = driver.pick_all(client.take(100));
        assert!(picks.iter().all(|pick| *pick == picks[0]));

        let picks = driver.pick_all(testing::flows(2).take(10_000));
        assert!(testing::overload(&testing::counts(&picks, 3), &[1, 1, 2]) < 0.05);
        Ok(())
    }
}
