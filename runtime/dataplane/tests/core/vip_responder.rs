//! VIP responses and announcements, and the return path to a client.

use std::time::Duration;

use crate::frames::{
    ACK, SYN, SYN_ACK, TAGS, establish, ip, one, ping, ports, reply, request, segment,
};
use crate::world::{
    BACK, CLIENT_MAC, FRONT, PORT_MACS, SERVICE_PORT, Settings, V4, V6, World, backend_mac,
};
use waxwing_dataplane::model::Release;
use waxwing_dataplane::session::Session;
use waxwing_dataplane::{DropReason, Pick};
use waxwing_packet::{Link, Mac, Packet, VlanTags, parse};
use waxwing_testkit::build;
use waxwing_testkit::fragmenter::{fragment, permutations, reassemble};

#[test]
fn replies_follow_the_client_to_another_gateway() {
    let mut world = World::new(Settings::default());
    establish(&mut world, 4000, 0);
    let other_gateway = Mac([2, 0, 0, 0, 9, 9]);
    let mut moved = request(V4, 4000, ACK);
    moved[6..12].copy_from_slice(&other_gateway.0);
    one(&world.frame(FRONT, &moved));
    let (_, packet) = one(&world.frame(BACK, &reply(V4, 0, 4000, ACK)));
    assert_eq!(packet.ethernet.destination, other_gateway);
}

#[test]
fn a_client_on_a_vlan_gets_its_tags_back() {
    for tags in [TAGS[1], TAGS[2]] {
        let mut world = World::new(Settings::default());
        let tagged = build::Tcp {
            tags,
            ..segment(V4, 4000, SYN)
        };
        let (_, packet) = one(&world.frame(FRONT, &tagged.frame()));
        assert_eq!(packet.ethernet.tags, VlanTags::NONE);
        assert_eq!(packet.ethernet.destination, backend_mac(0));
        let (_, packet) = one(&world.frame(BACK, &reply(V4, 0, 4000, SYN_ACK)));
        assert_eq!(packet.ethernet.tags, tags);
        assert_eq!(packet.ethernet.destination, CLIENT_MAC);
        assert_eq!(
            (packet.source, ports(&packet)),
            (V4.vip, (SERVICE_PORT, 4000))
        );
    }
}

#[test]
fn a_vip_answers_ping_arp_and_neighbour_solicitations() {
    for plan in [V4, V6] {
        let mut world = World::new(Settings::tcp(plan));
        let ping = ping(plan, b"are you there?").frame();
        let (port, packet) = one(&world.frame(FRONT, &ping));
        assert_eq!(
            (port, packet.source, packet.destination),
            (FRONT, plan.vip, plan.client)
        );
        assert_eq!(packet.ethernet.destination, CLIENT_MAC);
    }

    let mut world = World::new(Settings::default());
    let who_has = |target| build::ArpRequest {
        mac: CLIENT_MAC,
        sender: V4.client,
        target,
        ..build::ArpRequest::default()
    };
    let sent = world.frame(FRONT, &who_has(V4.vip).frame());
    let Ok(Packet::Arp(ethernet)) = parse(&sent[0].1) else {
        panic!("{sent:?}")
    };
    let answer = waxwing_packet::arp::Arp::parse(&sent[0].1, &ethernet).expect("it is ARP");
    assert_eq!((answer.sender, answer.sender_mac), (V4.vip, PORT_MACS[0]));
    assert_eq!(answer.target_mac, CLIENT_MAC);
    assert!(
        world
            .frame(FRONT, &who_has(V4.backend(0)).frame())
            .is_empty(),
        "not ours"
    );

    let mut world = World::new(Settings::tcp(V6));
    let solicitation = build::NeighborSolicitation {
        mac: CLIENT_MAC,
        source: V6.client,
        target: V6.vip,
        ..build::NeighborSolicitation::default()
    };
    let sent = world.frame(FRONT, &solicitation.frame());
    let (_, packet) = one(&sent);
    let answer = waxwing_packet::ndp::Advertisement::parse(&sent[0].1, &packet).expect("an answer");
    assert_eq!((answer.target, packet.destination), (V6.vip, V6.client));
    assert_eq!(world.counters[0].responded.get(), 1);
}

/// Another host may own it now. Its sessions go on.
#[test]
fn a_removed_vip_is_not_answered() {
    for plan in [V4, V6] {
        let mut world = World::new(Settings {
            plan,
            ..Settings::default()
        });
        establish(&mut world, 4000, 0);
        let announced = world.counters[0].announced.get();
        world.change(|settings| settings.is_unserved = true);
        let asked = ping(plan, b"are you there?").frame();
        assert!(world.frame(FRONT, &asked).is_empty(), "ping");
        let asked = if plan.vip == V4.vip {
            build::ArpRequest {
                mac: CLIENT_MAC,
                sender: plan.client,
                target: plan.vip,
                ..build::ArpRequest::default()
            }
            .frame()
        } else {
            build::NeighborSolicitation {
                mac: CLIENT_MAC,
                source: plan.client,
                target: plan.vip,
                ..build::NeighborSolicitation::default()
            }
            .frame()
        };
        assert!(world.frame(FRONT, &asked).is_empty(), "ARP or NDP");
        // A new flow is for its new owner, to whom the kernel routes it.
        assert!(world.frame(FRONT, &request(plan, 4001, SYN)).is_empty());
        assert_eq!(world.io(0).passed_to_kernel().len(), 3);
        assert_eq!(world.drops(), []);
        world.advance(Duration::from_secs(3));
        world.run(0);
        assert_eq!(world.counters[0].announced.get(), announced);

        let (_, packet) = one(&world.frame(FRONT, &request(plan, 4000, ACK)));
        assert_eq!(packet.destination, plan.backend(0), "its session goes on");
        let (_, packet) = one(&world.frame(BACK, &reply(plan, 0, 4000, ACK)));
        assert_eq!(packet.source, plan.vip);
    }
}

