//! Jumbo frames in several buffers: they are handled like frames in one buffer,
//! wherever they are divided.

use proptest::prelude::*;

use crate::fragments::{bytes, reassembled, to_backend, to_client};
use crate::frames::{ACK, RST, SYN, damaged, datagram, ip, one, ping, ports, request};
use crate::icmp_sent::{LAST_HOP, assert_reported, may_be_cut, opened, packet, tagged};
use crate::world::{BACK, BACKEND_PORT, EACH, FRONT, Plan, SERVICE_PORT, Settings, V4, V6, World};
use waxwing_dataplane::model::NoBackend;
use waxwing_dataplane::{DropReason, FragmentLimits, PortId};
use waxwing_packet::{Protocol, Transport, VlanTags};
use waxwing_testkit::fragmenter::fragment;

/// Bytes per buffer: as in XDP sockets, less, an odd number,
/// and little more than the headers.
const PART_LENS: [usize; 4] = [3840, 1792, 1501, 150];

/// A payload for a frame of about 9000 bytes.
fn payload() -> Vec<u8> {
    (0..=250).cycle().take(8900).collect()
}

/// A session of one client, with this many bytes per buffer.
fn divided(plan: Plan, protocol: Protocol, mtu: u16, part_len: usize) -> World {
    let mut world = opened(plan, protocol, mtu);
    world.io(0).split_frames(part_len);
    world
}

fn payload_of(frame: &[u8]) -> &[u8] {
    let packet = ip(frame);
    let start = match packet.transport {
        Transport::Tcp { payload, .. } => payload,
        _ => packet.transport_start + 8,
    };
    &frame[start.into()..packet.end.into()]
}

#[test]
fn jumbo_frames_are_translated_both_ways_and_their_checksums_are_right() {
    for part_len in PART_LENS {
        for (plan, protocol) in EACH {
            let mut world = divided(plan, protocol, 9000, part_len);
            for (from, to, destination) in [
                (FRONT, BACK, (plan.backend(0), BACKEND_PORT)),
                (BACK, FRONT, (plan.client, 4000)),
            ] {
                let frame = packet(plan, protocol, from, tagged(), 64, &payload());
                let received = world.counters[0].received.bytes.get();
                let transmitted = world.counters[0].transmitted.bytes.get();
                let sent = world.frame(from, &frame);
                let (port, translated) = one(&sent);
                assert_eq!(port, to);
                assert_eq!(
                    (translated.destination, ports(&translated).1),
                    destination,
                    "{protocol}, {part_len}"
                );
                assert_eq!(payload_of(&sent[0].1), payload());
                let counters = &world.counters[0];
                assert_eq!(counters.received.bytes.get() - received, frame.len() as u64);
                assert_eq!(
                    counters.transmitted.bytes.get() - transmitted,
                    sent[0].1.len() as u64
                );
            }
            assert_eq!(world.drops(), []);
        }
    }
}

proptest! {
    /// A frame divided anywhere after its headers is handled
    /// like one in a single buffer.
    #[test]
    fn where_a_frame_is_divided_changes_nothing(
        part_len in 90..400_usize,
        v6 in any::<bool>(),
        tcp in any::<bool>(),
        from_back in any::<bool>(),
        with_tags in any::<bool>(),
        last_hop in any::<bool>(),
        mtu in prop_oneof![Just(1280_u16), Just(1500)],
        len in 0..1460_usize,
    ) {
        let plan = if v6 { V6 } else { V4 };
        let protocol = if tcp { Protocol::Tcp } else { Protocol::Udp };
        let from = if from_back { BACK } else { FRONT };
        let tags = if with_tags { tagged() } else { VlanTags::NONE };
        let hops = if last_hop { LAST_HOP } else { 64 };
        let original = packet(plan, protocol, from, tags, hops, &bytes(len));
        let mut whole = opened(plan, protocol, mtu);
        let mut parts = divided(plan, protocol, mtu, part_len);
        // Errors need their quote in the first buffer; that has a test of its own.
        prop_assume!(original.len() <= part_len || (!last_hop && len < 1200));
        prop_assert_eq!(whole.frame(from, &original), parts.frame(from, &original));
        prop_assert_eq!(whole.drops(), parts.drops());
    }
}

