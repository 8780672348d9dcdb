//! RSTs and ICMP errors about rejected packets, compared with etherparse.

use etherparse::{
    Icmpv4Type, Icmpv6Type, NetSlice, SlicedPacket, TcpHeader, TransportSlice, icmpv4, icmpv6,
};
use proptest::prelude::*;

use crate::rewrite::verified_by_etherparse;
use crate::samples::{CLIENT, LINK, LINK_BACK, Segment, TAGS, VIP, ip, samples, whole_packets};
use waxwing_packet::reject::{self, IcmpError};
use waxwing_packet::{Address, Delta, Family, IpPacket, Link, Mac, TcpFlags, Transport};
use waxwing_testkit::build;

const SYN: u8 = TcpFlags::SYN;
const ACK: u8 = TcpFlags::ACK;
const FIN: u8 = TcpFlags::FIN;
const RST: u8 = TcpFlags::RST;

/// Returns the RST for a frame, if any.
fn reset(frame: &[u8]) -> Option<Vec<u8>> {
    let mut frame = frame.to_vec();
    let packet = ip(&frame);
    let len = reject::reset(&mut frame, &packet)?;
    frame.truncate(len);
    Some(frame)
}

/// Returns the error about a frame, if any. The bytes in front of the packet are arbitrary before.
fn icmp_error(error: IcmpError, frame: &[u8], source: Address) -> Option<Vec<u8>> {
    let packet = ip(frame);
    let mut grown = vec![0xee; IcmpError::headers_len(packet.family)];
    grown.extend_from_slice(&frame[..IcmpError::quote_end(&packet)]);
    let before = grown.clone();
    let written = error.write(&mut grown, &packet, source);
    assert!(written || grown == before, "nothing changed");
    written.then_some(grown)
}

