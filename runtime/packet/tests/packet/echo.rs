//! Echo requests answered in place (RFC 792, RFC 4443).

use waxwing_packet::icmp::answer_echo;
use waxwing_packet::{Address, Link, Mac, Packet, VlanTag, VlanTags, ethernet, ndp, parse};
use waxwing_testkit::build;

/// The hop limit of a reply.
const HOP_LIMIT: u8 = 64;
/// Where an IPv4 header holds its flags and fragment offset.
const FLAGS_OFFSET: usize = 6;

const CLIENT: Address = Address::v4([192, 0, 2, 1]);
const VIP: Address = Address::v4([203, 0, 113, 10]);
const CLIENT_V6: Address = Address::from_bits(0x2001_0db8 << 96 | 1);
const VIP_V6: Address = Address::from_bits(0x2001_0db8 << 96 | 2);
const CLIENT_LINK: Link = Link {
    source: Mac([2, 0, 0, 0, 0, 1]),
    destination: Mac([2, 0, 0, 0, 0, 9]),
};
const VIP_LINK: Link = Link {
    source: CLIENT_LINK.destination,
    destination: CLIENT_LINK.source,
};

fn request(source: Address, destination: Address) -> build::Echo<'static> {
    build::Echo {
        link: CLIENT_LINK,
        tags: VlanTags::one(VlanTag {
            tpid: 0x8100,
            tci: 7,
        }),
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
    match parse(frame) {
        Ok(Packet::Ip(packet)) => answer_echo(frame, &packet),
        other => panic!("not IP: {other:?}"),
    }
}

#[test]
fn a_request_becomes_its_reply() {
    for (source, destination) in [(CLIENT, VIP), (CLIENT_V6, VIP_V6)] {
        let request = request(source, destination);
        let mut frame = request.frame();
        assert!(answer(&mut frame));
        let reply = build::Echo {
            link: VIP_LINK,
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
    let v4 = || request(CLIENT, VIP);
    let group = Mac([1, 0, 0, 0, 0, 1]);
    let fragment = |mut frame: Vec<u8>| {
        frame[ethernet::HEADER_LEN + ethernet::TAG_LEN + FLAGS_OFFSET] = 0x20;
        frame
    };
    let rows = [
        (
            "a reply",
            build::Echo {
                reply: true,
                ..v4()
            }
            .frame(),
        ),
        ("a fragment", fragment(v4().frame())),
        ("from 0.0.0.0", request(Address::v4([0; 4]), VIP).frame()),
        (
            "from broadcast",
            request(Address::v4([255; 4]), VIP).frame(),
        ),
        (
            "from a multicast group",
            request(Address::v4([224, 0, 0, 1]), VIP).frame(),
        ),
        ("from ::", request(Address::from_bits(0), VIP_V6).frame()),
        ("to ff02::1", request(CLIENT_V6, ndp::ALL_NODES).frame()),
        (
            "to a group MAC",
            build::Echo {
                link: Link {
                    destination: group,
                    ..CLIENT_LINK
                },
                ..v4()
            }
            .frame(),
        ),
        (
            "from a group MAC",
            build::Echo {
                link: Link {
                    source: group,
                    ..CLIENT_LINK
                },
                ..v4()
            }
            .frame(),
        ),
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
            ..request(CLIENT, VIP)
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
    let mut frame = request(CLIENT, VIP).frame();
    *frame.last_mut().expect("a payload") ^= 1;
    assert!(answer(&mut frame));
    assert!(build::verify_checksums(&frame).is_err());
}
