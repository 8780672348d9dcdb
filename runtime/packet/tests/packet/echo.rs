//! Echo requests answered in place (RFC 792, RFC 4443).

use waxwing_packet::icmp::answer_echo;
use waxwing_packet::{Address, Link, Mac, ethernet, ndp};
use waxwing_testkit::build;

use crate::samples::{CLIENT, LINK, LINK_BACK, TAGS, VIP, ip};

/// The hop limit of a reply.
const HOP_LIMIT: u8 = 64;
/// Where an IPv4 header holds its flags and fragment offset.
const FLAGS_OFFSET: usize = 6;

fn request(source: Address, destination: Address) -> build::Echo<'static> {
    build::Echo {
        link: LINK,
        tags: TAGS[1],
        source,
        destination,
        hop_limit: 3,
        identifier: 0x1234,
        sequence: 5,
        payload: b"how are you?!",
        ..Default::default()
    }
}

fn answer(frame: &mut [u8]) -> bool {
    let packet = ip(frame);
    answer_echo(frame, &packet)
}

#[test]
fn a_request_becomes_its_reply() {
    for (source, destination) in [(CLIENT[0], VIP[0]), (CLIENT[1], VIP[1])] {
        let request = request(source, destination);
        let mut frame = request.frame();
        assert!(answer(&mut frame));
        let reply = build::Echo {
            link: LINK_BACK,
            source: destination,
            destination: source,
            hop_limit: HOP_LIMIT,
            reply: true,
            ..request
        };
        assert_eq!(frame, reply.frame());
    }
}

#[test]
fn other_packets_are_not_answered_and_do_not_change() {
    let v4 = || request(CLIENT[0], VIP[0]);
    let group = Mac([1, 0, 0, 0, 0, 1]);
    let fragment = |mut frame: Vec<u8>| {
        frame[ethernet::HEADER_LEN + ethernet::TAG_LEN + FLAGS_OFFSET] = 0x20;
        frame
    };
    let from = |source| request(source, VIP[0]).frame();
    let linked = |link| build::Echo { link, ..v4() }.frame();
    let reply = build::Echo {
        reply: true,
        ..v4()
    };
    let to_group = Link {
        destination: group,
        ..LINK
    };
    let from_group = Link {
        source: group,
        ..LINK
    };
    let rows = [
        ("a reply", reply.frame()),
        ("a fragment", fragment(v4().frame())),
        ("from 0.0.0.0", from(Address::v4([0; 4]))),
        ("from broadcast", from(Address::v4([255; 4]))),
        ("from a multicast group", from(Address::v4([224, 0, 0, 1]))),
        ("from ::", request(Address::from_bits(0), VIP[1]).frame()),
        ("to ff02::1", request(CLIENT[1], ndp::ALL_NODES).frame()),
        ("to a group MAC", linked(to_group)),
        ("from a group MAC", linked(from_group)),
    ];
    for (what, mut frame) in rows {
        let before = frame.clone();
        assert!(!answer(&mut frame), "{what}");
        assert_eq!(frame, before, "{what}");
    }
}

/// The one message whose updated checksum is not the recomputed one: no word of an `ICMPv4` echo reply
/// is always nonzero.
#[test]
fn a_reply_of_zeros_has_a_correct_checksum() {
    for payload in [&[][..], &[0; 56]] {
        let echo = build::Echo {
            identifier: 0,
            sequence: 0,
            payload,
            ..request(CLIENT[0], VIP[0])
        };
        let mut frame = echo.frame();
        assert!(answer(&mut frame));
        assert_eq!(build::verify_checksums(&frame), Ok(()));
        *frame.last_mut().expect("a message") ^= 1;
        assert!(build::verify_checksums(&frame).is_err());
    }
}

#[test]
fn a_damaged_request_gets_a_damaged_reply() {
    let mut frame = request(CLIENT[0], VIP[0]).frame();
    *frame.last_mut().expect("a payload") ^= 1;
    assert!(answer(&mut frame));
    assert!(build::verify_checksums(&frame).is_err());
}
