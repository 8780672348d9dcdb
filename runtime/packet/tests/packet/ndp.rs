//! Neighbour discovery (RFC 4861): solicitations, answers and announcements.

use std::ops::Range;

use waxwing_packet::ndp::{Advertisement, Solicitation, solicited_node};
use waxwing_packet::{
    Address, IpPacket, Mac, Packet, ParseError, VlanTags, checksum, ethernet, icmp, ipv6, parse,
};
use waxwing_testkit::build;

/// Length of a message without options.
const FIXED_LEN: usize = 24;

/// Fields of the IPv6 header, the message and its option.
mod field {
    use super::Range;

    pub(super) const HOP_LIMIT: usize = 7;
    pub(super) const CODE: usize = 1;
    pub(super) const CHECKSUM: Range<usize> = 2..4;
    pub(super) const TARGET: Range<usize> = 8..24;
    pub(super) const OPTION_LEN: usize = 1;
    pub(super) const OPTION_MAC: Range<usize> = 2..8;
}

const SENDER_MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
const VIP_MAC: Mac = Mac([2, 0, 0, 0, 0, 9]);
const SENDER: Address = Address::from_bits(0x2001_0db8 << 96 | 1);
const VIP: Address = Address::from_bits(0x2001_0db8 << 96 | 0x12_3456);
const UNSPECIFIED: Address = Address::from_bits(0);

fn ip(frame: &[u8]) -> IpPacket {
    match parse(frame).expect("valid frame") {
        Packet::Ip(packet) => packet,
        other => panic!("not IP: {other:?}"),
    }
}

fn solicitation(source: Address) -> Vec<u8> {
    let tags = VlanTags::NONE;
    build::NeighborSolicitation {
        mac: SENDER_MAC,
        tags,
        source,
        target: VIP,
    }
    .frame()
}

fn solicit(frame: &[u8]) -> Result<Solicitation, ParseError> {
    Solicitation::parse(frame, &ip(frame))
}

fn advertised(advertisement: &Advertisement) -> Advertisement {
    let mut frame = vec![0xa5; advertisement.frame_len()];
    assert!(!advertisement.write(&mut frame[1..]));
    assert!(advertisement.write(&mut frame));
    assert_eq!(build::verify_checksums(&frame), Ok(()));
    Advertisement::parse(&frame, &ip(&frame)).expect("valid advertisement")
}

#[test]
fn a_solicitation_is_sent_to_the_solicited_node_group() {
    let read = solicit(&solicitation(SENDER)).expect("valid solicitation");
    assert_eq!(
        read,
        Solicitation::new(SENDER_MAC, VlanTags::NONE, SENDER, VIP)
    );
    assert_eq!(read.destination.to_string(), "ff02::1:ff12:3456");
    assert_eq!(read.ethernet.destination.to_string(), "33:33:ff:12:34:56");
    assert_eq!(read.source_mac, Some(SENDER_MAC));
}

#[test]
fn an_answer_is_sent_to_the_source_of_the_solicitation() {
    let read = solicit(&solicitation(SENDER)).expect("valid solicitation");
    let answer = advertised(&read.answer(VIP_MAC));
    assert_eq!((answer.source, answer.destination), (VIP, SENDER));
    assert_eq!((answer.target, answer.target_mac), (VIP, Some(VIP_MAC)));
    assert_eq!(
        (answer.ethernet.source, answer.ethernet.destination),
        (VIP_MAC, SENDER_MAC)
    );
    assert!(answer.solicited);
}

#[test]
fn an_answer_to_duplicate_address_detection_is_sent_to_all_nodes() {
    let read = solicit(&solicitation(UNSPECIFIED)).expect("valid solicitation");
    assert_eq!(read.source_mac, None);
    let answer = advertised(&read.answer(VIP_MAC));
    assert_eq!(
        answer,
        Advertisement::announcement(VIP_MAC, VlanTags::NONE, VIP)
    );
    assert_eq!(answer.destination.to_string(), "ff02::1");
    assert_eq!(answer.ethernet.destination.to_string(), "33:33:00:00:00:01");
    assert!(!answer.solicited);
}

#[test]
fn an_invalid_solicitation_is_rejected() {
    let network = ethernet::HEADER_LEN;
    let message = network + ipv6::HEADER_LEN;
    let hop_limit = network + field::HOP_LIMIT;
    let option = message + FIXED_LEN;
    // Name, offset of the changed byte, its value, the error.
    let rows = [
        (
            "forwarded by a router",
            hop_limit,
            254,
            ParseError::Forbidden,
        ),
        (
            "checksum",
            message + field::CHECKSUM.start,
            0x5a,
            ParseError::BadChecksum,
        ),
        (
            "multicast target",
            message + field::TARGET.start,
            0xff,
            ParseError::Forbidden,
        ),
        (
            "option of no length",
            option + field::OPTION_LEN,
            0,
            ParseError::BadLength,
        ),
        (
            "option beyond the end",
            option + field::OPTION_LEN,
            2,
            ParseError::Truncated,
        ),
        (
            "group MAC",
            option + field::OPTION_MAC.start,
            1,
            ParseError::Forbidden,
        ),
        ("code", message + field::CODE, 1, ParseError::Forbidden),
    ];
    for (what, at, value, error) in rows {
        let mut frame = solicitation(SENDER);
        frame[at] = value;
        if error != ParseError::BadChecksum {
            mend(&mut frame[message..]);
        }
        assert_eq!(solicit(&frame), Err(error), "{what}");
    }
}

#[test]
fn duplicate_address_detection_must_not_contain_a_mac() {
    let mut solicitation = Solicitation::new(SENDER_MAC, VlanTags::NONE, UNSPECIFIED, VIP);
    solicitation.source_mac = Some(SENDER_MAC);
    let mut frame = vec![0; solicitation.frame_len()];
    assert!(solicitation.write(&mut frame));
    assert_eq!(solicit(&frame), Err(ParseError::Forbidden));
}

/// Recomputes the message's checksum.
fn mend(message: &mut [u8]) {
    message[field::CHECKSUM].fill(0);
    let sum = checksum::transport(SENDER, solicited_node(VIP), icmp::PROTOCOL_V6, message);
    message[field::CHECKSUM].copy_from_slice(&sum.to_be_bytes());
}
