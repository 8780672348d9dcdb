//! ICMP errors about no session, and forged ones: each ends once, and none changes a session.

use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;

use crate::frames::{
    ACK, FROM_CLIENT, FROM_SERVERS, SYN, SYN_ACK, damaged, datagram, datagram_back, error_back,
    error_to, establish, ip, one, port_unreachable, reply, request, segment,
};
use crate::hosts::packet_of;
use crate::icmp_errors::{kinds, router};
use crate::world::{BACK, BACKEND_PORT, FRONT, SERVICE_PORT, Settings, V4, V6, World};
use waxwing_dataplane::{BackendId, DropReason};
use waxwing_packet::{Address, Family, Packet, icmp, parse};
use waxwing_testkit::build;

use DropReason::{
    HopLimit, IcmpNoSession, Malformed, Martian, NeighborUnresolved, TooBig, Unsupported,
};

/// The quoted packets, as the networks saw them.
fn both_ways(world: &mut World) -> (Vec<u8>, Vec<u8>) {
    let plan = world.settings.plan;
    let forwarded = packet_of(&world.frame(FRONT, &request(plan, 4000, SYN)));
    let returned = packet_of(&world.frame(BACK, &reply(plan, 0, 4000, SYN_ACK)));
    (forwarded, returned)
}

#[test]
fn an_error_about_no_session_is_dropped_at_a_vip_and_passed_to_the_kernel_otherwise() {
    for plan in [V4, V6] {
        let mut world = World::new(Settings::tcp(plan));
        let (forwarded, returned) = both_ways(&mut world);
        let before = world.sessions();
        let to = |quote: &[u8]| error_to(plan, plan.client, quote);
        let back = |quote: &[u8]| error_back(plan, plan.backend(0), quote);
        let other_port = |packet: &[u8]| {
            let mut packet = packet.to_vec();
            packet[if plan.vip.family() == Family::V4 {
                20
            } else {
                40
            }] ^= 1;
            packet
        };
        let short = |packet: &[u8]| packet[..27].to_vec();
        let as_sent = request(plan, 4000, SYN)[14..].to_vec();
        let mut ping = build::Echo {
            reply: true,
            source: plan.vip,
            destination: plan.client,
            ..build::Echo::default()
        }
        .frame();
        let other_kind = build::Error {
            error: build::icmp_error(100, 0, 0),
            ..port_unreachable(plan, &returned)
        };
        let elsewhere = build::Error {
            link: FROM_SERVERS,
            source: plan.backend(0),
            destination: router(plan),
            ..port_unreachable(plan, &forwarded)
        };
        for (what, frame, reason) in [
            ("another port", to(&other_port(&returned)), IcmpNoSession),
            ("the other way round", to(&forwarded), IcmpNoSession),
            ("what the client sent", to(&as_sent), IcmpNoSession),
            ("the VIP's own echo", to(&ping.split_off(14)), IcmpNoSession),
            ("cut short", to(&short(&returned)), Malformed),
            ("nothing", to(&[]), Malformed),
            ("of no known kind", other_kind.frame(), Unsupported),
        ] {
            let dropped = world.dropped(reason);
            assert!(world.frame(FRONT, &frame).is_empty(), "{what}");
            assert_eq!(world.dropped(reason) - dropped, 1, "{what}");
        }
        for (what, frame) in [
            ("another port", back(&other_port(&forwarded))),
            ("the other way round", back(&returned)),
            ("to another than it is about", elsewhere.frame()),
            ("cut short", back(&short(&forwarded))),
            ("nothing", back(&[])),
        ] {
            assert!(world.frame(BACK, &frame).is_empty(), "{what}");
            assert_eq!(world.io(0).passed_to_kernel(), [(BACK, frame)], "{what}");
        }
        assert_eq!(world.counters[0].icmp_errors_forwarded.get(), 0);
        assert_eq!(world.sessions(), before);
    }
}

/// No error is sent about an error.
#[test]
fn an_error_that_cannot_be_forwarded_is_dropped() {
    for plan in [V4, V6] {
        let mut world = World::new(Settings {
            mtu: 120,
            ..Settings::tcp(plan)
        });
        let (_, returned) = both_ways(&mut world);
        let whole = port_unreachable(plan, &returned);
        let martian = match plan.vip.family() {
            Family::V4 => Address::v4([127, 0, 0, 1]),
            Family::V6 => Address::from_bits(1),
        };
        let long = [&returned[..], &[0; 100]].concat();
        let last_hop = build::Error {
            hop_limit: 1,
            ..whole
        };
        let from_martian = build::Error {
            source: martian,
            ..whole
        };
        let too_long = build::Error {
            quote: &long,
            ..whole
        };
        for (frame, reason) in [
            (damaged(whole.frame()), Malformed),
            (last_hop.frame(), HopLimit),
            (from_martian.frame(), Martian),
            (too_long.frame(), TooBig),
        ] {
            assert!(world.frame(FRONT, &frame).is_empty(), "{reason:?}");
            assert_eq!(world.dropped(reason), 1, "{reason:?}");
        }
        world.shared.next_hops.set(BackendId(0), None);
        assert!(world.frame(FRONT, &whole.frame()).is_empty());
        assert_eq!(world.dropped(NeighborUnresolved), 1);
        assert_eq!(world.shared.next_hops.take_wanted(), [BackendId(0)]);
    }
}

