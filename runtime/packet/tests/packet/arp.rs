//! ARP (RFC 826, RFC 5227): parsing, replies and announcements.

use std::ops::Range;

use waxwing_packet::arp::{Arp, Operation};
use waxwing_packet::{Address, Mac, Packet, ParseError, VlanTag, VlanTags, ethernet, parse};
use waxwing_testkit::build;

mod field {
    use super::Range;

    pub(super) const FORMAT: Range<usize> = 0..6;
    pub(super) const OPERATION: Range<usize> = 6..8;
    pub(super) const SENDER_MAC: Range<usize> = 8..14;
}

const SENDER_MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
const VIP_MAC: Mac = Mac([2, 0, 0, 0, 0, 9]);
const SENDER: Address = Address::v4([192, 0, 2, 1]);
const VIP: Address = Address::v4([203, 0, 113, 10]);
const TAGS: VlanTags = VlanTags::one(VlanTag {
    tpid: 0x8100,
    tci: 7,
});

fn read(frame: &[u8]) -> Result<Arp, ParseError> {
    match parse(frame) {
        Ok(Packet::Arp(ethernet)) => Arp::parse(frame, &ethernet),
        other => panic!("not ARP: {other:?}"),
    }
}

fn request(tags: VlanTags, sender: Address) -> Vec<u8> {
    build::ArpRequest {
        mac: SENDER_MAC,
        tags,
        sender,
        target: VIP,
    }
    .frame()
}

#[test]
fn a_reply_is_written_in_place_to_the_sender_and_its_vlan() {
    // The sender of a probe has no address (RFC 5227 section 2.1.1).
    for sender in [SENDER, Address::v4([0; 4])] {
        let mut frame = request(TAGS, sender);
        let parsed = read(&frame).expect("a request");
        assert_eq!(parsed.operation, Operation::Request);
        assert!(parsed.reply(VIP_MAC).write(&mut frame));

        let reply = read(&frame).expect("a reply");
        assert_eq!(reply.operation, Operation::Reply);
        assert_eq!((reply.sender_mac, reply.sender), (VIP_MAC, VIP));
        assert_eq!((reply.target_mac, reply.target), (SENDER_MAC, sender));
        assert_eq!(
            (reply.ethernet.source, reply.ethernet.destination),
            (VIP_MAC, SENDER_MAC)
        );
        assert_eq!(reply.ethernet.tags, TAGS);
    }
}

#[test]
fn an_announcement_is_a_broadcast_request_for_its_own_address() {
    let announcement = Arp::announcement(VIP_MAC, VlanTags::NONE, VIP);
    let mut frame = vec![0xa5; announcement.frame_len()];
    assert!(!announcement.write(&mut frame[1..]));
    assert!(frame.iter().all(|byte| *byte == 0xa5));
    assert!(announcement.write(&mut frame));
    assert_eq!(read(&frame), Ok(announcement));
    assert_eq!((announcement.sender, announcement.target), (VIP, VIP));
    assert_eq!(announcement.ethernet.destination, Mac::BROADCAST);
}

#[test]
fn a_message_other_than_ipv4_over_ethernet_is_forbidden() {
    // Name, offset of the changed byte in the message, its value.
    let rows = [
        ("hardware type", field::FORMAT.start + 1, 6),
        ("protocol type", field::FORMAT.start + 2, 0x86),
        ("address length", field::FORMAT.end - 1, 16),
        ("operation", field::OPERATION.start + 1, 3),
        ("sender is a group", field::SENDER_MAC.start, 1),
    ];
    for (what, at, value) in rows {
        let mut frame = request(VlanTags::NONE, SENDER);
        frame[ethernet::HEADER_LEN + at] = value;
        assert_eq!(read(&frame), Err(ParseError::Forbidden), "{what}");
    }
    let frame = request(VlanTags::NONE, SENDER);
    assert_eq!(read(&frame[..frame.len() - 1]), Err(ParseError::Truncated));
}
