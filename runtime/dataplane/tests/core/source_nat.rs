//! Source NAT: clients in the servers' network, and servers at their own VIP.

use std::time::Duration;

use crate::fragments::{ID, assert_forgotten, bytes};
use crate::frames::{ACK, RST, SYN, SYN_ACK, ip};
use crate::hosts::{Arrival, Endpoint, Host, Kind, inside, packet_of};
use crate::world::{
    BACK, BACKEND_PORT, EACH, FRONT, PORT_MACS, Plan, SERVICE_PORT, Settings, V4, V6, World,
    backend_mac,
};
use waxwing_dataplane::model::{SourceId, SourcePool, SourceUse};
use waxwing_dataplane::{DropReason, Pick, Ports};
use waxwing_packet::reject::IcmpError;
use waxwing_packet::{Address, Family, Link, Packet, Prefix, Protocol, VlanTags, parse};
use waxwing_testkit::build;
use waxwing_testkit::fragmenter::{fragment, reassemble};

/// The first port of each pool.
pub(crate) const FIRST_PORT: u16 = 1024;

/// The n-th source address.
pub(crate) fn source(plan: Plan, n: u32) -> Address {
    plan.backend(100 + n)
}

/// The servers' network.
pub(crate) fn network(plan: Plan) -> Prefix {
    let bits = match plan.vip.family() {
        Family::V4 => 24,
        Family::V6 => 64,
    };
    Prefix::new(plan.backend(0), bits)
}

/// This many source addresses for these clients, with this many ports each.
pub(crate) fn pool(clients: &[Prefix], addresses: u8, ports: u16) -> SourcePool {
    SourcePool {
        clients: clients.into(),
        addresses: (1..=addresses).map(SourceId).collect(),
        ports: Ports::range(FIRST_PORT, FIRST_PORT + (ports - 1)).expect("there are some"),
    }
}

/// One source address with this many ports, for clients in the servers' network.
pub(crate) fn settings(plan: Plan, ports: u16) -> Settings {
    Settings {
        sources: vec![source(plan, 0)],
        pools: vec![pool(&[network(plan)], 1, ports)],
        ..Settings::tcp(plan)
    }
}

pub(crate) fn vip(plan: Plan) -> Endpoint {
    (plan.vip, SERVICE_PORT)
}

/// Opens a client's connection; returns the source endpoint that the backend sees.
pub(crate) fn establish(world: &mut World, client: Host, port: u16) -> Endpoint {
    let plan = world.settings.plan;
    let syn = client.sends(world, port, vip(plan), Kind::tcp(SYN));
    let server = Host {
        address: syn.destination.0,
        mac: syn.mac,
        port: syn.port,
    };
    let answer = server.sends(world, BACKEND_PORT, syn.source, Kind::tcp(SYN_ACK));
    assert_eq!(answer, Arrival::at(client, vip(plan), port));
    client.sends(world, port, vip(plan), Kind::tcp(ACK));
    syn.source
}

#[test]
fn a_client_in_the_servers_network_is_seen_as_a_source_address() {
    for (plan, protocol) in EACH {
        let mut world = World::new(Settings {
            protocol,
            ..settings(plan, 60_000)
        });
        let (client, server) = (Host::neighbour(plan), Host::server(plan, 0));
        // Within the pool, a client keeps its port.
        for (own, kept) in [(4000, true), (80, false)] {
            let syn = client.sends(&mut world, own, vip(plan), Kind::of(protocol, SYN));
            assert_eq!(syn, Arrival::at(server, syn.source, BACKEND_PORT));
            assert_eq!(syn.source.0, source(plan, 0));
            assert_eq!(syn.source.1 == own, kept);
            let kind = Kind::of(protocol, SYN_ACK);
            let answer = server.sends(&mut world, BACKEND_PORT, syn.source, kind);
            assert_eq!(answer, Arrival::at(client, vip(plan), own));
            let ack = client.sends(&mut world, own, vip(plan), Kind::of(protocol, ACK));
            assert_eq!(ack, syn);
        }
        assert_eq!(world.shared.gauges.sessions_from(SourceId(1)), 2);
        assert_eq!(world.drops(), []);
    }
}

