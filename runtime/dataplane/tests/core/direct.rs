//! Clients that use one port towards a VIP and towards the address of its server: neither flow gets the
//! other's packets, whichever comes first.

use std::time::Duration;

use proptest::prelude::*;

use crate::frames::{ACK, FIN_ACK, RST, SYN, SYN_ACK, error_back, ip, ports};
use crate::hosts::{Arrival, Host, Kind, inside};
use crate::world::{BACK, BACKEND_PORT, FRONT, Plan, SERVICE_PORT, Settings, V4, V6, World};
use waxwing_dataplane::{DropReason, Pick, PortId};
use waxwing_packet::reject::IcmpError;
use waxwing_packet::{IpPacket, Mac, Protocol, Quote};
use waxwing_testkit::build;
use waxwing_testkit::fragmenter::fragment;

const PROTOCOLS: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];
const PORT: u16 = 4000;
/// In transparent mode, the other hosts' MAC address.
const BEYOND: Mac = Mac([2, 0, 0, 0, 9, 9]);

/// Sends a frame that bypasses the services; returns what goes on, by the kernel or the bridge.
fn pass(world: &mut World, from: PortId, mut frame: Vec<u8>) -> Vec<u8> {
    if world.settings.transparent {
        frame[..6].copy_from_slice(&BEYOND.0);
        let mut sent = world.frame(from, &frame);
        assert_eq!(sent.len(), 1, "{sent:?}");
        let other = if from == FRONT { BACK } else { FRONT };
        assert_eq!(sent[0].0, other);
        return sent.remove(0).1;
    }
    assert_eq!(world.frame(from, &frame), []);
    let mut passed = world.io(0).passed_to_kernel();
    assert_eq!(passed.len(), 1, "{passed:?}");
    passed.remove(0).1
}

/// The client's direct packet; returns the source port with which it goes on.
fn direct(world: &mut World, port: u16, flags: u8) -> u16 {
    let (plan, protocol) = (world.settings.plan, world.settings.protocol);
    let to = (plan.backend(0), BACKEND_PORT);
    let frame = Host::far(plan).frame(port, to, Kind::of(protocol, flags));
    let passed = ip(&pass(world, FRONT, frame));
    assert_eq!((passed.source, passed.destination), (plan.client, to.0));
    let (source, destination) = ports(&passed);
    assert_eq!(destination, BACKEND_PORT);
    source
}

/// The server's packet to a direct client; returns the destination port with which it goes on.
fn answer(world: &mut World, port: u16, flags: u8) -> u16 {
    let (plan, protocol) = (world.settings.plan, world.settings.protocol);
    let to = (plan.client, port);
    let frame = Host::server(plan, 0).frame(BACKEND_PORT, to, Kind::of(protocol, flags));
    let passed = ip(&pass(world, BACK, frame));
    assert_eq!(
        (passed.source, passed.destination),
        (plan.backend(0), plan.client)
    );
    let (source, destination) = ports(&passed);
    assert_eq!(source, BACKEND_PORT);
    destination
}

/// The client's packet to the VIP; returns the source port that the server sees.
fn through_vip(world: &mut World, port: u16, flags: u8) -> u16 {
    let (plan, protocol) = (world.settings.plan, world.settings.protocol);
    let vip = (plan.vip, SERVICE_PORT);
    let seen = Host::far(plan).sends(world, port, vip, Kind::of(protocol, flags));
    assert_eq!(seen.destination, (plan.backend(0), BACKEND_PORT));
    assert_eq!(seen.source.0, plan.client);
    seen.source.1
}

/// The server's packet on a session, which must reach the client from the VIP.
fn answer_through_vip(world: &mut World, seen: u16, port: u16, flags: u8) {
    let (plan, protocol) = (world.settings.plan, world.settings.protocol);
    let to = (plan.client, seen);
    let arrived = Host::server(plan, 0).sends(world, BACKEND_PORT, to, Kind::of(protocol, flags));
    let client = Host::far(plan);
    assert_eq!(arrived, Arrival::at(client, (plan.vip, SERVICE_PORT), port));
}