#[test]
fn an_rst_is_acceptable_to_the_sender_of_the_segment() {
    const NEAR_END: u32 = u32::MAX - 1;
    // Flags, sequence and acknowledgment, payload; flags, sequence and acknowledgment back.
    type Row = (u8, u32, u32, &'static [u8], u8, u32, u32);
    const ROWS: [Row; 8] = [
        (SYN, 1000, 0, b"", RST | ACK, 0, 1001),
        (SYN, 1000, 0, b"early data", RST | ACK, 0, 1011),
        (SYN, NEAR_END, 0, b"odd", RST | ACK, 0, 2),
        (SYN | ACK, 1000, 77, b"", RST, 77, 0),
        (ACK, 1000, 2000, b"GET", RST, 2000, 0),
        (FIN | ACK, 1000, NEAR_END, b"", RST, NEAR_END, 0),
        (FIN, 1000, 9, b"x", RST | ACK, 0, 1002),
        (0, 1000, 9, b"", RST | ACK, 0, 1000),
    ];
    for family in [0, 1] {
        for tags in TAGS {
            for (flags, sequence, acknowledgment, payload, back, sequence_back, next) in ROWS {
                let segment = build::Tcp {
                    link: LINK,
                    tags,
                    source: (CLIENT[family], 4000),
                    destination: (VIP[family], 80),
                    hop_limit: 1,
                    flags: TcpFlags(flags),
                    sequence,
                    acknowledgment,
                    payload,
                };
                let mut expected = build::Tcp {
                    link: LINK_BACK,
                    source: segment.destination,
                    destination: segment.source,
                    hop_limit: 64,
                    flags: TcpFlags(back),
                    sequence: sequence_back,
                    acknowledgment: next,
                    payload: b"",
                    ..segment
                }
                .frame();
                close_window(&mut expected);
                let answer = reset(&segment.frame()).expect("it is answered");
                assert_eq!(answer, expected, "{segment:?}");
                verified_by_etherparse(&answer);
            }
        }
    }
}

/// Sets the TCP window to zero, as in an RST.
fn close_window(frame: &mut [u8]) {
    let at = usize::from(ip(frame).transport_start);
    frame[at + 14..at + 16].fill(0);
    let sum = Delta::between(&[0xffff], &[0]);
    let checksum = u16::from_be_bytes([frame[at + 16], frame[at + 17]]);
    frame[at + 16..at + 18].copy_from_slice(&sum.apply(checksum).to_be_bytes());
}

#[test]
fn an_error_of_any_packet_length_quotes_as_much_as_fits() {
    for (family, headers, len_max) in [(0, 28, 576), (1, 48, 1280)] {
        for tags in TAGS {
            for len in (0..80)
                .chain(500..560)
                .chain(1180..1240)
                .chain([1472, 9000])
            {
                let payload: Vec<u8> = (0..=255).cycle().take(len).collect();
                let datagram = build::Udp {
                    link: LINK,
                    tags,
                    source: (CLIENT[family], 5000),
                    destination: (VIP[family], 53),
                    payload: &payload,
                    ..build::Udp::default()
                };
                let mut frame = datagram.frame();
                let packet = ip(&frame);
                let (start, end) = (usize::from(packet.network), usize::from(packet.end));
                frame.extend([0xa5; 3]);
                let error = IcmpError::port_unreachable(packet.family);
                let answer = icmp_error(error, &frame, packet.destination).expect("it is answered");
                let back = ip(&answer);
                assert_eq!(build::verify_checksums(&answer), Ok(()), "{len}");
                verified_by_etherparse(&answer);
                assert_eq!(answer.len() - start, len_max.min(headers + end - start));
                assert!(frame[start..].starts_with(&answer[start + headers..]));
                let link_back = (packet.ethernet).answer(LINK_BACK.source, LINK_BACK.destination);
                assert_eq!(back.ethernet, link_back);
                assert_eq!(
                    (back.source, back.destination),
                    (VIP[family], CLIENT[family])
                );
                assert_eq!((back.hop_limit, back.fragment), (64, None));
            }
        }
    }
}

#[test]
fn each_error_has_the_type_that_etherparse_finds() {
    let too_big = |frame: &[u8], mtu| IcmpError::too_big(frame, &ip(frame), mtu);
    let router = [
        Address::v4([10, 0, 0, 1]),
        Address::from_bits(0xfd << 120 | 1),
    ];
    let transport = |error, family: usize| {
        let frame = icmp_error(error, &datagram(family), router[family]).expect("it is answered");
        assert_eq!(ip(&frame).source, router[family]);
        let sliced = SlicedPacket::from_ethernet(&frame).expect("a valid frame");
        match sliced.transport {
            Some(TransportSlice::Icmpv4(icmp)) => (Some(icmp.icmp_type()), None),
            Some(TransportSlice::Icmpv6(icmp)) => (None, Some(icmp.icmp_type())),
            other => panic!("{other:?}"),
        }
    };
    let v4 = |error| transport(error, 0).0.expect("ICMP");
    let v6 = |error| transport(error, 1).1.expect("ICMPv6");
    assert_eq!(
        v4(IcmpError::port_unreachable(Family::V4)),
        Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::Port)
    );
    assert_eq!(
        v4(too_big(&datagram(0), 1400).expect("fragmentation is forbidden")),
        Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::FragmentationNeeded {
            next_hop_mtu: 1400
        })
    );
    assert_eq!(
        v4(IcmpError::time_exceeded(Family::V4)),
        Icmpv4Type::TimeExceeded(icmpv4::TimeExceededCode::TtlExceededInTransit)
    );
    assert_eq!(
        v6(IcmpError::port_unreachable(Family::V6)),
        Icmpv6Type::DestinationUnreachable(icmpv6::DestUnreachableCode::Port)
    );
    assert_eq!(
        v6(too_big(&datagram(1), 1280).expect("fragmentation is forbidden")),
        Icmpv6Type::PacketTooBig { mtu: 1280 }
    );
    assert_eq!(
        v6(IcmpError::time_exceeded(Family::V6)),
        Icmpv6Type::TimeExceeded(icmpv6::TimeExceededCode::HopLimitExceeded)
    );
    let mut fragmentable = datagram(0);
    fragmentable[FLAGS_V4] = 0;
    assert_eq!(too_big(&fragmentable, 1400), None);
}

/// Precedence 6 (RFC 1812 section 4.3.2.5).
#[test]
fn an_error_has_internetwork_control_precedence() {
    for family in [0, 1] {
        let error = IcmpError::time_exceeded(ip(&datagram(family)).family);
        let frame = icmp_error(error, &datagram(family), VIP[family]).expect("it is answered");
        let sliced = SlicedPacket::from_ethernet(&frame).expect("a valid frame");
        let dscp = match sliced.net.expect("IP") {
            NetSlice::Ipv4(v4) => v4.header().dcp().value(),
            NetSlice::Ipv6(v6) => v6.header().traffic_class() >> 2,
            NetSlice::Arp(_) => panic!("not IP"),
        };
        assert_eq!(dscp, 48, "CS6");
    }
}

