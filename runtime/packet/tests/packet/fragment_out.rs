//! `Fragmentation`: the fragments, as etherparse parses them, reassemble to the packet.

use etherparse::{NetSlice, SlicedPacket};
use proptest::prelude::*;

use crate::samples::{TAGS, ip, samples};
use waxwing_packet::{Address, Family, Fragmentation, VlanTags, parse};
use waxwing_testkit::build;

/// Offset of the IPv4 flags in an untagged frame.
const FLAGS: usize = 14 + 6;
const DONT_FRAGMENT: u8 = 0x40;

fn fragments(frame: &[u8], mtu: u16) -> Option<Vec<Vec<u8>>> {
    let plan = Fragmentation::new(frame, &ip(frame), mtu)?;
    let fragment = |number| {
        let mut fragment = vec![0xee; plan.frame_len(number)];
        assert!(plan.write(number, frame, &mut fragment));
        fragment
    };
    Some((0..plan.count()).map(fragment).collect())
}

/// Returns a fragment's offset in bytes, whether more follow, and its payload; checks its header
/// checksum.
fn read(fragment: &[u8]) -> (usize, bool, Vec<u8>) {
    let sliced = SlicedPacket::from_ethernet(fragment).expect("a valid frame");
    let Some(NetSlice::Ipv4(v4)) = sliced.net else {
        panic!("{sliced:?}")
    };
    let header = v4.header().to_header();
    assert_eq!(header.header_checksum, header.calc_header_checksum());
    let offset = usize::from(header.fragment_offset.value()) * 8;
    let payload = v4.payload().payload.to_vec();
    (offset, header.more_fragments, payload)
}

/// Clears "don't fragment", which etherparse and `build` set.
fn allow_fragmentation(frame: &mut [u8]) {
    let packet = ip(frame);
    let at = usize::from(packet.network);
    frame[at + 6] &= !DONT_FRAGMENT;
    let end = usize::from(packet.transport_start);
    frame[at + 10..at + 12].fill(0);
    let sum = waxwing_packet::checksum::of(&frame[at..end]);
    frame[at + 10..at + 12].copy_from_slice(&sum.to_be_bytes());
}

fn datagram(len: usize, tags: VlanTags) -> Vec<u8> {
    let payload: Vec<u8> = (0..=255).cycle().take(len).collect();
    let mut frame = build::Udp {
        tags,
        source: (Address::v4([10, 2, 0, 11]), 53),
        destination: (Address::v4([198, 51, 100, 7]), 4000),
        payload: &payload,
        ..build::Udp::default()
    }
    .frame();
    allow_fragmentation(&mut frame);
    frame
}

#[test]
fn fragments_fit_the_mtu_and_reassemble_to_the_packet() {
    for tags in TAGS {
        for (len, mtu, count) in [
            (1472, 1500, 1),
            (1473, 1500, 2),
            (1400, 1280, 2),
            (1473, 1280, 2),
            (3000, 1280, 3),
            (100, 68, 3),
            (0, 28, 1),
            (1, 28, 2),
        ] {
            let mut frame = datagram(len, tags);
            let whole = ip(&frame);
            // Ethernet padding belongs to no fragment.
            frame.extend([0xa5; 3]);
            let fragments = fragments(&frame, mtu).expect("fragmentation is allowed");
            assert_eq!(fragments.len(), count, "{len} bytes, MTU {mtu}");
            let mut reassembled = Vec::new();
            for (number, fragment) in fragments.iter().enumerate() {
                let packet = ip(fragment);
                assert!(packet.end - packet.network <= mtu);
                assert_eq!(usize::from(packet.end), fragment.len());
                assert_eq!(packet.ethernet, whole.ethernet);
                let (offset, more, payload) = read(fragment);
                assert_eq!((offset, more), (reassembled.len(), number + 1 < count));
                reassembled.extend(payload);
            }
            let segment = usize::from(whole.transport_start)..usize::from(whole.end);
            assert_eq!(reassembled, frame[segment]);
        }
    }
}

