//! Services with a range of ports, or all of them: the port stays, and the most specific one wins.

use crate::fragments::{ID, assert_forgotten, bytes};
use crate::frames::{ACK, SYN, SYN_ACK};
use crate::hosts::{Arrival, Endpoint, Host, Kind, packet_of};
use crate::world::{
    BACK, BACKEND_PORT, EACH, FRONT, PORT_MACS, SERVICE_PORT, Settings, V4, V6, World, backend_mac,
};
use waxwing_dataplane::steering::Rules;
use waxwing_dataplane::{BackendId, DropReason, Ports};
use waxwing_packet::reject::IcmpError;
use waxwing_packet::{Link, Protocol, VlanTags};
use waxwing_testkit::build;
use waxwing_testkit::fragmenter::{fragment, reassemble};

fn range(first: u16, last: u16) -> Ports {
    Ports::range(first, last).expect("there are some")
}

#[test]
fn each_port_of_a_range_is_kept_and_no_other_is_served() {
    for (plan, protocol) in EACH {
        let mut world = World::new(Settings {
            ranges: vec![range(8000, 8010)],
            ..Settings::new(plan, protocol)
        });
        let (client, server) = (Host::far(plan), Host::server(plan, 0));
        for port in [8000, 8005, 8010] {
            let to = (plan.vip, port);
            let syn = client.sends(&mut world, 4000, to, Kind::of(protocol, SYN));
            assert_eq!(syn, Arrival::at(server, client.at(4000), port));
            let kind = Kind::of(protocol, SYN_ACK);
            let answer = server.sends(&mut world, port, client.at(4000), kind);
            assert_eq!(answer, Arrival::at(client, to, 4000));
        }
        for port in [7999, 8011, 1] {
            let frame = client.frame(4000, (plan.vip, port), Kind::of(protocol, SYN));
            assert_eq!(world.frame(FRONT, &frame), []);
        }
        assert_eq!(world.drops(), [(DropReason::NoService, 3)]);
        assert_eq!(world.script().asked[2].destination_port, 8010);
    }
}

#[test]
fn the_service_with_the_fewest_ports_wins() {
    let mut world = World::new(Settings {
        ranges: vec![Ports::ALL, range(8000, 8010), range(8003, 8005)],
        ..Settings::default()
    });
    let client = Host::far(V4);
    let backends = world.settings.weights.len() as u32;
    let rows = [
        (SERVICE_PORT, 0),
        (81, 1),
        (1, 1),
        (65_535, 1),
        (8000, 2),
        (8003, 3),
        (8005, 3),
        (8006, 2),
        (8011, 1),
    ];
    for (at, (port, service)) in (0_u16..).zip(rows) {
        let syn = client.sends(&mut world, 4000 + at, (V4.vip, port), Kind::tcp(SYN));
        let own = if service == 0 { BACKEND_PORT } else { port };
        assert_eq!(syn.destination, (V4.backend(0), own));
        let mut sessions = world.sessions().into_iter();
        let session = sessions.find(|session| session.client_port == 4000 + at);
        let backend = session.expect("it was made").backend;
        assert_eq!(backend, BackendId(service * backends), "port {port}");
    }
}

/// Two services lead to one server port, one by number and one by range: to the server both are
/// the same tuple.
#[test]
fn one_client_port_towards_a_service_and_a_range_of_one_server_is_two_connections() {
    for (plan, protocol) in EACH {
        let mut world = World::new(Settings {
            second_service: true,
            ranges: vec![Ports::ALL],
            ..Settings::new(plan, protocol)
        });
        let (client, server) = (Host::far(plan), Host::server(plan, 0));
        let services: [Endpoint; 3] =
            [SERVICE_PORT, SERVICE_PORT + 1, BACKEND_PORT].map(|port| (plan.vip, port));
        let went = services.map(|to| client.sends(&mut world, 4000, to, Kind::of(protocol, SYN)));
        for (at, one) in went.iter().enumerate() {
            assert_eq!(one.destination, server.at(BACKEND_PORT));
            assert!(went[..at].iter().all(|other| other.source != one.source));
        }
        assert_eq!(world.sessions().len(), 3, "no session was overwritten");
        for (service, went) in services.into_iter().zip(went) {
            let kind = Kind::of(protocol, SYN_ACK);
            let answer = server.sends(&mut world, BACKEND_PORT, went.source, kind);
            assert_eq!(answer, Arrival::at(client, service, 4000), "the right VIP");
            let kind = Kind::of(protocol, ACK);
            let again = client.sends(&mut world, 4000, service, kind);
            assert_eq!(again, went);
        }
        assert_eq!(world.drops(), []);
    }
}

