//! The two topologies, frame by frame: what the balancer changes in each, and what passes
//! unchanged.

use crate::frames::{
    ACK, FIN_ACK, FROM_CLIENT, RST, SYN, SYN_ACK, TAGS, establish, one, ping, port_unreachable,
    reply, reply_segment, request,
};
use crate::world::{
    BACK, BACKEND_PORT, BRIDGE_MAC, CLIENT_MAC, EACH, FRONT, PORT_MACS, Plan, SERVICE_PORT,
    Settings, V4, V6, World, backend_mac,
};
use waxwing_dataplane::model::{NoBackend, SessionAction};
use waxwing_dataplane::{BackendId, DropReason, NextHop, PortId};
use waxwing_packet::arp::Arp;
use waxwing_packet::{Address, Link, Mac, Packet, Protocol, TcpFlags, VlanTags, parse};
use waxwing_testkit::build;

/// The servers' gateway, with the clients behind it.
const ROUTER: Mac = CLIENT_MAC;
const CLIENT_PORT: u16 = 4000;

fn world(plan: Plan, protocol: Protocol, transparent: bool) -> World {
    World::new(Settings {
        transparent,
        ..Settings::new(plan, protocol)
    })
}

/// A packet in a row of the table.
#[derive(Clone, Copy)]
struct Row {
    source: (Address, u16),
    destination: (Address, u16),
    link: Link,
    hop_limit: u8,
    tags: VlanTags,
}

impl Row {
    fn frame(&self, protocol: Protocol, flags: u8) -> Vec<u8> {
        let Self {
            source,
            destination,
            link,
            hop_limit,
            tags,
        } = *self;
        build::Tcp {
            link,
            tags,
            source,
            destination,
            hop_limit,
            flags: TcpFlags(flags),
            payload: b"payload",
            ..build::Tcp::default()
        }
        .frame_of(protocol)
    }
}

const fn link(source: Mac, destination: Mac) -> Link {
    Link {
        source,
        destination,
    }
}

/// Figure 2.3 as a table: a request and its reply in four steps.
fn steps(plan: Plan, transparent: bool, tags: VlanTags) -> [Row; 4] {
    let client = (plan.client, CLIENT_PORT);
    let vip = (plan.vip, SERVICE_PORT);
    let server = (plan.backend(0), BACKEND_PORT);
    let server_mac = backend_mac(0);
    let row = |source, destination, link, hop_limit, tags| Row {
        source,
        destination,
        link,
        hop_limit,
        tags,
    };
    let none = VlanTags::NONE;
    if transparent {
        [
            row(client, vip, link(ROUTER, PORT_MACS[0]), 1, tags),
            row(client, server, link(PORT_MACS[1], server_mac), 1, tags),
            row(server, client, link(server_mac, ROUTER), 1, tags),
            row(vip, client, link(server_mac, ROUTER), 1, tags),
        ]
    } else {
        [
            row(client, vip, link(ROUTER, PORT_MACS[0]), 64, tags),
            row(client, server, link(PORT_MACS[1], server_mac), 63, none),
            row(server, client, link(server_mac, PORT_MACS[1]), 64, none),
            row(vip, client, link(PORT_MACS[0], ROUTER), 63, tags),
        ]
    }
}

/// The tags of VLAN 100.
const VLAN: VlanTags = TAGS[1];

#[test]
fn each_step_of_both_topologies_is_as_in_the_figure() {
    for (plan, protocol) in EACH {
        for transparent in [false, true] {
            for tags in [VlanTags::NONE, VLAN] {
                let mut world = world(plan, protocol, transparent);
                let [one, two, three, four] = steps(plan, transparent, tags);
                for (port, (arrives, flags), (egress, leaves)) in [
                    (FRONT, (one, SYN), (BACK, two)),
                    (BACK, (three, SYN_ACK), (FRONT, four)),
                    (FRONT, (one, ACK), (BACK, two)),
                ] {
                    let sent = world.frame(port, &arrives.frame(protocol, flags));
                    let expected = leaves.frame(protocol, flags);
                    assert_eq!(sent, [(egress, expected)], "transparent: {transparent}");
                }
                assert_eq!(world.drops(), []);
            }
        }
    }
}