#[test]
fn a_too_big_datagram_is_fragmented_or_reported() {
    for part_len in [3840, 1792, 1501] {
        for from in [FRONT, BACK] {
            let original = may_be_cut(V4, from, VlanTags::NONE, 8900);
            let sent = divided(V4, Protocol::Tcp, 1500, part_len).frame(from, &original);
            assert_eq!(sent.len(), 7);
            assert!(sent.iter().all(|(_, piece)| piece.len() <= 1514));
            assert_eq!(payload_of(&reassembled(sent)), payload_of(&original));
        }
        for (plan, kind, code) in [(V4, 3, 4), (V6, 2, 0)] {
            let mut world = divided(plan, Protocol::Tcp, 1500, part_len);
            let original = packet(plan, Protocol::Tcp, FRONT, tagged(), 64, &payload());
            let sent = world.frame(FRONT, &original);
            assert_reported(plan, (FRONT, &original), &sent, (kind, code, 1500));
            assert!(world.frame(FRONT, &damaged(original)).is_empty());
            assert_eq!(world.drops(), [(DropReason::Malformed, 1)]);
        }
    }
}

/// The egress MTU allows jumbo frames, but smaller ones.
#[test]
fn fragments_may_be_jumbo_frames_themselves() {
    let original = may_be_cut(V4, FRONT, VlanTags::NONE, 16_000);
    let sent = divided(V4, Protocol::Tcp, 9000, 3840).frame(FRONT, &original);
    let lens: Vec<_> = sent.iter().map(|(_, piece)| piece.len()).collect();
    assert_eq!(lens, [9010, 7078]);
    assert_eq!(payload_of(&reassembled(sent)), payload_of(&original));
}

/// A ring with room for a part of a frame takes none of it.
#[test]
fn a_frame_is_sent_whole_or_not_at_all() {
    let mut world = divided(V4, Protocol::Tcp, 9000, 3840);
    let frame = packet(V4, Protocol::Tcp, FRONT, VlanTags::NONE, 64, &payload());
    world.io(0).limit_transmit(2);
    assert!(world.frame(FRONT, &frame).is_empty());
    assert_eq!(world.drops(), [(DropReason::TransmitRingFull, 1)]);
    world.io(0).limit_transmit(3);
    one(&world.frame(FRONT, &frame));
}

#[test]
fn a_jumbo_ping_is_answered() {
    for plan in [V4, V6] {
        for payload in [b"are you there?", &payload()[..]] {
            let mut world = divided(plan, Protocol::Tcp, 9000, 3840);
            let (port, reply) = one(&world.frame(FRONT, &ping(plan, payload).frame()));
            assert_eq!((port, reply.destination), (FRONT, plan.client));
        }
    }
}

/// Its sender is answered only if all of it arrived undamaged.
#[test]
fn a_jumbo_packet_that_no_backend_takes_is_rejected() {
    for (plan, protocol) in [(V4, Protocol::Tcp), (V6, Protocol::Udp)] {
        let mut world = World::new(Settings {
            mtu: 9000,
            weights: Vec::new(),
            no_backend: NoBackend::Reject,
            ..Settings::new(plan, protocol)
        });
        let frame = packet(plan, protocol, FRONT, VlanTags::NONE, 64, &payload());
        let (port, answer) = one(&world.frame(FRONT, &frame));
        assert_eq!((port, answer.destination), (FRONT, plan.client));
        let is_reset = matches!(answer.transport, Transport::Tcp { flags, .. } if flags.has(RST));
        assert_eq!(is_reset, protocol == Protocol::Tcp);
        assert!(world.frame(FRONT, &damaged(frame)).is_empty());
        assert_eq!(world.drops(), [(DropReason::Malformed, 1)]);
    }
}

