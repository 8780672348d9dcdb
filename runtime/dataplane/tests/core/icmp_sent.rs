//! ICMP errors of the balancer's own: hop limit, path MTU, their rate limits, and ping's.

use std::time::Duration;

use crate::frames::{
    ACK, SYN, SYN_ACK, TAGS, damaged, datagram, datagram_back, ip, one, ping, port_unreachable,
    reply, reply_segment, request, segment,
};
use crate::world::{BACK, CLIENT_MAC, FRONT, PORT_MACS, Plan, Settings, V4, V6, World};
use waxwing_dataplane::model::Port;
use waxwing_dataplane::{DropReason, PortId};
use waxwing_packet::{Delta, Mac, Packet, Protocol, Quote, Transport, VlanTags, parse};
use waxwing_testkit::build;

/// The highest hop limit that is not forwarded.
pub(crate) const LAST_HOP: u8 = 1;

/// By which replies with [`tagged`] tags come.
const BACK_VLAN: PortId = PortId(2);

/// A world with one session, and a frame of each direction made from it.
pub(crate) fn opened(plan: Plan, protocol: Protocol, mtu: u16) -> World {
    let vlan = Port {
        wire: BACK,
        tags: tagged(),
        announces: false,
        ..Port::attached(BACK_VLAN, "vlan".into(), PORT_MACS[1], mtu)
    };
    let mut world = World::new(Settings {
        mtu,
        vlans: vec![vlan],
        ..Settings::new(plan, protocol)
    });
    match protocol {
        Protocol::Tcp => {
            one(&world.frame(FRONT, &request(plan, 4000, SYN)));
            one(&world.frame(BACK, &reply(plan, 0, 4000, SYN_ACK)));
        }
        Protocol::Udp => {
            one(&world.frame(FRONT, &datagram(plan, 4000, b"?")));
            one(&world.frame(BACK, &datagram_back(plan, 0, 4000)));
        }
    }
    world.reach_also_by(BACK_VLAN);
    world
}

/// A packet of the session from one side, with this hop limit and payload length.
pub(crate) fn packet(
    plan: Plan,
    protocol: Protocol,
    from: PortId,
    tags: VlanTags,
    hop_limit: u8,
    payload: &[u8],
) -> Vec<u8> {
    let segment = if from == FRONT {
        segment(plan, 4000, ACK)
    } else {
        reply_segment(plan, 0, 4000, ACK)
    };
    build::Tcp {
        tags,
        hop_limit,
        payload,
        ..segment
    }
    .frame_of(protocol)
}

/// Type of service or traffic class.
fn class(frame: &[u8], network: usize) -> u8 {
    let word = u16::from_be_bytes([frame[network], frame[network + 1]]);
    match word >> 12 {
        4 => word as u8,
        _ => (word >> 4) as u8,
    }
}

/// The error returns to the ingress, comes from the VIP, and quotes the packet as it was sent.
pub(crate) fn assert_reported(
    plan: Plan,
    (from, original): (PortId, &[u8]),
    sent: &[(PortId, Vec<u8>)],
    (kind, code, parameter): (u8, u8, u32),
) {
    let (port, error) = one(sent);
    let frame = &sent[0].1;
    let Ok(Packet::Ip(packet)) = parse(original) else {
        panic!("{original:?}")
    };
    assert_eq!(port, from);
    assert_eq!((error.source, error.destination), (plan.vip, packet.source));
    assert_eq!(error.transport, Transport::Icmp { kind, code });
    let (ethernet, before) = (error.ethernet, packet.ethernet);
    assert_eq!(
        (ethernet.destination, ethernet.source, ethernet.tags),
        (before.source, before.destination, before.tags)
    );
    let message = usize::from(error.transport_start);
    assert_eq!(frame[message + 4..message + 8], parameter.to_be_bytes());
    assert!(original[packet.network.into()..].starts_with(&frame[message + 8..]));
    let quote = Quote::parse(frame, &error).expect("it is well-formed");
    assert_eq!(quote.expect("of a session").source, packet.source);
    assert_eq!(class(frame, error.network.into()), 0xc0, "CS6");
}

pub(crate) const fn tagged() -> VlanTags {
    TAGS[1]
}

