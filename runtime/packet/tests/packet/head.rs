//! Multi-buffer frames: parsing, rewriting and answering the first buffer gives the result that the
//! whole frame would give.

use proptest::prelude::*;
use waxwing_packet::{
    Address, Family, IpPacket, Link, Mac, Packet, Rewrite, Translation, Transport, checksum, icmp,
    parse_head,
};
use waxwing_testkit::build;

use crate::samples::{ip, samples};

/// Returns the length of a frame's headers: the bytes that parsing needs.
fn headers_len(packet: &IpPacket) -> usize {
    let start = packet.transport_start;
    usize::from(match packet.transport {
        Transport::Tcp { payload, .. } => payload,
        Transport::Udp { .. } | Transport::Icmp { .. } => start + 8,
        Transport::Other(_) => start,
    })
}

proptest! {
    #[test]
    fn a_first_buffer_with_all_headers_is_parsed_like_the_frame(sample in samples(), cut in 0..200_usize) {
        let frame = &sample.frame;
        let (head, rest) = frame.split_at(cut.min(frame.len() - 1));
        let whole = ip(frame);
        let read = parse_head(head, rest.len());
        if head.len() >= headers_len(&whole) {
            prop_assert_eq!(read, Ok(Packet::Ip(whole)));
        } else if let Ok(Packet::Ip(read)) = read {
            prop_assert!(usize::from(read.transport_start) <= head.len(), "{:?}", read);
        }
    }

    #[test]
    fn a_rewrite_needs_only_the_headers(sample in samples(), cut in 0..200_usize) {
        let packet = ip(&sample.frame);
        let cut = cut.max(headers_len(&packet)).min(sample.frame.len());
        let address = match packet.family {
            Family::V4 => Address::v4([10, 2, 0, 11]),
            Family::V6 => Address::from_bits(0xfd00 << 112 | 7),
        };
        let rewrite = Rewrite {
            source: Some(Translation::new((packet.source, 1), (address, 2))),
            destination: None,
            link: Some(Link { source: Mac([2; 6]), destination: Mac([4; 6]) }),
            decrement_hop_limit: true,
        };
        let (mut whole, mut parts) = (sample.frame.clone(), sample.frame);
        rewrite.apply(&mut whole, &packet);
        rewrite.apply(&mut parts[..cut], &packet);
        prop_assert_eq!(whole, parts);
    }
}

/// The reply's checksums are correct over the whole jumbo frame.
#[test]
fn a_jumbo_echo_request_is_answered_in_its_first_buffer() {
    let (client, vip) = (Address::v4([192, 0, 2, 1]), Address::v4([203, 0, 113, 10]));
    let documentation = |host: u128| Address::from_bits(0x2001_0db8 << 96 | host);
    for (source, destination) in [(client, vip), (documentation(1), documentation(2))] {
        for byte in [0, 0xff, 0x5a] {
            let mut frame = build::Echo {
                source,
                destination,
                payload: &[byte; 8900],
                ..Default::default()
            }
            .frame();
            let packet = ip(&frame);
            assert!(icmp::answer_echo(&mut frame[..3840], &packet));
            let reply = ip(&frame);
            assert_eq!((reply.source, reply.destination), (destination, source));
            assert!(checksum::are_correct(&frame, &reply), "{source:?}, {byte}");
        }
    }
}
