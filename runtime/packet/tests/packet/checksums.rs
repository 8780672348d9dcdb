//! `checksum::are_correct` compared with the independent check of `waxwing-testkit`.

use proptest::prelude::*;

use crate::samples::{ip, whole_packets};
use waxwing_packet::{Address, checksum};
use waxwing_testkit::build;

const V4: usize = 0;
const V6: usize = 1;

/// Offsets in an untagged frame.
const FLAGS_V4: usize = 14 + 6;
const PAYLOAD_LEN_V6: usize = 14 + 5;

fn datagram(family: usize) -> Vec<u8> {
    let [source, destination] = [1, 2].map(|host| match family {
        V4 => Address::v4([192, 0, 2, host]),
        _ => Address::from_bits(0x2001_0db8 << 96 | u128::from(host)),
    });
    build::Udp {
        source: (source, 5000),
        destination: (destination, 53),
        payload: b"query",
        ..build::Udp::default()
    }
    .frame()
}

#[test]
fn a_udp_checksum_covers_the_datagram_alone_and_may_be_absent_in_ipv4() {
    for family in [V4, V6] {
        let frame = datagram(family);
        let at = usize::from(ip(&frame).transport_start) + 6;
        let mut without = frame.clone();
        without[at..at + 2].fill(0);
        assert_eq!(checksum::are_correct(&without, &ip(&without)), family == V4);
    }
    // Bytes of the IP packet behind the datagram (RFC 9868).
    let mut longer = datagram(V6);
    longer[PAYLOAD_LEN_V6] += 3;
    longer.extend(*b"...");
    assert!(checksum::are_correct(&longer, &ip(&longer)));
    // A fragment's transport checksum covers the whole packet.
    let mut fragment = datagram(V4);
    fragment[FLAGS_V4] |= 0x20;
    fragment[24..26].fill(0);
    let header = checksum::of(&fragment[14..34]);
    fragment[24..26].copy_from_slice(&header.to_be_bytes());
    fragment[34 + 6] ^= 1;
    assert!(checksum::are_correct(&fragment, &ip(&fragment)));
    fragment[24] ^= 1;
    assert!(
        !checksum::are_correct(&fragment, &ip(&fragment)),
        "the header checksum is verified"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn a_damaged_segment_has_a_wrong_checksum(
        sample in whole_packets(),
        at in any::<prop::sample::Index>(),
        flip in 1..=u8::MAX,
    ) {
        let mut frame = sample.frame;
        let packet = ip(&frame);
        prop_assert!(checksum::are_correct(&frame, &packet));
        let (start, end) = (usize::from(packet.transport_start), usize::from(packet.end));
        frame[start + at.index(end - start)] ^= flip;
        prop_assert_eq!(checksum::are_correct(&frame, &packet), build::verify_checksums(&frame).is_ok());
    }
}