#[test]
fn only_unicast_packets_are_answered_and_no_rst_answers_an_rst() {
    let tcp = |flags| build::Tcp {
        link: LINK,
        source: (CLIENT[0], 4000),
        destination: (VIP[0], 80),
        flags: TcpFlags(flags),
        ..build::Tcp::default()
    };
    let group = Mac([1, 0, 0, 0, 0, 1]);
    let multicast = Address::v4([239, 1, 1, 1]);
    let link = |source, destination| build::Tcp {
        link: Link {
            source,
            destination,
        },
        ..tcp(SYN)
    };
    let from = |source| build::Tcp {
        source: (source, 4000),
        ..tcp(SYN)
    };
    let to = |destination| build::Tcp {
        destination: (destination, 80),
        ..tcp(SYN)
    };
    // Name, segment, whether an RST answers it, whether an ICMP error does.
    let rows = [
        ("a SYN", tcp(SYN), true, true),
        ("an RST", tcp(RST), false, true),
        ("an RST with ACK", tcp(RST | ACK), false, true),
        ("to a group", link(LINK.source, group), false, false),
        ("to all", link(LINK.source, Mac::BROADCAST), false, false),
        ("from a group", link(group, LINK.destination), false, false),
        ("from 0.0.0.0", from(Address::v4([0; 4])), false, false),
        ("from broadcast", from(Address::v4([255; 4])), false, false),
        ("from multicast", from(multicast), false, false),
        ("to multicast", to(multicast), false, false),
        ("to broadcast", to(Address::v4([255; 4])), false, false),
    ];
    for (what, segment, resets, has_error) in rows {
        let frame = segment.frame();
        let error = IcmpError::port_unreachable(Family::V4);
        assert_eq!(reset(&frame).is_some(), resets, "{what}");
        assert_eq!(
            icmp_error(error, &frame, VIP[0]).is_some(),
            has_error,
            "{what}"
        );
    }
}

#[test]
fn no_icmp_error_answers_an_icmp_error() {
    let is_query_v4 = |kind| matches!(kind, 0 | 8 | 9 | 10 | 13..=18);
    let is_no_error_v6 = |kind| kind >= 128 && kind != 137;
    for kind in 0..=255 {
        for (family, allowed) in [(0, is_query_v4(kind)), (1, is_no_error_v6(kind))] {
            let mut frame = build::Echo {
                source: CLIENT[family],
                destination: VIP[family],
                ..build::Echo::default()
            }
            .frame();
            let at = usize::from(ip(&frame).transport_start);
            frame[at] = kind;
            let error = IcmpError::port_unreachable(ip(&frame).family);
            let answered = icmp_error(error, &frame, VIP[family]).is_some();
            assert_eq!(answered, allowed, "ICMP type {kind}, family {family}");
            assert_eq!(reset(&frame), None);
        }
    }
}

#[test]
fn a_packet_with_hidden_headers_is_not_answered() {
    let mut first = build::Tcp {
        source: (CLIENT[0], 4000),
        destination: (VIP[0], 80),
        flags: TcpFlags(SYN),
        ..build::Tcp::default()
    }
    .frame();
    first[FLAGS_V4] |= 0x20;
    assert_eq!(reset(&first), None, "a fragment");

    let mut authenticated = datagram(0);
    authenticated[PROTOCOL_V4] = 51;
    let mut routed = datagram(1);
    routed[NEXT_HEADER_V6] = 43;
    routed[PAYLOAD_LEN_V6] += 8;
    // A routing header of 8 bytes, before UDP, with one node left to visit.
    routed.splice(HEADERS_V6..HEADERS_V6, [17, 0, 0, 1, 0, 0, 0, 0]);
    for (frame, protocol) in [(authenticated, 51), (routed, 43)] {
        let packet = ip(&frame);
        assert_eq!(packet.transport, Transport::Other(protocol));
        assert!(
            !IcmpError::may_be_about(&packet),
            "it may contain an ICMP error"
        );
    }
}

/// Offsets in an untagged frame.
const FLAGS_V4: usize = 14 + 6;
const PROTOCOL_V4: usize = 14 + 9;
const PAYLOAD_LEN_V6: usize = 14 + 5;
const NEXT_HEADER_V6: usize = 14 + 6;
const HEADERS_V6: usize = 14 + 40;

fn datagram(family: usize) -> Vec<u8> {
    build::Udp {
        source: (CLIENT[family], 5000),
        destination: (VIP[family], 53),
        payload: b"query",
        ..build::Udp::default()
    }
    .frame()
}

