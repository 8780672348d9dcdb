//! Plain packets: read as the parser reads them, and rewritten as `Changes` rewrites them.

use crate::samples::{CLIENT, LINK, TAGS, VIP};
use waxwing_packet::plain::{
    self, FlowHasher, Headers, Kind, PackedTags, PlainTranslation, SourceMac,
};
use waxwing_packet::{
    Address, Changes, Family, IpPacket, Mac, Packet, Protocol, TcpFlags, Translation, Transport,
    VlanTags, parse,
};
use waxwing_testkit::build;
use waxwing_testkit::random::Random;

/// The words of a flow, unchanged.
struct Words;

type Flow = (Vec<u8>, u32, Protocol);

impl FlowHasher for Words {
    type Hash = Flow;

    fn v4(&self, addresses: u64, ports: u32, protocol: Protocol) -> Flow {
        (addresses.to_ne_bytes().to_vec(), ports, protocol)
    }

    fn v6(&self, addresses: [u64; 4], ports: u32, protocol: Protocol) -> Flow {
        (addresses.map(u64::to_ne_bytes).concat(), ports, protocol)
    }
}

fn octets(address: Address) -> Vec<u8> {
    match address.family() {
        Family::V4 => address.v4_octets().to_vec(),
        Family::V6 => address.octets().to_vec(),
    }
}

fn whole(frame: &[u8]) -> Option<IpPacket> {
    match parse(frame) {
        Ok(Packet::Ip(packet)) if packet.fragment.is_none() => Some(packet),
        _ => None,
    }
}

/// What a plain packet is by the parser; `None` for packets that only the parser calls plain.
fn parsed(frame: &[u8]) -> Option<(Kind, u16, Flow)> {
    const EVENTS: u8 = TcpFlags::SYN | TcpFlags::FIN | TcpFlags::RST;
    let packet = whole(frame)?;
    let (protocol, kinds) = match packet.transport {
        Transport::Tcp { flags, .. } if !flags.has_any(EVENTS) => {
            (Protocol::Tcp, [Kind::V4Tcp, Kind::V6Tcp])
        }
        Transport::Udp { .. } => (Protocol::Udp, [Kind::V4Udp, Kind::V6Udp]),
        _ => return None,
    };
    let (kind, header) = match packet.family {
        Family::V4 => (kinds[0], 20),
        Family::V6 => (kinds[1], 40),
    };
    if packet.transport_start - packet.network != header {
        return None;
    }
    // Few addresses start like this, and the mapped ones, which are forbidden.
    let starts_with_zeros = |address: Address| address.bits() >> 64 == 0;
    if packet.family == Family::V6
        && (starts_with_zeros(packet.source) || starts_with_zeros(packet.destination))
    {
        return None;
    }
    let (source, destination) = build::ports(&packet)?;
    let ports = [source.to_be_bytes(), destination.to_be_bytes()].concat();
    let ports = u32::from_ne_bytes(ports.try_into().ok()?);
    let addresses = [octets(packet.source), octets(packet.destination)].concat();
    Some((
        kind,
        packet.end - packet.network,
        (addresses, ports, protocol),
    ))
}

/// A packet of each kind, and each of them mutated and cut.
fn frames() -> impl Iterator<Item = Vec<u8>> {
    let mut random = Random::new(7);
    let kinds = [0, 1].map(|family| {
        [Protocol::Tcp, Protocol::Udp].map(|protocol| {
            TAGS.map(|tags| {
                let tcp = build::Tcp {
                    link: LINK,
                    tags,
                    source: (CLIENT[family], 40_000),
                    destination: (VIP[family], 80),
                    flags: TcpFlags(TcpFlags::ACK),
                    payload: b"some payload",
                    ..build::Tcp::default()
                };
                tcp.frame_of(protocol)
            })
        })
    });
    kinds
        .into_iter()
        .flatten()
        .flatten()
        .flat_map(move |sample| {
            let mut frames = vec![sample.clone()];
            for _ in 0..2_000 {
                let mut frame = sample.clone();
                for _ in 0..random.between(1, 3) {
                    let at = random.index(frame.len().min(70));
                    frame[at] = random.one(&[0, 6, 17, 0x40, 0x45, 0x50, 0x60, 0xff]);
                }
                if random.chance(300) {
                    frame.truncate(random.index(frame.len()));
                }
                frames.push(frame);
            }
            frames
        })
}

