//! `Rewrite`: correct checksums (recomputed by etherparse), the requested fields, and no other change.

use crate::samples::{ip, samples, whole_packets};
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use proptest::prelude::*;
use waxwing_packet::{
    Address, Family, IpPacket, Link, Mac, Rewrite, TcpFlags, Translation, Transport,
};
use waxwing_testkit::build;

const CLIENT: (Address, u16) = (Address::v4([192, 0, 2, 1]), 40_000);
const VIP: (Address, u16) = (Address::v4([203, 0, 113, 10]), 80);
const BACKEND: (Address, u16) = (Address::v4([10, 2, 0, 11]), 8080);
const EGRESS: Link = Link {
    source: Mac([2, 0, 0, 0, 0, 7]),
    destination: Mac([2, 0, 0, 0, 0, 8]),
};

/// Offsets in an untagged IPv4 frame without options.
const TTL: usize = 14 + 8;
const SEGMENT: usize = 14 + 20;
const UDP_CHECKSUM: usize = SEGMENT + 6;

fn endpoints(packet: &IpPacket) -> [(Address, u16); 2] {
    let (source, destination) = build::ports(packet).unwrap_or_default();
    [(packet.source, source), (packet.destination, destination)]
}

fn request() -> Rewrite {
    Rewrite {
        destination: Some(Translation::new(VIP, BACKEND)),
        link: Some(EGRESS),
        decrement_hop_limit: true,
        ..Default::default()
    }
}

fn apply(rewrite: &Rewrite, frame: &mut [u8]) {
    let packet = ip(frame);
    rewrite.apply(frame, &packet);
}

fn tcp() -> Vec<u8> {
    build::Tcp {
        link: Link {
            source: Mac([2, 0, 0, 0, 0, 1]),
            destination: Mac([2, 0, 0, 0, 0, 2]),
        },
        source: CLIENT,
        destination: VIP,
        flags: TcpFlags(TcpFlags::ACK | TcpFlags::PSH),
        sequence: 1,
        acknowledgment: 2,
        payload: b"GET / HTTP/1.1\r\n\r\n",
        ..Default::default()
    }
    .frame()
}

fn udp(payload: &[u8]) -> Vec<u8> {
    build::Udp {
        source: CLIENT,
        destination: VIP,
        payload,
        ..Default::default()
    }
    .frame()
}

#[test]
fn a_rewritten_request_is_addressed_to_the_backend() {
    let mut frame = tcp();
    apply(&request(), &mut frame);
    let expected = build::Tcp {
        link: EGRESS,
        source: CLIENT,
        destination: BACKEND,
        hop_limit: 63,
        flags: TcpFlags(TcpFlags::ACK | TcpFlags::PSH),
        sequence: 1,
        acknowledgment: 2,
        payload: b"GET / HTTP/1.1\r\n\r\n",
        ..Default::default()
    };
    assert_eq!(frame, expected.frame());
}

#[test]
fn a_rewritten_reply_has_the_vip_as_source_and_keeps_its_macs_in_transparent_mode() {
    let reply = |source| {
        build::Udp {
            source,
            destination: CLIENT,
            ..Default::default()
        }
        .frame()
    };
    let mut frame = reply(BACKEND);
    let source = Some(Translation::new(BACKEND, VIP));
    apply(
        &Rewrite {
            source,
            ..Default::default()
        },
        &mut frame,
    );
    assert_eq!(frame, reply(VIP));
}

#[test]
fn a_default_rewrite_changes_nothing() {
    let mut frame = tcp();
    apply(&Rewrite::default(), &mut frame);
    assert_eq!(frame, tcp());
}

#[test]
fn a_hop_limit_of_zero_stays_zero() {
    let mut frame = build::Tcp {
        source: CLIENT,
        destination: VIP,
        hop_limit: 0,
        ..Default::default()
    }
    .frame();
    apply(&request(), &mut frame);
    assert_eq!((frame[TTL], build::verify_checksums(&frame)), (0, Ok(())));
}

#[test]
fn a_udp_datagram_without_checksum_stays_without() {
    let mut frame = udp(b"query");
    frame[UDP_CHECKSUM..UDP_CHECKSUM + 2].fill(0);
    apply(&request(), &mut frame);
    assert_eq!(frame[UDP_CHECKSUM..UDP_CHECKSUM + 2], [0, 0]);
    assert_eq!(build::verify_checksums(&frame), Ok(()));
}

