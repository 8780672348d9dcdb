//! Source hash: all sessions of a client go to one backend, by the client's address (as with IPVS's
//! `sh` and nginx's `ip_hash`).
//!
//! Use it when a server keeps state of a client between connections: a login, a cache, FTP's two
//! connections. Clients behind one NAT count as one. There is no table of clients, so a restarted
//! or second balancer finds the same backends. A client with many addresses can choose ones that
//! map to one backend; a shorter `prefix_v6`, such as 64, leaves it fewer of them.
//!
//! It uses a Maglev table rather than a scan for the highest random weight: a lookup costs the same
//! for any number of backends, and the shares of addresses are even within one or two percent.
//!
//! Invariant: a pick depends only on the available backends' keys and weights, the config and the
//! client's address.

use serde::Deserialize;
use waxwing_sdk::client::ClientPrefix;
use waxwing_sdk::maglev::Table;
use waxwing_sdk::{Backends, ConfigError, Flow, Pick, Policy, export_policy, hash};

/// `policy_config = { prefix_v4 = 32, prefix_v6 = 128, table = 65537 }`.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Bits of an IPv4 address that count, 1 to 32; 24 keeps a network of 256 together.
    prefix_v4: u32,
    /// Bits of an IPv6 address that count, 1 to 128; 64 keeps a host with changing addresses
    /// together (RFC 8981).
    prefix_v6: u32,
    /// Entries of the table, two bytes each: a prime, at least a hundred times the number of
    /// backends.
    table: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            prefix_v4: 32,
            prefix_v6: 128,
            table: 65_537,
        }
    }
}

/// Maps the hash of a client's prefix to a backend.
pub struct SourceHash {
    table: Table,
    prefix: ClientPrefix,
}

impl Policy for SourceHash {
    type Config = Config;

    fn new(config: Config, backends: &Backends<'_>) -> Result<Self, ConfigError> {
        let table = Table::new(backends.available(), config.table);
        Ok(Self {
            table: table.map_err(|error| error.at("policy_config.table"))?,
            prefix: ClientPrefix::new(config.prefix_v4, config.prefix_v6)?,
        })
    }

    fn pick(&mut self, flow: &Flow<'_>, _: &Backends<'_>) -> Pick {
        let client = self.prefix.of(flow);
        let index = self.table.get(hash::bytes(&client.to_be_bytes()));
        index.map_or(Pick::Fallback, Pick::Backend)
    }
}

export_policy!(SourceHash);

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

    use waxwing_sdk::testing::{self, Driver, TestFlow, counts, disruption, overload};

    use super::*;

    fn driver(config: &str, weights: &[u32]) -> Driver<SourceHash> {
        Driver::start(config, &testing::backends(weights), 1).unwrap()
    }

    fn from(address: &str) -> impl Iterator<Item = TestFlow> {
        let address = address.parse().unwrap();
        testing::flows(1).map(move |flow| flow.from_address(address))
    }

    #[test]
    fn a_client_stays_on_one_backend_and_clients_spread() {
        let mut driver = driver("{}", &[1; 10]);
        for address in ["192.0.2.7", "2001:db8::7"] {
            let picks = driver.pick_all(from(address).take(200));
            assert!(picks.iter().all(|pick| *pick == picks[0]), "{address}");
        }
        let picks = driver.pick_all(testing::flows(1).take(200_000));
        let over = overload(&counts(&picks, 10), &[1; 10]);
        assert!(over < 0.03, "{over}");
    }

    #[test]
    fn addresses_of_one_prefix_share_a_backend() {
        let config = r#"{"prefix_v4": 24, "prefix_v6": 64}"#;
        let mut driver = driver(config, &[1; 50]);
        let cases = [
            ("192.0.2.1", "192.0.2.254", true),
            ("192.0.2.1", "192.0.3.1", false),
            ("2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
        ];
        for (one, other, together) in cases {
            let picks = driver.pick_all(from(one).take(1).chain(from(other).take(1)));
            assert_eq!(picks[0] == picks[1], together, "{one} and {other}");
        }
    }

    #[test]
    fn removing_a_backend_moves_few_other_clients() {
        let before = testing::backends(&[1; 100]);
        let mut after = before.clone();
        after.remove(31);
        let picks = |backends: &[_]| {
            let mut driver = Driver::<SourceHash>::start("{}", backends, 1).unwrap();
            driver.pick_all(testing::flows(1).take(100_000))
        };
        let moved = disruption((&picks(&before), &before), (&picks(&after), &after));
        assert!(moved <= 0.02, "{moved}");
    }

    #[test]
    fn a_change_of_backends_rebuilds_the_table() {
        let mut driver = driver("{}", &[1, 1, 1]);
        driver.set_backends(&testing::backends(&[0, 1, 0])).unwrap();
        let picks = driver.pick_all(testing::flows(1).take(100));
        assert_eq!(picks, [Pick::Backend(1); 100]);
        driver.set_backends(&[]).unwrap();
        assert_eq!(driver.pick_all(testing::flows(1).take(1)), [Pick::Fallback]);
    }

    #[test]
    fn config_errors_say_what_to_write() {
        let cases = r#"
            {"prefix_v4": 33} => policy_config.prefix_v4 = 33: expected 1 to 32
            {"prefix_v6": 0} => policy_config.prefix_v6 = 0: expected 1 to 128
            {"table": 65536} => policy_config.table: 65536 entries; expected a prime
            {"prefix": 24} => unknown field `prefix`, expected one of `prefix_v4`
        "#;
        testing::assert_config_errors(cases, |config| {
            Driver::<SourceHash>::start(config, &[], 1).err().unwrap()
        });
    }
}
