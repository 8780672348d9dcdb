//! Parses a frame in one pass into offsets and the fields that forwarding depends on.
//!
//! Invariant: every offset in a returned [`Packet`] lies inside the parsed frame, so the frame may be
//! accessed there without a length check. In a multi-buffer frame all headers lie in the first buffer;
//! only [`IpPacket::end`] may lie behind it.
//!
//! Checksums are not verified here: an incremental update preserves an error, which the receiver then
//! detects (RFC 1624 section 1).

use crate::{
    Address, Ethernet, Family, Fragment, IpPacket, Packet, ParseError, Transport, arp, icmp, ipv4,
    ipv6, tcp, udp, wire,
};

/// Maximum number of extension headers. RFC 8200 section 4.1 allows each of the four handled here
/// once, and destination options twice.
const EXTENSIONS_MAX: usize = 5;

/// Parses a frame that lies in one buffer.
///
/// # Errors
/// A [`ParseError`] when a header is malformed.
#[inline]
pub fn parse(frame: &[u8]) -> Result<Packet, ParseError> {
    match parse_plain(frame) {
        Some(packet) => Ok(Packet::Ip(packet)),
        None => parse_head(frame, 0),
    }
}

/// Parses the most common frames: an unfragmented TCP or UDP packet without VLAN tags and extension
/// headers. Returns `None` for any other frame, well-formed or not.
#[inline(always)]
#[must_use]
pub fn parse_plain(frame: &[u8]) -> Option<IpPacket> {
    let frame = FrameHead::whole(frame);
    let ethernet = Ethernet::parse_untagged(frame.head).ok()?;
    let network = match ethernet.ethertype {
        ipv4::ETHERTYPE => parse_v4(frame, ethernet.payload).ok()?,
        ipv6::ETHERTYPE => parse_v6(frame, ethernet.payload).ok()?,
        _ => return None,
    };
    if network.is_partial {
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

/// Parses any frame. `head` is its first buffer; `rest` bytes follow in further buffers.
///
/// # Errors
/// A [`ParseError`] when a header is malformed, or not in the first buffer.
#[cold]
#[inline(never)]
pub fn parse_head(head: &[u8], rest: usize) -> Result<Packet, ParseError> {
    let frame = FrameHead { head, rest };
    let mut ethernet = Ethernet::parse_untagged(head)?;
    ethernet.parse_tags(head)?;
    let (mut network, icmp) = match ethernet.ethertype {
        ipv4::ETHERTYPE => (parse_v4(frame, ethernet.payload)?, icmp::PROTOCOL_V4),
        ipv6::ETHERTYPE => (parse_v6(frame, ethernet.payload)?, icmp::PROTOCOL_V6),
        arp::ETHERTYPE => return Ok(Packet::Arp(ethernet)),
        _ => return Ok(Packet::Other(ethernet)),
    };
    if network.is_partial {
        network.upper = match network.family {
            Family::V4 => fragment_v4(frame, network.start, network.upper)?,
            Family::V6 => walk_extensions(frame, network.upper)?,
        };
    }
    let transport = parse_transport(frame, &network.upper, icmp)?;
    Ok(Packet::Ip(network.packet(ethernet, transport)))
}

/// A frame's first buffer, and the number of bytes in further buffers: a constant 0 after
/// [`FrameHead::whole`], so the compiler removes its checks.
#[derive(Clone, Copy)]
pub(crate) struct FrameHead<'a> {
    head: &'a [u8],
    rest: usize,
}

impl<'a> FrameHead<'a> {
    #[inline(always)]
    pub(crate) const fn whole(frame: &'a [u8]) -> Self {
        Self {
            head: frame,
            rest: 0,
        }
    }

    /// Returns whether an offset lies in the frame or at its end.
    #[inline(always)]
    const fn holds(self, at: u16) -> bool {
        at as usize <= self.head.len() + self.rest
    }

    /// Returns the bytes of the first buffer between two offsets.
    #[inline(always)]
    fn between(self, start: u16, end: u16) -> Option<&'a [u8]> {
        let mut end = usize::from(end);
        if self.rest > 0 {
            end = end.min(self.head.len());
        }
        self.head.get(start.into()..end)
    }
}

/// A parsed IP header.
struct Network {
    family: Family,
    start: u16,
    source: Address,
    destination: Address,
    hop_limit: u8,
    upper: UpperLayer,
    /// Whether `upper` is a fragment (IPv4) or an extension header (IPv6), which is not parsed yet.
    is_partial: bool,
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
fn parse_v4(frame: FrameHead<'_>, network: u16) -> Result<Network, ParseError> {
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
        upper: UpperLayer {
            start,
            end,
            fragment: None,
            protocol: header.protocol(),
        },
        is_partial: header.is_fragment(),
    })
}