#[test]
fn vips_are_announced_on_every_port_twice_and_again_when_they_change() {
    let mut world = World::new(Settings::default());
    let announced = world.counters[0].announced.get();
    assert_eq!(announced, 4, "one VIP, two ports, two rounds");

    let more = Settings {
        plan: V6,
        ..world.settings.clone()
    };
    let release = Release::held();
    let epoch = world.epoch(more.snapshot(2), release.clone());
    world.send(0, epoch);
    release.give();
    world.run(0);
    world.advance(Duration::from_secs(3));
    world.run(0);
    assert_eq!(world.counters[0].announced.get() - announced, 4);
    let frames = world.io(0).sent();
    assert!(frames.iter().all(|(_, frame)| ip(frame).source == V6.vip));
}

/// The client only waits for the reply, so only the neighbour table can report the gateway's new MAC.
#[test]
fn replies_follow_a_gateway_that_announced_a_new_mac() {
    let mut world = World::new(Settings::default());
    for port in 4000..4010 {
        world.script().picks = vec![Pick::Backend(u32::from(port % 3))];
        establish(&mut world, port, u32::from(port % 3));
    }
    let other_gateway = Mac([2, 0, 0, 0, 9, 9]);
    let moved = |session: &Session| (session.client_port < 4005).then_some(other_gateway);
    assert_eq!(world.shared.sessions.move_hops(moved), 5);
    for port in 4000..4010 {
        let backend = u32::from(port % 3);
        let (_, packet) = one(&world.frame(BACK, &reply(V4, backend, port, ACK)));
        let gateway = if port < 4005 {
            other_gateway
        } else {
            CLIENT_MAC
        };
        assert_eq!(packet.ethernet.destination, gateway);
    }
    // The client's next packet still decides.
    one(&world.frame(FRONT, &request(V4, 4000, ACK)));
    let (_, packet) = one(&world.frame(BACK, &reply(V4, 4000 % 3, 4000, ACK)));
    assert_eq!(packet.ethernet.destination, CLIENT_MAC);
}

/// Larger than the MTU, in any order of arrival; and only while the VIP answers ping.
#[test]
fn a_ping_in_fragments_is_answered_in_fragments() {
    for plan in [V4, V6] {
        let ping = ping(plan, &[7; 4000]);
        let reply = build::Echo {
            link: Link {
                source: PORT_MACS[0],
                destination: CLIENT_MAC,
            },
            source: plan.vip,
            destination: plan.client,
            reply: true,
            ..ping
        };
        let parts = fragment(&ping.frame(), &[1480, 1480], 5);
        for order in permutations(3) {
            let mut world = World::new(Settings::tcp(plan));
            let sent: Vec<_> = (order.iter())
                .flat_map(|n| world.frame(FRONT, &parts[*n]))
                .collect();
            assert!(sent.iter().all(|(port, _)| *port == FRONT));
            let frames: Vec<_> = sent.into_iter().map(|(_, frame)| frame).collect();
            assert_eq!(reassemble(&frames), reply.frame(), "{order:?}");
            assert_eq!(world.counters[0].responded.get(), 3);
            assert_eq!(world.drops(), []);
        }
        let mut world = World::new(Settings {
            ping: false,
            ..Settings::tcp(plan)
        });
        for part in &parts {
            assert_eq!(world.frame(FRONT, part), []);
        }
        assert_eq!(world.drops(), [(DropReason::Fragment, 3)]);
    }
}

/// Later fragments alone are never answered: two VIPs would send one to each other for ever.
#[test]
fn fragments_of_what_is_no_ping_are_not_answered() {
    for plan in [V4, V6] {
        let reply = build::Echo {
            reply: true,
            ..ping(plan, &[7; 4000])
        };
        let parts = fragment(&reply.frame(), &[1480, 1480], 5);
        // With its first fragment, and without.
        for skipped in [0, 1] {
            let mut world = World::new(Settings::tcp(plan));
            for part in &parts[skipped..] {
                assert_eq!(world.frame(FRONT, part), []);
            }
            world.sweep_round(0, Duration::from_secs(10));
            assert_eq!(world.io(0).sent(), []);
            assert_eq!(world.counters[0].responded.get(), 0);
        }
    }
}