fn worlds() -> impl Iterator<Item = World> {
    let cases = [V4, V6].into_iter().flat_map(|plan| {
        PROTOCOLS.into_iter().flat_map(move |protocol| {
            [false, true].map(|transparent| (plan, protocol, transparent))
        })
    });
    cases.map(|(plan, protocol, transparent)| {
        World::new(Settings {
            transparent,
            ..Settings::new(plan, protocol)
        })
    })
}

/// Both flows in use: each side's packets reach the right one.
fn assert_apart(world: &mut World, seen_direct: u16, seen_through_vip: u16) {
    assert_ne!(seen_direct, seen_through_vip);
    for _ in 0..2 {
        assert_eq!(direct(world, PORT, ACK), seen_direct);
        assert_eq!(answer(world, seen_direct, ACK), PORT);
        assert_eq!(through_vip(world, PORT, ACK), seen_through_vip);
        answer_through_vip(world, seen_through_vip, PORT, ACK);
    }
    assert_eq!(world.drops(), []);
}

#[test]
fn a_session_gets_another_port_beside_a_direct_flow() {
    for mut world in worlds() {
        assert_eq!(direct(&mut world, PORT, SYN), PORT);
        assert_eq!(answer(&mut world, PORT, SYN_ACK), PORT);
        assert_eq!(direct(&mut world, PORT, ACK), PORT);
        let seen = through_vip(&mut world, PORT, SYN);
        answer_through_vip(&mut world, seen, PORT, SYN_ACK);
        assert_apart(&mut world, PORT, seen);
    }
}

/// The client's packets bypass the balancer: it learns of the flow by the server's.
#[test]
fn a_session_gets_another_port_beside_a_flow_of_which_only_replies_pass() {
    for mut world in worlds() {
        assert_eq!(answer(&mut world, PORT, SYN_ACK), PORT);
        let seen = through_vip(&mut world, PORT, SYN);
        assert_ne!(seen, PORT);
        answer_through_vip(&mut world, seen, PORT, SYN_ACK);
        assert_eq!(answer(&mut world, PORT, ACK), PORT);
    }
}

#[test]
fn a_direct_flow_gets_another_port_beside_a_session_in_any_state() {
    // What the client and the server have sent on the session so far.
    let both: &[(u8, u8)] = &[(SYN, SYN_ACK), (ACK, ACK)];
    for ends in [
        &[(SYN, 0)][..],
        both,
        &[both, &[(FIN_ACK, ACK)]].concat(),
        &[both, &[(FIN_ACK, FIN_ACK), (ACK, 0)]].concat(),
        &[both, &[(RST, 0)]].concat(),
    ] {
        for mut world in worlds() {
            for (client, server) in ends {
                assert_eq!(through_vip(&mut world, PORT, *client), PORT);
                if *server != 0 {
                    answer_through_vip(&mut world, PORT, PORT, *server);
                }
            }
            let seen = direct(&mut world, PORT, SYN);
            assert_eq!(direct(&mut world, PORT, SYN), seen, "a repeated SYN");
            assert_eq!(answer(&mut world, seen, SYN_ACK), PORT);
            assert_apart(&mut world, seen, PORT);
        }
    }
}

#[test]
fn other_flows_keep_their_ports() {
    for mut world in worlds() {
        through_vip(&mut world, PORT, SYN);
        // Another port of the client, another server.
        assert_eq!(direct(&mut world, PORT + 1, SYN), PORT + 1);
        assert_eq!(through_vip(&mut world, PORT + 2, SYN), PORT + 2);
        world.script().picks = vec![Pick::Backend(1)];
        let (plan, protocol) = (world.settings.plan, world.settings.protocol);
        let vip = (plan.vip, SERVICE_PORT);
        let seen = Host::far(plan).sends(&mut world, PORT + 1, vip, Kind::of(protocol, SYN));
        assert_eq!(seen.source.1, PORT + 1);
    }
}

