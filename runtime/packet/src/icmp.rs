//! `ICMPv4` (RFC 792) and `ICMPv6` (RFC 4443): message types, and echo replies for a VIP.
//! [`crate::quote`] reads the packet quoted in an error, [`crate::reject`] writes errors.
//!
//! Invariant: an echo reply is its request with two addresses swapped and the type changed. Every
//! checksum is updated incrementally, so a damaged request gives a damaged reply.

use crate::ip::HOP_LIMIT;
use crate::wire::{self, header_view};
use crate::{Address, Delta, Family, IpPacket, Transport, checksum, ethernet, ipv4, ipv6};

/// The IP protocol number of `ICMPv4`.
pub const PROTOCOL_V4: u8 = 1;
/// The next-header number of `ICMPv6`.
pub const PROTOCOL_V6: u8 = crate::packet::ICMP_V6;
/// Length of an echo message's header; minimum length of any message.
pub const HEADER_LEN: usize = 8;

/// `ICMPv4` destination unreachable.
pub const UNREACHABLE_V4: u8 = 3;
/// `ICMPv4` time exceeded.
pub const TIME_EXCEEDED_V4: u8 = 11;
/// `ICMPv4` parameter problem.
pub const PARAMETER_PROBLEM_V4: u8 = 12;
/// `ICMPv6` destination unreachable.
pub const UNREACHABLE_V6: u8 = 1;
/// `ICMPv6` packet too big.
pub const TOO_BIG_V6: u8 = 2;
/// `ICMPv6` time exceeded.
pub const TIME_EXCEEDED_V6: u8 = 3;
/// `ICMPv6` parameter problem.
pub const PARAMETER_PROBLEM_V6: u8 = 4;

/// `ICMPv4` echo reply.
pub const ECHO_REPLY_V4: u8 = 0;
/// `ICMPv4` echo request.
pub const ECHO_REQUEST_V4: u8 = 8;
/// `ICMPv6` echo request.
pub const ECHO_REQUEST_V6: u8 = 128;
/// `ICMPv6` echo reply.
pub const ECHO_REPLY_V6: u8 = 129;

pub(crate) mod field {
    use std::ops::Range;

    pub(crate) const TYPE: usize = 0;
    pub(crate) const CODE: usize = 1;
    pub(crate) const CHECKSUM: Range<usize> = 2..4;
    pub(crate) const IDENTIFIER: Range<usize> = 4..6;
    pub(crate) const SEQUENCE: Range<usize> = 6..8;
    /// Errors only: overlays identifier and sequence.
    pub(crate) const PARAMETER: Range<usize> = 4..8;
}

header_view! {
    /// A view of an echo message's header. Type, code and checksum are those of any message.
    Header(HEADER_LEN);
    /// Type.
    kind: u8 = field::TYPE;
    /// Code.
    code: u8 = field::CODE;
    /// Checksum.
    checksum: u16 = field::CHECKSUM;
    /// Identifier of an echo message.
    identifier: u16 = field::IDENTIFIER;
    /// Sequence number of an echo message.
    sequence: u16 = field::SEQUENCE;
}

/// Returns whether a packet is an echo request, or the first fragment of one.
#[must_use]
pub fn is_echo_request(packet: &IpPacket) -> bool {
    let request = match packet.family {
        Family::V4 => ECHO_REQUEST_V4,
        Family::V6 => ECHO_REQUEST_V6,
    };
    packet.transport
        == (Transport::Icmp {
            kind: request,
            code: 0,
        })
}

/// Returns whether a packet is an unfragmented IPv4 redirect. (One of IPv6 is sent from a link-local address,
/// which no router forwards.)
#[must_use]
pub fn is_redirect(packet: &IpPacket) -> bool {
    const REDIRECT_V4: u8 = 5;
    let Transport::Icmp { kind, .. } = packet.transport else {
        return false;
    };
    packet.family == Family::V4 && kind == REDIRECT_V4 && packet.fragment.is_none()
}

