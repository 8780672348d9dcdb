//! What the parser reads, held against etherparse; what it refuses, as a table.

use crate::samples::{Sample, Segment, ip, samples};
use etherparse::{LinkExtSlice, NetSlice, SlicedPacket, TransportSlice};
use proptest::prelude::*;
use waxwing_packet::{
    Address, Family, Fragment, IpPacket, Link, Mac, Packet, ParseError, TcpFlags, Transport,
    VlanTag, VlanTags, arp, icmp, ndp, parse,
};
use waxwing_testkit::build;

const CLIENT: Address = Address::v4([192, 0, 2, 1]);
const VIP: Address = Address::v4([203, 0, 113, 10]);
const CLIENT_V6: Address = Address::from_bits(0x2001_0db8 << 96 | 1);
const VIP_V6: Address = Address::from_bits(0x2001_0db8 << 96 | 2);

/// Offset of the IP header in a frame without tags.
const IP: usize = 14;
const SEGMENT_V4: usize = IP + 20;
const SEGMENT_V6: usize = IP + 40;

fn tcp(source: Address, destination: Address) -> Vec<u8> {
    build::Tcp {
        source: (source, 40_000),
        destination: (destination, 80),
        flags: TcpFlags(TcpFlags::SYN),
        ..Default::default()
    }
    .frame()
}

fn udp() -> Vec<u8> {
    build::Udp {
        source: (CLIENT, 40_000),
        destination: (VIP, 53),
        payload: b"query",
        ..Default::default()
    }
    .frame()
}

fn tcp_v4() -> Vec<u8> {
    tcp(CLIENT, VIP)
}

fn tcp_v6() -> Vec<u8> {
    tcp(CLIENT_V6, VIP_V6)
}

/// An IPv6 frame whose TCP segment has these extension headers before it: each a number and its
/// bytes from the third on.
fn tcp_v6_behind(extensions: &[(u8, [u8; 6])]) -> Vec<u8> {
    let mut frame = tcp_v6();
    let mut chain = Vec::new();
    for (at, (_, bytes)) in extensions.iter().enumerate() {
        chain.push(extensions.get(at + 1).map_or(6, |next| next.0));
        chain.push(0);
        chain.extend(bytes);
    }
    if let Some((first, _)) = extensions.first() {
        frame[IP + 6] = *first;
    }
    let len = u16::try_from(20 + chain.len()).expect("a short chain");
    frame[IP + 4..IP + 6].copy_from_slice(&len.to_be_bytes());
    frame.splice(SEGMENT_V6..SEGMENT_V6, chain);
    frame
}

/// A frame with one field overwritten.
fn with(mut frame: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    frame[at..at + bytes.len()].copy_from_slice(bytes);
    frame
}

fn cut(mut frame: Vec<u8>, len: usize) -> Vec<u8> {
    frame.truncate(len);
    frame
}