#[test]
fn other_clients_keep_their_own_address() {
    let mut world = World::new(settings(V4, 100));
    let syn = Host::far(V4).sends(&mut world, 4000, vip(V4), Kind::tcp(SYN));
    assert_eq!(syn.source, (V4.client, 4000));
    assert!(world.session().source.is_client());
    assert_eq!(world.shared.gauges.sessions_from(SourceId(1)), 0);
}

#[test]
fn a_server_reaches_itself_through_its_own_vip() {
    for plan in [V4, V6] {
        // No network is configured for source NAT: only the picked server matters.
        let mut world = World::new(Settings {
            pools: vec![pool(&[], 1, 100)],
            ..settings(plan, 100)
        });
        let server = Host::server(plan, 0);
        world.script().picks = vec![Pick::Backend(0), Pick::Backend(1)];
        let seen = establish(&mut world, server, 4000);
        assert_eq!(seen.0, source(plan, 0));
        let other = server.sends(&mut world, 4001, vip(plan), Kind::tcp(SYN));
        assert_eq!(other.destination, (plan.backend(1), BACKEND_PORT));
        assert_eq!(other.source, server.at(4001), "another server answers it");
    }
}

#[test]
fn without_a_source_address_a_server_cannot_reach_itself() {
    // The second case has an address of the other family.
    for sources in [vec![], vec![source(V6, 0)]] {
        let mut world = World::new(Settings {
            sources,
            pools: vec![pool(&[], 1, 100)],
            ..Settings::default()
        });
        let server = Host::server(V4, 0);
        let frame = server.frame(4000, vip(V4), Kind::tcp(SYN));
        assert_eq!(world.frame(server.port, &frame), []);
        assert_eq!(world.drops(), [(DropReason::NoSourceAddress, 1)]);
        assert_eq!(world.sessions(), []);
    }
}

#[test]
fn a_service_of_source_nat_for_all_hides_every_client() {
    for plan in [V4, V6] {
        let mut world = World::new(Settings {
            source_nat: SourceUse::Always,
            pools: vec![pool(&[], 1, 100)],
            ..settings(plan, 100)
        });
        let seen = establish(&mut world, Host::far(plan), 4000);
        assert_eq!(seen.0, source(plan, 0));
        world.change(|settings| settings.pools = Vec::new());
        world.run(0);
        let frame = Host::far(plan).frame(4001, vip(plan), Kind::tcp(SYN));
        assert_eq!(world.frame(FRONT, &frame), []);
        assert_eq!(world.drops(), [(DropReason::NoSourceAddress, 1)]);
    }
}

#[test]
fn the_narrowest_network_chooses_the_pool() {
    let of = |bits| Prefix::new(V4.backend(50), bits);
    let mut world = World::new(Settings {
        sources: vec![source(V4, 0), source(V4, 1), source(V4, 2)],
        pools: [(8, 1), (30, 2), (16, 3)]
            .map(|(bits, id)| SourcePool {
                addresses: [SourceId(id)].into(),
                ..pool(&[of(bits)], 1, 100)
            })
            .into(),
        ..Settings::default()
    });
    let clients = [
        (V4.backend(50), 1),
        (V4.backend(70), 2),
        (Address::v4([10, 9, 0, 1]), 0),
    ];
    for (address, n) in clients {
        let client = Host {
            address,
            ..Host::neighbour(V4)
        };
        let syn = client.sends(&mut world, 80, vip(V4), Kind::tcp(SYN));
        assert_eq!(syn.source.0, source(V4, n), "{address}");
    }
}

#[test]
fn one_client_port_towards_two_services_of_a_server_is_two_source_ports() {
    for (plan, protocol) in EACH {
        let mut world = World::new(Settings {
            protocol,
            second_service: true,
            ..settings(plan, 100)
        });
        let (client, server) = (Host::neighbour(plan), Host::server(plan, 0));
        let services = [0, 1].map(|n| (plan.vip, SERVICE_PORT + n));
        let first =
            services.map(|to| client.sends(&mut world, FIRST_PORT, to, Kind::of(protocol, SYN)));
        assert_ne!(first[0].source, first[1].source);
        assert_eq!(first[0].destination, first[1].destination);
        for (service, went) in services.into_iter().zip(first) {
            let kind = Kind::of(protocol, SYN_ACK);
            let answer = server.sends(&mut world, BACKEND_PORT, went.source, kind);
            assert_eq!(answer, Arrival::at(client, service, FIRST_PORT));
        }
    }
}