#[test]
fn other_packets_of_a_ranges_server_go_to_the_kernel() {
    let mut world = World::new(Settings {
        ranges: vec![Ports::ALL],
        ..Settings::default()
    });
    let server = Host::server(V4, 0);
    let outward = server.frame(50_000, (V4.client, 443), Kind::tcp(SYN));
    assert_eq!(world.frame(BACK, &outward), []);
    assert_eq!(world.io(0).passed_to_kernel().len(), 1);
}

#[test]
fn an_error_about_a_ranges_session_reaches_its_client() {
    for plan in [V4, V6] {
        let mut world = World::new(Settings {
            ranges: vec![range(8000, 8010)],
            ..Settings::tcp(plan)
        });
        let (client, server) = (Host::far(plan), Host::server(plan, 0));
        let original = client.frame(4000, (plan.vip, 8004), Kind::tcp(SYN));
        let forwarded = packet_of(&world.frame(FRONT, &original));
        let as_sent = Kind::tcp(SYN).frame(Link::default(), client.at(4000), (plan.vip, 8004), 63);
        let error = build::Error {
            link: Link {
                source: backend_mac(0),
                destination: PORT_MACS[1],
            },
            tags: VlanTags::NONE,
            source: server.address,
            destination: client.address,
            hop_limit: 50,
            error: IcmpError::port_unreachable(plan.vip.family()),
            quote: &forwarded,
        };
        let expected = build::Error {
            link: Link {
                source: PORT_MACS[0],
                destination: client.mac,
            },
            source: plan.vip,
            hop_limit: 49,
            quote: crate::hosts::inside(&as_sent),
            ..error
        };
        let sent = world.frame(BACK, &error.frame());
        assert_eq!(sent, [(FRONT, expected.frame())]);
    }
}

#[test]
fn fragments_of_a_range_keep_its_port() {
    for plan in [V4, V6] {
        let mut world = World::new(Settings {
            ranges: vec![Ports::ALL],
            ..Settings::udp(plan)
        });
        let (client, server) = (Host::far(plan), Host::server(plan, 0));
        let payload = bytes(88);
        let kind = Kind {
            payload: &payload,
            ..Kind::of(Protocol::Udp, 0)
        };
        client.sends(&mut world, 4000, (plan.vip, 9000), kind);
        for (host, from, to) in [
            (client, 4000, (plan.vip, 9000)),
            (server, 9000, client.at(4000)),
        ] {
            let whole = host.frame(from, to, kind);
            let expected = world.frame(host.port, &whole).remove(0).1;
            let mut pieces = fragment(&whole, &[32, 32], ID);
            pieces.reverse();
            let sent: Vec<Vec<u8>> = pieces
                .iter()
                .flat_map(|piece| world.frame(host.port, piece))
                .map(|(_, frame)| frame)
                .collect();
            assert_eq!(reassemble(&sent), expected);
        }
        assert_eq!(world.drops(), []);
        assert_forgotten(&world);
    }
}

#[test]
fn a_range_is_steered_by_its_vip_and_its_servers_addresses() {
    let settings = Settings {
        ranges: vec![range(8000, 8010)],
        ..Settings::default()
    };
    let rules = Rules::new(&settings.snapshot(1), []);
    let any = |address| (address, Rules::ANY_PORT, Protocol::Tcp as u8);
    assert!(rules.services.contains(&any(V4.vip)));
    assert!(rules.backends.contains(&any(V4.backend(2))));
    assert_eq!(rules.services.len(), 2);
}