#[test]
fn malformed_frames_are_refused() {
    use ParseError::{BadLength, Forbidden, TinyFragment, TooManyExtensions, Truncated};

    const PADDING: [u8; 6] = [1, 4, 0, 0, 0, 0];
    const ATOMIC: [u8; 6] = [0, 0, 0, 0, 0, 7];
    const FIRST: [u8; 6] = [0, 1, 0, 0, 0, 7];
    let mapped = Address::v4([192, 0, 2, 1]).octets();
    let rows = [
        ("no byte", vec![], Truncated),
        ("half an Ethernet header", cut(tcp_v4(), 13), Truncated),
        (
            "half a VLAN tag",
            cut(with(tcp_v4(), 12, &[0x81, 0x00]), 17),
            Truncated,
        ),
        ("half an IPv4 header", cut(tcp_v4(), IP + 19), Truncated),
        ("version 5", with(tcp_v4(), IP, &[0x55]), BadLength),
        ("IHL of 16 bytes", with(tcp_v4(), IP, &[0x44]), BadLength),
        (
            "IHL behind the packet",
            with(tcp_v4(), IP, &[0x4f]),
            BadLength,
        ),
        ("total length 0", with(tcp_v4(), IP + 2, &[0, 0]), BadLength),
        (
            "total length behind the frame",
            with(tcp_v4(), IP + 2, &[0, 41]),
            BadLength,
        ),
        (
            "total length 65535",
            with(tcp_v4(), IP + 2, &[255, 255]),
            BadLength,
        ),
        (
            "half a TCP header",
            with(tcp_v4(), IP + 2, &[0, 39]),
            Truncated,
        ),
        (
            "TCP header of 16 bytes",
            with(tcp_v4(), SEGMENT_V4 + 12, &[0x40]),
            BadLength,
        ),
        (
            "TCP options behind the packet",
            with(tcp_v4(), SEGMENT_V4 + 12, &[0x60]),
            BadLength,
        ),
        (
            "half a UDP header",
            with(udp(), IP + 2, &[0, 27]),
            Truncated,
        ),
        (
            "UDP length of 7 bytes",
            with(udp(), SEGMENT_V4 + 4, &[0, 7]),
            BadLength,
        ),
        (
            "UDP length behind the packet",
            with(udp(), SEGMENT_V4 + 4, &[0, 14]),
            BadLength,
        ),
        (
            "half an ICMP header",
            with(with(udp(), IP + 2, &[0, 27]), IP + 9, &[1]),
            Truncated,
        ),
        ("half an IPv6 header", cut(tcp_v6(), IP + 39), Truncated),
        ("version 4 in IPv6", with(tcp_v6(), IP, &[0x45]), BadLength),
        (
            "IPv6 payload behind the frame",
            with(tcp_v6(), IP + 4, &[0, 21]),
            BadLength,
        ),
        ("a jumbogram", with(tcp_v6(), IP + 4, &[0, 0]), Truncated),
        ("mapped source", with(tcp_v6(), IP + 8, &mapped), Forbidden),
        (
            "mapped destination",
            with(tcp_v6(), IP + 24, &mapped),
            Forbidden,
        ),
        (
            "options behind the packet",
            with(tcp_v6(), IP + 6, &[60]),
            Truncated,
        ),
        (
            "six extension headers",
            tcp_v6_behind(&[(60, PADDING); 6]),
            TooManyExtensions,
        ),
        (
            "a whole packet in a fragment",
            tcp_v6_behind(&[(44, FIRST), (44, ATOMIC)]),
            TooManyExtensions,
        ),
        (
            "half a TCP header in a first fragment",
            with(with(tcp_v4(), IP + 2, &[0, 36]), IP + 6, &[0x20, 0]),
            TinyFragment,
        ),
        (
            "half of the TCP options in a first fragment",
            with(with(tcp_v4(), IP + 6, &[0x20, 0]), SEGMENT_V4 + 12, &[0x60]),
            TinyFragment,
        ),
        (
            "a TCP header of 16 bytes in a first fragment",
            with(with(tcp_v4(), IP + 6, &[0x20, 0]), SEGMENT_V4 + 12, &[0x40]),
            BadLength,
        ),
        (
            "a first fragment without its transport header",
            with(
                tcp_v6_behind(&[(44, FIRST), (60, PADDING)]),
                IP + 4,
                &[0, 16],
            ),
            TinyFragment,
        ),
        (
            "a first fragment of half an extension header",
            with(
                tcp_v6_behind(&[(44, FIRST), (60, PADDING)]),
                IP + 4,
                &[0, 12],
            ),
            TinyFragment,
        ),
    ];
    for (what, frame, error) in rows {
        assert_eq!(parse(&frame), Err(error), "{what}");
    }
}

