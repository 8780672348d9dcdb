#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::collections::BTreeMap;
use std::net::IpAddr;

use waxwing_packet::{Address, Mac, Protocol, VlanTags};

use super::*;
use crate::session::TcpState;
use crate::{BackendId, SourceId, Tick};

fn address(text: &str) -> Address {
    text.parse::<IpAddr>().unwrap().into()
}

fn prefix(text: &str) -> Prefix {
    let (base, len) = text.split_once('/').unwrap();
    Prefix::new(address(base), len.parse().unwrap())
}

fn to(gateways: &[u32]) -> Path {
    Path::Gateways(gateways.into())
}

fn hop(n: u8) -> NextHop {
    NextHop {
        port: PortId(n),
        mac: Mac([2, 0, 0, 0, 0, n]),
    }
}

/// A table whose gateways are all resolved, the n-th to `hop(n)`.
fn table(routes: &[(&str, Path)], gateways: u8) -> Routes {
    let routes = routes
        .iter()
        .map(|(text, path)| (prefix(text), path.clone()));
    let table = Routes::new(&routes.collect(), gateways.into());
    for n in 0..gateways {
        table.set_gateway(n.into(), Some(hop(n)));
    }
    table
}

fn session(client: Address, client_port: u16) -> Session {
    Session {
        client,
        client_port,
        service_port: 80,
        source: SourceId::CLIENT,
        source_port: client_port,
        protocol: Protocol::Tcp,
        worker: 0,
        backend: BackendId(0),
        hop: hop(9),
        tags: VlanTags::NONE,
        created: Tick(0),
        seen: Tick(0),
        tcp: TcpState::default(),
    }
}

fn find(table: &Routes, client: &str) -> RouteLookup {
    table.find(&session(address(client), 4000))
}

#[test]
fn the_longest_matching_prefix_wins() {
    let table = table(
        &[
            ("0.0.0.0/0", to(&[0])),
            ("10.0.0.0/8", to(&[1])),
            ("10.1.0.0/16", Path::OnLink(PortId(3))),
            ("10.1.2.0/24", Path::Refused),
            ("10.1.2.3/32", to(&[2])),
            ("255.255.255.255/32", Path::Elsewhere),
            ("2001:db8::/32", to(&[3])),
            ("2001:db8:1::/48", Path::Elsewhere),
            ("ffff::/16", to(&[1])),
        ],
        4,
    );
    for (client, found) in [
        ("0.0.0.0", RouteLookup::Hop(hop(0))),
        ("9.255.255.255", RouteLookup::Hop(hop(0))),
        ("10.0.0.0", RouteLookup::Hop(hop(1))),
        ("10.0.255.255", RouteLookup::Hop(hop(1))),
        ("10.1.0.0", RouteLookup::OnLink(PortId(3))),
        ("10.1.1.255", RouteLookup::OnLink(PortId(3))),
        ("10.1.2.0", RouteLookup::NoRoute),
        ("10.1.2.2", RouteLookup::NoRoute),
        ("10.1.2.3", RouteLookup::Hop(hop(2))),
        ("10.1.2.4", RouteLookup::NoRoute),
        ("10.1.3.0", RouteLookup::OnLink(PortId(3))),
        ("10.1.255.255", RouteLookup::OnLink(PortId(3))),
        ("10.2.0.0", RouteLookup::Hop(hop(1))),
        ("11.0.0.0", RouteLookup::Hop(hop(0))),
        ("255.255.255.254", RouteLookup::Hop(hop(0))),
        ("255.255.255.255", RouteLookup::Unusable),
        ("::", RouteLookup::NoRoute),
        ("2001:db7:ffff::1", RouteLookup::NoRoute),
        ("2001:db8::1", RouteLookup::Hop(hop(3))),
        ("2001:db8:1::", RouteLookup::Unusable),
        ("2001:db8:1:ffff:ffff:ffff:ffff:ffff", RouteLookup::Unusable),
        ("2001:db8:2::", RouteLookup::Hop(hop(3))),
        ("2001:db9::", RouteLookup::NoRoute),
        (
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            RouteLookup::Hop(hop(1)),
        ),
    ] {
        assert_eq!(find(&table, client), found, "{client}");
    }
}

