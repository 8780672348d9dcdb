//! `Quote`: parsed and rewritten, compared with newly built frames and with etherparse.

use etherparse::{NetSlice, SlicedPacket};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::rewrite::verified_by_etherparse;
use crate::samples::{LINK, Segment, TAGS, ip, samples};
use waxwing_packet::reject::IcmpError;
use waxwing_packet::{
    Address, Link, Mac, ParseError, Protocol, Quote, Rewrite, TcpFlags, Translation, VlanTags, icmp,
};
use waxwing_testkit::build::{self, icmp_error};

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
const LEAVES: Link = Link {
    source: Mac([2, 0, 0, 0, 0, 7]),
    destination: Mac([2, 0, 0, 0, 0, 8]),
};
const V4: usize = 0;
const V6: usize = 1;

/// Every kind of error that is forwarded, by family.
const KINDS: [[IcmpError; 5]; 2] = [
    [
        icmp_error(3, 1, 0),
        icmp_error(3, 3, 0),
        icmp_error(3, 4, 1280),
        icmp_error(11, 0, 0),
        icmp_error(12, 0, 0x1400_0000),
    ],
    [
        icmp_error(1, 0, 0),
        icmp_error(1, 4, 0),
        icmp_error(2, 0, 1280),
        icmp_error(3, 0, 0),
        icmp_error(4, 1, 6),
    ],
];

/// Returns an IP packet without its link header.
fn packet(protocol: Protocol, source: Endpoint, destination: Endpoint) -> Vec<u8> {
    let frame = build::Tcp {
        source,
        destination,
        flags: TcpFlags(TcpFlags::ACK),
        sequence: 1000,
        acknowledgment: 2000,
        payload: b"HTTP/1.1 200 OK",
        ..build::Tcp::default()
    }
    .frame_of(protocol);
    frame[14..].to_vec()
}

/// Returns a router's error to `destination`.
fn from_router(family: usize, destination: Address, quote: &[u8]) -> build::Error<'_> {
    build::Error {
        link: LINK,
        tags: VlanTags::NONE,
        source: ROUTER[family],
        destination,
        hop_limit: 60,
        error: KINDS[family][0],
        quote,
    }
}

fn parsed(frame: &[u8]) -> Result<Option<Quote>, ParseError> {
    Quote::parse(frame, &ip(frame))
}

