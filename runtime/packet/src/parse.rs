//! One pass over a frame: offsets and the fields that the forwarding path decides by.
//!
//! Invariant: every offset in a returned [`Packet`] lies inside the frame it was parsed from, so
//! that whoever holds both may access without a further check of lengths. Of a frame that lies in
//! several buffers the headers are in the first, and only [`IpPacket::end`] may lie behind it.
//!
//! Checksums are not verified here: an incremental update carries an error on to the receiver,
//! who finds it (RFC 1624 section 1).

use std::fmt;

use crate::{Address, Ethernet, Family, TcpFlags, arp, icmp, ipv4, ipv6, tcp, udp, wire};

/// The most extension headers that an IPv6 packet may have: RFC 8200 section 4.1 has each of the
/// four walked here at most once, and destination options twice.
const EXTENSIONS_MAX: usize = 5;

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packet {
    /// An IPv4 or IPv6 packet.
    Ip(IpPacket),
    /// ARP; read and answer it with [`crate::arp`].
    Arp(Ethernet),
    /// Any other `EtherType`.
    Other(Ethernet),
}

/// An IP packet's offsets and the fields that decide its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpPacket {
    /// The link header before it.
    pub ethernet: Ethernet,
    /// Family.
    pub family: Family,
    /// Where the IP header starts.
    pub network: u16,
    /// Where the transport header starts (behind options and extension headers).
    pub transport_start: u16,
    /// Where the IP packet ends; what follows is Ethernet padding.
    pub end: u16,
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// Set where this is a fragment and not a whole packet.
    pub fragment: Option<Fragment>,
    /// The transport header. In a fragment that is not the first: [`Transport::Other`].
    pub transport: Transport,
}

impl IpPacket {
    /// Whether it came from one host to another, on the link and above it: nothing else is answered.
    #[must_use]
    pub const fn is_unicast(&self) -> bool {
        self.source.is_unicast()
            && self.destination.is_unicast()
            && !self.ethernet.source.is_group()
            && !self.ethernet.destination.is_group()
    }
}

/// A fragment's place (RFC 791, RFC 8200 section 4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// The identification that its packet's fragments share.
    pub identification: u32,
    /// Offset in bytes.
    pub offset: u16,
    /// Length of the data that it carries of its packet, in bytes.
    pub len: u16,
    /// Whether more follow.
    pub more: bool,
}

/// The transport header's deciding fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp {
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
        /// Flags.
        flags: TcpFlags,
        /// Where its payload starts.
        payload: u16,
    },
    /// UDP; its payload starts 8 bytes behind `transport_start`.
    Udp {
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
    },
    /// `ICMPv4` (only in IPv4) or `ICMPv6` (only in IPv6), by the packet's family.
    Icmp {
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
    },
    /// Any other protocol number. A routing header that still names nodes to visit is left as
    /// one (43), because the packet's destination is not the one it will end at; so is an
    /// authentication header (51), which covers the addresses and rules out rewriting them.
    Other(u8),
}

/// Why a frame is malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParseError {
    /// The frame ends inside a header.
    Truncated,
    /// A version, length or offset field contradicts the frame.
    BadLength,
    /// A first fragment ends inside the headers that it has to hold: the transport header, and all
    /// extension headers before it (RFC 1858 section 2.1, RFC 7112 section 5).
    TinyFragment,
    /// IPv6 extension headers beyond the bound, or a second fragment header.
    TooManyExtensions,
    /// A field holds what its protocol forbids on a wire: an IPv4-mapped address in IPv6, a
    /// neighbour solicitation that a router has forwarded.
    Forbidden,
    /// The checksum of a message that is answered, and not passed on, is wrong.
    BadChecksum,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Truncated => "the frame ends inside a header",
            Self::BadLength => "a version, length or offset field contradicts the frame",
            Self::TinyFragment => "a first fragment ends inside the headers that it has to hold",
            Self::TooManyExtensions => "more IPv6 extension headers than are followed",
            Self::Forbidden => "a field holds what its protocol forbids on a wire",
            Self::BadChecksum => "the checksum is wrong",
        })
    }
}