/// Tries every payload word, hence every checksum before and after.
#[test]
fn a_udp_checksum_of_zero_is_sent_as_0xffff() {
    let mut other_form = [0, 0];
    for word in 0..=u16::MAX {
        let mut frame = udp(&word.to_be_bytes());
        let checksum = |frame: &[u8]| [frame[UDP_CHECKSUM], frame[UDP_CHECKSUM + 1]];
        other_form[0] += u32::from(checksum(&frame) == [0xff; 2]);
        apply(&request(), &mut frame);
        other_form[1] += u32::from(checksum(&frame) == [0xff; 2]);
        assert_eq!(
            build::verify_checksums(&frame),
            Ok(()),
            "payload {word:#06x}"
        );
    }
    assert!(
        other_form.iter().all(|seen| *seen > 0),
        "0xffff occurs before and after: {other_form:?}"
    );
}

/// The first fragment holds the whole packet's checksum; the second changes only in its addresses.
#[test]
fn rewritten_fragments_reassemble_to_the_rewritten_packet() {
    let payload: Vec<u8> = (0..=255).collect();
    let whole = udp(&payload);
    let cut = SEGMENT + 64;
    let fragment = |bytes: &[u8], flags_offset: u16| {
        let mut frame = [&whole[..SEGMENT], bytes].concat();
        let len = u16::try_from(frame.len() - 14).expect("a short frame");
        frame[16..18].copy_from_slice(&len.to_be_bytes());
        frame[20..22].copy_from_slice(&flags_offset.to_be_bytes());
        frame[24..26].fill(0);
        let checksum = waxwing_packet::checksum::of(&frame[14..SEGMENT]);
        frame[24..26].copy_from_slice(&checksum.to_be_bytes());
        frame
    };
    let mut first = fragment(&whole[SEGMENT..cut], 0x2000);
    let mut second = fragment(&whole[cut..], 64 / 8);
    apply(&request(), &mut first);
    apply(&request(), &mut second);
    assert_eq!(build::verify_checksums(&first), Ok(()));
    assert_eq!(build::verify_checksums(&second), Ok(()));

    let mut expected = whole.clone();
    apply(&request(), &mut expected);
    assert_eq!(first[SEGMENT..], expected[SEGMENT..cut]);
    assert_eq!(second[SEGMENT..], expected[cut..]);
    assert_eq!(ip(&second).destination, BACKEND.0);
}

/// Debug builds panic as well.
#[test]
fn a_packet_of_another_frame_does_not_change_the_frame() {
    let packet = ip(&tcp());
    for len in 0..SEGMENT + 20 {
        let mut frame = tcp()[..len].to_vec();
        let before = frame.clone();
        let applied = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            request().apply(&mut frame, &packet);
        }));
        assert_eq!(applied.is_err(), cfg!(debug_assertions));
        assert_eq!(frame, before);
    }
}

/// Recomputes every checksum of an unfragmented packet with etherparse.
pub(crate) fn verified_by_etherparse(frame: &[u8]) {
    let sliced = SlicedPacket::from_ethernet(frame).expect("a valid frame");
    let transport = sliced.transport.as_ref().expect("a whole packet");
    match sliced.net.as_ref().expect("IP") {
        NetSlice::Ipv4(v4) => {
            let header = v4.header().to_header();
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            match transport {
                TransportSlice::Tcp(tcp) => {
                    let sum = tcp.calc_checksum_ipv4(header.source, header.destination);
                    assert_eq!(Ok(tcp.checksum()), sum);
                }
                TransportSlice::Udp(udp) => {
                    let sum = udp.to_header().calc_checksum_ipv4(&header, udp.payload());
                    assert_eq!(Ok(udp.checksum()), sum);
                }
                TransportSlice::Icmpv4(icmp) => {
                    assert_eq!(
                        icmp.checksum(),
                        icmp.icmp_type().calc_checksum(icmp.payload())
                    );
                }
                other => panic!("{other:?} in IPv4"),
            }
        }
        NetSlice::Ipv6(v6) => {
            let header = v6.header().to_header();
            match transport {
                TransportSlice::Tcp(tcp) => {
                    let sum = tcp.calc_checksum_ipv6(header.source, header.destination);
                    assert_eq!(Ok(tcp.checksum()), sum);
                }
                TransportSlice::Udp(udp) => {
                    let sum = udp.to_header().calc_checksum_ipv6(&header, udp.payload());
                    assert_eq!(Ok(udp.checksum()), sum);
                }
                TransportSlice::Icmpv6(icmp) => {
                    assert!(icmp.is_checksum_valid(header.source, header.destination));
                }
                other => panic!("{other:?} in IPv6"),
            }
        }
        NetSlice::Arp(_) => panic!("not IP"),
    }
}

