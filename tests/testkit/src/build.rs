//! Complete frames with correct checksums, and the check of a frame's checksums.
//!
//! Invariant: [`parse()`] of a frame built here returns the values that it was built from. The IP
//! and transport headers are encoded independently of `waxwing-packet`.

use std::fmt;
use std::ops::Range;

use waxwing_packet::reject::IcmpError;
use waxwing_packet::{
    Address, Ethernet, Family, IpPacket, Link, Packet, ParseError, Protocol, TcpFlags, Transport,
    VlanTags, checksum, icmp, ipv4, ipv6, parse, tcp, udp,
};

pub use crate::neighbour::{ArpRequest, NeighborSolicitation, announcement};

/// The default TTL or hop limit (RFC 1700, "IP time to live").
const HOP_LIMIT: u8 = 64;
/// A TCP header of 20 bytes: 5 words, in the upper half of its byte.
const TCP_DATA_OFFSET: u8 = 5 << 4;
const TCP_WINDOW: u16 = u16::MAX;
const UDP_LEN: Range<usize> = 4..6;

/// A TCP segment without options.
#[derive(Clone, Copy, Debug)]
pub struct Tcp<'a> {
    pub link: Link,
    pub tags: VlanTags,
    pub source: (Address, u16),
    /// Of the source's family.
    pub destination: (Address, u16),
    pub hop_limit: u8,
    pub flags: TcpFlags,
    pub sequence: u32,
    pub acknowledgment: u32,
    pub payload: &'a [u8],
}

/// A UDP datagram.
#[derive(Clone, Copy, Debug)]
pub struct Udp<'a> {
    pub link: Link,
    pub tags: VlanTags,
    pub source: (Address, u16),
    /// Of the source's family.
    pub destination: (Address, u16),
    pub hop_limit: u8,
    pub payload: &'a [u8],
}

/// An ICMP or `ICMPv6` echo message, by the addresses' family.
#[derive(Clone, Copy, Debug)]
pub struct Echo<'a> {
    pub link: Link,
    pub tags: VlanTags,
    pub source: Address,
    /// Of the source's family.
    pub destination: Address,
    pub hop_limit: u8,
    pub reply: bool,
    pub identifier: u16,
    pub sequence: u16,
    pub payload: &'a [u8],
}

/// An ICMP or `ICMPv6` error, by the addresses' family.
#[derive(Clone, Copy, Debug)]
pub struct Error<'a> {
    pub link: Link,
    pub tags: VlanTags,
    pub source: Address,
    /// Of the source's family.
    pub destination: Address,
    pub hop_limit: u8,
    pub error: IcmpError,
    /// The start of the IP packet that the error reports.
    pub quote: &'a [u8],
}

/// An ICMP error by its type, code and parameter.
pub const fn icmp_error(kind: u8, code: u8, parameter: u32) -> IcmpError {
    IcmpError {
        kind,
        code,
        parameter,
    }
}

/// The ports of a TCP segment or a UDP datagram: of source and destination.
pub const fn ports(packet: &IpPacket) -> Option<(u16, u16)> {
    match packet.transport {
        Transport::Tcp {
            source,
            destination,
            ..
        }
        | Transport::Udp {
            source,
            destination,
        } => Some((source, destination)),
        Transport::Icmp { .. } | Transport::Other(_) => None,
    }
}

impl Default for Tcp<'_> {
    fn default() -> Self {
        Self {
            link: Link::default(),
            tags: VlanTags::NONE,
            source: (Address::default(), 0),
            destination: (Address::default(), 0),
            hop_limit: HOP_LIMIT,
            flags: TcpFlags::default(),
            sequence: 0,
            acknowledgment: 0,
            payload: &[],
        }
    }
}

impl Default for Udp<'_> {
    fn default() -> Self {
        Self {
            link: Link::default(),
            tags: VlanTags::NONE,
            source: (Address::default(), 0),
            destination: (Address::default(), 0),
            hop_limit: HOP_LIMIT,
            payload: &[],
        }
    }
}

impl Default for Echo<'_> {
    fn default() -> Self {
        Self {
            link: Link::default(),
            tags: VlanTags::NONE,
            source: Address::default(),
            destination: Address::default(),
            hop_limit: HOP_LIMIT,
            reply: false,
            identifier: 0,
            sequence: 0,
            payload: &[],
        }
    }
}

