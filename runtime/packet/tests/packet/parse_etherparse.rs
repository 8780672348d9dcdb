//! `parse` compared with etherparse, on valid and damaged frames; arbitrary bytes cause no panic.

use crate::samples::{Sample, Segment, ip, samples};
use etherparse::{LinkExtSlice, NetSlice, SlicedPacket, TransportSlice};
use proptest::prelude::*;
use waxwing_packet::{
    Address, Family, Fragment, IpPacket, Mac, Packet, TcpFlags, Transport, arp, icmp, ndp, parse,
};
use waxwing_testkit::build;

/// Offset of the IP header in a frame without tags.
const IP: usize = 14;

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
        NetSlice::Arp(_) => panic!("etherparse parsed ARP"),
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
        (TransportSlice::Tcp(tcp), Transport::Tcp { flags, payload, .. }) => {
            let ports = (tcp.source_port(), tcp.destination_port());
            assert_eq!(build::ports(packet), Some(ports));
            assert_eq!(usize::from(payload), offset_in(frame, tcp.payload()));
            let is_syn_ack = flags.has(TcpFlags::SYN | TcpFlags::ACK);
            assert_eq!(is_syn_ack, tcp.syn() && tcp.ack());
            assert_eq!(flags.has(TcpFlags::FIN), tcp.fin());
            assert_eq!(flags.has(TcpFlags::RST), tcp.rst());
            assert_eq!(flags.has(TcpFlags::PSH), tcp.psh());
        }
        (TransportSlice::Udp(udp), Transport::Udp { .. }) => {
            let ports = (udp.source_port(), udp.destination_port());
            assert_eq!(build::ports(packet), Some(ports));
        }
        (TransportSlice::Icmpv4(icmp), Transport::Icmp { kind, code }) => {
            assert_eq!((kind, code), (icmp.type_u8(), icmp.code_u8()));
        }
        (TransportSlice::Icmpv6(icmp), Transport::Icmp { kind, code }) => {
            assert_eq!((kind, code), (icmp.type_u8(), icmp.code_u8()));
        }
        (other, ours) => panic!("etherparse parsed {other:?}, waxwing {ours:?}"),
    }
}

fn agree_with_sample(packet: &IpPacket, sample: &Sample) {
    let place = |fragment: Fragment| (fragment.identification, fragment.offset, fragment.more);
    assert_eq!(packet.fragment.map(place), sample.fragment.map(place));
    if let Some(fragment) = packet.fragment {
        // In IPv6, a first fragment's data may start with extension headers.
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
                flags: built,
                options,
            },
            Transport::Tcp { flags, payload, .. },
        ) if first => {
            assert_eq!((build::ports(packet), flags.0), (Some(*ports), *built));
            let header_len = usize::from(payload - packet.transport_start);
            assert_eq!(header_len, 20 + options * 4);
        }
        (Segment::Udp { ports }, Transport::Udp { .. }) if first => {
            assert_eq!(build::ports(packet), Some(*ports));
        }
        (Segment::Echo { .. }, Transport::Icmp { .. }) if first => {
            assert!(packet.fragment.is_some() || icmp::is_echo_request(packet));
        }
        (built, parsed) => panic!("{built:?} was parsed as {parsed:?}"),
    }
}

/// Calls every function that parses or answers a frame.
fn call_all_parsers(bytes: &[u8]) {
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
            if let Ok(solicitation) = ndp::Solicitation::parse(bytes, &packet) {
                let _ = solicitation.answer(Mac::default()).write(&mut frame);
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
    fn a_valid_frame_is_parsed_as_by_etherparse(sample in samples()) {
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

    /// When both find ports in a damaged frame, the ports are equal.
    #[test]
    fn a_damaged_frame_gives_the_ports_that_etherparse_finds(
        sample in samples(),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut frame = sample.frame;
        for (at, byte) in damage {
            let at = at.index(frame.len().min(80));
            frame[at] = byte;
        }
        call_all_parsers(&frame);
        let other = SlicedPacket::from_ethernet(&frame).ok().and_then(|other| other.transport);
        if let (Ok(Packet::Ip(packet)), Some(other)) = (parse(&frame), other)
            && !matches!(packet.transport, Transport::Other(_))
        {
            agree_on_transport(&frame, &packet, &other);
        }
    }

    #[test]
    fn arbitrary_bytes_cause_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        call_all_parsers(&bytes);
    }

    /// Arbitrary bytes behind each `EtherType`, to reach its parser.
    #[test]
    fn an_arbitrary_payload_causes_no_panic(
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
        call_all_parsers(&frame);
    }

    #[test]
    fn a_truncated_frame_causes_no_panic(sample in samples()) {
        for len in 0..sample.frame.len() {
            call_all_parsers(&sample.frame[..len]);
        }
    }
}
