//! What an ICMP error says of another packet: read, and rewritten, held against frames that are built
//! anew and against etherparse.

use etherparse::{NetSlice, SlicedPacket};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::rewrite::verified_by_etherparse;
use crate::samples::{Segment, ip, samples};
use waxwing_packet::reject::IcmpError;
use waxwing_packet::{
    Address, Link, Mac, ParseError, Protocol, Quote, Rewrite, TcpFlags, Translation, VlanTag,
    VlanTags, icmp,
};
use waxwing_testkit::build;

type Endpoint = (Address, u16);

const CLIENT: [Endpoint; 2] = [
    (Address::v4([198, 51, 100, 7]), 40_000),
    (Address::from_bits(0x2001_0db8 << 96 | 7), 40_000),
];
const VIP: [Endpoint; 2] = [
    (Address::v4([203, 0, 113, 10]), 80),
    (Address::from_bits(0x2001_0db8 << 96 | 0x10), 80),
];
const BACKEND: [Endpoint; 2] = [
    (Address::v4([10, 2, 0, 11]), 8080),
    (Address::from_bits(0xfd00 << 112 | 0x11), 8080),
];
const ROUTER: [Address; 2] = [
    Address::v4([192, 0, 2, 1]),
    Address::from_bits(0x2001_0db8 << 96 | 0xfe),
];
const ARRIVES: Link = Link {
    source: Mac([2, 0, 0, 0, 0, 1]),
    destination: Mac([2, 0, 0, 0, 0, 9]),
};
const LEAVES: Link = Link {
    source: Mac([2, 0, 0, 0, 0, 7]),
    destination: Mac([2, 0, 0, 0, 0, 8]),
};
const V4: usize = 0;
const V6: usize = 1;

/// Every error that is passed on, by family.
const KINDS: [&[(u8, u8, u32)]; 2] = [
    &[
        (3, 1, 0),
        (3, 3, 0),
        (3, 4, 1280),
        (11, 0, 0),
        (12, 0, 0x1400_0000),
    ],
    &[(1, 0, 0), (1, 4, 0), (2, 0, 1280), (3, 0, 0), (4, 1, 6)],
];

fn error((kind, code, parameter): (u8, u8, u32)) -> IcmpError {
    IcmpError {
        kind,
        code,
        parameter,
    }
}

/// An IP packet from one endpoint to another, without its link header.
fn packet(protocol: Protocol, source: Endpoint, destination: Endpoint) -> Vec<u8> {
    let frame = match protocol {
        Protocol::Tcp => build::Tcp {
            source,
            destination,
            flags: TcpFlags(TcpFlags::ACK),
            sequence: 1000,
            acknowledgment: 2000,
            payload: b"HTTP/1.1 200 OK",
            ..build::Tcp::default()
        }
        .frame(),
        Protocol::Udp => build::Udp {
            source,
            destination,
            payload: b"an answer",
            ..build::Udp::default()
        }
        .frame(),
    };
    frame[14..].to_vec()
}

/// An error of a router about a packet that it got from `destination`.
fn from_router(family: usize, destination: Address, quote: &[u8]) -> build::Error<'_> {
    build::Error {
        link: ARRIVES,
        tags: VlanTags::NONE,
        source: ROUTER[family],
        destination,
        hop_limit: 60,
        error: error(KINDS[family][0]),
        quote,
    }
}

fn parsed(frame: &[u8]) -> Result<Option<Quote>, ParseError> {
    Quote::parse(frame, &ip(frame))
}