impl Tcp<'_> {
    pub fn frame(&self) -> Vec<u8> {
        let segment = [
            &self.source.1.to_be_bytes()[..],
            &self.destination.1.to_be_bytes(),
            &self.sequence.to_be_bytes(),
            &self.acknowledgment.to_be_bytes(),
            &[TCP_DATA_OFFSET, self.flags.0],
            &TCP_WINDOW.to_be_bytes(),
            &[0; 4], // Checksum, urgent pointer.
            self.payload,
        ];
        let ends = (self.source.0, self.destination.0);
        ip_frame(
            (self.link, self.tags),
            ends,
            (self.hop_limit, tcp::PROTOCOL),
            segment.concat(),
        )
    }

    /// This segment's frame for TCP; for UDP, a datagram with the same link header, endpoints and payload.
    pub fn frame_of(&self, protocol: Protocol) -> Vec<u8> {
        match protocol {
            Protocol::Tcp => self.frame(),
            Protocol::Udp => Udp {
                link: self.link,
                tags: self.tags,
                source: self.source,
                destination: self.destination,
                hop_limit: self.hop_limit,
                payload: self.payload,
            }
            .frame(),
        }
    }
}

impl Udp<'_> {
    pub fn frame(&self) -> Vec<u8> {
        let len = u16::try_from(udp::HEADER_LEN + self.payload.len());
        let segment = [
            &self.source.1.to_be_bytes()[..],
            &self.destination.1.to_be_bytes(),
            &len.expect(TOO_LONG).to_be_bytes(),
            &[0; 2], // Checksum.
            self.payload,
        ];
        let ends = (self.source.0, self.destination.0);
        ip_frame(
            (self.link, self.tags),
            ends,
            (self.hop_limit, udp::PROTOCOL),
            segment.concat(),
        )
    }
}

impl Echo<'_> {
    pub fn frame(&self) -> Vec<u8> {
        let (protocol, kind) = match (self.destination.family(), self.reply) {
            (Family::V4, false) => (icmp::PROTOCOL_V4, icmp::ECHO_REQUEST_V4),
            (Family::V4, true) => (icmp::PROTOCOL_V4, icmp::ECHO_REPLY_V4),
            (Family::V6, false) => (icmp::PROTOCOL_V6, icmp::ECHO_REQUEST_V6),
            (Family::V6, true) => (icmp::PROTOCOL_V6, icmp::ECHO_REPLY_V6),
        };
        let message = [
            &[kind, 0, 0, 0][..], // Type, code, checksum.
            &self.identifier.to_be_bytes(),
            &self.sequence.to_be_bytes(),
            self.payload,
        ];
        let ends = (self.source, self.destination);
        ip_frame(
            (self.link, self.tags),
            ends,
            (self.hop_limit, protocol),
            message.concat(),
        )
    }
}

impl Error<'_> {
    pub fn frame(&self) -> Vec<u8> {
        let message = [
            &[self.error.kind, self.error.code, 0, 0][..], // Checksum.
            &self.error.parameter.to_be_bytes(),
            self.quote,
        ];
        let protocol = match self.destination.family() {
            Family::V4 => icmp::PROTOCOL_V4,
            Family::V6 => icmp::PROTOCOL_V6,
        };
        let ends = (self.source, self.destination);
        ip_frame(
            (self.link, self.tags),
            ends,
            (self.hop_limit, protocol),
            message.concat(),
        )
    }
}

/// Returns the frame around a segment of either family whose checksum field is zero.
fn ip_frame(
    (link, tags): (Link, VlanTags),
    ends: (Address, Address),
    (hop_limit, protocol): (u8, u8),
    mut segment: Vec<u8>,
) -> Vec<u8> {
    let checksum = transport_checksum(ends.0, ends.1, protocol, &segment);
    segment[checksum_field(protocol)].copy_from_slice(&checksum.to_be_bytes());
    let (ethertype, header) = match ends.1.family() {
        Family::V4 => (
            ipv4::ETHERTYPE,
            v4_header(ends, hop_limit, protocol, segment.len()),
        ),
        Family::V6 => (
            ipv6::ETHERTYPE,
            v6_header(ends, hop_limit, protocol, segment.len()),
        ),
    };
    let ethernet = Ethernet::new(link, tags, ethertype);
    let mut frame = vec![0; ethernet.header_len()];
    assert!(
        ethernet.write(&mut frame).is_some(),
        "it has the header's length"
    );
    frame.extend(header);
    frame.extend(segment);
    frame
}

fn v4_header(
    (source, destination): (Address, Address),
    hop_limit: u8,
    protocol: u8,
    segment_len: usize,
) -> Vec<u8> {
    const VERSION_IHL: u8 = 0x45;
    const DONT_FRAGMENT: [u8; 2] = [0x40, 0];
    let total_len = u16::try_from(ipv4::HEADER_LEN + segment_len);
    let mut header = [
        &[VERSION_IHL, 0][..], // Type of service 0.
        &total_len.expect(TOO_LONG).to_be_bytes(),
        &[0; 2], // Identification.
        &DONT_FRAGMENT,
        &[hop_limit, protocol],
        &[0; 2], // Checksum.
        &source.v4_octets(),
        &destination.v4_octets(),
    ]
    .concat();
    let checksum = checksum::of(&header);
    header[V4_CHECKSUM].copy_from_slice(&checksum.to_be_bytes());
    header
}