#[test]
fn plain_packets_are_those_of_the_parser() {
    let mut plain = 0;
    for frame in frames() {
        let read = plain::read(&frame, &Words);
        let read = read.or_else(|| plain::read_tagged(&frame, &Words));
        let tags = read.as_ref().map(|(packet, _)| packet.tags);
        let read = read.map(|(packet, flow)| (packet.kind, packet.len, flow));
        assert_eq!(read, parsed(&frame), "{frame:02x?}");
        plain += u32::from(read.is_some());
        if let (Some(tags), Some(packet)) = (tags, whole(&frame)) {
            let known = PackedTags::from(&packet.ethernet.tags);
            assert_eq!(tags, known, "{frame:02x?}");
            assert_eq!(VlanTags::from(known), packet.ethernet.tags);
            assert_eq!(known.len(), packet.ethernet.header_len() - 14);
        }
    }
    assert!(plain > 1_000, "only {plain} plain packets");
}

const EGRESS: Mac = Mac([2, 0, 0, 0, 0, 7]);
const NEXT: Mac = Mac([2, 0, 0, 0, 0, 8]);

fn rewritten<const V6: bool, const UDP: bool>(
    mut frame: Vec<u8>,
    to: &Translation,
    is_source: bool,
) -> Vec<u8> {
    let tags = PackedTags::from(&whole(&frame).expect("a packet").ethernet.tags);
    let mut headers = Headers::<V6, UDP>::of(&mut frame, tags.len()).expect("they are there");
    let next = NEXT
        .0
        .iter()
        .fold(0, |word, byte| word << 8 | u64::from(*byte));
    let macs = SourceMac::from(EGRESS).to(next);
    let to = PlainTranslation::from(to);
    headers.write_tags(tags.words());
    if is_source {
        headers.rewrite::<true>(&to);
    } else {
        headers.rewrite::<false>(&to);
    }
    plain::write_macs(&mut frame, macs);
    frame
}

fn changed(mut frame: Vec<u8>, packet: &IpPacket, to: &Translation, is_source: bool) -> Vec<u8> {
    let changes = Changes {
        source: is_source.then_some(to),
        destination: (!is_source).then_some(to),
        link: Some((&EGRESS, &NEXT)),
        decrement_hop_limit: true,
    };
    changes.apply(&mut frame, packet);
    frame
}

#[test]
fn plain_packets_are_rewritten_as_others_are() {
    let mut random = Random::new(9);
    for frame in frames() {
        let Some((kind, ..)) = parsed(&frame) else {
            continue;
        };
        let packet = whole(&frame).expect("a plain packet");
        if packet.hop_limit == 0 {
            continue;
        }
        let is_source = random.chance(500);
        let (source, destination) = build::ports(&packet).expect("ports");
        let from = if is_source {
            (packet.source, source)
        } else {
            (packet.destination, destination)
        };
        let bits = u128::from(random.next()) << 64 | u128::from(random.next());
        let address = match packet.family {
            Family::V4 => Address::v4(random.one(&[[10, 0, 0, 9], [1, 2, 3, 4], [0, 0, 0, 1]])),
            Family::V6 => Address::from_bits(bits),
        };
        let to = Translation::new(from, (address, random.one(&[1, 80, 0xffff])));
        let expected = changed(frame.clone(), &packet, &to, is_source);
        let rewritten = match kind {
            Kind::V4Tcp => rewritten::<false, false>(frame, &to, is_source),
            Kind::V4Udp => rewritten::<false, true>(frame, &to, is_source),
            Kind::V6Tcp => rewritten::<true, false>(frame, &to, is_source),
            Kind::V6Udp => rewritten::<true, true>(frame, &to, is_source),
        };
        assert_eq!(rewritten, expected);
    }
}