/// For every length of the quote, the rewritten error is the one that quotes the packet as the backend
/// sent it.
#[test]
fn an_error_about_a_reply_quotes_the_packet_that_the_backend_sent() {
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
                    // An incomplete checksum does not change.
                    sent[len - 1] = seen[len - 1];
                }
                let arrives = build::Error {
                    error: kind,
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

/// Changes the error's source, and the quote's source port and destination.
#[test]
fn an_error_about_a_request_quotes_the_packet_that_the_client_sent() {
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

/// Checks that an error's quote of `seen` becomes `sent` when its source becomes the backend.
fn check_quoted_source(seen: &[u8], sent: &[u8]) {
    let mut frame = from_router(V4, VIP[V4].0, seen).frame();
    let quoted = Rewrite {
        source: Some(Translation::new(VIP[V4], BACKEND[V4])),
        ..Rewrite::default()
    };
    let quote = parsed(&frame).expect("it is well-formed");
    let quote = quote.expect("of a TCP or UDP packet");
    let read = ip(&frame);
    quote.rewrite(&mut frame, &read, &Rewrite::default(), &quoted);
    assert_eq!(frame, from_router(V4, VIP[V4].0, sent).frame());
}

#[test]
fn a_quoted_datagram_without_checksum_stays_without() {
    let mut seen = packet(Protocol::Udp, VIP[V4], CLIENT[V4]);
    let mut sent = packet(Protocol::Udp, BACKEND[V4], CLIENT[V4]);
    for packet in [&mut seen, &mut sent] {
        packet[26..28].fill(0);
    }
    check_quoted_source(&seen, &sent);
}

/// Some systems quote a header that they have changed.
#[test]
fn a_wrong_quoted_checksum_stays_wrong() {
    let mut seen = packet(Protocol::Tcp, VIP[V4], CLIENT[V4]);
    let mut sent = packet(Protocol::Tcp, BACKEND[V4], CLIENT[V4]);
    for packet in [&mut seen, &mut sent] {
        // A TTL below the checksum's, and a damaged sequence number.
        packet[8] -= 1;
        packet[24] ^= 0x40;
    }
    check_quoted_source(&seen, &sent);
}

#[test]
fn a_quote_needs_eight_bytes_of_its_transport_header() {
    let v4 = packet(Protocol::Tcp, VIP[V4], CLIENT[V4]);
    let v6 = packet(Protocol::Udp, VIP[V6], CLIENT[V6]);
    for (family, whole, headers) in [(V4, &v4, 20), (V6, &v6, 40)] {
        for len in 0..whole.len() {
            let frame = from_router(family, VIP[family].0, &whole[..len]).frame();
            let expected = len >= headers + 8;
            assert_eq!(parsed(&frame).is_ok(), expected, "{len} bytes");
        }
    }
}

#[test]
fn only_quotes_of_first_tcp_and_udp_packets_are_parsed() {
    use ParseError::{BadLength, Forbidden, TooManyExtensions, Truncated};
    type Expected = Result<bool, ParseError>;
    let v4 = packet(Protocol::Tcp, VIP[V4], CLIENT[V4]);
    let v6 = packet(Protocol::Udp, VIP[V6], CLIENT[V6]);
    let with = |packet: &[u8], at: usize, byte: u8| {
        let mut packet = packet.to_vec();
        packet[at] = byte;
        packet
    };
    let mut mapped = v6.clone();
    mapped[24..40].copy_from_slice(&CLIENT[V4].0.octets());
    // With a fragment header of this offset in front of the ports.
    let fragment = |offset: u8| {
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
    // Name, family of the error, quote, whether it is parsed.
    let echo = with(&v4, 9, icmp::PROTOCOL_V4);
    let (short, long) = (with(&v4, 0, 0x44), with(&v4[..40], 0, 0x4f));
    let rows: [(&str, usize, Vec<u8>, Expected); 13] = [
        ("other protocol", V4, with(&v4, 9, 47), Ok(false)),
        ("echo", V4, echo, Ok(false)),
        ("first fragment", V4, with(&v4, 6, 0x20), Ok(true)),
        ("later fragment", V4, with(&v4, 7, 1), Ok(false)),
        ("other family", V4, v6.clone(), Err(BadLength)),
        ("other family", V6, v4.clone(), Err(BadLength)),
        ("header too short", V4, short, Err(BadLength)),
        ("header too long", V4, long, Err(Truncated)),
        ("mapped address", V6, mapped, Err(Forbidden)),
        ("first fragment", V6, fragment(0), Ok(true)),
        ("later fragment", V6, fragment(8), Ok(false)),
        ("too many headers", V6, endless, Err(TooManyExtensions)),
        ("nodes left to visit", V6, routed, Ok(false)),
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
fn only_errors_and_redirects_are_parsed() {
    for family in [V4, V6] {
        let quote = packet(Protocol::Tcp, VIP[family], CLIENT[family]);
        for kind in 0..=u8::MAX {
            let errors = [&[3, 11, 12][..], &[1, 2, 3, 4]][family];
            let redirects = family == V4 && kind == 5;
            let mut frame = build::Error {
                error: icmp_error(kind, 0, 0),
                ..from_router(family, VIP[family].0, &quote)
            }
            .frame();
            let found = parsed(&frame).expect("it is well-formed");
            let is_error = errors.contains(&kind);
            assert_eq!(found.is_some(), is_error || redirects, "type {kind}");
            assert_eq!(icmp::is_error(&ip(&frame)), is_error);
            assert_eq!(icmp::is_redirect(&ip(&frame)), redirects);
            if family == V4 {
                frame[14 + 6] |= 0x20;
                assert!(!icmp::is_error(&ip(&frame)), "a fragment of an error");
            }
        }
    }
}

/// Returns the addresses that etherparse finds.
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

    /// With any options, extension headers and tags, and any length of the quote: the addresses are those
    /// that etherparse finds in the packet, and a rewrite and its reverse cancel out.
    #[test]
    fn any_packet_can_be_quoted(
        sample in samples(),
        cut in any::<prop::sample::Index>(),
        count in 0..3_usize,
    ) {
        let about = ip(&sample.frame);
        let whole = &sample.frame[about.network.into()..about.end.into()];
        let len = cut.index(whole.len()) + 1;
        let family = usize::from(about.source.bits() >> 32 != 0xffff);
        let mut frame = build::Error {
            tags: TAGS[count],
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
        let after = Quote::parse(&frame, &read).expect("it is well-formed").expect("of the same packet");
        prop_assert_eq!((after.source, after.source_port), BACKEND[family]);
        quote.rewrite(&mut frame, &read, &Rewrite::default(), &back);
        prop_assert_eq!(frame, before);
    }

    #[test]
    fn a_quote_of_arbitrary_bytes_causes_no_panic(
        quote in vec(any::<u8>(), 0..120),
        head in 0..4_usize,
        kind in 0..13_u8,
    ) {
        for family in [V4, V6] {
            let mut bytes = quote.clone();
            // Most start like an IP header; otherwise none would be parsed further.
            let starts: [&[u8]; 4] = [&[], &[0x45], &[0x60], &[0x4f]];
            let start = starts[head];
            let len = start.len().min(bytes.len());
            bytes[..len].copy_from_slice(&start[..len]);
            let mut frame = build::Error {
                error: icmp_error(kind, 0, 0),
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
