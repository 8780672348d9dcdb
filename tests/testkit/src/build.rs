//! Whole frames with right checksums, for tests, simulators and load generators, and the check
//! that a frame's checksums are right.
//!
//! Invariant: a frame built here parses, and what [`crate::parse()`] reads from it is what it was
//! built from. None of this is on a packet's way: it allocates.

use std::fmt;
use std::ops::Range;

use crate::arp::Arp;
use crate::ip::{Envelope, HOP_LIMIT};
use crate::ndp::Solicitation;
use crate::refusal::IcmpError;
use crate::{
    Address, Family, IpPacket, Link, Mac, Packet, ParseError, TcpFlags, VlanTags, checksum, icmp,
    ipv4, parse, tcp, udp, wire,
};

/// A TCP segment without options.
#[derive(Clone, Copy, Debug)]
pub struct Tcp<'a> {
    /// MAC addresses.
    pub link: Link,
    /// VLAN tags.
    pub tags: VlanTags,
    /// Source address and port.
    pub source: (Address, u16),
    /// Destination address and port, of the source's family.
    pub destination: (Address, u16),
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// Flags.
    pub flags: TcpFlags,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgment number.
    pub acknowledgment: u32,
    /// Payload.
    pub payload: &'a [u8],
}

/// A UDP datagram.
#[derive(Clone, Copy, Debug)]
pub struct Udp<'a> {
    /// MAC addresses.
    pub link: Link,
    /// VLAN tags.
    pub tags: VlanTags,
    /// Source address and port.
    pub source: (Address, u16),
    /// Destination address and port, of the source's family.
    pub destination: (Address, u16),
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// Payload.
    pub payload: &'a [u8],
}

/// An ICMP or `ICMPv6` echo message, by the addresses' family.
#[derive(Clone, Copy, Debug)]
pub struct Echo<'a> {
    /// MAC addresses.
    pub link: Link,
    /// VLAN tags.
    pub tags: VlanTags,
    /// Source address.
    pub source: Address,
    /// Destination address, of the source's family.
    pub destination: Address,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// Reply, not request.
    pub reply: bool,
    /// Tells one sender's echoes from another's.
    pub identifier: u16,
    /// Sequence number.
    pub sequence: u16,
    /// Payload.
    pub payload: &'a [u8],
}

/// An ICMP or `ICMPv6` error, by the addresses' family.
#[derive(Clone, Copy, Debug)]
pub struct Error<'a> {
    /// MAC addresses.
    pub link: Link,
    /// VLAN tags.
    pub tags: VlanTags,
    /// Who says it.
    pub source: Address,
    /// To whom, of the source's family.
    pub destination: Address,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// Type, code and the second word of the header.
    pub error: IcmpError,
    /// The IP packet that it is about, or the part of it that is quoted.
    pub quote: &'a [u8],
}

/// An ARP request, broadcast.
#[derive(Clone, Copy, Debug, Default)]
pub struct ArpRequest {
    /// The sender's MAC address.
    pub mac: Mac,
    /// VLAN tags.
    pub tags: VlanTags,
    /// The sender's IPv4 address.
    pub sender: Address,
    /// The IPv4 address asked for.
    pub target: Address,
}

/// A neighbour solicitation to the target's solicited-node group.
#[derive(Clone, Copy, Debug, Default)]
pub struct NeighborSolicitation {
    /// The sender's MAC address.
    pub mac: Mac,
    /// VLAN tags.
    pub tags: VlanTags,
    /// The sender's IPv6 address; `::` detects duplicates.
    pub source: Address,
    /// The IPv6 address asked for.
    pub target: Address,
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
    /// The frame.
    ///
    /// # Panics
    /// Where the payload does not fit an IP packet of 65,535 bytes.
    #[must_use]
    pub fn frame(&self) -> Vec<u8> {
        let addresses = (self.source.0, self.destination.0);
        let envelope = Envelope::new(
            self.link,
            self.tags,
            addresses,
            self.hop_limit,
            tcp::PROTOCOL,
        );
        frame(
            &envelope,
            tcp::HEADER_LEN,
            self.payload,
            tcp::field::CHECKSUM,
            |segment, _| {
                let header = tcp::NewHeader {
                    source: self.source.1,
                    destination: self.destination.1,
                    sequence: self.sequence,
                    acknowledgment: self.acknowledgment,
                    flags: self.flags,
                    window: u16::MAX,
                };
                if let Some(place) = segment.first_chunk_mut() {
                    header.write(place);
                }
            },
        )
    }
}