fn v6_header(
    (source, destination): (Address, Address),
    hop_limit: u8,
    protocol: u8,
    segment_len: usize,
) -> Vec<u8> {
    [
        &[0x60, 0, 0, 0][..], // Version 6, traffic class and flow label 0.
        &u16::try_from(segment_len).expect(TOO_LONG).to_be_bytes(),
        &[protocol, hop_limit],
        &source.octets(),
        &destination.octets(),
    ]
    .concat()
}

const TOO_LONG: &str = "the payload fits an IP packet";

const V4_CHECKSUM: Range<usize> = 10..12;

/// Returns where a segment of TCP, UDP, ICMP or `ICMPv6` holds its checksum.
fn checksum_field(protocol: u8) -> Range<usize> {
    match protocol {
        tcp::PROTOCOL => 16..18,
        udp::PROTOCOL => 6..8,
        _ => 2..4,
    }
}

/// Returns the checksum to send with a segment whose checksum field is zero.
fn transport_checksum(source: Address, destination: Address, protocol: u8, segment: &[u8]) -> u16 {
    if protocol == icmp::PROTOCOL_V4 {
        checksum::of(segment)
    } else {
        checksum::transport(source, destination, protocol, segment)
    }
}

/// A wrong checksum, or a frame without any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChecksumError {
    Malformed(ParseError),
    /// Of the IPv4 header.
    Network {
        found: u16,
        expected: u16,
    },
    /// Of TCP, UDP, ICMP or `ICMPv6`.
    Transport {
        found: u16,
        expected: u16,
    },
}

impl fmt::Display for ChecksumError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(error) => error.fmt(f),
            Self::Network { found, expected } => {
                write!(
                    f,
                    "IPv4 header checksum is {found:#06x}, expected {expected:#06x}"
                )
            }
            Self::Transport { found, expected } => {
                write!(
                    f,
                    "transport checksum is {found:#06x}, expected {expected:#06x}"
                )
            }
        }
    }
}

impl std::error::Error for ChecksumError {}

/// Recomputes every checksum of a frame, except the transport checksum of a fragment, which covers
/// the whole packet. A UDP datagram over IPv4 may have none.
///
/// # Errors
/// A [`ChecksumError`]: the first wrong one.
pub fn verify_checksums(frame: &[u8]) -> Result<(), ChecksumError> {
    match parse(frame).map_err(ChecksumError::Malformed)? {
        Packet::Ip(packet) => verify_network(frame, &packet).and(verify_transport(frame, &packet)),
        Packet::Arp(_) | Packet::Other(_) => Ok(()),
    }
}

fn verify_network(frame: &[u8], packet: &IpPacket) -> Result<(), ChecksumError> {
    if packet.family == Family::V6 {
        return Ok(());
    }
    let header = &frame[packet.network.into()..packet.transport_start.into()];
    let (found, expected) = found_and_expected(header, V4_CHECKSUM, checksum::of);
    if found == expected {
        Ok(())
    } else {
        Err(ChecksumError::Network { found, expected })
    }
}

fn verify_transport(frame: &[u8], packet: &IpPacket) -> Result<(), ChecksumError> {
    let protocol = match (packet.transport, packet.family) {
        (Transport::Tcp { .. }, _) => tcp::PROTOCOL,
        (Transport::Udp { .. }, _) => udp::PROTOCOL,
        (Transport::Icmp { .. }, Family::V4) => icmp::PROTOCOL_V4,
        (Transport::Icmp { .. }, Family::V6) => icmp::PROTOCOL_V6,
        (Transport::Other(_), _) => return Ok(()),
    };
    if packet.fragment.is_some() {
        return Ok(());
    }
    let mut segment = &frame[packet.transport_start.into()..packet.end.into()];
    if protocol == udp::PROTOCOL {
        // Bytes of the IP packet behind the datagram are not covered (RFC 9868).
        let datagram_len = word(segment, UDP_LEN);
        segment = &segment[..usize::from(datagram_len).min(segment.len())];
    }
    let (found, expected) = found_and_expected(segment, checksum_field(protocol), |segment| {
        transport_checksum(packet.source, packet.destination, protocol, segment)
    });
    let may_be_absent = protocol == udp::PROTOCOL && packet.family == Family::V4;
    if found == expected || (may_be_absent && found == udp::NO_CHECKSUM) {
        Ok(())
    } else {
        Err(ChecksumError::Transport { found, expected })
    }
}

/// Returns the checksum in `bytes`, and the one that `compute` returns when its field is zero.
fn found_and_expected(
    bytes: &[u8],
    field: Range<usize>,
    compute: impl Fn(&[u8]) -> u16,
) -> (u16, u16) {
    let found = word(bytes, field.clone());
    let mut bytes = bytes.to_vec();
    bytes[field].fill(0);
    (found, compute(&bytes))
}

fn word(bytes: &[u8], field: Range<usize>) -> u16 {
    let [high, low] = bytes[field] else {
        panic!("a 16-bit field")
    };
    u16::from_be_bytes([high, low])
}
