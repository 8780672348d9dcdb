//! ARP (RFC 826, RFC 5227): read, answered, announced.

use std::ops::Range;

use waxwing_packet::arp::{Arp, Operation};
use waxwing_packet::{Address, Mac, Packet, ParseError, VlanTag, VlanTags, ethernet, parse};
use waxwing_testkit::build;

/// Fields of the message.
mod field {
    use super::Range;

    pub(super) const FORMAT: Range<usize> = 0..6;
    pub(super) const OPERATION: Range<usize> = 6..8;
    pub(super) const SENDER_MAC: Range<usize> = 8..14;
}

const ASKER_MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
const VIP_MAC: Mac = Mac([2, 0, 0, 0, 0, 9]);
const ASKER: Address = Address::v4([192, 0, 2, 1]);
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
        mac: ASKER_MAC,
        tags,
        sender,
        target: VIP,
    }
    .frame()
}

#[test]
fn the_reply_goes_to_the_asker_in_place_and_on_its_vlan() {
    // A probe's sender has no address yet (RFC 5227 section 2.1.1).
    for sender in [ASKER, Address::v4([0; 4])] {
        let mut frame = request(TAGS, sender);
        let question = read(&frame).expect("a request");
        assert_eq!(question.operation, Operation::Request);
        assert!(question.reply(VIP_MAC).write(&mut frame));

        let reply = read(&frame).expect("a reply");
        assert_eq!(reply.operation, Operation::Reply);
        assert_eq!((reply.sender_mac, reply.sender), (VIP_MAC, VIP));
        assert_eq!((reply.target_mac, reply.target), (ASKER_MAC, sender));
        assert_eq!(
            (reply.ethernet.source, reply.ethernet.destination),
            (VIP_MAC, ASKER_MAC)
        );
        assert_eq!(reply.ethernet.tags, TAGS);
    }
}

#[test]
fn an_announcement_is_a_broadcast_request_for_itself() {
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
fn what_is_not_ipv4_over_ethernet_is_refused() {
    // What is wrong, the byte of the message that says so, its value.
    let rows = [
        ("hardware type", field::FORMAT.start + 1, 6),
        ("protocol type", field::FORMAT.start + 2, 0x86),
        ("address length", field::FORMAT.end - 1, 16),
        ("operation", field::OPERATION.start + 1, 3),
        ("sender is a group", field::SENDER_MAC.start, 1),
    ];
    for (what, at, value) in rows {
        let mut frame = request(VlanTags::NONE, ASKER);
        frame[ethernet::HEADER_LEN + at] = value;
        assert_eq!(read(&frame), Err(ParseError::Forbidden), "{what}");
    }
    let frame = request(VlanTags::NONE, ASKER);
    assert_eq!(read(&frame[..frame.len() - 1]), Err(ParseError::Truncated));
}