#[test]
fn a_fragment_is_split_into_smaller_fragments_of_the_same_packet() {
    let first = fragments(&datagram(3000, VlanTags::NONE), 1500).expect("fragmentation is allowed");
    let mut expected = 0;
    for (number, fragment) in first.iter().enumerate() {
        let (_, followed, _) = read(fragment);
        assert_eq!(followed, number + 1 < first.len());
        let again = fragments(fragment, 576).expect("fragmentation is allowed");
        for (at, smaller) in again.iter().enumerate() {
            let (offset, more, payload) = read(smaller);
            assert_eq!(offset, expected);
            assert_eq!(more, followed || at + 1 < again.len());
            expected += payload.len();
        }
    }
    assert_eq!(expected, 3008);
}

#[test]
fn a_packet_that_must_not_be_fragmented_has_no_fragments() {
    let mut forbidden = datagram(1400, VlanTags::NONE);
    forbidden[FLAGS] |= DONT_FRAGMENT;
    let mut with_options = datagram(1400, VlanTags::NONE);
    // The UDP header's first word becomes options; the protocol is unknown.
    with_options[14] = 0x46;
    with_options[14 + 9] = 47;
    let v6 = build::Udp {
        source: (Address::from_bits(0xfd << 120 | 1), 53),
        destination: (Address::from_bits(0xfd << 120 | 2), 4000),
        payload: &[7; 1400],
        ..build::Udp::default()
    }
    .frame();
    // The maximum offset, with more data than fits behind it.
    let mut beyond = datagram(1400, VlanTags::NONE);
    beyond[FLAGS..FLAGS + 2].fill(0xff);
    beyond[FLAGS] = 0x1f;
    for (what, frame) in [
        ("don't fragment", forbidden),
        ("IP options", with_options),
        ("IPv6", v6),
        ("end behind 65535 bytes", beyond),
    ] {
        assert_eq!(fragments(&frame, 1280), None, "{what}");
    }
    for mtu in 0..28 {
        assert_eq!(fragments(&datagram(1400, VlanTags::NONE), mtu), None);
    }
}

#[test]
fn a_fragment_is_only_written_into_a_frame_of_its_length() {
    let frame = datagram(1400, VlanTags::NONE);
    let plan = Fragmentation::new(&frame, &ip(&frame), 1280).expect("fragmentation is allowed");
    for (number, right) in [
        (0, plan.frame_len(0)),
        (1, plan.frame_len(1)),
        (2, usize::MAX),
    ] {
        for len in 0..1500 {
            let mut fragment = vec![0xee; len];
            let written = plan.write(number, &frame, &mut fragment);
            assert_eq!(written, len == right);
            assert!(written || fragment.iter().all(|byte| *byte == 0xee));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// Whole packets and fragments, at any MTU.
    #[test]
    fn fragments_of_any_packet_parse_and_reassemble(sample in samples(), mtu in 28..200_u16) {
        let mut frame = sample.frame;
        let packet = ip(&frame);
        if packet.family == Family::V4 {
            allow_fragmentation(&mut frame);
        }
        let Some(fragments) = fragments(&frame, mtu) else {
            let long = packet.fragment.is_some_and(|fragment| fragment.offset > 60_000);
            let options = packet.transport_start - packet.network > 20;
            prop_assert!(packet.family == Family::V6 || options || long);
            return Ok(());
        };
        let mut reassembled = Vec::new();
        let base = packet.fragment.map_or(0, |fragment| usize::from(fragment.offset));
        for fragment in &fragments {
            // A first fragment may be too short for its TCP header.
            prop_assert!(parse(fragment).is_ok() || reassembled.is_empty());
            let (offset, _, payload) = read(fragment);
            prop_assert_eq!(offset, base + reassembled.len());
            reassembled.extend(payload);
        }
        prop_assert_eq!(&reassembled[..], &frame[packet.transport_start.into()..packet.end.into()]);
    }
}