/// A server or router may use the balancer as its gateway even in transparent mode: a reply
/// addressed to the balancer goes to the last hop.
#[test]
fn a_reply_addressed_to_the_balancer_goes_to_the_clients_gateway() {
    for own in [PORT_MACS[0], PORT_MACS[1], BRIDGE_MAC] {
        let mut world = world(V4, Protocol::Tcp, true);
        let [request, _, answer, _] = steps(V4, true, VLAN);
        world.frame(FRONT, &request.frame(Protocol::Tcp, SYN));
        let to_us = Row {
            link: link(backend_mac(0), own),
            tags: VlanTags::NONE,
            ..answer
        };
        let (port, packet) = one(&world.frame(BACK, &to_us.frame(Protocol::Tcp, SYN_ACK)));
        assert_eq!(port, FRONT);
        assert_eq!(packet.source, V4.vip);
        let ethernet = packet.ethernet;
        assert_eq!(
            (ethernet.source, ethernet.destination, ethernet.tags),
            (PORT_MACS[0], ROUTER, VLAN)
        );
    }
}

#[test]
fn a_backend_on_an_unknown_side_of_the_bridge_is_across() {
    for (from, to) in [(FRONT, BACK), (BACK, FRONT)] {
        let mut world = world(V4, Protocol::Tcp, true);
        let hop = NextHop {
            port: PortId::ACROSS,
            mac: backend_mac(0),
        };
        world.shared.next_hops.set(BackendId(0), Some(hop));
        let (port, packet) = one(&world.frame(from, &request(V4, CLIENT_PORT, SYN)));
        assert_eq!(port, to);
        let macs = (packet.ethernet.source, packet.ethernet.destination);
        assert_eq!(macs, (PORT_MACS[to.index()], backend_mac(0)));
    }
    // Without a bridge there is no opposite port.
    let mut world = world(V4, Protocol::Tcp, false);
    let hop = NextHop {
        port: PortId::ACROSS,
        mac: backend_mac(0),
    };
    world.shared.next_hops.set(BackendId(0), Some(hop));
    world.frame(FRONT, &request(V4, CLIENT_PORT, SYN));
    assert_eq!(world.drops(), [(DropReason::PortMissing, 1)]);
}

#[test]
fn a_client_beside_its_backend_is_forwarded_by_the_ingress_port() {
    let mut world = world(V4, Protocol::Tcp, true);
    let mut frame = request(V4, CLIENT_PORT, SYN);
    frame[..6].copy_from_slice(&PORT_MACS[1].0);
    let (port, packet) = one(&world.frame(BACK, &frame));
    assert_eq!(port, BACK);
    assert_eq!(packet.ethernet.source, PORT_MACS[1]);
}

#[test]
fn frames_that_are_not_ours_are_bridged_unless_addressed_to_the_balancer() {
    for tags in [VlanTags::NONE, VLAN] {
        let direct = |destination| build::Tcp {
            link: link(backend_mac(0), destination),
            tags,
            hop_limit: 1,
            ..reply_segment(V4, 0, CLIENT_PORT, SYN_ACK)
        };
        let mut world = world(V4, Protocol::Tcp, true);
        for (from, to) in [(BACK, FRONT), (FRONT, BACK)] {
            let frame = direct(ROUTER).frame();
            assert_eq!(world.frame(from, &frame), [(to, frame)]);
        }
        assert_eq!(world.counters[0].bridged.get(), 2);
        for own in [PORT_MACS[0], PORT_MACS[1], BRIDGE_MAC] {
            let frame = direct(own).frame();
            assert_eq!(world.frame(BACK, &frame), []);
            assert_eq!(world.io(0).passed_to_kernel(), [(BACK, frame)]);
        }
        assert_eq!(world.counters[0].bridged.get(), 2);
        assert_eq!(world.counters[0].to_kernel.get(), 3);
        assert_eq!(world.drops(), []);
    }
}