#[test]
fn a_retried_connection_keeps_its_source_address() {
    let mut world = World::new(Settings {
        retries_refused: true,
        ..settings(V4, 4)
    });
    world.script().picks = vec![Pick::Backend(0), Pick::Backend(1)];
    let client = Host::neighbour(V4);
    let first = client.sends(&mut world, 4000, vip(V4), Kind::tcp(SYN));
    let refusal = Host::server(V4, 0).frame(BACKEND_PORT, first.source, Kind::tcp(RST | ACK));
    assert_eq!(world.frame(BACK, &refusal), []);
    assert_eq!(world.drops(), [(DropReason::RefusedRetried, 1)]);
    world.advance(Duration::from_secs(1));
    let second = client.sends(&mut world, 4000, vip(V4), Kind::tcp(SYN));
    assert_eq!(second.destination.0, V4.backend(1));
    assert_eq!(second.source.0, source(V4, 0));
    let server = Host::server(V4, 1);
    let answer = server.sends(&mut world, BACKEND_PORT, second.source, Kind::tcp(SYN_ACK));
    assert_eq!(answer, Arrival::at(client, vip(V4), 4000));
    assert_eq!(world.shared.gauges.sessions_from(SourceId(1)), 1);
}

#[test]
fn a_removed_source_address_serves_its_sessions_and_no_new_ones() {
    let mut world = World::new(settings(V4, 100));
    let client = Host::neighbour(V4);
    let seen = establish(&mut world, client, 4000);
    world.change(|settings| {
        settings.sources.push(source(V4, 1));
        settings.pools[0].addresses = [SourceId(2)].into();
    });
    world.run(0);
    assert!(!world.io(0).sent().is_empty(), "the new one is announced");
    let other = establish(&mut world, client, 4001);
    assert_eq!((seen.0, other.0), (source(V4, 0), source(V4, 1)));
    let answer = Host::server(V4, 0).sends(&mut world, BACKEND_PORT, seen, Kind::tcp(ACK));
    assert_eq!(answer, Arrival::at(client, vip(V4), 4000));
}

#[test]
fn packets_to_a_source_address_are_handled_like_a_vips() {
    let mut world = World::new(settings(V4, 100));
    let who_has = build::ArpRequest {
        mac: backend_mac(0),
        sender: V4.backend(0),
        target: source(V4, 0),
        ..build::ArpRequest::default()
    };
    let sent = world.frame(BACK, &who_has.frame());
    assert!(
        matches!(parse(&sent[0].1), Ok(Packet::Arp(_))) && sent[0].0 == BACK,
        "{sent:?}"
    );
    let server = Host::server(V4, 0);
    let astray = server.frame(BACKEND_PORT, (source(V4, 0), 2000), Kind::tcp(ACK));
    assert_eq!(world.frame(BACK, &astray), []);
    assert_eq!(world.drops(), [(DropReason::NoService, 1)]);
    assert!(world.io(0).passed_to_kernel().is_empty());
}

/// A reply to the client's own address from the same port belongs to a direct connection.
#[test]
fn a_direct_connection_from_the_same_ports_is_not_the_sessions() {
    let mut world = World::new(settings(V4, 60_000));
    let client = Host::neighbour(V4);
    let seen = establish(&mut world, client, 4000);
    assert_eq!(seen.1, 4000);
    let direct = Host::server(V4, 0).frame(BACKEND_PORT, client.at(4000), Kind::tcp(ACK));
    assert_eq!(world.frame(BACK, &direct), []);
    assert_eq!(world.io(0).passed_to_kernel().len(), 1);
}

