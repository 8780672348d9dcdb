//! What a sender is told of a packet that goes no further: RST, or an ICMP error.
//!
//! Invariant: nothing is said of an RST, of an ICMP error, of a fragment without its packet's
//! start, or to anything but one host. So no two machines keep each other answering, and no packet
//! has more than one answer.
//!
//! Both are written over the packet, without memory of their own: an RST is shorter than any
//! segment, and an error's headers go in front of the packet that it quotes, which stays in place.

use crate::ip::{self, Envelope};
use crate::{
    Address, Family, IpPacket, Link, TcpFlags, Transport, checksum, icmp, ipv4, ipv6, tcp, wire,
};

/// The longest IPv4 packet that an error makes (RFC 1812 section 4.3.2.3).
const LEN_MAX_V4: usize = 576;
/// The longest IPv6 packet that an error makes: the least MTU there is (RFC 4443 section 2.4 c).
const LEN_MAX_V6: usize = 1280;
/// The code of an `ICMPv4` unreachable that says the next hop's MTU.
const FRAGMENTATION_NEEDED: u8 = 4;

/// Whether a packet is a whole segment that an RST may answer.
#[must_use]
pub fn may_reset(packet: &IpPacket) -> bool {
    packet.is_unicast()
        && packet.fragment.is_none()
        && matches!(packet.transport, Transport::Tcp { flags, .. } if !flags.has(TcpFlags::RST))
}

/// Turns a segment into the RST that answers it (RFC 9293 section 3.10.7.1), back to where the
/// frame came from. What the frame is to be cut to; `None`, and nothing changed, where
/// [`may_reset`] says no.
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
    // The sender has to find it acceptable: where it says what it has got, that is what comes
    // next; else it is told that all it sent arrived.
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

/// An ICMP or `ICMPv6` error, by the family of the packet that it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcmpError {
    /// Type.
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// What the second word of its header says: unused, or an MTU (RFC 1191 section 4, RFC 4443
    /// section 3.2).
    pub parameter: u32,
}

impl IcmpError {
    /// Nobody serves the packet's port (RFC 792, RFC 4443 section 3.1).
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

    /// The packet was to be forwarded, and its hop limit was used up (RFC 792, RFC 4443 section 3.3).
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

    /// The packet is longer than the way ahead takes, in bytes (RFC 1191 section 4, RFC 4443 section
    /// 3.2). `None` where its sender leaves it to the routers to cut it to pieces.
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

    /// Whether a packet is one that errors are sent about (RFC 1122 section 3.2.2, RFC 1812
    /// section 4.3.2.7, RFC 4443 section 2.4 e). Sources that no network has (martians) the caller
    /// knows.
    #[must_use]
    pub fn may_be_about(packet: &IpPacket) -> bool {
        let starts = packet.fragment.is_none_or(|part| part.offset == 0);
        let says_nothing_of_errors = match (packet.family, packet.transport) {
            (Family::V4, Transport::Icmp { kind, .. }) => icmp::is_query_v4(kind),
            (Family::V6, Transport::Icmp { kind, .. }) => icmp::is_information_v6(kind),
            // What these carry is not known here: it may be an error.
            (_, Transport::Other(ipv6::ROUTING | ipv6::AUTHENTICATION)) => false,
            _ => true,
        };
        packet.is_unicast() && starts && says_nothing_of_errors
    }

    /// Where the part of a frame ends that an error quotes: the IP packet, or as much of it as
    /// fits.
    #[must_use]
    pub fn quote_end(packet: &IpPacket) -> usize {
        let len_max = match packet.family {
            Family::V4 => LEN_MAX_V4,
            Family::V6 => LEN_MAX_V6,
        };
        let start = usize::from(packet.network);
        usize::from(packet.end).min(start + len_max - Self::headers_len(packet.family))
    }

    /// By how many bytes an error's frame begins before the frame that it is about.
    #[must_use]
    pub const fn headers_len(family: Family) -> usize {
        match family {
            Family::V4 => ipv4::HEADER_LEN + icmp::HEADER_LEN,
            Family::V6 => ipv6::HEADER_LEN + icmp::HEADER_LEN,
        }
    }

    /// Writes the error about a packet, from `source` back to where its frame came from.
    ///
    /// `frame` is the packet's frame, cut at [`IcmpError::quote_end`] and then grown at its head by
    /// [`IcmpError::headers_len`]. `false`, and nothing changed, where it is of another length or
    /// where [`IcmpError::may_be_about`] says no.
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
        // Before other traffic where a network tells them apart (RFC 1812 section 4.3.2.5).
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

/// The headers of an answer: to the packet's sender, over the link and the VLAN that it came by.
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
