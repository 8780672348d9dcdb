//! Destination hash: all sessions to one VIP and port go to one backend (IPVS's `dh`, which hashes
//! only the address).
//!
//! A service has one VIP and port, so **all its sessions go to one backend**; the others are
//! spares. Use it when many services share the same servers and each service should stay on one:
//! caches that would otherwise all hold everything, or shards that move only when their server
//! goes. Weights share out services.
//!
//! It uses a Maglev table, small by default, because a service only ever reads one entry.
//!
//! Invariant: a pick depends only on the available backends' keys and weights, the size of the
//! table and the destination. So balancers agree, and a service rarely moves unless its server
//! goes.

use serde::Deserialize;
use waxwing_sdk::maglev::Table;
use waxwing_sdk::{Backends, ConfigError, Flow, Pick, Policy, export_policy, hash};

/// `policy_config = { table = 5003 }`.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Entries of the table, two bytes each: a prime, at least the number of backends. More entries
    /// make the shares of services more even.
    table: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self { table: 5003 }
    }
}

/// Maps the hash of a destination to a backend.
pub struct DestinationHash {
    table: Table,
}

impl Policy for DestinationHash {
    type Config = Config;

    fn new(config: Config, backends: &Backends<'_>) -> Result<Self, ConfigError> {
        let table = Table::new(backends.available(), config.table);
        let table = table.map_err(|error| error.at("policy_config.table"))?;
        Ok(Self { table })
    }

    fn pick(&mut self, flow: &Flow<'_>, _: &Backends<'_>) -> Pick {
        let address = hash::bytes(flow.destination_octets());
        let port = u64::from(flow.destination().port());
        let index = self.table.get(hash::mix(address ^ port));
        index.map_or(Pick::Fallback, Pick::Backend)
    }
}

export_policy!(DestinationHash);

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

    use std::net::{Ipv4Addr, SocketAddr};

    use waxwing_sdk::abi::BackendRecord;
    use waxwing_sdk::testing::{self, Driver, TestFlow, counts, disruption, overload};

    use super::*;

    fn driver(backends: &[BackendRecord]) -> Driver<DestinationHash> {
        Driver::start("{}", backends, 1).unwrap()
    }

    /// Flows to ten thousand services: a hundred VIPs with a hundred ports each.
    fn services() -> impl Iterator<Item = TestFlow> {
        let destinations = (0..100).flat_map(|vip| {
            let address = Ipv4Addr::new(203, 0, 113, vip);
            (1..101).map(move |port| SocketAddr::from((address, port)))
        });
        let flows = testing::flows(1).zip(destinations);
        flows.map(|(flow, destination)| flow.to_destination(destination))
    }

    #[test]
    fn a_service_stays_on_one_backend_and_services_follow_weights() {
        let weights = [1, 2, 3, 4];
        let mut driver = driver(&testing::backends(&weights));
        for service in services().take(20) {
            let record = service.record;
            let destination =
                SocketAddr::from((Ipv4Addr::new(203, 0, 113, 0), record.destination_port));
            let clients = testing::flows(7).map(|flow| flow.to_destination(destination));
            let picks = driver.pick_all(clients.take(100));
            assert_eq!(picks, [driver.pick(&[service])[0]; 100]);
        }
        let over = overload(&counts(&driver.pick_all(services()), 4), &weights);
        assert!(over < 0.1, "{over}");
    }

    #[test]
    fn ports_and_address_families_are_different_destinations() {
        let mut driver = driver(&testing::backends(&[1; 100]));
        let flow = testing::flows(1).next().unwrap();
        let to = |destination: &str| flow.clone().to_destination(destination.parse().unwrap());
        let picks = driver.pick(&[
            to("203.0.113.1:80"),
            to("203.0.113.1:443"),
            to("[2001:db8::1]:80"),
        ]);
        assert!(picks[0] != picks[1] && picks[0] != picks[2], "{picks:?}");
    }

    #[test]
    fn removing_a_backend_moves_few_other_services() {
        let before = testing::backends(&[1; 20]);
        let mut after = before.clone();
        after.remove(7);
        let (old, new) = (
            driver(&before).pick_all(services()),
            driver(&after).pick_all(services()),
        );
        let moved = disruption((&old, &before), (&new, &after));
        assert!(moved <= 0.05, "{moved}");
        assert_eq!(counts(&new, 19).iter().sum::<usize>(), 10_000);
    }

    #[test]
    fn a_change_of_backends_rebuilds_the_table() {
        let mut driver = driver(&testing::backends(&[1, 1, 1]));
        driver.set_backends(&testing::backends(&[0, 1, 0])).unwrap();
        let picks = driver.pick_all(testing::flows(1).take(10));
        assert_eq!(picks, [Pick::Backend(1); 10]);
        driver.set_backends(&[]).unwrap();
        assert_eq!(driver.pick_all(testing::flows(1).take(1)), [Pick::Fallback]);
    }

    #[test]
    fn the_default_table_has_room_for_the_most_backends() {
        let mut driver = driver(&testing::backends(&[1; 4096]));
        assert_ne!(driver.pick_all(testing::flows(1).take(1)), [Pick::Fallback]);
        let started = Driver::<DestinationHash>::start(r#"{"table": 5000}"#, &[], 1);
        let error = started.err().unwrap();
        assert!(
            error
                .reason()
                .contains("policy_config.table: 5000 entries; expected a prime"),
            "{error}"
        );
    }
}