#[test]
fn an_empty_table_has_no_route() {
    for client in ["0.0.0.0", "198.51.100.7", "::", "2001:db8::1"] {
        assert_eq!(
            find(&Routes::default(), client),
            RouteLookup::NoRoute,
            "{client}"
        );
        assert_eq!(
            find(&table(&[], 0), client),
            RouteLookup::NoRoute,
            "{client}"
        );
    }
}

/// Random prefixes, close together so that they nest, against a search that looks at all of them.
#[test]
fn every_look_up_finds_what_a_look_at_all_prefixes_finds() {
    for seed in 1..=200_u64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut random = |below: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 33) % below
        };
        let v4 = seed % 2 == 0;
        let somewhere = |random: &mut dyn FnMut(u64) -> u64| {
            let low = random(64);
            let high = random(4) << 30;
            match v4 {
                true => Address::v4(u32::try_from(high | low).unwrap().to_be_bytes()),
                false => Address::from_bits(u128::from(high) << 96 | u128::from(low)),
            }
        };
        let mut routes = BTreeMap::new();
        for n in 0..random(40) {
            let at = somewhere(&mut random);
            let width = if v4 { 32 } else { 128 };
            let len = match random(3) {
                0 => random(3),
                _ => width - random(8),
            };
            let path = match random(5) {
                0 => Path::Refused,
                _ => Path::OnLink(PortId((n % 7) as u8)),
            };
            routes.insert(Prefix::new(at, u8::try_from(len).unwrap()), path);
        }
        let table = Routes::new(&routes, 0);
        for _ in 0..200 {
            let client = somewhere(&mut random);
            let holds = |prefix: &Prefix| {
                let (first, last) = prefix.bounds();
                (first..=last).contains(&client)
            };
            let longest = routes.iter().filter(|(prefix, _)| holds(prefix));
            let expected = match longest.max_by_key(|(prefix, _)| prefix.bits()) {
                Some((_, Path::OnLink(port))) => RouteLookup::OnLink(*port),
                _ => RouteLookup::NoRoute,
            };
            let found = table.find(&session(client, 1));
            assert_eq!(found, expected, "seed {seed}: {client} in {routes:?}");
        }
    }
}

#[test]
fn flows_are_spread_over_gateways_by_weight_and_each_stays_with_its_own() {
    let table = table(&[("0.0.0.0/0", to(&[0, 0, 0, 1]))], 2);
    let mut shares = [0; 2];
    for port in 1..=10_000 {
        let flow = session(address("198.51.100.7"), port);
        let RouteLookup::Hop(first) = table.find(&flow) else {
            panic!("port {port} has no way")
        };
        assert_eq!(table.find(&flow), RouteLookup::Hop(first));
        shares[usize::from(first.port.0)] += 1;
    }
    assert!((7000..8000).contains(&shares[0]), "{shares:?}");
}

#[test]
fn a_gateway_that_does_not_answer_is_passed_over() {
    let table = table(&[("0.0.0.0/0", to(&[0, 1]))], 2);
    table.set_gateway(0, None);
    for port in 1..100 {
        let flow = session(address("198.51.100.7"), port);
        assert_eq!(table.find(&flow), RouteLookup::Hop(hop(1)));
    }
    table.set_gateway(1, None);
    assert_eq!(find(&table, "198.51.100.7"), RouteLookup::Unusable);
    table.set_gateway(0, Some(hop(0)));
    assert_eq!(find(&table, "198.51.100.7"), RouteLookup::Hop(hop(0)));
}

#[test]
fn a_worker_takes_up_what_is_published_and_frees_nothing() {
    let published = PublishedRoutes::default();
    let mut taken = CachedRoutes::default();
    taken.refresh(&published);
    assert!(taken.table().is_none(), "the last hop is the way");
    let first = Arc::new(table(&[("0.0.0.0/0", Path::Elsewhere)], 0));
    published.replace(Some(Arc::clone(&first)));
    assert!(taken.table().is_none(), "between two batches only");
    taken.refresh(&published);
    assert_eq!(
        find(taken.table().unwrap(), "10.0.0.1"),
        RouteLookup::Unusable
    );
    let kept = published.replace(Some(Arc::default())).unwrap();
    drop(first);
    taken.refresh(&published);
    assert_eq!(
        find(taken.table().unwrap(), "10.0.0.1"),
        RouteLookup::NoRoute
    );
    assert_eq!(
        Arc::strong_count(&kept),
        1,
        "the publisher has the last one"
    );
}