#[test]
fn an_error_is_only_written_into_a_frame_of_its_length() {
    let frame = datagram(0);
    let packet = ip(&frame);
    let error = IcmpError::port_unreachable(Family::V4);
    let right = IcmpError::headers_len(Family::V4) + IcmpError::quote_end(&packet);
    for len in 0..right + 10 {
        let mut place = vec![0xee; len];
        assert_eq!(error.write(&mut place, &packet, VIP[0]), len == right);
    }
}

/// Decided by the standard library.
fn is_between_hosts(packet: &IpPacket) -> bool {
    let host = |address: Address| match address.into() {
        std::net::IpAddr::V4(v4) => {
            !v4.is_unspecified() && !v4.is_multicast() && !v4.is_broadcast()
        }
        std::net::IpAddr::V6(v6) => !v6.is_unspecified() && !v6.is_multicast(),
    };
    host(packet.source) && host(packet.destination)
}

fn tcp_of(frame: &[u8]) -> (TcpHeader, usize) {
    let sliced = SlicedPacket::from_ethernet(frame).expect("a valid frame");
    let Some(TransportSlice::Tcp(tcp)) = sliced.transport else {
        panic!("{sliced:?}")
    };
    (tcp.to_header(), tcp.payload().len())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// With any options, extension headers, tags and padding.
    #[test]
    fn an_rst_answers_any_segment(sample in whole_packets()) {
        let packet = ip(&sample.frame);
        let is_reset = matches!(sample.segment, Segment::Tcp { flags, .. } if flags & RST != 0);
        let is_tcp = matches!(sample.segment, Segment::Tcp { .. });
        let answer = reset(&sample.frame);
        prop_assert_eq!(answer.is_some(), is_tcp && !is_reset && is_between_hosts(&packet));
        let Some(answer) = answer else { return Ok(()); };
        verified_by_etherparse(&answer);
        let ((segment, len), (rst, rest)) = (tcp_of(&sample.frame), tcp_of(&answer));
        prop_assert!(rst.rst && !rst.syn && !rst.fin && rest == 0);
        prop_assert_eq!(rst.ack, !segment.ack);
        let controls = u32::from(segment.syn) + u32::from(segment.fin);
        let len = u32::try_from(len).expect("a short segment") + controls;
        let next = segment.sequence_number.wrapping_add(len);
        let expected = if segment.ack { (segment.acknowledgment_number, 0) } else { (0, next) };
        prop_assert_eq!((rst.sequence_number, rst.acknowledgment_number), expected);
        prop_assert_eq!(rst.source_port, segment.destination_port);
        prop_assert_eq!(rst.destination_port, segment.source_port);
        let back = ip(&answer);
        prop_assert_eq!((back.source, back.destination), (packet.destination, packet.source));
        prop_assert_eq!(back.ethernet.tags, packet.ethernet.tags);
    }

    /// Including first fragments, whose ports it quotes, and no other fragments.
    #[test]
    fn an_error_answers_any_packet(sample in samples(), parameter in any::<u32>()) {
        let packet = ip(&sample.frame);
        // An unknown type, so etherparse does not interpret the header.
        let error = IcmpError { kind: 100, code: 1, parameter };
        let is_first = sample.fragment.is_none_or(|fragment| fragment.offset == 0);
        let answer = icmp_error(error, &sample.frame, packet.destination);
        prop_assert_eq!(answer.is_some(), is_first && is_between_hosts(&packet));
        let Some(answer) = answer else { return Ok(()); };
        verified_by_etherparse(&answer);
        let back = ip(&answer);
        prop_assert_eq!(back.transport, Transport::Icmp { kind: 100, code: 1 });
        let message = usize::from(back.transport_start);
        prop_assert_eq!(&answer[message + 4..message + 8], &parameter.to_be_bytes());
        let quoted = &sample.frame[packet.network.into()..packet.end.into()];
        prop_assert_eq!(&answer[message + 8..], quoted);
        let sliced = SlicedPacket::from_ethernet(&answer).expect("a valid frame");
        let whole = match sliced.net.as_ref().expect("IP") {
            NetSlice::Ipv4(v4) => usize::from(v4.header().total_len()),
            NetSlice::Ipv6(v6) => 40 + usize::from(v6.header().payload_length()),
            NetSlice::Arp(_) => 0,
        };
        prop_assert_eq!(whole, answer.len() - usize::from(back.network));
    }
}