/// Whatever is quoted of the packet: the error becomes what the router would have said if it had seen
/// the packet as the backend sent it.
#[test]
fn an_error_about_a_reply_becomes_one_about_what_the_backend_sent() {
    for family in [V4, V6] {
        let header_len = [20, 40][family];
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let sent = packet(protocol, BACKEND[family], CLIENT[family]);
            let seen = packet(protocol, VIP[family], CLIENT[family]);
            for (len, kind) in (header_len + 8..=sent.len())
                .flat_map(|len| KINDS[family].iter().map(move |kind| (len, *kind)))
            {
                let mut sent = sent[..len].to_vec();
                if protocol == Protocol::Tcp && len == header_len + 17 {
                    // Half a checksum is none.
                    sent[len - 1] = seen[len - 1];
                }
                let arrives = build::Error {
                    error: error(kind),
                    ..from_router(family, VIP[family].0, &seen[..len])
                };
                let mut frame = arrives.frame();
                let quote = parsed(&frame)
                    .expect("it is well-formed")
                    .expect("of a TCP or UDP packet");
                assert_eq!(
                    (quote.source, quote.source_port, quote.protocol),
                    (VIP[family].0, VIP[family].1, protocol)
                );
                assert_eq!((quote.destination, quote.destination_port), CLIENT[family]);
                let to_backend = Some(Translation::new(VIP[family], BACKEND[family]));
                let outer = Rewrite {
                    destination: to_backend,
                    link: Some(LEAVES),
                    decrement_hop_limit: true,
                    ..Rewrite::default()
                };
                let quoted = Rewrite {
                    source: to_backend,
                    ..Rewrite::default()
                };
                let read = ip(&frame);
                quote.rewrite(&mut frame, &read, &outer, &quoted);
                let expected = build::Error {
                    link: LEAVES,
                    destination: BACKEND[family].0,
                    hop_limit: 59,
                    quote: &sent,
                    ..arrives
                };
                assert_eq!(frame, expected.frame(), "{protocol} {kind:?} {len}");
                verified_by_etherparse(&frame);
            }
        }
    }
}

/// The quote's destination changes, its source port too, and the one who says it.
#[test]
fn an_error_about_a_request_becomes_one_about_what_the_client_sent() {
    for family in [V4, V6] {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let translated = (CLIENT[family].0, 50_000);
            let sent = packet(protocol, CLIENT[family], VIP[family]);
            let seen = packet(protocol, translated, BACKEND[family]);
            let arrives = from_router(family, CLIENT[family].0, &seen);
            let mut frame = arrives.frame();
            let quote = parsed(&frame)
                .expect("it is well-formed")
                .expect("of a TCP or UDP packet");
            let outer = Rewrite {
                source: Some(Translation::new((ROUTER[family], 0), (VIP[family].0, 0))),
                ..Rewrite::default()
            };
            let quoted = Rewrite {
                source: Some(Translation::new(translated, CLIENT[family])),
                destination: Some(Translation::new(BACKEND[family], VIP[family])),
                ..Rewrite::default()
            };
            let read = ip(&frame);
            quote.rewrite(&mut frame, &read, &outer, &quoted);
            let expected = build::Error {
                source: VIP[family].0,
                quote: &sent,
                ..arrives
            };
            assert_eq!(frame, expected.frame(), "{protocol}");
        }
    }
}

#[test]
fn a_datagram_without_a_checksum_is_quoted_without_one() {
    let mut seen = packet(Protocol::Udp, VIP[V4], CLIENT[V4]);
    seen[26..28].fill(0);
    let mut frame = from_router(V4, VIP[V4].0, &seen).frame();
    let quoted = Rewrite {
        source: Some(Translation::new(VIP[V4], BACKEND[V4])),
        ..Rewrite::default()
    };
    let (read, quote) = (
        ip(&frame),
        parsed(&frame)
            .expect("it is well-formed")
            .expect("of a datagram"),
    );
    quote.rewrite(&mut frame, &read, &Rewrite::default(), &quoted);
    let mut sent = packet(Protocol::Udp, BACKEND[V4], CLIENT[V4]);
    sent[26..28].fill(0);
    assert_eq!(frame, from_router(V4, VIP[V4].0, &sent).frame());
}

/// Some systems quote a header that they have changed: what is wrong stays as wrong as it was.
#[test]
fn a_quoted_checksum_that_is_wrong_stays_wrong() {
    let mut seen = packet(Protocol::Tcp, VIP[V4], CLIENT[V4]);
    let mut sent = packet(Protocol::Tcp, BACKEND[V4], CLIENT[V4]);
    for packet in [&mut seen, &mut sent] {
        // One hop less than the checksum says, and a damaged sequence number.
        packet[8] -= 1;
        packet[24] ^= 0x40;
    }
    let mut frame = from_router(V4, VIP[V4].0, &seen).frame();
    let quoted = Rewrite {
        source: Some(Translation::new(VIP[V4], BACKEND[V4])),
        ..Rewrite::default()
    };
    let (read, quote) = (
        ip(&frame),
        parsed(&frame)
            .expect("it is well-formed")
            .expect("of a segment"),
    );
    quote.rewrite(&mut frame, &read, &Rewrite::default(), &quoted);
    assert_eq!(frame, from_router(V4, VIP[V4].0, &sent).frame());
}