impl Udp<'_> {
    /// The frame.
    ///
    /// # Panics
    /// Where the payload does not fit an IP packet of 65,535 bytes.
    #[must_use]
    pub fn frame(&self) -> Vec<u8> {
        let addresses = (self.source.0, self.destination.0);
        let envelope = Envelope::new(
            self.link,
            self.tags,
            addresses,
            self.hop_limit,
            udp::PROTOCOL,
        );
        frame(
            &envelope,
            udp::HEADER_LEN,
            self.payload,
            udp::field::CHECKSUM,
            |header, len| {
                wire::set_word(header, udp::field::SOURCE, self.source.1);
                wire::set_word(header, udp::field::DESTINATION, self.destination.1);
                wire::set_word(header, udp::field::LEN, len);
            },
        )
    }
}

impl Echo<'_> {
    /// The frame.
    ///
    /// # Panics
    /// Where the payload does not fit an IP packet of 65,535 bytes.
    #[must_use]
    pub fn frame(&self) -> Vec<u8> {
        let (protocol, request, reply) = match self.destination.family() {
            Family::V4 => (
                icmp::PROTOCOL_V4,
                icmp::ECHO_REQUEST_V4,
                icmp::ECHO_REPLY_V4,
            ),
            Family::V6 => (
                icmp::PROTOCOL_V6,
                icmp::ECHO_REQUEST_V6,
                icmp::ECHO_REPLY_V6,
            ),
        };
        let addresses = (self.source, self.destination);
        let envelope = Envelope::new(self.link, self.tags, addresses, self.hop_limit, protocol);
        frame(
            &envelope,
            icmp::HEADER_LEN,
            self.payload,
            icmp::field::CHECKSUM,
            |header, _| {
                header[icmp::field::TYPE] = if self.reply { reply } else { request };
                wire::set_word(header, icmp::field::IDENTIFIER, self.identifier);
                wire::set_word(header, icmp::field::SEQUENCE, self.sequence);
            },
        )
    }
}

impl Error<'_> {
    /// The frame.
    ///
    /// # Panics
    /// Where the quote does not fit an IP packet of 65,535 bytes.
    #[must_use]
    pub fn frame(&self) -> Vec<u8> {
        let protocol = match self.destination.family() {
            Family::V4 => icmp::PROTOCOL_V4,
            Family::V6 => icmp::PROTOCOL_V6,
        };
        let addresses = (self.source, self.destination);
        let envelope = Envelope::new(self.link, self.tags, addresses, self.hop_limit, protocol);
        frame(
            &envelope,
            icmp::HEADER_LEN,
            self.quote,
            icmp::field::CHECKSUM,
            |header, _| {
                header[icmp::field::TYPE] = self.error.kind;
                header[icmp::field::CODE] = self.error.code;
                let parameter = self.error.parameter.to_be_bytes();
                wire::set(header, icmp::field::PARAMETER, parameter);
            },
        )
    }
}

impl ArpRequest {
    /// The frame.
    #[must_use]
    pub fn frame(&self) -> Vec<u8> {
        let request = Arp::request(self.mac, self.tags, self.sender, self.target);
        let mut frame = vec![0; request.frame_len()];
        assert!(
            request.write(&mut frame),
            "the frame was made as long as the message says"
        );
        frame
    }
}

impl NeighborSolicitation {
    /// The frame.
    #[must_use]
    pub fn frame(&self) -> Vec<u8> {
        let question = Solicitation::new(self.mac, self.tags, self.source, self.target);
        let mut frame = vec![0; question.frame_len()];
        assert!(
            question.write(&mut frame),
            "the frame was made as long as the message says"
        );
        frame
    }
}