#[inline(always)]
fn header_v4(frame: FrameHead<'_>, network: u16) -> Result<ipv4::Header<'_>, ParseError> {
    let bytes = frame.head.get(usize::from(network)..);
    bytes
        .and_then(ipv4::Header::from_prefix)
        .ok_or(ParseError::Truncated)
}

/// Returns `upper` with the fragment's place.
fn fragment_v4(
    frame: FrameHead<'_>,
    network: u16,
    upper: UpperLayer,
) -> Result<UpperLayer, ParseError> {
    let header = header_v4(frame, network)?;
    Ok(UpperLayer {
        fragment: header.fragment(upper.end - upper.start),
        ..upper
    })
}

#[inline(always)]
fn parse_v6(frame: FrameHead<'_>, network: u16) -> Result<Network, ParseError> {
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
        upper: UpperLayer {
            start,
            end,
            fragment: None,
            protocol: header.next_header(),
        },
        is_partial: is_extension(header.next_header()),
    })
}

/// Returns the offset `len` bytes behind `start`, if it lies in the frame.
#[inline(always)]
fn end_of(frame: FrameHead<'_>, start: u16, len: u16) -> Result<u16, ParseError> {
    let end = start.checked_add(len).ok_or(ParseError::BadLength)?;
    if frame.holds(end) {
        Ok(end)
    } else {
        Err(ParseError::BadLength)
    }
}

/// The bytes behind the IP headers ("upper layer" in RFC 8200): `start <= end`, both in the frame.
#[derive(Clone, Copy)]
pub(crate) struct UpperLayer {
    pub(crate) start: u16,
    pub(crate) end: u16,
    pub(crate) fragment: Option<Fragment>,
    pub(crate) protocol: u8,
}

/// Walks the extension headers up to the transport header, a fragment header with an offset above 0,
/// or a routing header with nodes left to visit.
pub(crate) fn walk_extensions(
    frame: FrameHead<'_>,
    mut upper: UpperLayer,
) -> Result<UpperLayer, ParseError> {
    // A second fragment header could make a fragment look like a whole packet.
    let mut has_fragment_header = false;
    for _ in 0..=EXTENSIONS_MAX {
        let is_later_fragment = upper.fragment.is_some_and(|fragment| fragment.offset > 0);
        if is_later_fragment || !is_extension(upper.protocol) {
            return Ok(upper);
        }
        let bytes = upper.bytes(frame)?;
        let header = ipv6::Extension::from_prefix(bytes).ok_or_else(|| upper.truncated())?;
        let len = match upper.protocol {
            ipv6::ROUTING if header.segments_left() > 0 => return Ok(upper),
            ipv6::FRAGMENT if std::mem::replace(&mut has_fragment_header, true) => {
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
            return Err(upper.truncated());
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

impl UpperLayer {
    #[inline(always)]
    pub(crate) fn bytes(self, frame: FrameHead<'_>) -> Result<&[u8], ParseError> {
        frame
            .between(self.start, self.end)
            .ok_or(ParseError::Truncated)
    }

    /// Returns the error for a header that exceeds these bytes.
    #[cold]
    const fn truncated(&self) -> ParseError {
        match self.fragment {
            Some(_) => ParseError::TinyFragment,
            None => ParseError::Truncated,
        }
    }

    /// Returns the error for a TCP header length that is too small, or exceeds these bytes.
    #[cold]
    const fn bad_data_offset(&self, header_len: u16) -> ParseError {
        match self.fragment {
            Some(_) if header_len as usize >= tcp::HEADER_LEN => ParseError::TinyFragment,
            _ => ParseError::BadLength,
        }
    }
}

fn parse_transport(
    frame: FrameHead<'_>,
    upper: &UpperLayer,
    icmp: u8,
) -> Result<Transport, ParseError> {
    if upper.fragment.is_some_and(|fragment| fragment.offset > 0) {
        return Ok(Transport::Other(upper.protocol));
    }
    let segment = upper.bytes(frame)?;
    match upper.protocol {
        tcp::PROTOCOL => parse_tcp(segment, upper),
        udp::PROTOCOL => parse_udp(segment, upper),
        protocol if protocol == icmp => {
            let header = icmp::Header::from_prefix(segment).ok_or_else(|| upper.truncated())?;
            Ok(Transport::Icmp {
                kind: header.kind(),
                code: header.code(),
            })
        }
        protocol => Ok(Transport::Other(protocol)),
    }
}

#[inline(always)]
fn parse_tcp(segment: &[u8], upper: &UpperLayer) -> Result<Transport, ParseError> {
    let header = tcp::Header::from_prefix(segment).ok_or_else(|| upper.truncated())?;
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
fn parse_udp(segment: &[u8], upper: &UpperLayer) -> Result<Transport, ParseError> {
    let header = udp::Header::from_prefix(segment).ok_or_else(|| upper.truncated())?;
    let len = header.total_len();
    // The IP packet may hold more bytes behind the datagram (RFC 9868).
    let exceeds_packet = len > upper.end - upper.start && upper.fragment.is_none();
    if usize::from(len) < udp::HEADER_LEN || exceeds_packet {
        return Err(ParseError::BadLength);
    }
    Ok(Transport::Udp {
        source: header.source(),
        destination: header.destination(),
    })
}
