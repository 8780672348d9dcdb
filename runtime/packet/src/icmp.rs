//! `ICMPv4` (RFC 792) and `ICMPv6` (RFC 4443): which message is what, and the echo messages, which a
//! VIP answers. (What errors quote is in [`crate::quote`], how they are made in [`crate::refusal`].)
//!
//! Invariant: an answer is its request with two addresses swapped and one type changed, so every
//! checksum follows by its increment, and a request that was damaged stays so.

use crate::ip::HOP_LIMIT;
use crate::{Address, Delta, Family, IpPacket, Transport, checksum, ethernet, ipv4, ipv6, wire};

/// The IP protocol number of `ICMPv4`.
pub const PROTOCOL_V4: u8 = 1;
/// The next-header number of `ICMPv6`.
pub const PROTOCOL_V6: u8 = 58;
/// Length of the header of an echo message, and the least length of any message.
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
    /// Of an error, in the place of the two.
    pub(crate) const PARAMETER: Range<usize> = 4..8;
}

/// A view of the header of an echo message; of any message, its type, code and checksum.
#[derive(Clone, Copy, Debug)]
pub struct Header<'a>(&'a [u8; HEADER_LEN]);

impl<'a> Header<'a> {
    /// The header that `bytes` start with, or `None` where they are too few.
    #[inline(always)]
    #[must_use]
    pub fn from_prefix(bytes: &'a [u8]) -> Option<Self> {
        bytes.first_chunk().map(Self)
    }

    /// Type.
    #[inline(always)]
    #[must_use]
    pub const fn kind(self) -> u8 {
        self.0[field::TYPE]
    }

    /// Code.
    #[inline(always)]
    #[must_use]
    pub const fn code(self) -> u8 {
        self.0[field::CODE]
    }

    /// Checksum.
    #[must_use]
    pub fn checksum(self) -> u16 {
        wire::word(self.0, field::CHECKSUM)
    }

    /// The echo's identifier.
    #[must_use]
    pub fn identifier(self) -> u16 {
        wire::word(self.0, field::IDENTIFIER)
    }

    /// The echo's sequence number.
    #[must_use]
    pub fn sequence(self) -> u16 {
        wire::word(self.0, field::SEQUENCE)
    }
}

/// Whether a packet is a whole echo request that [`answer_echo`] answers.
#[must_use]
pub fn is_echo_request(packet: &IpPacket) -> bool {
    let request = match packet.family {
        Family::V4 => ECHO_REQUEST_V4,
        Family::V6 => ECHO_REQUEST_V6,
    };
    packet.fragment.is_none()
        && packet.transport
            == (Transport::Icmp {
                kind: request,
                code: 0,
            })
}

/// Whether a packet is a whole error that says what became of another packet. Source quench is none
/// any more (RFC 6633), and a redirect is the next router's word to its neighbour alone.
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

/// Writes a message's checksum; of these addresses only that of `ICMPv6` knows.
pub(crate) fn write_checksum(message: &mut [u8], source: Address, destination: Address) {
    wire::set_word(message, field::CHECKSUM, 0);
    let checksum = match destination.family() {
        Family::V4 => checksum::of(message),
        Family::V6 => checksum::transport(source, destination, PROTOCOL_V6, message),
    };
    wire::set_word(message, field::CHECKSUM, checksum);
}

/// Whether an `ICMPv4` type is a question or its answer, and no error: echo, router discovery,
/// timestamp, information, address mask (RFC 792, RFC 950, RFC 1256).
pub(crate) const fn is_query_v4(kind: u8) -> bool {
    matches!(kind, ECHO_REPLY_V4 | ECHO_REQUEST_V4 | 9 | 10 | 13..=18)
}

/// Whether an `ICMPv6` type is no error, and no redirect, which none is sent about either (RFC 4443
/// sections 2.1 and 2.4 e).
pub(crate) const fn is_information_v6(kind: u8) -> bool {
    const REDIRECT: u8 = 137;
    kind >= ECHO_REQUEST_V6 && kind != REDIRECT
}

/// Turns an echo request into its reply in place, back to where the frame came from. The frame's
/// first buffer is enough: what is echoed stays as it is.
///
/// `false`, and nothing changed, where it is no such request, is a fragment, carries IP options or
/// extension headers, or came from an address that nothing can be sent to.
#[must_use]
pub fn answer_echo(frame: &mut [u8], packet: &IpPacket) -> bool {
    is_echo_request(packet) && packet.is_unicast() && turn_around(frame, packet).is_some()
}

/// Swaps the addresses and changes the type, once all parts were found to lie in the frame.
fn turn_around(frame: &mut [u8], packet: &IpPacket) -> Option<()> {
    let (head, message) = frame.split_at_mut_checked(packet.transport_start.into())?;
    let (link, network) = head.split_at_mut_checked(packet.network.into())?;
    let link = link.first_chunk_mut::<{ ethernet::HEADER_LEN }>()?;
    let len = usize::from(packet.end.checked_sub(packet.transport_start)?).min(message.len());
    let (message, payload) = message[..len].split_first_chunk_mut()?;
    match packet.family {
        Family::V4 => {
            turn_v4(network.try_into().ok()?);
            set_kind(message, ECHO_REPLY_V4);
            if *message == [0; HEADER_LEN] && payload.iter().all(|byte| *byte == 0) {
                // Of nothing but zeros the sum is zero, of all others its other form: the one case
                // in which an update differs from a recomputation (RFC 1624 section 3). Where there
                // is more to it than is at hand, this form is right for both.
                wire::set_word(message, field::CHECKSUM, 0xffff);
            }
        }
        Family::V6 => {
            let header: &mut [u8; ipv6::HEADER_LEN] = network.try_into().ok()?;
            wire::swap::<16>(header, ipv6::field::SOURCE, ipv6::field::DESTINATION);
            header[ipv6::field::HOP_LIMIT] = HOP_LIMIT;
            set_kind(message, ECHO_REPLY_V6);
        }
    }
    wire::swap::<6>(link, ethernet::field::SOURCE, ethernet::field::DESTINATION);
    Some(())
}

fn turn_v4(header: &mut [u8; ipv4::HEADER_LEN]) {
    use ipv4::field::{CHECKSUM, DESTINATION, SOURCE, TTL};

    let (old, new) = (u16::from(header[TTL]) << 8, u16::from(HOP_LIMIT) << 8);
    let checksum = Delta::between(&[old], &[new]).apply(wire::word(header, CHECKSUM));
    header[TTL] = HOP_LIMIT;
    wire::set_word(header, CHECKSUM, checksum);
    wire::swap::<4>(header, SOURCE, DESTINATION);
}

/// Changes the type of a message whose code is 0.
fn set_kind(message: &mut [u8; HEADER_LEN], kind: u8) {
    let (old, new) = (u16::from(message[field::TYPE]) << 8, u16::from(kind) << 8);
    let checksum = Delta::between(&[old], &[new]).apply(wire::word(message, field::CHECKSUM));
    message[field::TYPE] = kind;
    wire::set_word(message, field::CHECKSUM, checksum);
}