#[test]
fn icmp_errors_pass_both_ways_through_source_nat() {
    for (plan, protocol) in EACH {
        let mut world = World::new(Settings {
            protocol,
            ..settings(plan, 100)
        });
        let (client, server) = (Host::neighbour(plan), Host::server(plan, 0));
        let kind = Kind::of(protocol, SYN);
        let router = plan.backend(200);
        let port_unreachable = IcmpError::port_unreachable(plan.vip.family());
        let error = |from: Host, source, destination, quote| {
            let link = Link {
                source: from.mac,
                destination: PORT_MACS[1],
            };
            build::Error {
                link,
                tags: VlanTags::NONE,
                source,
                destination,
                hop_limit: 50,
                error: port_unreachable,
                quote,
            }
        };
        let expected = |to: Host, source, quote| {
            let link = Link {
                source: PORT_MACS[1],
                destination: to.mac,
            };
            let error = error(to, source, to.address, quote);
            let frame = build::Error {
                link,
                hop_limit: 49,
                ..error
            };
            [(BACK, frame.frame())]
        };

        let original = client.frame(4000, vip(plan), kind);
        let forwarded = packet_of(&world.frame(BACK, &original));
        let seen = (source(plan, 0), world.session().source_port);
        let as_sent = one_hop_on(kind, client.at(4000), vip(plan));
        let from_server = error(server, router, seen.0, &forwarded);
        let sent = world.frame(BACK, &from_server.frame());
        assert_eq!(sent, expected(client, plan.vip, &as_sent), "to the client");

        let answer = server.frame(BACKEND_PORT, seen, Kind::of(protocol, SYN_ACK));
        let returned = packet_of(&world.frame(BACK, &answer));
        let as_sent = one_hop_on(Kind::of(protocol, SYN_ACK), server.at(BACKEND_PORT), seen);
        for from in [client.address, router] {
            let from_client = error(client, from, plan.vip, &returned);
            let sent = world.frame(BACK, &from_client.frame());
            assert_eq!(sent, expected(server, seen.0, &as_sent), "to the server");
        }
        assert_eq!(world.counters[0].icmp_errors_forwarded.get(), 3);
        assert_eq!(world.drops(), []);
    }
}

/// The IP packet after the router that decrements its hop limit.
fn one_hop_on(kind: Kind<'_>, source: Endpoint, destination: Endpoint) -> Vec<u8> {
    inside(&kind.frame(Link::default(), source, destination, 63)).to_vec()
}

#[test]
fn a_server_gets_errors_from_the_source_address_it_sent_to() {
    for plan in [V4, V6] {
        let mut world = World::new(settings(plan, 100));
        let (client, server) = (Host::neighbour(plan), Host::server(plan, 0));
        let seen = establish(&mut world, client, 4000);
        let last = |from: Host, source, to| {
            let link = Link {
                source: from.mac,
                destination: PORT_MACS[1],
            };
            Kind::tcp(ACK).frame(link, source, to, 1)
        };
        let rows = [
            (server, last(server, server.at(BACKEND_PORT), seen), seen.0),
            (client, last(client, client.at(4000), vip(plan)), plan.vip),
        ];
        for (host, frame, from) in rows {
            let sent = world.frame(BACK, &frame);
            let error = ip(&sent[0].1);
            assert_eq!((error.source, error.destination), (from, host.address));
        }
        assert_eq!(world.counters[0].time_exceeded_sent.get(), 2);
    }
}

#[test]
fn fragments_are_translated_like_the_whole() {
    for plan in [V4, V6] {
        let mut world = World::new(Settings {
            protocol: Protocol::Udp,
            ..settings(plan, 100)
        });
        let (client, server) = (Host::neighbour(plan), Host::server(plan, 0));
        let payload = bytes(88);
        let kind = Kind {
            payload: &payload,
            ..Kind::of(Protocol::Udp, 0)
        };
        let there = client.sends(&mut world, 4000, vip(plan), kind);
        for (host, from, to) in [
            (client, 4000, vip(plan)),
            (server, BACKEND_PORT, there.source),
        ] {
            let whole = host.frame(from, to, kind);
            let expected = world.frame(BACK, &whole).remove(0).1;
            for rotated in 0..3 {
                let mut pieces = fragment(&whole, &[32, 32], ID + rotated);
                pieces.rotate_left(rotated as usize);
                let sent: Vec<Vec<u8>> = pieces
                    .iter()
                    .flat_map(|piece| world.frame(BACK, piece))
                    .map(|(_, frame)| frame)
                    .collect();
                assert_eq!(reassemble(&sent), expected, "rotated by {rotated}");
            }
        }
        assert_eq!(world.drops(), []);
        assert_forgotten(&world);
    }
}
