//! `parse`: tables of malformed frames, extension headers and VLAN tags.

use crate::samples::{CLIENT, LINK, TAGS, VIP, ip};
use waxwing_packet::ParseError::{
    self, BadLength, Forbidden, TinyFragment, TooManyExtensions, Truncated,
};
use waxwing_packet::{Address, Packet, TcpFlags, Transport, parse};
use waxwing_testkit::build;

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
        source: (CLIENT[0], 40_000),
        destination: (VIP[0], 53),
        payload: b"query",
        ..Default::default()
    }
    .frame()
}

fn tcp_v4() -> Vec<u8> {
    tcp(CLIENT[0], VIP[0])
}

fn tcp_v6() -> Vec<u8> {
    tcp(CLIENT[1], VIP[1])
}

/// Returns an IPv6 frame with these extension headers before its TCP segment. Each is a number, and its
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

/// Returns a frame with one field overwritten.
fn with(mut frame: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    frame[at..at + bytes.len()].copy_from_slice(bytes);
    frame
}

fn cut(mut frame: Vec<u8>, len: usize) -> Vec<u8> {
    frame.truncate(len);
    frame
}

type Malformed = (&'static str, Vec<u8>, ParseError);

const PADDING: [u8; 6] = [1, 4, 0, 0, 0, 0];
/// Fragment headers: of an atomic fragment, a first one and a later one.
const ATOMIC: [u8; 6] = [0, 0, 0, 0, 0, 7];
const FIRST: [u8; 6] = [0, 1, 0, 0, 0, 7];
const LATER: [u8; 6] = [0, 8, 0, 0, 0, 7];

fn malformed_v4() -> Vec<Malformed> {
    let vlan = with(tcp_v4(), 12, &[0x81, 0x00]);
    let total_len = |bytes: [u8; 2]| with(tcp_v4(), IP + 2, &bytes);
    let first_byte = |byte: u8| with(tcp_v4(), IP, &[byte]);
    let data_offset = |byte: u8| with(tcp_v4(), SEGMENT_V4 + 12, &[byte]);
    let udp_len = |len: u8| with(udp(), SEGMENT_V4 + 4, &[0, len]);
    let short_udp = with(udp(), IP + 2, &[0, 27]);
    let short_icmp = with(short_udp.clone(), IP + 9, &[1]);
    vec![
        ("empty frame", vec![], Truncated),
        ("half an Ethernet header", cut(tcp_v4(), 13), Truncated),
        ("half a VLAN tag", cut(vlan, 17), Truncated),
        ("half an IPv4 header", cut(tcp_v4(), IP + 19), Truncated),
        ("version 5", first_byte(0x55), BadLength),
        ("IHL of 16 bytes", first_byte(0x44), BadLength),
        ("IHL exceeds the packet", first_byte(0x4f), BadLength),
        ("total length 0", total_len([0, 0]), BadLength),
        (
            "total length beyond the frame",
            total_len([0, 41]),
            BadLength,
        ),
        ("total length 65535", total_len([255, 255]), BadLength),
        ("half a TCP header", total_len([0, 39]), Truncated),
        ("TCP header of 16 bytes", data_offset(0x40), BadLength),
        (
            "TCP options beyond the packet",
            data_offset(0x60),
            BadLength,
        ),
        ("half a UDP header", short_udp, Truncated),
        ("UDP length of 7 bytes", udp_len(7), BadLength),
        ("UDP length exceeds the packet", udp_len(14), BadLength),
        ("half an ICMP header", short_icmp, Truncated),
    ]
}

fn malformed_v6() -> Vec<Malformed> {
    let mapped = CLIENT[0].octets();
    let mapped_destination = with(tcp_v6(), IP + 24, &mapped);
    let payload_len = |len: u8| with(tcp_v6(), IP + 4, &[0, len]);
    let options = with(tcp_v6(), IP + 6, &[60]);
    let six_headers = tcp_v6_behind(&[(60, PADDING); 6]);
    vec![
        ("half an IPv6 header", cut(tcp_v6(), IP + 39), Truncated),
        ("version 4 in IPv6", with(tcp_v6(), IP, &[0x45]), BadLength),
        ("payload length too long", payload_len(21), BadLength),
        ("jumbogram", payload_len(0), Truncated),
        ("mapped source", with(tcp_v6(), IP + 8, &mapped), Forbidden),
        ("mapped destination", mapped_destination, Forbidden),
        ("options exceed the packet", options, Truncated),
        ("six extension headers", six_headers, TooManyExtensions),
    ]
}

fn malformed_fragments() -> Vec<Malformed> {
    let nested = tcp_v6_behind(&[(44, FIRST), (44, ATOMIC)]);
    let first_v4 = with(tcp_v4(), IP + 6, &[0x20, 0]);
    let half_tcp = with(first_v4.clone(), IP + 2, &[0, 36]);
    let data_offset = |byte: u8| with(first_v4.clone(), SEGMENT_V4 + 12, &[byte]);
    let first_v6 = |payload_len: u8| {
        let frame = tcp_v6_behind(&[(44, FIRST), (60, PADDING)]);
        with(frame, IP + 4, &[0, payload_len])
    };
    vec![
        ("whole packet in a fragment", nested, TooManyExtensions),
        ("first: half a TCP header", half_tcp, TinyFragment),
        (
            "first: half the TCP options",
            data_offset(0x60),
            TinyFragment,
        ),
        (
            "first: a TCP header of 16 bytes",
            data_offset(0x40),
            BadLength,
        ),
        ("first: no transport header", first_v6(16), TinyFragment),
        (
            "first: half an extension header",
            first_v6(12),
            TinyFragment,
        ),
    ]
}

#[test]
fn a_malformed_frame_gives_the_error_of_its_kind() {
    let rows = malformed_v4().into_iter().chain(malformed_v6());
    for (what, frame, error) in rows.chain(malformed_fragments()) {
        assert_eq!(parse(&frame), Err(error), "{what}");
    }
}

#[test]
fn extension_headers_are_walked_up_to_the_transport_header() {
    const VISITED: [u8; 6] = [4, 0, 0, 0, 0, 0];
    const TO_VISIT: [u8; 6] = [4, 1, 0, 0, 0, 0];
    const FIVE: [(u8, [u8; 6]); 5] = [
        (0, PADDING),
        (60, PADDING),
        (43, VISITED),
        (44, ATOMIC),
        (60, PADDING),
    ];
    // Name, headers, their length up to the transport header, its number unless it is TCP, whether
    // the packet is a fragment.
    let rows: [(&str, &[_], usize, Option<u8>, bool); 8] = [
        ("none", &[], 0, None, false),
        ("five", &FIVE, 40, None, false),
        ("atomic fragment", &[(44, ATOMIC)], 8, None, false),
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
        assert_eq!(
            build::ports(&packet),
            other.is_none().then_some((40_000, 80)),
            "{what}"
        );
        let number = match packet.transport {
            Transport::Other(number) => Some(number),
            _ => None,
        };
        assert_eq!(number, other, "{what}");
    }
}

#[test]
fn other_ethertypes_give_arp_or_other() {
    let arp = build::ArpRequest {
        target: VIP[0],
        ..Default::default()
    }
    .frame();
    assert!(matches!(parse(&arp), Ok(Packet::Arp(ethernet)) if ethernet.payload == 14));
    let lldp = with(tcp_v4(), 12, &[0x88, 0xcc]);
    assert!(matches!(parse(&lldp), Ok(Packet::Other(ethernet)) if ethernet.ethertype == 0x88cc));
}

#[test]
fn a_third_vlan_tag_stays_as_the_ethertype() {
    let tags = TAGS[2];
    let mut frame = build::Tcp {
        tags,
        source: (CLIENT[0], 1),
        destination: (VIP[0], 2),
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
fn an_ethernet_header_is_written_as_it_was_parsed() {
    for tags in TAGS {
        let built = build::Udp {
            link: LINK,
            tags,
            source: (CLIENT[0], 1),
            destination: (VIP[0], 2),
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