/// A client connects to a server directly from the port of a closed session: in both topologies the
/// server's packets bypass the session from its SYN on.
#[test]
fn a_direct_connection_from_a_closed_sessions_port_bypasses_it() {
    for transparent in [false, true] {
        let mut world = world(V4, Protocol::Tcp, transparent);
        establish(&mut world, CLIENT_PORT, 0);
        world.frame(FRONT, &request(V4, CLIENT_PORT, FIN_ACK));
        let (_, last) = one(&world.frame(BACK, &reply(V4, 0, CLIENT_PORT, FIN_ACK)));
        assert_eq!(last.source, V4.vip);
        for flags in [SYN_ACK, ACK, FIN_ACK] {
            let mut direct = reply(V4, 0, CLIENT_PORT, flags);
            if transparent {
                direct[..6].copy_from_slice(&ROUTER.0);
                assert_eq!(world.frame(BACK, &direct), [(FRONT, direct)]);
            } else {
                assert_eq!(world.frame(BACK, &direct), []);
                assert_eq!(world.io(0).passed_to_kernel(), [(BACK, direct)]);
            }
        }
        assert_eq!(world.shared.sessions.len(), 0);
        assert_eq!(world.held(), [0, 0, 0]);
        assert_eq!(world.drops(), []);
    }
}

#[test]
fn a_bridged_frame_without_room_is_counted() {
    let mut world = world(V4, Protocol::Tcp, true);
    let mut direct = reply(V4, 0, CLIENT_PORT, SYN_ACK);
    direct[..6].copy_from_slice(&ROUTER.0);
    world.io(0).limit_transmit(0);
    assert_eq!(world.frame(BACK, &direct), []);
    assert_eq!(world.drops(), [(DropReason::TransmitRingFull, 1)]);
}

/// Fragments of a direct connection wait for their first one like a session's, and then pass.
#[test]
fn fragments_of_a_direct_datagram_pass_in_any_order() {
    let whole = build::Tcp {
        link: link(backend_mac(0), ROUTER),
        payload: &[7; 64],
        ..reply_segment(V4, 0, CLIENT_PORT, 0)
    }
    .frame_of(Protocol::Udp);
    // Fragmented after 40 bytes of IP payload; checksums do not matter here.
    let part = |range: std::ops::Range<usize>, field: u16| {
        let mut frame = whole[..34].to_vec();
        frame.extend_from_slice(&whole[34..][range.clone()]);
        let len = 20 + range.len() as u16;
        frame[16..18].copy_from_slice(&len.to_be_bytes());
        frame[20..22].copy_from_slice(&field.to_be_bytes());
        frame
    };
    let (first, later) = (part(0..40, 0x2000), part(40..72, 5));
    let mut world = world(V4, Protocol::Udp, true);
    assert_eq!(world.frame(BACK, &later), []);
    let sent = world.frame(BACK, &first);
    assert_eq!(sent, [(FRONT, first), (FRONT, later)]);
    assert_eq!(world.counters[0].bridged.get(), 2);
    assert_eq!(world.drops(), []);
}

#[test]
fn responses_leave_by_the_ingress_port() {
    let mut world = world(V4, Protocol::Tcp, true);
    for (port, mac) in [FRONT, BACK].into_iter().zip(PORT_MACS) {
        let who_has = build::ArpRequest {
            mac: ROUTER,
            sender: V4.client,
            target: V4.vip,
            ..build::ArpRequest::default()
        };
        let sent = world.frame(port, &who_has.frame());
        let Ok(Packet::Arp(ethernet)) = parse(&sent[0].1) else {
            panic!("{sent:?}")
        };
        let answer = Arp::parse(&sent[0].1, &ethernet).expect("it is ARP");
        assert_eq!((sent[0].0, answer.sender_mac), (port, mac));

        let ping = build::Echo {
            link: link(ROUTER, BRIDGE_MAC),
            ..ping(V4, b"are you there?")
        };
        let (back_by, packet) = one(&world.frame(port, &ping.frame()));
        let macs = (packet.ethernet.source, packet.ethernet.destination);
        assert_eq!((back_by, macs), (port, (BRIDGE_MAC, ROUTER)));
    }
}