impl std::error::Error for ParseError {}

/// Parses a frame.
///
/// # Errors
/// A [`ParseError`] where a header does not fit the frame.
#[inline]
pub fn parse(frame: &[u8]) -> Result<Packet, ParseError> {
    match parse_plain(frame) {
        Some(packet) => Ok(Packet::Ip(packet)),
        None => parse_head(frame, 0),
    }
}

/// Parses what nearly every frame holds: a whole TCP or UDP packet without VLAN tags or extension headers.
/// `None` for any other frame, well-formed or not.
#[inline(always)]
#[must_use]
pub fn parse_plain(frame: &[u8]) -> Option<IpPacket> {
    let frame = View::whole(frame);
    let ethernet = Ethernet::parse_untagged(frame.head).ok()?;
    let network = match ethernet.ethertype {
        ipv4::ETHERTYPE => parse_v4(frame, ethernet.payload).ok()?,
        ipv6::ETHERTYPE => parse_v6(frame, ethernet.payload).ok()?,
        _ => return None,
    };
    if network.goes_on {
        return None;
    }
    let segment = network.upper.bytes(frame).ok()?;
    let transport = match network.upper.protocol {
        tcp::PROTOCOL => parse_tcp(segment, &network.upper).ok()?,
        udp::PROTOCOL => parse_udp(segment, &network.upper).ok()?,
        _ => return None,
    };
    Some(network.packet(ethernet, transport))
}

/// Parses any frame, of which `rest` bytes more lie in other buffers, behind these.
///
/// # Errors
/// A [`ParseError`] where a header does not fit the frame, or does not lie in its first buffer.
#[cold]
#[inline(never)]
pub fn parse_head(head: &[u8], rest: usize) -> Result<Packet, ParseError> {
    let frame = View { head, rest };
    let mut ethernet = Ethernet::parse_untagged(head)?;
    ethernet.parse_tags(head)?;
    let (mut network, icmp) = match ethernet.ethertype {
        ipv4::ETHERTYPE => (parse_v4(frame, ethernet.payload)?, icmp::PROTOCOL_V4),
        ipv6::ETHERTYPE => (parse_v6(frame, ethernet.payload)?, icmp::PROTOCOL_V6),
        arp::ETHERTYPE => return Ok(Packet::Arp(ethernet)),
        _ => return Ok(Packet::Other(ethernet)),
    };
    if network.goes_on {
        network.upper = match network.family {
            Family::V4 => fragment_v4(frame, network.start, network.upper)?,
            Family::V6 => walk_extensions(frame, network.upper)?,
        };
    }
    let transport = parse_transport(frame, &network.upper, icmp)?;
    Ok(Packet::Ip(network.packet(ethernet, transport)))
}

/// What is at hand of a frame, and how much is not. Of a whole frame the compiler knows that nothing is
/// missing.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    head: &'a [u8],
    rest: usize,
}

impl<'a> View<'a> {
    #[inline(always)]
    pub(crate) const fn whole(frame: &'a [u8]) -> Self {
        Self {
            head: frame,
            rest: 0,
        }
    }

    /// Whether an offset lies in the frame, or at its end.
    #[inline(always)]
    const fn holds(self, at: u16) -> bool {
        at as usize <= self.head.len() + self.rest
    }

    /// What is at hand between two offsets.
    #[inline(always)]
    fn between(self, start: u16, end: u16) -> Option<&'a [u8]> {
        let mut end = usize::from(end);
        if self.rest > 0 {
            end = end.min(self.head.len());
        }
        self.head.get(start.into()..end)
    }
}

/// What an IP header says.
struct Network {
    family: Family,
    /// Where it starts.
    start: u16,
    source: Address,
    destination: Address,
    hop_limit: u8,
    /// What lies behind the header.
    upper: Upper,
    /// Whether that is a fragment (IPv4), or an extension header (IPv6).
    goes_on: bool,
}