/// A connection that is older than the session and was not noted is known to its server by its own port.
#[test]
fn a_connection_seen_mid_stream_keeps_its_port() {
    let mut world = World::new(Settings::default());
    through_vip(&mut world, PORT, SYN);
    assert_eq!(direct(&mut world, PORT, ACK), PORT);
}

#[test]
fn flows_are_forgotten_after_their_timeouts() {
    for protocol in PROTOCOLS {
        let settings = Settings::new(V4, protocol);
        let (closing, udp) = (settings.timeouts.tcp_closing, settings.timeouts.udp);
        let timeout = if protocol == Protocol::Tcp {
            closing
        } else {
            udp
        };
        for (wait, is_forgotten) in [
            (timeout, false),
            (timeout + Duration::from_millis(200), true),
        ] {
            let mut world = World::new(settings.clone());
            for flags in [SYN, ACK, FIN_ACK] {
                assert_eq!(direct(&mut world, PORT, flags), PORT);
            }
            world.advance(wait);
            assert_eq!(through_vip(&mut world, PORT, SYN) == PORT, is_forgotten);
        }
    }
}

/// A translated stream in one direction keeps the other direction's entry alive too.
#[test]
fn a_stream_in_one_direction_keeps_both_alive() {
    for by_client in [true, false] {
        let mut world = World::new(Settings::udp(V4));
        through_vip(&mut world, PORT, 0);
        let seen = direct(&mut world, PORT, 0);
        for _ in 0..4 {
            world.advance(world.settings.timeouts.udp / 2);
            through_vip(&mut world, PORT, 0);
            if by_client {
                assert_eq!(direct(&mut world, PORT, 0), seen);
            } else {
                assert_eq!(answer(&mut world, seen, 0), PORT);
            }
        }
        assert_eq!(direct(&mut world, PORT, 0), seen);
        assert_eq!(answer(&mut world, seen, 0), PORT);
    }
}

/// The session is gone, and its server sends to the client's port once more.
#[test]
fn a_late_packet_of_a_gone_session_ends_no_translation() {
    let mut world = World::new(Settings::udp(V4));
    through_vip(&mut world, PORT, 0);
    let seen = direct(&mut world, PORT, 0);
    for _ in 0..3 {
        world.advance(world.settings.timeouts.udp / 2);
        assert_eq!(direct(&mut world, PORT, 0), seen);
    }
    assert_eq!(answer(&mut world, PORT, 0), PORT);
    assert_eq!(direct(&mut world, PORT, 0), seen);
    assert_eq!(answer(&mut world, seen, 0), PORT);
}

/// Somebody forges direct packets of a client from all its ports.
#[test]
fn forged_direct_packets_keep_no_client_out() {
    let mut world = World::new(Settings::default());
    for port in 1024..=u16::MAX {
        direct(&mut world, port, SYN);
    }
    for port in PORT..PORT + 100 {
        through_vip(&mut world, port, SYN);
    }
    assert_eq!(world.drops(), []);
}

/// However many are forged, a translated connection goes on.
#[test]
fn a_flood_of_direct_packets_replaces_no_translated_flow() {
    let mut world = World::new(Settings::default());
    through_vip(&mut world, PORT, SYN);
    let seen = direct(&mut world, PORT, SYN);
    for port in (1024..=u16::MAX).filter(|port| ![PORT, seen].contains(port)) {
        direct(&mut world, port, SYN);
    }
    assert_eq!(direct(&mut world, PORT, ACK), seen);
    assert_eq!(answer(&mut world, seen, ACK), PORT);
}

#[test]
fn fragments_of_a_translated_datagram_follow_their_first() {
    for plan in [V4, V6] {
        let mut world = World::new(Settings::udp(plan));
        through_vip(&mut world, PORT, 0);
        let seen = direct(&mut world, PORT, 0);
        let to = (plan.backend(0), BACKEND_PORT);
        let kind = Kind {
            payload: &[7; 3000],
            ..Kind::of(Protocol::Udp, 0)
        };
        let whole = Host::far(plan).frame(PORT, to, kind);
        let parts = fragment(&whole, &[1000, 1000], 9);
        assert!(parts.len() >= 3);
        let passed: Vec<_> = parts
            .iter()
            .map(|part| pass(&mut world, FRONT, part.clone()))
            .collect();
        assert_eq!(&passed[1..], &parts[1..]);
        let first = ip_of_fragment(&passed[0]);
        assert_eq!(ports(&first).0, seen);
        assert_eq!(world.drops(), []);
    }
}

