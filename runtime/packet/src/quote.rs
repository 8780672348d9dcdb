//! The packet quoted in an ICMP error.
//!
//! Invariant: every offset in a [`Quote`] lies inside the parsed frame, and its addresses and ports are
//! the frame's bytes there.
//!
//! A quote may end anywhere behind the first eight bytes of its transport header (RFC 792), so its
//! length fields do not apply to the frame. Its checksums are not verified and are updated
//! incrementally, because some systems quote a header that they have already changed. ICMP extensions
//! (RFC 4884) start at least 128 bytes behind the quote's start and are not changed.

use crate::parse::{FrameHead, UpperLayer, walk_extensions};
use crate::{
    Address, Family, IpPacket, ParseError, Protocol, Rewrite, icmp, ipv4, ipv6, tcp, udp, wire,
};

/// Minimum length of a quoted transport header (RFC 792): the ports, and UDP's checksum.
const TRANSPORT_LEN_MIN: usize = 8;

/// A quoted TCP or UDP packet: its endpoints, and the offsets of its headers in the error's frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quote {
    /// Source address.
    pub source: Address,
    /// Source port.
    pub source_port: u16,
    /// Destination address.
    pub destination: Address,
    /// Destination port.
    pub destination_port: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Offset of the quoted IP header.
    network: u16,
    /// Offset of the quoted transport header.
    transport: u16,
}

impl Quote {
    /// Parses the quote of an ICMP error or redirect. Returns `None` when the packet is neither
    /// ([`icmp::is_error`], [`icmp::is_redirect`]), or quotes another protocol or a fragment other than the
    /// first.
    ///
    /// # Errors
    /// A [`ParseError`] when the quote ends before the eighth byte of its transport header, or does
    /// not start with an IP header of the error's family.
    pub fn parse(frame: &[u8], packet: &IpPacket) -> Result<Option<Self>, ParseError> {
        if !icmp::is_error(packet) && !icmp::is_redirect(packet) {
            return Ok(None);
        }
        let network = packet
            .transport_start
            .checked_add(const { wire::offset(icmp::HEADER_LEN) })
            .ok_or(ParseError::Truncated)?;
        let bytes = frame
            .get(network.into()..packet.end.into())
            .ok_or(ParseError::Truncated)?;
        let (source, destination, upper) = match packet.family {
            Family::V4 => parse_v4(bytes, network, packet.end)?,
            Family::V6 => parse_v6(frame, bytes, network, packet.end)?,
        };
        let protocol = match upper.protocol {
            tcp::PROTOCOL => Protocol::Tcp,
            udp::PROTOCOL => Protocol::Udp,
            _ => return Ok(None),
        };
        if upper.fragment.is_some_and(|fragment| fragment.offset > 0) {
            return Ok(None);
        }
        // Both protocols have their ports at the same offsets.
        let segment = upper.bytes(FrameHead::whole(frame))?;
        let ports = udp::Header::from_prefix(segment).ok_or(ParseError::Truncated)?;
        Ok(Some(Self {
            source,
            source_port: ports.source(),
            destination,
            destination_port: ports.destination(),
            protocol,
            network,
            transport: upper.start,
        }))
    }

    /// Rewrites an error: applies `outer` to its own headers and `quoted` to those of the quoted
    /// packet. The ICMP checksum is recomputed, so the caller must have verified it
    /// ([`crate::checksum::are_correct`]). A quote from another frame is a bug in the caller.
    pub fn rewrite(&self, frame: &mut [u8], packet: &IpPacket, outer: &Rewrite, quoted: &Rewrite) {
        let applied = self.rewrite_quoted(frame, packet, quoted);
        debug_assert!(applied.is_some(), "{self:?} was not parsed from this frame");
        outer.apply(frame, packet);
        let source = outer.source.map_or(packet.source, |to| to.address);
        let destination = outer
            .destination
            .map_or(packet.destination, |to| to.address);
        let message = usize::from(packet.transport_start)..usize::from(packet.end);
        if let Some(message) = frame.get_mut(message) {
            icmp::write_checksum(message, source, destination);
        }
    }

    fn rewrite_quoted(&self, frame: &mut [u8], packet: &IpPacket, to: &Rewrite) -> Option<()> {
        let to = to.changes();
        let (head, segment) = frame
            .get_mut(..packet.end.into())?
            .split_at_mut_checked(self.transport.into())?;
        let network = head.get_mut(self.network.into()..)?;
        let ports = segment.get_mut(..TRANSPORT_LEN_MIN)?;
        match packet.family {
            Family::V4 => to.apply_v4(network.first_chunk_mut()?),
            Family::V6 => to.apply_v6(network.first_chunk_mut()?),
        }
        match self.protocol {
            Protocol::Tcp => {
                let delta = to.apply_ports(ports, tcp::field::SOURCE, tcp::field::DESTINATION);
                if segment.len() >= tcp::field::CHECKSUM.end {
                    wire::update(segment, tcp::field::CHECKSUM, |sum| delta.apply(sum));
                }
            }
            Protocol::Udp => {
                let delta = to.apply_ports(ports, udp::field::SOURCE, udp::field::DESTINATION);
                wire::update(segment, udp::field::CHECKSUM, |sum| delta.apply_udp(sum));
            }
        }
        Some(())
    }
}

/// The quoted source and destination addresses, and the bytes behind the IP headers.
type QuotedHeader = (Address, Address, UpperLayer);

fn parse_v4(bytes: &[u8], network: u16, end: u16) -> Result<QuotedHeader, ParseError> {
    let header = ipv4::Header::from_prefix(bytes).ok_or(ParseError::Truncated)?;
    let len = header.header_len().ok_or(ParseError::BadLength)?;
    if usize::from(len) > bytes.len() {
        return Err(ParseError::Truncated);
    }
    let start = network + len;
    let upper = UpperLayer {
        start,
        end,
        fragment: header.fragment(end - start),
        protocol: header.protocol(),
    };
    Ok((header.source(), header.destination(), upper))
}

fn parse_v6(
    frame: &[u8],
    bytes: &[u8],
    network: u16,
    end: u16,
) -> Result<QuotedHeader, ParseError> {
    let header = ipv6::Header::from_prefix(bytes).ok_or(ParseError::Truncated)?;
    if header.version() != ipv6::VERSION {
        return Err(ParseError::BadLength);
    }
    let (source, destination) = (header.source(), header.destination());
    if source.family() == Family::V4 || destination.family() == Family::V4 {
        return Err(ParseError::Forbidden);
    }
    let upper = UpperLayer {
        start: network + const { wire::offset(ipv6::HEADER_LEN) },
        end,
        fragment: None,
        protocol: header.next_header(),
    };
    Ok((
        source,
        destination,
        walk_extensions(FrameHead::whole(frame), upper)?,
    ))
}
