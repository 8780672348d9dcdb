//! Rejects a packet: turns it into the RST or ICMP error sent back to its source.
//!
//! Invariant: an RST, an ICMP error, a fragment other than the first, and a packet with an address that
//! is not unicast are never answered. So two hosts cannot answer each other in a loop, and a packet has
//! at most one answer.
//!
//! Both are written in the packet's own frame: an RST is not longer than any segment, and an error's
//! headers are written in front of the quoted packet, which stays in place.

use crate::ip::{self, Envelope};
use crate::{
    Address, Family, IpPacket, Link, TcpFlags, Transport, checksum, icmp, ipv4, ipv6, tcp, wire,
};

/// Maximum length of an `ICMPv4` error's IP packet (RFC 1812 section 4.3.2.3).
const LEN_MAX_V4: usize = 576;
/// Maximum length of an `ICMPv6` error's IP packet: the minimum MTU (RFC 4443 section 2.4 c).
const LEN_MAX_V6: usize = 1280;
/// The code of an `ICMPv4` unreachable with the next hop's MTU.
const FRAGMENTATION_NEEDED: u8 = 4;

/// Returns whether a packet is an unfragmented TCP segment that an RST may answer.
#[must_use]
pub fn may_reset(packet: &IpPacket) -> bool {
    packet.is_unicast()
        && packet.fragment.is_none()
        && matches!(packet.transport, Transport::Tcp { flags, .. } if !flags.has(TcpFlags::RST))
}

/// Turns a segment into the RST that answers it (RFC 9293 section 3.10.7.1), addressed to its sender.
/// Returns the length to cut the frame to. Returns `None` and changes nothing when [`may_reset`]
/// returns `false`.
#[must_use]
pub fn reset(frame: &mut [u8], packet: &IpPacket) -> Option<usize> {
    let Transport::Tcp {
        source,
        destination,
        flags,
        payload,
    } = packet.transport
    else {
        return None;
    };
    if !may_reset(packet) {
        return None;
    }
    let header = tcp::Header::from_prefix(frame.get(packet.transport_start.into()..)?)?;
    // The sender must find the RST acceptable: its sequence number is the one that an ACK expects
    // next; without an ACK, the RST acknowledges the whole segment.
    let (flags, sequence, acknowledgment) = if flags.has(TcpFlags::ACK) {
        (TcpFlags::RST, header.acknowledgment(), 0)
    } else {
        let controls = u32::from(flags.has(TcpFlags::SYN)) + u32::from(flags.has(TcpFlags::FIN));
        let len = u32::from(packet.end.saturating_sub(payload)) + controls;
        let next = header.sequence().wrapping_add(len);
        (TcpFlags::RST | TcpFlags::ACK, 0, next)
    };
    let envelope = envelope_back(packet, packet.destination, tcp::PROTOCOL);
    let segment = envelope.write(frame, tcp::HEADER_LEN)?;
    let header = tcp::NewHeader {
        source: destination,
        destination: source,
        sequence,
        acknowledgment,
        flags: TcpFlags(flags),
        window: 0,
    };
    header.write(segment.first_chunk_mut()?);
    let checksum = checksum::transport(
        envelope.source,
        envelope.destination,
        tcp::PROTOCOL,
        segment,
    );
    wire::set_word(segment, tcp::field::CHECKSUM, checksum);
    Some(envelope.frame_len(tcp::HEADER_LEN))
}

/// An ICMP or `ICMPv6` error, by the family of the rejected packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcmpError {
    /// Type.
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// Second word of the header: 0, or an MTU (RFC 1191 section 4, RFC 4443 section 3.2).
    pub parameter: u32,
}

impl IcmpError {
    /// Returns the error for a port without a service (RFC 792, RFC 4443 section 3.1).
    #[must_use]
    pub const fn port_unreachable(family: Family) -> Self {
        let (kind, code) = match family {
            Family::V4 => (icmp::UNREACHABLE_V4, 3),
            Family::V6 => (icmp::UNREACHABLE_V6, 4),
        };
        Self {
            kind,
            code,
            parameter: 0,
        }
    }

    /// Returns the error for a hop limit exceeded in transit (RFC 792, RFC 4443 section 3.3).
    #[must_use]
    pub const fn time_exceeded(family: Family) -> Self {
        let kind = match family {
            Family::V4 => icmp::TIME_EXCEEDED_V4,
            Family::V6 => icmp::TIME_EXCEEDED_V6,
        };
        Self {
            kind,
            code: 0,
            parameter: 0,
        }
    }