/// XDP sockets deliver incomplete frames like this.
#[test]
fn an_incomplete_frame_is_dropped_and_counted() {
    for (plan, part_len) in [(V4, 3840), (V6, 1501)] {
        let mut world = divided(plan, Protocol::Tcp, 9000, part_len);
        let frame = packet(plan, Protocol::Tcp, FRONT, VlanTags::NONE, 64, &payload());
        for len in [part_len, 2 * part_len, frame.len() - 1] {
            assert!(world.frame(FRONT, &frame[..len]).is_empty());
        }
        assert_eq!(world.drops(), [(DropReason::Malformed, 3)]);
    }
}

#[test]
fn jumbo_fragments_wait_for_their_first_one() {
    for (plan, part_len) in [(V4, 3840), (V6, 1501)] {
        let mut world = crate::fragments::opened(Settings {
            plan,
            protocol: Protocol::Udp,
            mtu: 9000,
            fragments: FragmentLimits {
                held_len_max: 9022,
                ..FragmentLimits::default()
            },
            ..Settings::default()
        });
        world.io(0).split_frames(part_len);
        for (id, way) in [(1, to_backend(plan, 4000)), (2, to_client(plan, 0, 4000))] {
            let datagram = way.frame(Protocol::Udp, &bytes(20_000));
            let mut pieces = fragment(&datagram, &[8800, 8800], id);
            pieces.rotate_left(1);
            let mut sent = Vec::new();
            for piece in &pieces {
                sent.extend(world.frame(way.port, piece));
            }
            assert_eq!(world.counters[0].held.get(), 2 * u64::from(id));
            assert_eq!(payload_of(&reassembled(sent)), bytes(20_000));
        }
        assert_eq!(world.drops(), []);
    }
}

#[test]
fn a_policy_sees_the_beginning_of_the_payload() {
    for part_len in PART_LENS {
        let mut world = World::new(Settings {
            mtu: 9000,
            ..Settings::udp(V4)
        });
        world.io(0).split_frames(part_len);
        world.script().payload_len = 128;
        one(&world.frame(FRONT, &datagram(V4, 4000, &payload())));
        let flows = world.script().asked.clone();
        let seen = usize::from(flows[0].payload_len);
        assert_eq!(flows[0].payload[..seen], payload()[..seen]);
        // Ethernet, IPv4 and UDP headers.
        assert_eq!(seen, 128.min(part_len - 42));
    }
}

#[test]
fn a_jumbo_frame_that_is_not_ours_goes_to_the_kernel_whole() {
    let mut world = World::new(Settings {
        mtu: 9000,
        ..Settings::default()
    });
    let direct = packet(V4, Protocol::Tcp, BACK, VlanTags::NONE, 64, &payload());
    assert!(world.frame(BACK, &direct).is_empty());
    assert_eq!(world.io(0).passed_to_kernel(), [(PortId(1), direct)]);
}

/// The quote must lie in the first buffer; a frame with less there gets no error.
#[test]
fn an_icmp_error_needs_its_quote_in_the_first_buffer() {
    let original = packet(
        V4,
        Protocol::Udp,
        FRONT,
        VlanTags::NONE,
        LAST_HOP,
        &payload(),
    );
    for (part_len, answers) in [(1501, 1), (562, 1), (561, 0), (150, 0)] {
        let mut world = divided(V4, Protocol::Udp, 9000, part_len);
        assert_eq!(world.frame(FRONT, &original).len(), answers, "{part_len}");
        assert_eq!(world.dropped(DropReason::Malformed), 1 - answers as u64);
    }
    // Sessions' packets are not affected.
    let mut world = divided(V4, Protocol::Tcp, 9000, 150);
    for flags in [SYN, ACK] {
        let (_, packet) = one(&world.frame(FRONT, &request(V4, 4000, flags)));
        assert_eq!(ports(&packet), (4000, BACKEND_PORT));
        assert_ne!(SERVICE_PORT, BACKEND_PORT);
    }
}