#[test]
fn a_quote_is_read_only_as_far_as_it_is_there() {
    let v4 = packet(Protocol::Tcp, VIP[V4], CLIENT[V4]);
    let v6 = packet(Protocol::Udp, VIP[V6], CLIENT[V6]);
    for (family, whole, headers) in [(V4, &v4, 20), (V6, &v6, 40)] {
        for len in 0..whole.len() {
            let frame = from_router(family, VIP[family].0, &whole[..len]).frame();
            let expected = len >= headers + 8;
            assert_eq!(parsed(&frame).is_ok(), expected, "{len} bytes");
        }
    }
    let with = |packet: &[u8], at: usize, byte: u8| {
        let mut packet = packet.to_vec();
        packet[at] = byte;
        packet
    };
    let mut mapped = v6.clone();
    mapped[24..40].copy_from_slice(&CLIENT[V4].0.octets());
    // A fragment header in front of the ports, at this offset.
    let part = |offset: u8| {
        let mut packet = with(&v6, 6, 44);
        packet.splice(40..40, [17, 0, 0, offset | 1, 0, 0, 0, 9]);
        packet
    };
    let mut endless = with(&v6, 6, 60);
    for _ in 0..6 {
        endless.splice(40..40, [60, 0, 0, 0, 0, 0, 0, 0]);
    }
    let mut routed = with(&v6, 6, 43);
    routed.splice(40..40, [17, 0, 0, 1, 0, 0, 0, 0]);
    // Whether it is one of a TCP or UDP packet, or what is wrong with it.
    let rows = [
        ("of another protocol", V4, with(&v4, 9, 47), Ok(false)),
        ("of an echo", V4, with(&v4, 9, icmp::PROTOCOL_V4), Ok(false)),
        ("of a first fragment", V4, with(&v4, 6, 0x20), Ok(true)),
        ("of a later fragment", V4, with(&v4, 7, 1), Ok(false)),
        (
            "of another family",
            V4,
            v6.clone(),
            Err(ParseError::BadLength),
        ),
        (
            "of another family",
            V6,
            v4.clone(),
            Err(ParseError::BadLength),
        ),
        (
            "a header too short",
            V4,
            with(&v4, 0, 0x44),
            Err(ParseError::BadLength),
        ),
        (
            "a header too long",
            V4,
            with(&v4[..40], 0, 0x4f),
            Err(ParseError::Truncated),
        ),
        ("a mapped address", V6, mapped, Err(ParseError::Forbidden)),
        ("of a first fragment", V6, part(0), Ok(true)),
        ("of a later fragment", V6, part(8), Ok(false)),
        (
            "too many headers",
            V6,
            endless,
            Err(ParseError::TooManyExtensions),
        ),
        ("of a packet on its way", V6, routed, Ok(false)),
    ];
    for (what, family, quote, expected) in rows {
        let frame = from_router(family, VIP[family].0, &quote).frame();
        assert_eq!(
            parsed(&frame).map(|quote| quote.is_some()),
            expected,
            "{what}"
        );
    }
}

#[test]
fn only_errors_that_say_what_became_of_a_packet_are_read() {
    for family in [V4, V6] {
        let quote = packet(Protocol::Tcp, VIP[family], CLIENT[family]);
        for kind in 0..=u8::MAX {
            let known = [&[3, 11, 12][..], &[1, 2, 3, 4]][family];
            let mut frame = build::Error {
                error: error((kind, 0, 0)),
                ..from_router(family, VIP[family].0, &quote)
            }
            .frame();
            let found = parsed(&frame).expect("it is well-formed");
            assert_eq!(found.is_some(), known.contains(&kind), "type {kind}");
            assert_eq!(icmp::is_error(&ip(&frame)), known.contains(&kind));
            if family == V4 {
                frame[14 + 6] |= 0x20;
                assert!(!icmp::is_error(&ip(&frame)), "a part of an error");
            }
        }
    }
}