#[test]
fn a_client_whose_backend_is_down_is_answered_by_its_own_port() {
    let mut world = World::new(Settings {
        transparent: true,
        no_backend: NoBackend::Reject,
        ..Settings::default()
    });
    establish(&mut world, CLIENT_PORT, 0);
    world.change(|settings| settings.health = vec![(false, SessionAction::Reset); 3]);
    for client_port in [CLIENT_PORT, CLIENT_PORT + 1] {
        let flags = if client_port == CLIENT_PORT { ACK } else { SYN };
        let (port, packet) = one(&world.frame(FRONT, &request(V4, client_port, flags)));
        assert_eq!(port, FRONT);
        let waxwing_packet::Transport::Tcp { flags, .. } = packet.transport else {
            panic!("{packet:?}")
        };
        assert!(flags.has(RST));
        assert_eq!(packet.ethernet.destination, ROUTER);
    }
}

/// A bridge would drop it and say nothing; but the balancer is the one that knows, and the client would
/// wait for ever. (The ports of a bridge have one MTU as a rule.)
#[test]
fn a_packet_too_big_for_the_other_port_is_reported_to_its_sender() {
    let mut world = World::new(Settings {
        plan: V6,
        transparent: true,
        mtu: 1280,
        ..Settings::default()
    });
    establish(&mut world, CLIENT_PORT, 0);
    let [_, _, answer, _] = steps(V6, true, VLAN);
    let big = build::Tcp {
        link: answer.link,
        tags: answer.tags,
        hop_limit: 1,
        payload: &[7; 1300],
        ..reply_segment(V6, 0, CLIENT_PORT, ACK)
    };
    let (port, packet) = one(&world.frame(BACK, &big.frame()));
    assert_eq!((port, packet.destination), (BACK, V6.backend(0)));
    // The router's address is at the balancer's port for everybody on the servers' side.
    let macs = (packet.ethernet.source, packet.ethernet.destination);
    assert_eq!(macs, (ROUTER, backend_mac(0)));
    assert_eq!(world.counters[0].too_big_sent.get(), 1);
}

#[test]
fn errors_about_a_session_are_translated_and_leave_as_its_packets_do() {
    for plan in [V4, V6] {
        let mut world = World::new(Settings {
            transparent: true,
            ..Settings::tcp(plan)
        });
        let forwarded = world.frame(FRONT, &request(plan, CLIENT_PORT, SYN));
        let quote = &forwarded[0].1[14..];
        let error = build::Error {
            link: link(backend_mac(0), ROUTER),
            tags: VLAN,
            source: plan.backend(0),
            destination: plan.client,
            hop_limit: 1,
            ..port_unreachable(plan, quote)
        };
        let (port, error) = one(&world.frame(BACK, &error.frame()));
        let ethernet = error.ethernet;
        assert_eq!(
            (port, ethernet.source, ethernet.destination, ethernet.tags),
            (FRONT, backend_mac(0), ROUTER, VLAN)
        );
        assert_eq!(
            (error.source, error.destination, error.hop_limit),
            (plan.vip, plan.client, 1)
        );

        let answered = world.frame(BACK, &reply(plan, 0, CLIENT_PORT, SYN_ACK));
        let quote = &answered[0].1[14..];
        let error = build::Error {
            link: FROM_CLIENT,
            hop_limit: 1,
            ..port_unreachable(plan, quote)
        };
        let (port, error) = one(&world.frame(FRONT, &error.frame()));
        assert_eq!(port, BACK);
        assert_eq!(
            (error.ethernet.source, error.ethernet.destination),
            (PORT_MACS[1], backend_mac(0))
        );
        assert_eq!((error.destination, error.hop_limit), (plan.backend(0), 1));
        // One that is about nothing of ours passes.
        let stranger = build::Error {
            link: link(backend_mac(0), ROUTER),
            source: plan.backend(0),
            destination: plan.client,
            ..port_unreachable(plan, &request(plan, 9, SYN)[14..])
        }
        .frame();
        assert_eq!(world.frame(BACK, &stranger), [(FRONT, stranger)]);
        assert_eq!(world.counters[0].icmp_errors_forwarded.get(), 2);
    }
}