#[test]
fn extension_headers_lead_to_the_transport_header() {
    const PADDING: [u8; 6] = [1, 4, 0, 0, 0, 0];
    const ATOMIC: [u8; 6] = [0, 0, 0, 0, 0, 7];
    const FIRST: [u8; 6] = [0, 1, 0, 0, 0, 7];
    const LATER: [u8; 6] = [0, 8, 0, 0, 0, 7];
    const VISITED: [u8; 6] = [4, 0, 0, 0, 0, 0];
    const TO_VISIT: [u8; 6] = [4, 1, 0, 0, 0, 0];
    // Headers, where the transport header is behind them, what it is (or a number), a fragment?
    let rows: [(&str, &[_], usize, Option<u8>, bool); 8] = [
        ("none", &[], 0, None, false),
        (
            "five",
            &[
                (0, PADDING),
                (60, PADDING),
                (43, VISITED),
                (44, ATOMIC),
                (60, PADDING),
            ],
            40,
            None,
            false,
        ),
        ("fragment that is whole", &[(44, ATOMIC)], 8, None, false),
        ("first fragment", &[(44, FIRST)], 8, None, true),
        ("later fragment", &[(44, LATER)], 8, Some(6), true),
        (
            "later fragment of options",
            &[(44, LATER), (60, PADDING)],
            8,
            Some(60),
            true,
        ),
        (
            "nodes to visit",
            &[(0, PADDING), (43, TO_VISIT)],
            8,
            Some(43),
            false,
        ),
        ("authentication", &[(51, PADDING)], 0, Some(51), false),
    ];
    for (what, extensions, behind, other, fragment) in rows {
        let packet = ip(&tcp_v6_behind(extensions));
        assert_eq!(
            usize::from(packet.transport_start),
            SEGMENT_V6 + behind,
            "{what}"
        );
        assert_eq!(packet.fragment.is_some(), fragment, "{what}");
        match (other, packet.transport) {
            (
                None,
                Transport::Tcp {
                    source: 40_000,
                    destination: 80,
                    ..
                },
            ) => {}
            (Some(number), Transport::Other(found)) if number == found => {}
            (_, found) => panic!("{what}: {found:?}"),
        }
    }
}

#[test]
fn what_is_not_ip_is_named() {
    let arp = build::ArpRequest {
        target: VIP,
        ..Default::default()
    }
    .frame();
    assert!(matches!(parse(&arp), Ok(Packet::Arp(ethernet)) if ethernet.payload == 14));
    let lldp = with(tcp_v4(), 12, &[0x88, 0xcc]);
    assert!(matches!(parse(&lldp), Ok(Packet::Other(ethernet)) if ethernet.ethertype == 0x88cc));
}

#[test]
fn a_third_tag_is_not_followed() {
    let tag = VlanTag {
        tpid: 0x8100,
        tci: 5,
    };
    let tags = VlanTags::two(
        VlanTag {
            tpid: 0x88a8,
            tci: 0xe00a,
        },
        tag,
    );
    let mut frame = build::Tcp {
        tags,
        source: (CLIENT, 1),
        destination: (VIP, 2),
        ..Default::default()
    }
    .frame();
    assert_eq!(ip(&frame).ethernet.tags, tags);
    frame.splice(20..20, [0x81, 0x00, 0, 1]);
    assert!(
        matches!(parse(&frame), Ok(Packet::Other(e)) if e.tags == tags && e.ethertype == 0x8100)
    );
}

#[test]
fn a_written_header_is_the_one_that_was_read() {
    let link = Link {
        source: Mac([2, 0, 0, 0, 0, 1]),
        destination: Mac([2, 0, 0, 0, 0, 2]),
    };
    let outer = VlanTag {
        tpid: 0x88a8,
        tci: 10,
    };
    let inner = VlanTag {
        tpid: 0x8100,
        tci: 20,
    };
    for tags in [
        VlanTags::NONE,
        VlanTags::one(inner),
        VlanTags::two(outer, inner),
    ] {
        let built = build::Udp {
            link,
            tags,
            source: (CLIENT, 1),
            destination: (VIP, 2),
            ..Default::default()
        };
        let frame = built.frame();
        let ethernet = ip(&frame).ethernet;
        let mut header = vec![0; ethernet.header_len()];
        assert!(ethernet.write(&mut header).is_some());
        assert_eq!(header, frame[..ethernet.header_len()]);
        let short = header.len() - 1;
        assert!(ethernet.write(&mut header[..short]).is_none());
    }
}

fn offset_in(frame: &[u8], part: &[u8]) -> usize {
    part.as_ptr().addr() - frame.as_ptr().addr()
}