    /// Returns the error for a packet longer than the egress MTU, in bytes (RFC 1191 section 4,
    /// RFC 4443 section 3.2). Returns `None` when the sender allows routers to fragment the packet.
    #[must_use]
    pub fn too_big(frame: &[u8], packet: &IpPacket, mtu: u16) -> Option<Self> {
        let (kind, code) = match packet.family {
            Family::V4 => {
                let header = ipv4::Header::from_prefix(frame.get(packet.network.into()..)?)?;
                header
                    .dont_fragment()
                    .then_some((icmp::UNREACHABLE_V4, FRAGMENTATION_NEEDED))?
            }
            Family::V6 => (icmp::TOO_BIG_V6, 0),
        };
        Some(Self {
            kind,
            code,
            parameter: mtu.into(),
        })
    }

    /// Returns whether an error may be sent about a packet (RFC 1122 section 3.2.2, RFC 1812 section
    /// 4.3.2.7, RFC 4443 section 2.4 e). The caller must exclude martian sources.
    #[must_use]
    pub fn may_be_about(packet: &IpPacket) -> bool {
        let is_first = packet.fragment.is_none_or(|fragment| fragment.offset == 0);
        let is_no_error = match (packet.family, packet.transport) {
            (Family::V4, Transport::Icmp { kind, .. }) => icmp::is_query_v4(kind),
            (Family::V6, Transport::Icmp { kind, .. }) => icmp::is_information_v6(kind),
            // Their payload is not parsed: it may be an ICMP error.
            (_, Transport::Other(ipv6::ROUTING | ipv6::AUTHENTICATION)) => false,
            _ => true,
        };
        packet.is_unicast() && is_first && is_no_error
    }

    /// Returns the offset where an error's quote of a packet ends: at the packet's end, or earlier to
    /// respect the error's maximum length.
    #[must_use]
    pub fn quote_end(packet: &IpPacket) -> usize {
        let len_max = match packet.family {
            Family::V4 => LEN_MAX_V4,
            Family::V6 => LEN_MAX_V6,
        };
        let start = usize::from(packet.network);
        usize::from(packet.end).min(start + len_max - Self::headers_len(packet.family))
    }

    /// Returns the length of an error's IP and ICMP headers: the bytes by which the frame grows at its
    /// start.
    #[must_use]
    pub const fn headers_len(family: Family) -> usize {
        match family {
            Family::V4 => ipv4::HEADER_LEN + icmp::HEADER_LEN,
            Family::V6 => ipv6::HEADER_LEN + icmp::HEADER_LEN,
        }
    }

    /// Writes the error about a packet, from `source` to the packet's sender.
    ///
    /// `frame` is the packet's frame, cut to [`IcmpError::quote_end`] and then grown at its start by
    /// [`IcmpError::headers_len`]. Returns `false` and changes nothing when it has another length, or
    /// [`IcmpError::may_be_about`] returns `false`.
    #[must_use]
    pub fn write(&self, frame: &mut [u8], packet: &IpPacket, source: Address) -> bool {
        let len = Self::headers_len(packet.family) + Self::quote_end(packet);
        if frame.len() != len || !Self::may_be_about(packet) {
            return false;
        }
        let protocol = match packet.family {
            Family::V4 => icmp::PROTOCOL_V4,
            Family::V6 => icmp::PROTOCOL_V6,
        };
        // Networks that distinguish precedence prefer it to other traffic (RFC 1812 section 4.3.2.5).
        let envelope = Envelope {
            class: ip::INTERNETWORK_CONTROL,
            ..envelope_back(packet, source, protocol)
        };
        let message = len
            .checked_sub(envelope.frame_len(0))
            .and_then(|message_len| envelope.write_headers(frame, message_len));
        let Some(message) = message else {
            return false;
        };
        message[icmp::field::TYPE] = self.kind;
        message[icmp::field::CODE] = self.code;
        wire::set(
            message,
            icmp::field::PARAMETER,
            self.parameter.to_be_bytes(),
        );
        icmp::write_checksum(message, source, packet.source);
        true
    }
}

/// Returns the headers of an answer to the packet's sender, on the same link and VLAN.
fn envelope_back(packet: &IpPacket, source: Address, protocol: u8) -> Envelope {
    let link = Link {
        source: packet.ethernet.destination,
        destination: packet.ethernet.source,
    };
    let addresses = (source, packet.source);
    Envelope::new(
        link,
        packet.ethernet.tags,
        addresses,
        ip::HOP_LIMIT,
        protocol,
    )
}