/// Returns whether a packet is an unfragmented error about another packet. Source quench is
/// deprecated (RFC 6633), and a redirect is only for the sender's own link.
#[must_use]
pub const fn is_error(packet: &IpPacket) -> bool {
    let Transport::Icmp { kind, .. } = packet.transport else {
        return false;
    };
    let known = match packet.family {
        Family::V4 => matches!(
            kind,
            UNREACHABLE_V4 | TIME_EXCEEDED_V4 | PARAMETER_PROBLEM_V4
        ),
        Family::V6 => matches!(
            kind,
            UNREACHABLE_V6 | TOO_BIG_V6 | TIME_EXCEEDED_V6 | PARAMETER_PROBLEM_V6
        ),
    };
    known && packet.fragment.is_none()
}

/// Whether an ICMP error says that the quoted packet's destination host or port is unreachable (RFC 792, RFC
/// 4443 section 3.1): nobody is there to answer.
#[must_use]
pub fn is_unreachable(frame: &[u8], packet: &IpPacket) -> bool {
    let start = usize::from(packet.transport_start);
    match (packet.family, frame.get(start..start + 2)) {
        (Family::V4, Some([UNREACHABLE_V4, code])) => matches!(code, 1 | 3),
        (Family::V6, Some([UNREACHABLE_V6, code])) => matches!(code, 3 | 4),
        _ => false,
    }
}

/// Writes a message's checksum. Only `ICMPv6` covers the addresses.
pub(crate) fn write_checksum(message: &mut [u8], source: Address, destination: Address) {
    wire::set_word(message, field::CHECKSUM, 0);
    let checksum = match destination.family() {
        Family::V4 => checksum::of(message),
        Family::V6 => checksum::transport(source, destination, PROTOCOL_V6, message),
    };
    wire::set_word(message, field::CHECKSUM, checksum);
}

/// Returns whether an `ICMPv4` type is a query or its reply: echo, router discovery, timestamp,
/// information, address mask (RFC 792, RFC 950, RFC 1256).
pub(crate) const fn is_query_v4(kind: u8) -> bool {
    matches!(kind, ECHO_REPLY_V4 | ECHO_REQUEST_V4 | 9 | 10 | 13..=18)
}

/// Returns whether an `ICMPv6` type is neither an error nor a redirect. No error is sent about
/// either (RFC 4443 sections 2.1 and 2.4 e).
pub(crate) const fn is_information_v6(kind: u8) -> bool {
    const REDIRECT: u8 = 137;
    kind >= ECHO_REQUEST_V6 && kind != REDIRECT
}

/// Turns an echo request into its reply in place, addressed to the request's sender. Needs only the
/// frame's first buffer: the payload does not change. Of a fragmented request, each fragment becomes a
/// fragment of the reply; for all but the first, the caller must know that the first is a request.
///
/// IP options, hop-by-hop and destination options are blanked: their room stays.
///
/// Returns `false` and changes nothing when the packet is neither, has a source route (RFC 6274
/// section 3.13.2.3), a routing header or malformed options, or a source or destination that is not
/// unicast.
#[must_use]
pub fn answer_echo(frame: &mut [u8], packet: &IpPacket) -> bool {
    let is_later = packet.fragment.is_some_and(|fragment| fragment.offset > 0);
    (is_later || is_echo_request(packet))
        && packet.is_unicast()
        && turn_around(frame, packet, is_later).is_some()
}

/// Swaps the addresses and changes the type, after checking that all headers lie in the frame.
fn turn_around(frame: &mut [u8], packet: &IpPacket, is_later: bool) -> Option<()> {
    let (head, message) = frame.split_at_mut_checked(packet.transport_start.into())?;
    let (link, network) = head.split_at_mut_checked(packet.network.into())?;
    let link = link.first_chunk_mut::<{ ethernet::HEADER_LEN }>()?;
    let len = usize::from(packet.end.checked_sub(packet.transport_start)?).min(message.len());
    let message = &mut message[..len];
    if !is_later && message.len() < HEADER_LEN {
        return None;
    }
    match packet.family {
        Family::V4 => turn_v4(network)?,
        Family::V6 => turn_v6(network)?,
    }
    wire::swap::<6>(link, ethernet::field::SOURCE, ethernet::field::DESTINATION);
    if is_later {
        return Some(());
    }
    let (message, payload) = message.split_first_chunk_mut()?;
    match packet.family {
        Family::V4 => {
            set_kind(message, ECHO_REPLY_V4);
            if *message == [0; HEADER_LEN] && payload.iter().all(|byte| *byte == 0) {
                // The checksum of a message of zeros is 0xffff; the update gives 0. They differ in
                // this case only (RFC 1624 section 3). Receivers accept 0xffff too when further
                // buffers or fragments hold a payload that is not zero.
                wire::set_word(message, field::CHECKSUM, 0xffff);
            }
        }
        Family::V6 => set_kind(message, ECHO_REPLY_V6),
    }
    Some(())
}