impl Network {
    #[inline(always)]
    const fn packet(self, ethernet: Ethernet, transport: Transport) -> IpPacket {
        IpPacket {
            ethernet,
            family: self.family,
            network: self.start,
            transport_start: self.upper.start,
            end: self.upper.end,
            source: self.source,
            destination: self.destination,
            hop_limit: self.hop_limit,
            fragment: self.upper.fragment,
            transport,
        }
    }
}

#[inline(always)]
fn parse_v4(frame: View<'_>, network: u16) -> Result<Network, ParseError> {
    let header = header_v4(frame, network)?;
    let start = network + header.header_len().ok_or(ParseError::BadLength)?;
    let end = end_of(frame, network, header.total_len())?;
    if start > end {
        return Err(ParseError::BadLength);
    }
    if frame.rest > 0 && usize::from(start) > frame.head.len() {
        return Err(ParseError::Truncated);
    }
    Ok(Network {
        family: Family::V4,
        start: network,
        source: header.source(),
        destination: header.destination(),
        hop_limit: header.ttl(),
        upper: Upper {
            start,
            end,
            fragment: None,
            protocol: header.protocol(),
        },
        goes_on: header.is_fragment(),
    })
}

#[inline(always)]
fn header_v4(frame: View<'_>, network: u16) -> Result<ipv4::Header<'_>, ParseError> {
    let bytes = frame.head.get(usize::from(network)..);
    bytes
        .and_then(ipv4::Header::from_prefix)
        .ok_or(ParseError::Truncated)
}

/// With the fragment's place.
fn fragment_v4(frame: View<'_>, network: u16, upper: Upper) -> Result<Upper, ParseError> {
    let header = header_v4(frame, network)?;
    Ok(Upper {
        fragment: header.fragment(upper.end - upper.start),
        ..upper
    })
}

#[inline(always)]
fn parse_v6(frame: View<'_>, network: u16) -> Result<Network, ParseError> {
    let bytes = frame
        .head
        .get(usize::from(network)..)
        .ok_or(ParseError::Truncated)?;
    let header = ipv6::Header::from_prefix(bytes).ok_or(ParseError::Truncated)?;
    if header.version() != ipv6::VERSION {
        return Err(ParseError::BadLength);
    }
    let (source, destination) = (header.source(), header.destination());
    if source.family() == Family::V4 || destination.family() == Family::V4 {
        return Err(ParseError::Forbidden);
    }
    let start = network + const { wire::offset(ipv6::HEADER_LEN) };
    let end = end_of(frame, start, header.payload_len())?;
    Ok(Network {
        family: Family::V6,
        start: network,
        source,
        destination,
        hop_limit: header.hop_limit(),
        upper: Upper {
            start,
            end,
            fragment: None,
            protocol: header.next_header(),
        },
        goes_on: is_extension(header.next_header()),
    })
}

/// Where `len` bytes from `start` end, if that lies in the frame.
#[inline(always)]
fn end_of(frame: View<'_>, start: u16, len: u16) -> Result<u16, ParseError> {
    let end = start.checked_add(len).ok_or(ParseError::BadLength)?;
    if frame.holds(end) {
        Ok(end)
    } else {
        Err(ParseError::BadLength)
    }
}

/// What lies behind the IP headers: `start <= end`, and both in the frame.
#[derive(Clone, Copy)]
pub(crate) struct Upper {
    pub(crate) start: u16,
    pub(crate) end: u16,
    pub(crate) fragment: Option<Fragment>,
    pub(crate) protocol: u8,
}

/// Walks the extension headers up to the transport header, or to where the walk must end: a
/// fragment without its packet's start, or a routing header with nodes to visit.
pub(crate) fn walk_extensions(frame: View<'_>, mut upper: Upper) -> Result<Upper, ParseError> {
    // A second fragment header could make a fragment look whole.
    let mut divided = false;
    for _ in 0..=EXTENSIONS_MAX {
        let later = upper.fragment.is_some_and(|fragment| fragment.offset > 0);
        if later || !is_extension(upper.protocol) {
            return Ok(upper);
        }
        let bytes = upper.bytes(frame)?;
        let header = ipv6::Extension::from_prefix(bytes).ok_or_else(|| upper.cut_short())?;
        let len = match upper.protocol {
            ipv6::ROUTING if header.segments_left() > 0 => return Ok(upper),
            ipv6::FRAGMENT if std::mem::replace(&mut divided, true) => {
                return Err(ParseError::TooManyExtensions);
            }
            ipv6::FRAGMENT => {
                let len = const { wire::offset(ipv6::EXTENSION_LEN_MIN) };
                upper.fragment = header.fragment(upper.end - upper.start - len);
                len
            }
            _ => header.total_len(),
        };
        if usize::from(len) > bytes.len() {
            return Err(upper.cut_short());
        }
        upper.start += len;
        upper.protocol = header.next_header();
    }
    Err(ParseError::TooManyExtensions)
}

#[inline(always)]
const fn is_extension(next_header: u8) -> bool {
    matches!(
        next_header,
        ipv6::HOP_BY_HOP | ipv6::ROUTING | ipv6::FRAGMENT | ipv6::DESTINATION_OPTIONS
    )
}

impl Upper {
    #[inline(always)]
    pub(crate) fn bytes(self, frame: View<'_>) -> Result<&[u8], ParseError> {
        frame
            .between(self.start, self.end)
            .ok_or(ParseError::Truncated)
    }

    /// What it is called where these bytes end inside a header.
    #[cold]
    const fn cut_short(&self) -> ParseError {
        match self.fragment {
            Some(_) => ParseError::TinyFragment,
            None => ParseError::Truncated,
        }
    }

    /// What it is called where a TCP header is too short, or longer than these bytes.
    #[cold]
    const fn bad_data_offset(&self, header_len: u16) -> ParseError {
        match self.fragment {
            Some(_) if header_len as usize >= tcp::HEADER_LEN => ParseError::TinyFragment,
            _ => ParseError::BadLength,
        }
    }
}

fn parse_transport(frame: View<'_>, upper: &Upper, icmp: u8) -> Result<Transport, ParseError> {
    if upper.fragment.is_some_and(|fragment| fragment.offset > 0) {
        return Ok(Transport::Other(upper.protocol));
    }
    let segment = upper.bytes(frame)?;
    match upper.protocol {
        tcp::PROTOCOL => parse_tcp(segment, upper),
        udp::PROTOCOL => parse_udp(segment, upper),
        protocol if protocol == icmp => {
            let header = icmp::Header::from_prefix(segment).ok_or_else(|| upper.cut_short())?;
            Ok(Transport::Icmp {
                kind: header.kind(),
                code: header.code(),
            })
        }
        protocol => Ok(Transport::Other(protocol)),
    }
}

#[inline(always)]
fn parse_tcp(segment: &[u8], upper: &Upper) -> Result<Transport, ParseError> {
    let header = tcp::Header::from_prefix(segment).ok_or_else(|| upper.cut_short())?;
    let header_len = header.header_len();
    if usize::from(header_len) < tcp::HEADER_LEN || usize::from(header_len) > segment.len() {
        return Err(upper.bad_data_offset(header_len));
    }
    Ok(Transport::Tcp {
        source: header.source(),
        destination: header.destination(),
        flags: header.flags(),
        payload: upper.start + header_len,
    })
}

#[inline(always)]
fn parse_udp(segment: &[u8], upper: &Upper) -> Result<Transport, ParseError> {
    let header = udp::Header::from_prefix(segment).ok_or_else(|| upper.cut_short())?;
    let len = header.total_len();
    // What a datagram's IP packet has beyond it is allowed (RFC 9868).
    let beyond = len > upper.end - upper.start && upper.fragment.is_none();
    if usize::from(len) < udp::HEADER_LEN || beyond {
        return Err(ParseError::BadLength);
    }
    Ok(Transport::Udp {
        source: header.source(),
        destination: header.destination(),
    })
}
