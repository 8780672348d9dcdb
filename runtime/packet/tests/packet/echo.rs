//! Echo requests answered in place (RFC 792, RFC 4443).

use waxwing_packet::icmp::answer_echo;
use waxwing_packet::{Address, Link, Mac, VlanTags, checksum, ndp};
use waxwing_testkit::build;
use waxwing_testkit::fragmenter::{IP, V4_LEN, fragment, reassemble};

use crate::samples::{CLIENT, LINK, LINK_BACK, TAGS, VIP, ip};

/// The hop limit of a reply.
const HOP_LIMIT: u8 = 64;

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

/// An untagged request, by family.
fn untagged(family: usize) -> build::Echo<'static> {
    build::Echo {
        tags: VlanTags::NONE,
        ..request(CLIENT[family], VIP[family])
    }
}

/// The reply to [`untagged`].
fn untagged_reply(family: usize) -> build::Echo<'static> {
    build::Echo {
        link: LINK_BACK,
        source: VIP[family],
        destination: CLIENT[family],
        hop_limit: HOP_LIMIT,
        reply: true,
        ..untagged(family)
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
    let with_options = |options| insert_v4(untagged(0).frame(), options);
    let with_headers = |first, headers: &[u8]| insert_v6(untagged(1).frame(), first, headers);
    // One padding option cannot fill it.
    let mut long = vec![0; 264];
    (long[0], long[1]) = (58, 32);
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
        (
            "with a loose source route",
            with_options(&[131, 7, 4, 10, 0, 0, 1, 0]),
        ),
        (
            "with a strict source route",
            with_options(&[1, 137, 7, 8, 10, 0, 0, 1]),
        ),
        ("with an option of length 0", with_options(&[7, 0, 0, 0])),
        (
            "with an option beyond the header",
            with_options(&[7, 5, 4, 0]),
        ),
        (
            "with a routing header",
            with_headers(43, &[58, 0, 0, 0, 0, 0, 0, 0]),
        ),
        ("with very long options", with_headers(60, &long)),
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

/// Inserts options into an untagged IPv4 frame.
fn insert_v4(mut frame: Vec<u8>, options: &[u8]) -> Vec<u8> {
    let header_len = V4_LEN + options.len();
    frame.splice(IP + V4_LEN..IP + V4_LEN, options.iter().copied());
    frame[IP] = 0x40 | u8::try_from(header_len / 4).expect("at most 15");
    let total_len = u16::try_from(frame.len() - IP).expect("it is short");
    frame[IP + 2..IP + 4].copy_from_slice(&total_len.to_be_bytes());
    frame[IP + 10..IP + 12].fill(0);
    let sum = checksum::of(&frame[IP..IP + header_len]);
    frame[IP + 10..IP + 12].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// Inserts extension headers, of which the first is of this type, into an untagged IPv6 frame.
fn insert_v6(mut frame: Vec<u8>, first: u8, headers: &[u8]) -> Vec<u8> {
    const V6_LEN: usize = 40;
    frame.splice(IP + V6_LEN..IP + V6_LEN, headers.iter().copied());
    frame[IP + 6] = first;
    let payload_len = u16::try_from(frame.len() - IP - V6_LEN).expect("it is short");
    frame[IP + 4..IP + 6].copy_from_slice(&payload_len.to_be_bytes());
    frame
}

#[test]
fn options_are_blanked() {
    // Record route, timestamp, router alert; with padding in front and behind.
    for options in [
        &[7, 7, 4, 0, 0, 0, 0, 0][..],
        &[1, 1, 68, 12, 13, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0],
        &[148, 4, 0, 0],
        &[0, 7, 0, 9],
        &[1; 40],
    ] {
        let mut frame = insert_v4(untagged(0).frame(), options);
        assert!(answer(&mut frame), "{options:?}");
        let blank = vec![0; options.len()];
        assert_eq!(frame, insert_v4(untagged_reply(0).frame(), &blank));
    }
    // Hop-by-hop options with a router alert, destination options of 16 bytes.
    let sent = [
        &[60, 0, 5, 2, 0, 0, 1, 0][..],
        &[58, 1, 0x1e, 12, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12],
    ];
    let blank = [
        &[60, 0, 1, 4, 0, 0, 0, 0][..],
        &[58, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ];
    let mut frame = insert_v6(untagged(1).frame(), 0, &sent.concat());
    assert!(answer(&mut frame));
    assert_eq!(
        frame,
        insert_v6(untagged_reply(1).frame(), 0, &blank.concat())
    );
}

/// Each fragment becomes one of the reply: nothing is reassembled.
#[test]
fn a_request_in_fragments_becomes_a_reply_in_fragments() {
    let payload: Vec<u8> = (0..4000_u16).map(|n| n.to_le_bytes()[0]).collect();
    for family in [0, 1] {
        let request = build::Echo {
            payload: &payload,
            ..untagged(family)
        };
        let mut parts = fragment(&request.frame(), &[1480, 1480], 77);
        for part in &mut parts {
            assert!(answer(part));
        }
        let reply = build::Echo {
            payload: &payload,
            ..untagged_reply(family)
        };
        assert_eq!(reassemble(&parts), reply.frame());
    }
}