#[derive(Clone, Debug)]
struct Plan {
    source: Option<([u8; 16], u16)>,
    destination: Option<([u8; 16], u16)>,
    link: bool,
    decrement: bool,
}

fn plans() -> impl Strategy<Value = Plan> {
    let side = || proptest::option::of((any::<[u8; 16]>(), any::<u16>()));
    (side(), side(), any::<bool>(), any::<bool>()).prop_map(
        |(source, destination, link, decrement)| Plan {
            source,
            destination,
            link,
            decrement,
        },
    )
}

impl Plan {
    fn address(family: Family, [a, b, c, d, rest @ ..]: [u8; 16]) -> Address {
        match family {
            Family::V4 => Address::v4([a, b, c, d]),
            Family::V6 => {
                let mut octets = [0x20; 16];
                octets[4..].copy_from_slice(&rest);
                Address::v6(octets)
            }
        }
    }

    fn rewrite(&self, packet: &IpPacket) -> Rewrite {
        let [source, destination] = endpoints(packet);
        let to = |from, side: Option<([u8; 16], u16)>| {
            side.map(|(octets, port)| {
                Translation::new(from, (Self::address(packet.family, octets), port))
            })
        };
        Rewrite {
            source: to(source, self.source),
            destination: to(destination, self.destination),
            link: self.link.then_some(EGRESS),
            decrement_hop_limit: self.decrement,
        }
    }
}

/// Returns the rewrite that reverses `rewrite`, except the hop limit.
fn reverse(rewrite: &Rewrite, packet: &IpPacket) -> Rewrite {
    let [source, destination] = endpoints(packet);
    let back = |to: (Address, u16), side: Option<Translation>| {
        side.map(|from| Translation::new((from.address, from.port), to))
    };
    let ethernet = packet.ethernet;
    Rewrite {
        source: back(source, rewrite.source),
        destination: back(destination, rewrite.destination),
        link: Some(Link {
            source: ethernet.source,
            destination: ethernet.destination,
        }),
        decrement_hop_limit: false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn checksums_are_correct_after_any_rewrite(sample in whole_packets(), plan in plans()) {
        let mut frame = sample.frame;
        verified_by_etherparse(&frame);
        prop_assert_eq!(build::verify_checksums(&frame), Ok(()));
        apply(&plan.rewrite(&ip(&frame)), &mut frame);
        verified_by_etherparse(&frame);
        prop_assert_eq!(build::verify_checksums(&frame), Ok(()));
    }

    #[test]
    fn exactly_the_requested_fields_change(sample in samples(), plan in plans()) {
        let mut frame = sample.frame;
        let before = ip(&frame);
        let rewrite = plan.rewrite(&before);
        rewrite.apply(&mut frame, &before);

        let mut expected = before;
        expected.hop_limit -= u8::from(plan.decrement);
        if let Some(link) = rewrite.link {
            (expected.ethernet.source, expected.ethernet.destination) = (link.source, link.destination);
        }
        if let Some(to) = rewrite.source {
            expected.source = to.address;
        }
        if let Some(to) = rewrite.destination {
            expected.destination = to.address;
        }
        if let Transport::Tcp { source, destination, .. } | Transport::Udp { source, destination } =
            &mut expected.transport
        {
            *source = rewrite.source.map_or(*source, |to| to.port);
            *destination = rewrite.destination.map_or(*destination, |to| to.port);
        }
        prop_assert_eq!(ip(&frame), expected);
    }

    #[test]
    fn the_reverse_restores_every_byte(sample in samples(), plan in plans()) {
        let original = sample.frame;
        let packet = ip(&original);
        let rewrite = plan.rewrite(&packet);
        let mut frame = original.clone();
        apply(&rewrite, &mut frame);
        apply(&reverse(&rewrite, &packet), &mut frame);

        let mut expected = original;
        let hop_only = Rewrite { decrement_hop_limit: plan.decrement, ..Default::default() };
        apply(&hop_only, &mut expected);
        prop_assert_eq!(frame, expected);
    }

    #[test]
    fn a_damaged_checksum_stays_damaged(sample in whole_packets(), plan in plans(), flip in 1..=u8::MAX) {
        let mut frame = sample.frame;
        let packet = ip(&frame);
        let last = usize::from(packet.end) - 1;
        frame[last] ^= flip;
        prop_assume!(build::verify_checksums(&frame).is_err());
        plan.rewrite(&packet).apply(&mut frame, &packet);
        prop_assert!(build::verify_checksums(&frame).is_err());
    }
}