fn agree_on_network(frame: &[u8], packet: &IpPacket, other: &SlicedPacket<'_>) {
    let (payload, source, destination, hop_limit) = match other.net.as_ref().expect("IP") {
        NetSlice::Ipv4(v4) => {
            let header = v4.header();
            assert_eq!(packet.family, Family::V4);
            let (source, destination) = (header.source(), header.destination());
            (
                v4.payload(),
                Address::v4(source),
                Address::v4(destination),
                header.ttl(),
            )
        }
        NetSlice::Ipv6(v6) => {
            let header = v6.header();
            assert_eq!(packet.family, Family::V6);
            let (source, destination) = (header.source(), header.destination());
            (
                v6.payload(),
                Address::v6(source),
                Address::v6(destination),
                header.hop_limit(),
            )
        }
        NetSlice::Arp(_) => panic!("etherparse reads ARP"),
    };
    assert_eq!((packet.source, packet.destination), (source, destination));
    assert_eq!(packet.hop_limit, hop_limit);
    let start = offset_in(frame, payload.payload);
    assert_eq!(usize::from(packet.transport_start), start);
    assert_eq!(usize::from(packet.end), start + payload.payload.len());
    assert_eq!(packet.fragment.is_some(), payload.fragmented);
}

fn agree_on_transport(frame: &[u8], packet: &IpPacket, other: &TransportSlice<'_>) {
    match (other, packet.transport) {
        (
            TransportSlice::Tcp(tcp),
            Transport::Tcp {
                source,
                destination,
                flags,
                payload,
            },
        ) => {
            assert_eq!(
                (source, destination),
                (tcp.source_port(), tcp.destination_port())
            );
            assert_eq!(usize::from(payload), offset_in(frame, tcp.payload()));
            assert_eq!(
                flags.has(TcpFlags::SYN | TcpFlags::ACK),
                tcp.syn() && tcp.ack()
            );
            assert_eq!(flags.has(TcpFlags::FIN), tcp.fin());
            assert_eq!(flags.has(TcpFlags::RST), tcp.rst());
            assert_eq!(flags.has(TcpFlags::PSH), tcp.psh());
        }
        (
            TransportSlice::Udp(udp),
            Transport::Udp {
                source,
                destination,
            },
        ) => {
            assert_eq!(
                (source, destination),
                (udp.source_port(), udp.destination_port())
            );
        }
        (TransportSlice::Icmpv4(icmp), Transport::Icmp { kind, code }) => {
            assert_eq!((kind, code), (icmp.type_u8(), icmp.code_u8()));
        }
        (TransportSlice::Icmpv6(icmp), Transport::Icmp { kind, code }) => {
            assert_eq!((kind, code), (icmp.type_u8(), icmp.code_u8()));
        }
        (other, ours) => panic!("etherparse reads {other:?}, we read {ours:?}"),
    }
}

fn agree_with_sample(packet: &IpPacket, sample: &Sample) {
    let place = |fragment: Fragment| (fragment.identification, fragment.offset, fragment.more);
    assert_eq!(packet.fragment.map(place), sample.fragment.map(place));
    if let Some(fragment) = packet.fragment {
        // Of IPv6, a first fragment's data may begin with extension headers.
        let behind = packet.end - packet.transport_start;
        let headers = packet.family == Family::V6 && fragment.offset == 0;
        assert!(fragment.len == behind || (headers && fragment.len > behind));
    }
    assert_eq!(usize::from(packet.end), sample.frame.len() - sample.padding);
    let number = match (&sample.segment, packet.family) {
        (Segment::Tcp { .. }, _) => 6,
        (Segment::Udp { .. }, _) => 17,
        (Segment::Echo { .. }, Family::V4) => 1,
        (Segment::Echo { .. }, Family::V6) => 58,
    };
    let first = packet.fragment.is_none_or(|fragment| fragment.offset == 0);
    match (&sample.segment, packet.transport) {
        (_, Transport::Other(found)) if !first => assert_eq!(found, number),
        (
            Segment::Tcp {
                ports,
                flags,
                options,
            },
            Transport::Tcp {
                source,
                destination,
                flags: found,
                payload,
            },
        ) if first => {
            assert_eq!((source, destination, found.0), (ports.0, ports.1, *flags));
            assert_eq!(
                usize::from(payload - packet.transport_start),
                20 + options * 4
            );
        }
        (
            Segment::Udp { ports },
            Transport::Udp {
                source,
                destination,
            },
        ) if first => {
            assert_eq!((source, destination), *ports);
        }
        (Segment::Echo { .. }, Transport::Icmp { .. }) if first => {
            assert!(packet.fragment.is_some() || icmp::is_echo_request(packet));
        }
        (made, read) => panic!("{made:?} is read as {read:?}"),
    }
}