fn turn_v4(header: &mut [u8]) -> Option<()> {
    use ipv4::field::{CHECKSUM, DESTINATION, SOURCE, TTL};

    let (header, options) = header.split_first_chunk_mut::<{ ipv4::HEADER_LEN }>()?;
    if !may_blank(options) {
        return None;
    }
    let (old, new) = (u16::from(header[TTL]) << 8, u16::from(HOP_LIMIT) << 8);
    let mut delta = Delta::between(&[old], &[new]);
    for word in options.chunks_exact_mut(2) {
        delta += Delta::between(&[u16::from_be_bytes([word[0], word[1]])], &[0]);
        // The end of the options (RFC 791 section 3.1).
        word.fill(0);
    }
    header[TTL] = HOP_LIMIT;
    wire::update(header, CHECKSUM, |checksum| delta.apply(checksum));
    wire::swap::<4>(header, SOURCE, DESTINATION);
    Some(())
}

/// Returns whether `IPv4` options are well-formed and contain no source route (RFC 791 section 3.1).
fn may_blank(mut options: &[u8]) -> bool {
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    const SOURCE_ROUTES: [u8; 2] = [131, 137];
    loop {
        let len = match *options {
            [] | [END, ..] => return true,
            [NO_OPERATION, ..] => 1,
            [kind, len, ..] if len >= 2 && !SOURCE_ROUTES.contains(&kind) => usize::from(len),
            _ => return false,
        };
        let Some(rest) = options.get(len..) else {
            return false;
        };
        options = rest;
    }
}

fn turn_v6(header: &mut [u8]) -> Option<()> {
    let (header, extensions) = header.split_first_chunk_mut::<{ ipv6::HEADER_LEN }>()?;
    let first = header[ipv6::field::NEXT_HEADER];
    each_extension(first, extensions, |_| {})?;
    each_extension(first, extensions, |options| {
        if let [_, _, kind, len, padding @ ..] = options {
            // PadN (RFC 8200 section 4.2).
            *kind = 1;
            *len = u8::try_from(padding.len()).unwrap_or(0);
            padding.fill(0);
        }
    })?;
    wire::swap::<16>(header, ipv6::field::SOURCE, ipv6::field::DESTINATION);
    header[ipv6::field::HOP_LIMIT] = HOP_LIMIT;
    Some(())
}

/// Calls `on_options` with each header of options. Returns `None` at one that one padding option cannot
/// fill, and at a header that is neither options nor a fragment header.
fn each_extension(
    mut next_header: u8,
    mut headers: &mut [u8],
    mut on_options: impl FnMut(&mut [u8]),
) -> Option<()> {
    const PADDED_LEN_MAX: usize = 4 + 0xff;
    while let [next, len, ..] = *headers {
        let is_options = match next_header {
            ipv6::HOP_BY_HOP | ipv6::DESTINATION_OPTIONS => true,
            ipv6::FRAGMENT => false,
            _ => return None,
        };
        let len = if is_options {
            (usize::from(len) + 1) * ipv6::EXTENSION_LEN_MIN
        } else {
            ipv6::EXTENSION_LEN_MIN
        };
        let (header, rest) = headers.split_at_mut_checked(len)?;
        if is_options {
            if len > PADDED_LEN_MAX {
                return None;
            }
            on_options(header);
        }
        (next_header, headers) = (next, rest);
    }
    Some(())
}

/// Changes the type of a message with code 0.
fn set_kind(message: &mut [u8; HEADER_LEN], kind: u8) {
    let (old, new) = (u16::from(message[field::TYPE]) << 8, u16::from(kind) << 8);
    let checksum = Delta::between(&[old], &[new]).apply(wire::word(message, field::CHECKSUM));
    message[field::TYPE] = kind;
    wire::set_word(message, field::CHECKSUM, checksum);
}