#[test]
fn an_exceeded_hop_limit_is_reported_by_the_vip() {
    for (plan, kind) in [(V4, 11), (V6, 3)] {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let mut world = opened(plan, protocol, 1500);
            let mut count = 0;
            for (from, tags) in [FRONT, BACK]
                .into_iter()
                .flat_map(|from| [(from, VlanTags::NONE), (from, tagged())])
            {
                for (hop_limit, len) in [(0, 0), (LAST_HOP, 10), (LAST_HOP, 1400)] {
                    let original = packet(plan, protocol, from, tags, hop_limit, &vec![7; len]);
                    let sent = world.frame(from, &original);
                    assert_reported(plan, (from, &original), &sent, (kind, 0, 0));
                    count += 1;
                }
                let original = packet(plan, protocol, from, tags, LAST_HOP + 1, b"");
                assert_eq!(one(&world.frame(from, &original)).1.hop_limit, 1);
            }
            assert_eq!(world.counters[0].time_exceeded_sent.get(), count);
            assert_eq!(world.drops(), []);
        }
    }
}

#[test]
fn a_too_big_packet_is_reported_with_the_mtu() {
    for (plan, kind, code) in [(V4, 3, 4), (V6, 2, 0)] {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let mtu = 1280;
            let mut world = opened(plan, protocol, mtu);
            let headers = packet(plan, protocol, FRONT, VlanTags::NONE, 64, b"").len() - 14;
            let room = usize::from(mtu) - headers;
            for from in [FRONT, BACK] {
                let original =
                    |len: usize| packet(plan, protocol, from, tagged(), 64, &vec![7; len]);
                one(&world.frame(from, &original(room)));
                for len in [room + 1, room + 200] {
                    let original = original(len);
                    let sent = world.frame(from, &original);
                    assert_reported(plan, (from, &original), &sent, (kind, code, mtu.into()));
                }
            }
            assert_eq!(world.counters[0].too_big_sent.get(), 4);
            assert_eq!(world.drops(), []);
        }
    }
}

/// A TCP packet of the session with this payload length that may be fragmented
/// (built frames say "don't fragment").
pub(crate) fn may_be_cut(plan: Plan, from: PortId, tags: VlanTags, len: usize) -> Vec<u8> {
    let payload: Vec<u8> = (0..=255).cycle().take(len).collect();
    let mut frame = packet(plan, Protocol::Tcp, from, tags, 64, &payload);
    let at = usize::from(ip(&frame).network);
    let sum = u16::from_be_bytes([frame[at + 10], frame[at + 11]]);
    let sum = Delta::between(&[0x4000], &[0]).apply(sum);
    frame[at + 6] = 0;
    frame[at + 10..at + 12].copy_from_slice(&sum.to_be_bytes());
    frame
}

#[test]
fn fragments_of_a_packet_reassemble_to_the_packet() {
    let mtu = 1280;
    for (from, tags) in [(FRONT, VlanTags::NONE), (FRONT, tagged()), (BACK, tagged())] {
        for (len, count) in [(1240, 1), (1241, 2), (1400, 2), (3600, 3)] {
            let original = may_be_cut(V4, from, tags, len);
            let whole = opened(V4, Protocol::Tcp, 9000).frame(from, &original);
            let mut world = opened(V4, Protocol::Tcp, mtu);
            let before = world.counters[0].transmitted.packets.get();
            let sent = world.frame(from, &original);
            assert_eq!(sent.len(), count, "{len} bytes");
            let expected = ip(&whole[0].1);
            let mut together = Vec::new();
            for (port, piece) in &sent {
                let packet = ip(piece);
                assert_eq!(*port, whole[0].0);
                assert!(packet.end - packet.network <= mtu);
                assert_eq!(packet.ethernet, expected.ethernet);
                assert_eq!(
                    (packet.source, packet.destination, packet.hop_limit),
                    (expected.source, expected.destination, 63)
                );
                let offset = packet.fragment.map_or(0, |part| usize::from(part.offset));
                assert_eq!(offset, together.len());
                let start = usize::from(packet.transport_start);
                together.extend_from_slice(&piece[start..packet.end.into()]);
            }
            let segment = usize::from(expected.transport_start)..usize::from(expected.end);
            assert_eq!(together, whole[0].1[segment]);
            let counters = &world.counters[0];
            let cut = u64::from(count > 1);
            assert_eq!(counters.packets_fragmented.get(), cut);
            assert_eq!(counters.fragments_sent.get(), cut * count as u64);
            assert_eq!(counters.transmitted.packets.get() - before, count as u64);
            assert_eq!(world.drops(), []);
        }
    }
}