/// A frame around a segment: `header` writes the segment's header, given the segment's length.
fn frame(
    envelope: &Envelope,
    header_len: usize,
    payload: &[u8],
    checksum_field: Range<usize>,
    header: impl FnOnce(&mut [u8], u16),
) -> Vec<u8> {
    let segment_len = header_len + payload.len();
    let mut frame = vec![0; envelope.frame_len(segment_len)];
    let (Some(segment), Ok(len)) = (
        envelope.write(&mut frame, segment_len),
        u16::try_from(segment_len),
    ) else {
        panic!(
            "a payload of {} bytes does not fit an IP packet",
            payload.len()
        );
    };
    header(segment, len);
    segment[header_len..].copy_from_slice(payload);
    let checksum = expected(
        envelope.source,
        envelope.destination,
        envelope.protocol,
        segment,
    );
    wire::set_word(segment, checksum_field, checksum);
    frame
}

/// The checksum that a segment goes onto the wire with, its own field being zero.
fn expected(source: Address, destination: Address, protocol: u8, segment: &[u8]) -> u16 {
    if protocol == icmp::PROTOCOL_V4 {
        checksum::of(segment)
    } else {
        checksum::transport(source, destination, protocol, segment)
    }
}

/// What is wrong with a frame's checksums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChecksumError {
    /// The frame does not parse.
    Malformed(ParseError),
    /// The IPv4 header checksum.
    Network {
        /// What the frame has.
        found: u16,
        /// What it should have.
        expected: u16,
    },
    /// The TCP, UDP, ICMP or `ICMPv6` checksum.
    Transport {
        /// What the frame has.
        found: u16,
        /// What it should have.
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
                    "IPv4 header checksum is {found:#06x} and should be {expected:#06x}"
                )
            }
            Self::Transport { found, expected } => {
                write!(
                    f,
                    "transport checksum is {found:#06x} and should be {expected:#06x}"
                )
            }
        }
    }
}

impl std::error::Error for ChecksumError {}

/// Recomputes every checksum of a frame. A fragment's transport checksum cannot be: it covers the
/// whole packet. A UDP datagram over IPv4 may have none.
///
/// # Errors
/// A [`ChecksumError`]: the first that is wrong.
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
    let mut header = frame[packet.network.into()..packet.transport_start.into()].to_vec();
    let (found, expected) = take(&mut header, ipv4::field::CHECKSUM, checksum::of);
    if found == expected {
        Ok(())
    } else {
        Err(ChecksumError::Network { found, expected })
    }
}

fn verify_transport(frame: &[u8], packet: &IpPacket) -> Result<(), ChecksumError> {
    use crate::Transport;

    let (protocol, field) = match (packet.transport, packet.family) {
        (Transport::Tcp { .. }, _) => (tcp::PROTOCOL, tcp::field::CHECKSUM),
        (Transport::Udp { .. }, _) => (udp::PROTOCOL, udp::field::CHECKSUM),
        (Transport::Icmp { .. }, Family::V4) => (icmp::PROTOCOL_V4, icmp::field::CHECKSUM),
        (Transport::Icmp { .. }, Family::V6) => (icmp::PROTOCOL_V6, icmp::field::CHECKSUM),
        (Transport::Other(_), _) => return Ok(()),
    };
    if packet.fragment.is_some() {
        return Ok(());
    }
    let start = usize::from(packet.transport_start);
    let mut segment = frame[start..packet.end.into()].to_vec();
    if protocol == udp::PROTOCOL {
        // What the IP packet has beyond the datagram is not part of it (RFC 9868).
        segment.truncate(wire::word(&segment, udp::field::LEN).into());
    }
    let (found, expected) = take(&mut segment, field, |segment| {
        expected(packet.source, packet.destination, protocol, segment)
    });
    let none = protocol == udp::PROTOCOL && found == udp::NO_CHECKSUM;
    if found == expected || (none && packet.family == Family::V4) {
        Ok(())
    } else {
        Err(ChecksumError::Transport { found, expected })
    }
}

/// The checksum that bytes hold and the one that they should.
fn take(bytes: &mut [u8], field: Range<usize>, compute: impl Fn(&[u8]) -> u16) -> (u16, u16) {
    let found = wire::word(bytes, field.clone());
    wire::set_word(bytes, field, 0);
    (found, compute(bytes))
}