/// Everything that reads or answers a frame, on bytes that nobody vouches for.
fn touch_everything(bytes: &[u8]) {
    let mut frame = bytes.to_vec();
    match parse(bytes) {
        Ok(Packet::Ip(packet)) => {
            assert!(packet.network <= packet.transport_start);
            assert!(packet.transport_start <= packet.end);
            assert!(usize::from(packet.end) <= bytes.len());
            if let Transport::Tcp { payload, .. } = packet.transport {
                assert!(packet.transport_start <= payload && payload <= packet.end);
            }
            let _ = icmp::answer_echo(&mut frame, &packet);
            let _ = ndp::Advertisement::parse(bytes, &packet);
            if let Ok(question) = ndp::Solicitation::parse(bytes, &packet) {
                let _ = question.answer(Mac::default()).write(&mut frame);
            }
        }
        Ok(Packet::Arp(ethernet)) => {
            if let Ok(message) = arp::Arp::parse(bytes, &ethernet) {
                assert!(message.reply(Mac::default()).write(&mut frame));
            }
        }
        Ok(Packet::Other(_)) | Err(_) => {}
    }
    let _ = build::verify_checksums(bytes);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn reads_what_etherparse_wrote_and_reads(sample in samples()) {
        let packet = ip(&sample.frame);
        agree_with_sample(&packet, &sample);
        let other = SlicedPacket::from_ethernet(&sample.frame).expect("a valid frame");
        let tags: Vec<u16> = packet.ethernet.tags.as_slice().iter().map(|tag| tag.tci).collect();
        prop_assert_eq!(tags, sample.vlans);
        prop_assert!(other.link_exts.iter().all(|ext| matches!(ext, LinkExtSlice::Vlan(_))));
        agree_on_network(&sample.frame, &packet, &other);
        if let Some(transport) = &other.transport {
            agree_on_transport(&sample.frame, &packet, transport);
        }
    }

    /// Where both read a damaged frame as one with ports, they read the same ports.
    #[test]
    fn agrees_with_etherparse_on_damaged_frames(
        sample in samples(),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut frame = sample.frame;
        for (at, byte) in damage {
            let at = at.index(frame.len().min(80));
            frame[at] = byte;
        }
        touch_everything(&frame);
        let other = SlicedPacket::from_ethernet(&frame).ok().and_then(|other| other.transport);
        if let (Ok(Packet::Ip(packet)), Some(other)) = (parse(&frame), other)
            && !matches!(packet.transport, Transport::Other(_))
        {
            agree_on_transport(&frame, &packet, &other);
        }
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        touch_everything(&bytes);
    }

    /// Arbitrary bytes behind each `EtherType`, so that they reach the parsers behind it.
    #[test]
    fn no_payload_makes_it_panic(
        ethertype in prop::sample::select(vec![[0x08, 0x00], [0x86, 0xdd], [0x08, 0x06], [0x81, 0x00]]),
        version in prop::sample::select(vec![0x45, 0x4f, 0x60]),
        next in prop::sample::select(vec![0, 6, 17, 43, 44, 58, 60]),
        rest in proptest::collection::vec(any::<u8>(), 60..120),
    ) {
        let mut frame = vec![2; 12];
        frame.extend(ethertype);
        frame.extend(rest);
        frame[IP] = version;
        let len = u8::try_from(frame.len() - IP).expect("a short frame");
        if version == 0x60 {
            frame[IP + 4..IP + 7].copy_from_slice(&[0, len - 40, next]);
        } else {
            frame[IP + 2..IP + 4].copy_from_slice(&[0, len]);
            frame[IP + 9] = next;
        }
        touch_everything(&frame);
    }

    /// Each prefix of a valid frame.
    #[test]
    fn no_truncation_makes_it_panic(sample in samples()) {
        for len in 0..sample.frame.len() {
            touch_everything(&sample.frame[..len]);
        }
    }
}
