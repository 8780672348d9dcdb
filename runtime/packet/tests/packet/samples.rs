//! Frames for property tests, written by etherparse, which shares no code with this crate.

use etherparse::{
    IpFragOffset, IpHeaders, IpNumber, Ipv4Extensions, Ipv4Header, Ipv6Extensions,
    Ipv6FragmentHeader, Ipv6Header, Ipv6RawExtHeader, Ipv6RoutingExtensions, PacketBuilder,
    TcpHeader, VlanId,
};
use proptest::collection::vec;
use proptest::prelude::*;
use waxwing_packet::{
    Address, Family, Fragment, IpPacket, Link, Mac, Packet, VlanTag, VlanTags, parse,
};

/// A client's address by family: IPv4, IPv6.
pub(crate) const CLIENT: [Address; 2] = [
    Address::v4([192, 0, 2, 1]),
    Address::from_bits(0x2001_0db8 << 96 | 1),
];
/// A service's address by family.
pub(crate) const VIP: [Address; 2] = [
    Address::v4([203, 0, 113, 10]),
    Address::from_bits(0x2001_0db8 << 96 | 2),
];
/// From the client to the balancer.
pub(crate) const LINK: Link = Link {
    source: Mac([2, 0, 0, 0, 0, 1]),
    destination: Mac([2, 0, 0, 0, 0, 9]),
};
pub(crate) const LINK_BACK: Link = Link {
    source: LINK.destination,
    destination: LINK.source,
};
/// No tags, a VLAN's, and a VLAN's inside a provider's.
pub(crate) const TAGS: [VlanTags; 3] = {
    let inner = VlanTag {
        tpid: 0x8100,
        tci: 0x6007,
    };
    let outer = VlanTag {
        tpid: 0x88a8,
        tci: 0xe00a,
    };
    [
        VlanTags::NONE,
        VlanTags::one(inner),
        VlanTags::two(outer, inner),
    ]
};

/// The values that a frame's transport header was built from.
#[derive(Clone, Debug)]
pub(crate) enum Segment {
    Tcp {
        ports: (u16, u16),
        flags: u8,
        /// In 32-bit words.
        options: usize,
    },
    Udp {
        ports: (u16, u16),
    },
    Echo {
        identifier: u16,
        sequence: u16,
    },
}

/// A valid frame and the values that it was built from.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    /// Ethernet padding included.
    pub(crate) frame: Vec<u8>,
    /// Length of the padding, in bytes.
    pub(crate) padding: usize,
    /// VLAN ids, outermost first.
    pub(crate) vlans: Vec<u16>,
    /// `None` for a whole packet. The length is not set.
    pub(crate) fragment: Option<Fragment>,
    pub(crate) segment: Segment,
}

/// Parses a frame with an IP packet.
pub(crate) fn ip(frame: &[u8]) -> IpPacket {
    match parse(frame).expect("a valid frame") {
        Packet::Ip(packet) => packet,
        other => panic!("not IP: {other:?}"),
    }
}

pub(crate) fn samples() -> impl Strategy<Value = Sample> {
    prop_oneof![3 => Just(None), 1 => fragments().prop_map(Some)].prop_flat_map(samples_of)
}

pub(crate) fn whole_packets() -> impl Strategy<Value = Sample> {
    samples_of(None)
}

fn fragments() -> impl Strategy<Value = Fragment> {
    let place = (0..0x1fff_u16, any::<bool>()).prop_filter("a part", |(at, more)| *at > 0 || *more);
    (any::<u16>(), place).prop_map(|(identification, (units, more))| Fragment {
        identification: identification.into(),
        offset: units * 8,
        len: 0,
        more,
    })
}

fn samples_of(fragment: Option<Fragment>) -> impl Strategy<Value = Sample> {
    (
        ip_headers(fragment),
        segments(),
        vec(0..4096_u16, 0..=2),
        vec(any::<u8>(), 0..40),
        0..8_usize,
    )
        .prop_map(move |(headers, segment, vlans, payload, padding)| {
            let mut frame = write(headers, &segment, &vlans, &payload);
            frame.resize(frame.len() + padding, 0xa5);
            Sample {
                frame,
                padding,
                vlans,
                fragment,
                segment,
            }
        })
}

fn segments() -> impl Strategy<Value = Segment> {
    prop_oneof![
        (any::<(u16, u16)>(), any::<u8>(), 0..=10_usize).prop_map(|(ports, flags, options)| {
            Segment::Tcp {
                ports,
                flags,
                options,
            }
        }),
        any::<(u16, u16)>().prop_map(|ports| Segment::Udp { ports }),
        any::<(u16, u16)>().prop_map(|(identifier, sequence)| Segment::Echo {
            identifier,
            sequence
        }),
    ]
}

fn ip_headers(fragment: Option<Fragment>) -> impl Strategy<Value = IpHeaders> {
    prop_oneof![v4_headers(fragment), v6_headers(fragment)]
}

