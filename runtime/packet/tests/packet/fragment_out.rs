//! Packets cut to pieces, put together again by etherparse's reading of each.

use etherparse::{NetSlice, SlicedPacket};
use proptest::prelude::*;

use crate::samples::{ip, samples};
use waxwing_packet::{Address, Family, Fragmentation, VlanTag, VlanTags, parse};
use waxwing_testkit::build;

/// Where the flags are in an untagged IPv4 frame, and "don't fragment".
const FLAGS: usize = 14 + 6;
const DONT_FRAGMENT: u8 = 0x40;

fn pieces(frame: &[u8], mtu: u16) -> Option<Vec<Vec<u8>>> {
    let cut = Fragmentation::new(frame, &ip(frame), mtu)?;
    let piece = |number| {
        let mut piece = vec![0xee; cut.frame_len(number)];
        assert!(cut.write(number, frame, &mut piece));
        piece
    };
    Some((0..cut.count()).map(piece).collect())
}

/// A piece's offset in bytes, whether more follow, and its payload; its header is right.
fn read(piece: &[u8]) -> (usize, bool, Vec<u8>) {
    let sliced = SlicedPacket::from_ethernet(piece).expect("a valid frame");
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
fn may_be_cut(frame: &mut [u8]) {
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
    may_be_cut(&mut frame);
    frame
}

#[test]
fn pieces_fit_the_link_and_make_the_packet_again() {
    let tag = VlanTag {
        tpid: 0x8100,
        tci: 7,
    };
    for tags in [VlanTags::NONE, VlanTags::one(tag), VlanTags::two(tag, tag)] {
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
            // What lies behind a packet in its frame belongs to no piece.
            frame.extend([0xa5; 3]);
            let pieces = pieces(&frame, mtu).expect("it may be cut");
            assert_eq!(pieces.len(), count, "{len} bytes for {mtu}");
            let mut together = Vec::new();
            for (number, piece) in pieces.iter().enumerate() {
                let packet = ip(piece);
                assert!(packet.end - packet.network <= mtu);
                assert_eq!(usize::from(packet.end), piece.len());
                assert_eq!(packet.ethernet, whole.ethernet);
                let (offset, more, payload) = read(piece);
                assert_eq!((offset, more), (together.len(), number + 1 < count));
                together.extend(payload);
            }
            let segment = usize::from(whole.transport_start)..usize::from(whole.end);
            assert_eq!(together, frame[segment]);
        }
    }
}

#[test]
fn a_piece_is_cut_to_smaller_ones_of_the_same_packet() {
    let first = pieces(&datagram(3000, VlanTags::NONE), 1500).expect("it may be cut");
    let mut expected = 0;
    for (number, piece) in first.iter().enumerate() {
        let (_, followed, _) = read(piece);
        assert_eq!(followed, number + 1 < first.len());
        let again = pieces(piece, 576).expect("it may be cut again");
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
fn what_may_not_be_cut_stays_whole() {
    let mut forbidden = datagram(1400, VlanTags::NONE);
    forbidden[FLAGS] |= DONT_FRAGMENT;
    let mut with_options = datagram(1400, VlanTags::NONE);
    // The first word of the datagram taken for options, and the rest for no protocol known here.
    with_options[14] = 0x46;
    with_options[14 + 9] = 47;
    let v6 = build::Udp {
        source: (Address::from_bits(0xfd << 120 | 1), 53),
        destination: (Address::from_bits(0xfd << 120 | 2), 4000),
        payload: &[7; 1400],
        ..build::Udp::default()
    }
    .frame();
    // The last place that a piece can have, and more than is left behind it.
    let mut beyond = datagram(1400, VlanTags::NONE);
    beyond[FLAGS..FLAGS + 2].fill(0xff);
    beyond[FLAGS] = 0x1f;
    for (what, frame) in [
        ("forbidden", forbidden),
        ("IP options", with_options),
        ("IPv6", v6),
        ("beyond any packet", beyond),
    ] {
        assert_eq!(pieces(&frame, 1280), None, "{what}");
    }
    for mtu in 0..28 {
        assert_eq!(pieces(&datagram(1400, VlanTags::NONE), mtu), None);
    }
}

#[test]
fn a_piece_is_only_written_into_a_frame_of_its_length() {
    let frame = datagram(1400, VlanTags::NONE);
    let cut = Fragmentation::new(&frame, &ip(&frame), 1280).expect("it may be cut");
    for (number, right) in [
        (0, cut.frame_len(0)),
        (1, cut.frame_len(1)),
        (2, usize::MAX),
    ] {
        for len in 0..1500 {
            let mut piece = vec![0xee; len];
            let written = cut.write(number, &frame, &mut piece);
            assert_eq!(written, len == right);
            assert!(written || piece.iter().all(|byte| *byte == 0xee));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// Any packet, a piece already or not, at any MTU.
    #[test]
    fn pieces_of_any_packet_parse_and_make_it_again(sample in samples(), mtu in 28..200_u16) {
        let mut frame = sample.frame;
        let packet = ip(&frame);
        if packet.family == Family::V4 {
            may_be_cut(&mut frame);
        }
        let Some(pieces) = pieces(&frame, mtu) else {
            let long = packet.fragment.is_some_and(|part| part.offset > 60_000);
            let options = packet.transport_start - packet.network > 20;
            prop_assert!(packet.family == Family::V6 || options || long);
            return Ok(());
        };
        let mut together = Vec::new();
        let base = packet.fragment.map_or(0, |part| usize::from(part.offset));
        for piece in &pieces {
            prop_assert!(parse(piece).is_ok() || together.is_empty(), "a first piece may be too short for TCP");
            let (offset, _, payload) = read(piece);
            prop_assert_eq!(offset, base + together.len());
            together.extend(payload);
        }
        prop_assert_eq!(&together[..], &frame[packet.transport_start.into()..packet.end.into()]);
    }
}