fn ip_of_fragment(frame: &[u8]) -> IpPacket {
    match waxwing_packet::parse(frame) {
        Ok(waxwing_packet::Packet::Ip(packet)) => packet,
        other => panic!("{other:?}"),
    }
}

/// The kernel or a router refuses a translated packet: the error's quote gets the port of its receiver.
#[test]
fn errors_about_translated_packets_name_the_receivers_port() {
    for plan in [V4, V6] {
        for protocol in PROTOCOLS {
            let mut world = World::new(Settings::new(plan, protocol));
            through_vip(&mut world, PORT, SYN);
            let seen = direct(&mut world, PORT, SYN);
            let kind = Kind::of(protocol, ACK);
            let (server, to) = (Host::server(plan, 0), (plan.backend(0), BACKEND_PORT));

            let sent = Host::far(plan).frame(seen, to, kind);
            let error = error_back(plan, plan.backend(9), inside(&sent));
            assert_eq!(
                quoted_ports(&pass(&mut world, BACK, error)),
                (PORT, BACKEND_PORT)
            );

            let received = server.frame(BACKEND_PORT, (plan.client, PORT), kind);
            let error = error_to_server(plan, inside(&received));
            assert_eq!(
                quoted_ports(&pass(&mut world, FRONT, error)),
                (BACKEND_PORT, seen)
            );

            // One about an untranslated packet, and a damaged one, do not change.
            let other = Host::far(plan).frame(PORT + 1, to, kind);
            let error = error_back(plan, plan.backend(9), inside(&other));
            assert_eq!(pass(&mut world, BACK, error.clone()), error);
            let mut damaged = error_back(plan, plan.backend(9), inside(&sent));
            *damaged.last_mut().expect("a quote") ^= 1;
            assert_eq!(pass(&mut world, BACK, damaged.clone()), damaged);
        }
    }
}

fn error_to_server(plan: Plan, quote: &[u8]) -> Vec<u8> {
    build::Error {
        source: plan.client,
        destination: plan.backend(0),
        error: IcmpError::port_unreachable(plan.vip.family()),
        ..crate::frames::port_unreachable(plan, quote)
    }
    .frame()
}

fn quoted_ports(error: &[u8]) -> (u16, u16) {
    let quote = Quote::parse(error, &ip(error));
    let quote = quote.expect("it is well-formed").expect("it is an error");
    (quote.source_port, quote.destination_port)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Few ports, many packets: no two live flows look alike to the server, and each reply finds its flow.
    #[test]
    fn no_two_flows_look_alike(steps in prop::collection::vec((0..3u16, any::<bool>()), 1..60)) {
        let mut world = World::new(Settings::default());
        let mut flows: Vec<((u16, bool), u16)> = Vec::new();
        for (n, is_direct) in steps {
            let port = PORT + n;
            let seen = match flows.iter().find(|(flow, _)| *flow == (port, is_direct)) {
                Some((_, seen)) => *seen,
                None if is_direct => direct(&mut world, port, SYN),
                None => through_vip(&mut world, port, SYN),
            };
            if !flows.iter().any(|(flow, _)| *flow == (port, is_direct)) {
                prop_assert!(flows.iter().all(|(_, other)| *other != seen));
                flows.push(((port, is_direct), seen));
            }
            for ((port, is_direct), seen) in &flows {
                if *is_direct {
                    prop_assert_eq!(answer(&mut world, *seen, ACK), *port);
                } else {
                    answer_through_vip(&mut world, *seen, *port, ACK);
                }
            }
        }
        prop_assert_eq!(world.dropped(DropReason::TupleClash), 0);
    }
}