#[test]
fn an_error_neither_refreshes_a_session_nor_finds_an_expired_one() {
    let mut world = World::new(Settings::udp(V4));
    one(&world.frame(FRONT, &datagram(V4, 4000, b"?")));
    let returned = packet_of(&world.frame(BACK, &datagram_back(V4, 0, 4000)));
    let error = error_to(V4, V4.client, &returned);
    for _ in 0..29 {
        world.advance(Duration::from_secs(1));
        one(&world.frame(FRONT, &error));
    }
    world.advance(Duration::from_secs(2));
    assert!(world.frame(FRONT, &error).is_empty());
    assert_eq!(world.drops(), [(IcmpNoSession, 1)]);
}

/// An attacker who guesses a tuple can forge errors about it. Thousands of them do not harm the session.
#[test]
fn a_flood_of_forged_errors_changes_no_session() {
    let mut world = World::new(Settings::default());
    for port in 4000..4050 {
        establish(&mut world, port, 0);
    }
    let before = world.sessions();
    let held = world.held();
    let mut passed = 0;
    for round in 0..20 {
        world.advance(Duration::from_secs(60));
        world.io(0).passed_to_kernel();
        for port in 4000..4100 {
            let to_backend = build::Tcp {
                source: (V4.client, port),
                destination: (V4.backend(0), BACKEND_PORT),
                ..segment(V4, port, ACK)
            };
            let to_client = build::Tcp {
                source: (V4.vip, SERVICE_PORT),
                destination: (V4.client, port),
                ..segment(V4, port, ACK)
            };
            let error = kinds(V4)[round % kinds(V4).len()];
            for (ingress, link, destination, quote) in [
                (BACK, FROM_SERVERS, V4.client, to_backend.frame()),
                (FRONT, FROM_CLIENT, V4.vip, to_client.frame()),
            ] {
                let forged = build::Error {
                    link,
                    destination,
                    source: router(V4),
                    error,
                    ..port_unreachable(V4, &quote[14..])
                };
                passed += world.frame(ingress, &forged.frame()).len();
            }
        }
    }
    assert_eq!(passed, 20 * 50 * 2);
    assert_eq!(world.sessions(), before);
    assert_eq!(world.held(), held);
    for port in 4000..4050 {
        one(&world.frame(FRONT, &request(V4, port, ACK)));
        one(&world.frame(BACK, &reply(V4, 0, port, ACK)));
    }
}

/// An ICMP error with some bytes changed, truncated or extended.
#[derive(Clone, Debug)]
struct Damage {
    v6: bool,
    forward: bool,
    kind: u8,
    bytes: Vec<(prop::sample::Index, u8)>,
    len: prop::sample::Index,
    garbage: Vec<u8>,
}

fn damages() -> impl Strategy<Value = Damage> {
    (
        any::<(bool, bool)>(),
        0..13_u8,
        vec(any::<(prop::sample::Index, u8)>(), 0..4),
        any::<prop::sample::Index>(),
        vec(any::<u8>(), 0..60),
    )
        .prop_map(|((v6, forward), kind, bytes, len, garbage)| Damage {
            v6,
            forward,
            kind,
            bytes,
            len,
            garbage,
        })
}

fn is_error(frame: &[u8]) -> bool {
    matches!(parse(frame), Ok(Packet::Ip(packet)) if icmp::is_error(&packet))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    /// For any content: no panic, one end, no session changed, and sent frames are well-formed.
    #[test]
    fn damaged_errors_end_once_and_change_no_session(damages in vec(damages(), 1..40)) {
        for plan in [V4, V6] {
            let mut world = World::new(Settings { plan, ..Settings::default() });
            let (forwarded, returned) = both_ways(&mut world);
            let before = world.sessions();
            let received = world.counters[0].received.packets.get();
            let transmitted = world.counters[0].transmitted.packets.get();
            world.advance(Duration::from_secs(5));
            let mut count = 0;
            for damage in damages.iter().filter(|damage| damage.v6 == (plan.vip.family() == Family::V6)) {
                let (port, link, destination, packet) = if damage.forward {
                    (FRONT, FROM_CLIENT, plan.vip, &returned)
                } else {
                    (BACK, FROM_SERVERS, plan.client, &forwarded)
                };
                let quote = [&packet[..damage.len.index(packet.len() + 1)], &damage.garbage].concat();
                let error = build::Error {
                    link,
                    source: router(plan),
                    destination,
                    error: build::icmp_error(damage.kind, 0, 0),
                    ..port_unreachable(plan, &quote)
                };
                let mut frame = error.frame();
                for (at, byte) in &damage.bytes {
                    // The link header does not matter here.
                    let at = 14 + at.index(frame.len() - 14);
                    frame[at] = *byte;
                }
                prop_assert!(world.io(0).inject(port, &frame));
                count += 1;
            }
            world.run(0);
            let sent = world.io(0).sent();
            // A damaged ping gets a damaged reply.
            for (_, frame) in sent.iter().filter(|(_, frame)| is_error(frame)) {
                ip(frame);
            }
            let counters = &world.counters[0];
            let dropped: u64 = world.drops().iter().map(|(_, n)| n).sum();
            prop_assert_eq!(counters.received.packets.get() - received, count);
            prop_assert_eq!(counters.transmitted.packets.get() - transmitted, sent.len() as u64);
            // A damaged frame may be a fragment that is held, and ends again when it is released.
            let ended = sent.len() as u64 + counters.to_kernel.get() + counters.held.get() + dropped;
            prop_assert_eq!(ended, count + counters.released.get());
            prop_assert_eq!(world.sessions(), before);
        }
    }
}