fn v4_headers(fragment: Option<Fragment>) -> impl Strategy<Value = IpHeaders> {
    (any::<[u8; 4]>(), any::<[u8; 4]>(), 2..=255_u8, 0..=10_usize).prop_map(
        move |(source, destination, ttl, options)| {
            let mut header = Ipv4Header::new(0, ttl, IpNumber(0), source, destination)
                .expect("an empty payload fits");
            header.options = vec![1; options * 4]
                .as_slice()
                .try_into()
                .expect("whole words");
            if let Some(fragment) = fragment {
                header.dont_fragment = false;
                header.more_fragments = fragment.more;
                header.fragment_offset = units(fragment);
                header.identification =
                    u16::try_from(fragment.identification).expect("built from 16 bits");
            }
            IpHeaders::Ipv4(header, Ipv4Extensions::default())
        },
    )
}

fn v6_headers(fragment: Option<Fragment>) -> impl Strategy<Value = IpHeaders> {
    let later = fragment.is_some_and(|fragment| fragment.offset > 0);
    let addresses = (0x2000_u16..0x4000, any::<[u8; 14]>(), any::<[u8; 16]>())
        .prop_map(|(prefix, rest, destination)| {
            let [a, b] = prefix.to_be_bytes();
            let mut source = [a; 16];
            source[1] = b;
            source[2..].copy_from_slice(&rest);
            (source, destination)
        })
        .prop_filter("not IPv4-mapped", |(_, destination)| {
            destination[..10] != [0; 10]
        });
    (addresses, 2..=255_u8, any::<[bool; 4]>(), 0..3_usize).prop_map(
        move |((source, destination), hop_limit, [hop, dest, route, last], units_behind)| {
            // Zeros: options are padding, and a routing header has no segments left.
            let raw = || {
                let data = vec![0; 6 + 8 * units_behind];
                Ipv6RawExtHeader::new_raw(IpNumber(0), &data).expect("whole units")
            };
            let extensions = Ipv6Extensions {
                hop_by_hop_options: hop.then(raw),
                destination_options: dest.then(raw),
                routing: route.then(|| Ipv6RoutingExtensions {
                    routing: raw(),
                    // They follow the fragment header, so a later fragment does not start with them.
                    final_destination_options: (last && !later).then(raw),
                }),
                fragment: fragment.map(|fragment| {
                    let id = fragment.identification;
                    Ipv6FragmentHeader::new(IpNumber(0), units(fragment), fragment.more, id)
                }),
                auth: None,
            };
            let header = Ipv6Header {
                source,
                destination,
                hop_limit,
                ..Default::default()
            };
            IpHeaders::Ipv6(header, extensions)
        },
    )
}

fn units(fragment: Fragment) -> IpFragOffset {
    IpFragOffset::try_new(fragment.offset / 8).expect("13 bits")
}

fn write(headers: IpHeaders, segment: &Segment, vlans: &[u16], payload: &[u8]) -> Vec<u8> {
    let family = match headers {
        IpHeaders::Ipv4(..) => Family::V4,
        IpHeaders::Ipv6(..) => Family::V6,
    };
    let link = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let id = |vlan: u16| VlanId::try_new(vlan).expect("12 bits");
    let network = match *vlans {
        [] => link.ip(headers),
        [vlan] => link.single_vlan(id(vlan)).ip(headers),
        [outer, inner, ..] => link.double_vlan(id(outer), id(inner)).ip(headers),
    };
    let mut frame = Vec::new();
    match (segment, family) {
        (
            Segment::Tcp {
                ports,
                flags,
                options,
            },
            _,
        ) => network
            .tcp_header(tcp_header(*ports, *flags, *options))
            .write_to_vec(&mut frame, payload),
        (Segment::Udp { ports }, _) => network
            .udp(ports.0, ports.1)
            .write_to_vec(&mut frame, payload),
        (
            Segment::Echo {
                identifier,
                sequence,
            },
            Family::V4,
        ) => network
            .icmpv4_echo_request(*identifier, *sequence)
            .write_to_vec(&mut frame, payload),
        (
            Segment::Echo {
                identifier,
                sequence,
            },
            Family::V6,
        ) => network
            .icmpv6_echo_request(*identifier, *sequence)
            .write_to_vec(&mut frame, payload),
    }
    .expect("the packet is valid");
    frame
}

fn tcp_header(ports: (u16, u16), flags: u8, options: usize) -> TcpHeader {
    let bit = |at: u8| flags >> at & 1 == 1;
    let mut header = TcpHeader::new(ports.0, ports.1, 0x1234_5678, 0xffff);
    (header.fin, header.syn, header.rst, header.psh) = (bit(0), bit(1), bit(2), bit(3));
    (header.ack, header.urg, header.ece, header.cwr) = (bit(4), bit(5), bit(6), bit(7));
    header
        .set_options_raw(&vec![1; options * 4])
        .expect("whole words");
    header
}