#[test]
fn without_free_frames_the_rest_of_a_fragmented_packet_is_dropped() {
    let original = may_be_cut(V4, FRONT, VlanTags::NONE, 3600);
    let mut world = opened(V4, Protocol::Tcp, 1280);
    world.io(0).limit_transmit(1);
    assert_eq!(world.frame(FRONT, &original).len(), 1);
    assert_eq!(world.drops(), [(DropReason::TransmitRingFull, 1)]);
    assert_eq!(world.counters[0].packets_fragmented.get(), 0);
    assert_eq!(world.counters[0].fragments_sent.get(), 1);

    let mut world = opened(V4, Protocol::Tcp, 1280);
    // All frames but two are in flight: the packet's own and one for its first fragment.
    world.batch(BACK, (0..254).map(|_| reply(V4, 0, 9, SYN_ACK)));
    assert_eq!(world.frame(FRONT, &original).len(), 1);
    assert_eq!(world.drops(), [(DropReason::NoFrame, 1)]);
}

#[test]
fn no_error_is_sent_where_the_rfcs_forbid_it() {
    let mut world = opened(V4, Protocol::Tcp, 400);
    // It may be fragmented, but into too many fragments.
    let may_be_cut = may_be_cut(V4, FRONT, VlanTags::NONE, 3700);
    let last_hop = build::Tcp {
        hop_limit: LAST_HOP,
        ..segment(V4, 4000, ACK)
    };
    let mut from_group = last_hop;
    from_group.link.source = Mac([1, 0, 0, 0, 0, 1]);
    let quoted = packet(V4, Protocol::Tcp, FRONT, VlanTags::NONE, 64, b"");
    let error = build::Error {
        hop_limit: LAST_HOP,
        destination: V4.client,
        source: V4.vip,
        ..port_unreachable(V4, &quoted[14..])
    };
    for (frame, reason) in [
        (may_be_cut, DropReason::TooBig),
        (from_group.frame(), DropReason::Martian),
        (damaged(last_hop.frame()), DropReason::Malformed),
    ] {
        assert!(world.frame(FRONT, &frame).is_empty(), "{reason:?}");
        assert_eq!(world.dropped(reason), 1, "{reason:?}");
    }
    assert!(world.frame(BACK, &error.frame()).is_empty(), "an error");
    world.io(0).passed_to_kernel();
    assert_eq!(world.counters[0].time_exceeded_sent.get(), 0);
    assert_eq!(world.counters[0].too_big_sent.get(), 0);
}

#[test]
fn own_errors_have_one_rate_limit_for_both_directions() {
    let mut world = opened(V6, Protocol::Udp, 1280);
    let reports_of_200 = |world: &mut World| -> usize {
        let reports = |n: usize| {
            let from = [FRONT, BACK][n % 2];
            let payload = vec![7; 1300 * (n / 2 % 2)];
            let original = packet(V6, Protocol::Udp, from, VlanTags::NONE, LAST_HOP, &payload);
            world.frame(from, &original).len()
        };
        (0..200).map(reports).sum()
    };
    assert_eq!(reports_of_200(&mut world), 100);
    assert_eq!(world.drops(), [(DropReason::AnswerLimit, 100)]);
    world.advance(Duration::from_millis(10));
    assert_eq!(reports_of_200(&mut world), 10);
}

#[test]
fn pings_have_a_rate_limit_of_their_own() {
    for plan in [V4, V6] {
        let mut world = opened(plan, Protocol::Tcp, 1500);
        let answered = |world: &mut World| -> usize {
            (0..1500)
                .map(|_| {
                    world
                        .frame(FRONT, &ping(plan, b"are you there?").frame())
                        .len()
                })
                .sum()
        };
        assert_eq!(answered(&mut world), 1000);
        assert_eq!(world.drops(), [(DropReason::AnswerLimit, 500)]);
        assert_eq!(world.counters[0].responded.get(), 1000);
        world.advance(Duration::from_millis(10));
        assert_eq!(answered(&mut world), 100);
        let last_hop = packet(plan, Protocol::Tcp, FRONT, VlanTags::NONE, LAST_HOP, b"");
        let (port, error) = one(&world.frame(FRONT, &last_hop));
        assert_eq!((port, error.ethernet.destination), (FRONT, CLIENT_MAC));
        assert_eq!(error.ethernet.source, PORT_MACS[0]);
    }
}

#[test]
fn a_vip_with_ping_off_drops_pings() {
    for plan in [V4, V6] {
        let mut world = World::new(Settings {
            ping: false,
            ..Settings::tcp(plan)
        });
        assert!(
            world
                .frame(FRONT, &ping(plan, b"are you there?").frame())
                .is_empty()
        );
        assert_eq!(world.drops(), [(DropReason::Unsupported, 1)]);
        world.change(|settings| settings.ping = true);
        one(&world.frame(FRONT, &ping(plan, b"are you there?").frame()));
    }
}
