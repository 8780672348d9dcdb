//! The packet that an ICMP error is about, as far as the error quotes it.
//!
//! Invariant: every offset in a [`Quote`] lies inside the frame it was parsed from, and the quoted
//! addresses, ports and checksum are those that the frame holds there.
//!
//! A quote ends anywhere behind the first eight bytes of its transport header (RFC 792), so a length
//! field in it says nothing of this frame. Its own checksums are left as they are found, right or
//! wrong, and follow by their increments: some systems quote a header that they have changed already.
//! What may stand behind a quote (RFC 4884) begins after 128 bytes of it, and is not touched.

use crate::parse::{Upper, View, walk_extensions};
use crate::{
    Address, Family, IpPacket, ParseError, Protocol, Rewrite, icmp, ipv4, ipv6, tcp, udp, wire,
};

/// The least of a transport header that a quote has (RFC 792): the ports, and UDP's checksum.
const TRANSPORT_LEN_MIN: usize = 8;

/// A quoted TCP or UDP packet: who sent it to whom, and where its headers stand in the error's frame.
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
    /// Where its IP header starts.
    network: u16,
    /// Where its transport header starts.
    transport: u16,
}

impl Quote {
    /// Reads what an error quotes. `None` where the packet is no error ([`icmp::is_error`]), or its
    /// quote is of another protocol, or of a fragment without its packet's start.
    ///
    /// # Errors
    /// A [`ParseError`] where the quote ends before the eighth byte of its transport header, or is no
    /// IP header of the error's family.
    pub fn parse(frame: &[u8], packet: &IpPacket) -> Result<Option<Self>, ParseError> {
        if !icmp::is_error(packet) {
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
        // The ports of both protocols stand where UDP has them.
        let segment = upper.bytes(View::whole(frame))?;
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

    /// Rewrites an error: `outer` its own headers, `quoted` those of the packet that it quotes. The
    /// error's checksum is computed anew: the caller has seen that it was right
    /// ([`crate::checksum::are_right`]), which is the last that can be said of it. A quote that does
    /// not belong to the frame is a bug of the caller and leaves the frame as it is.
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

/// What of a quoted packet's headers its addresses and its transport header are found by.
type Found = (Address, Address, Upper);

fn parse_v4(bytes: &[u8], network: u16, end: u16) -> Result<Found, ParseError> {
    let header = ipv4::Header::from_prefix(bytes).ok_or(ParseError::Truncated)?;
    let len = header.header_len().ok_or(ParseError::BadLength)?;
    if usize::from(len) > bytes.len() {
        return Err(ParseError::Truncated);
    }
    let start = network + len;
    let upper = Upper {
        start,
        end,
        fragment: header.fragment(end - start),
        protocol: header.protocol(),
    };
    Ok((header.source(), header.destination(), upper))
}

fn parse_v6(frame: &[u8], bytes: &[u8], network: u16, end: u16) -> Result<Found, ParseError> {
    let header = ipv6::Header::from_prefix(bytes).ok_or(ParseError::Truncated)?;
    if header.version() != ipv6::VERSION {
        return Err(ParseError::BadLength);
    }
    let (source, destination) = (header.source(), header.destination());
    if source.family() == Family::V4 || destination.family() == Family::V4 {
        return Err(ParseError::Forbidden);
    }
    let upper = Upper {
        start: network + const { wire::offset(ipv6::HEADER_LEN) },
        end,
        fragment: None,
        protocol: header.next_header(),
    };
    Ok((
        source,
        destination,
        walk_extensions(View::whole(frame), upper)?,
    ))
}