/// What etherparse reads of a whole packet's addresses.
fn addresses(frame: &[u8]) -> (Address, Address) {
    let sliced = SlicedPacket::from_ethernet(frame).expect("a valid frame");
    match sliced.net.expect("IP") {
        NetSlice::Ipv4(v4) => (
            Address::v4(v4.header().source()),
            Address::v4(v4.header().destination()),
        ),
        NetSlice::Ipv6(v6) => (
            Address::v6(v6.header().source()),
            Address::v6(v6.header().destination()),
        ),
        NetSlice::Arp(_) => panic!("not IP"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Whatever options, extension headers and tags it came with, and however much of it is quoted: what
    /// is read is what etherparse reads of the packet, and a rewrite and its reverse cancel out.
    #[test]
    fn any_packet_can_be_quoted(sample in samples(), cut in any::<prop::sample::Index>(), count in 0..3_u8) {
        let about = ip(&sample.frame);
        let whole = &sample.frame[about.network.into()..about.end.into()];
        let len = cut.index(whole.len()) + 1;
        let family = usize::from(about.source.bits() >> 32 != 0xffff);
        let tag = VlanTag { tpid: 0x8100, tci: 7 };
        let mut frame = build::Error {
            tags: [VlanTags::NONE, VlanTags::one(tag), VlanTags::two(tag, tag)][usize::from(count)],
            ..from_router(family, VIP[family].0, &whole[..len])
        }
        .frame();
        let read = ip(&frame);
        let starts = sample.fragment.is_none_or(|fragment| fragment.offset == 0);
        let ports = match sample.segment {
            Segment::Tcp { ports, .. } | Segment::Udp { ports } if starts => Some(ports),
            _ => None,
        };
        let enough = len >= usize::from(about.transport_start - about.network) + 8;
        let found = Quote::parse(&frame, &read);
        prop_assert!(enough || !matches!(found, Ok(Some(_))));
        prop_assert!(!enough || found.is_ok());
        let Ok(Some(quote)) = found else {
            prop_assert!(!enough || ports.is_none());
            return Ok(());
        };
        prop_assert_eq!(Some((quote.source_port, quote.destination_port)), ports);
        prop_assert_eq!((quote.source, quote.destination), addresses(&sample.frame));
        let ends = (quote.source, quote.source_port);
        let there = Rewrite { source: Some(Translation::new(ends, BACKEND[family])), ..Rewrite::default() };
        let back = Rewrite { source: Some(Translation::new(BACKEND[family], ends)), ..Rewrite::default() };
        let before = frame.clone();
        quote.rewrite(&mut frame, &read, &Rewrite::default(), &there);
        verified_by_etherparse(&frame);
        prop_assert!(frame != before || ends == BACKEND[family]);
        let after = Quote::parse(&frame, &read).expect("it is well-formed").expect("it is still there");
        prop_assert_eq!((after.source, after.source_port), BACKEND[family]);
        quote.rewrite(&mut frame, &read, &Rewrite::default(), &back);
        prop_assert_eq!(frame, before);
    }

    /// Any bytes at all: read or refused, and never a panic.
    #[test]
    fn any_bytes_can_be_quoted(quote in vec(any::<u8>(), 0..120), head in 0..4_usize, kind in 0..13_u8) {
        for family in [V4, V6] {
            let mut bytes = quote.clone();
            // Most begin as a header does, else none would be read any further.
            let starts: [&[u8]; 4] = [&[], &[0x45], &[0x60], &[0x4f]];
            let start = starts[head];
            let len = start.len().min(bytes.len());
            bytes[..len].copy_from_slice(&start[..len]);
            let mut frame = build::Error {
                error: error((kind, 0, 0)),
                ..from_router(family, VIP[family].0, &bytes)
            }
            .frame();
            let read = ip(&frame);
            if let Ok(Some(quote)) = Quote::parse(&frame, &read) {
                let ends = (quote.destination, quote.destination_port);
                let rewrite = Rewrite {
                    destination: Some(Translation::new(ends, BACKEND[family])),
                    ..Rewrite::default()
                };
                quote.rewrite(&mut frame, &read, &Rewrite::default(), &rewrite);
                prop_assert_eq!(build::verify_checksums(&frame), Ok(()));
            }
        }
    }
}
