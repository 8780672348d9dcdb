//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).
//!
//! Invariant: a [`Delta`] is a number modulo 65,535 in canonical form, 0 to 0xfffe. So a change and
//! its reverse cancel out exactly, and an update never turns a checksum into 0xffff, the second zero
//! of ones' complement, which a sender never computes (RFC 1624 section 3).

use std::ops::{Add, AddAssign};

use crate::packet::ICMP_V6;
use crate::{Address, Family, IpPacket, Transport, tcp, udp};

/// The modulus of ones' complement arithmetic on 16 bits.
const MODULUS: u32 = 0xffff;

/// The change of a ones' complement checksum when 16-bit words change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Delta(
    /// In network order, which the arithmetic allows (RFC 1071 section 2 B), so an update swaps no
    /// bytes.
    u16,
);

impl Delta {
    /// The change for a TTL decrement: TTL is the upper byte of its word.
    pub(crate) const HOP_LIMIT_DECREMENT: Self = Self::between(&[0x0100], &[0x0000]);

    /// Returns the change when words `old` become `new`: the sum of `~m + m'` (RFC 1624 equation 3).
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "below the modulus")]
    pub const fn between(old: &[u16], new: &[u16]) -> Self {
        let mut sum = 0;
        let mut at = 0;
        while at < old.len() {
            sum = (sum + !old[at] as u32) % MODULUS;
            at += 1;
        }
        at = 0;
        while at < new.len() {
            sum = (sum + new[at] as u32) % MODULUS;
            at += 1;
        }
        Self((sum as u16).to_be())
    }

    /// Returns the change when address `old` becomes `new`. Mapped IPv4 addresses give the same result
    /// as their four octets, because the upper words are equal.
    #[must_use]
    pub const fn between_addresses(old: Address, new: Address) -> Self {
        Self::between(&words(old), &words(new))
    }

    /// Returns the checksum after the change (RFC 1624 equation 3).
    #[inline]
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the sum is folded to 16 bits"
    )]
    pub const fn apply(self, checksum: u16) -> u16 {
        let sum = !checksum.to_be() as u32 + self.0 as u32;
        // The sum is at most 0x1fffd, so one fold suffices.
        u16::from_be(!((sum & MODULUS) + (sum >> 16)) as u16)
    }

    /// Returns the UDP checksum after the change: 0, "no checksum", stays 0, and a computed 0 becomes
    /// 0xffff (RFC 768).
    #[inline]
    #[must_use]
    pub const fn apply_udp(self, checksum: u16) -> u16 {
        match checksum {
            udp::NO_CHECKSUM => udp::NO_CHECKSUM,
            checksum => udp::on_wire(self.apply(checksum)),
        }
    }

    /// Returns both changes combined; a `const` form of `+`.
    #[inline]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "below the modulus")]
    pub(crate) const fn plus(self, other: Self) -> Self {
        let sum = self.0 as u32 + other.0 as u32;
        Self(if sum >= MODULUS { sum - MODULUS } else { sum } as u16)
    }
}

impl Add for Delta {
    type Output = Self;

    #[inline]
    fn add(self, other: Self) -> Self {
        self.plus(other)
    }
}

impl AddAssign for Delta {
    #[inline]
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "each shift brings one word down"
)]
const fn words(address: Address) -> [u16; 8] {
    let mut words = [0; 8];
    let mut bits = address.bits();
    let mut at = 0;
    while at < words.len() {
        words[at] = bits as u16;
        bits >>= u16::BITS;
        at += 1;
    }
    words
}

/// An accumulator for a ones' complement sum (RFC 1071).
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum(u64);

impl Sum {
    /// Adds bytes as 16-bit words. An odd last byte is the upper half of its word, so only a message's
    /// last slice may have an odd length.
    #[must_use]
    pub fn bytes(self, bytes: &[u8]) -> Self {
        let (words, odd) = bytes.as_chunks::<2>();
        let sum: u64 = words
            .iter()
            .map(|word| u64::from(u16::from_be_bytes(*word)))
            .sum();
        let last = odd.first().map_or(0, |byte| u64::from(*byte) << 8);
        Self(self.0 + sum + last)
    }

    /// Adds a number as two 16-bit words.
    #[must_use]
    pub fn number(self, number: u32) -> Self {
        self.bytes(&number.to_be_bytes())
    }

    /// Returns the checksum: the complement of the sum.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "folded to 16 bits")]
    pub const fn checksum(self) -> u16 {
        let mut sum = self.0;
        while sum > MODULUS as u64 {
            sum = (sum & MODULUS as u64) + (sum >> 16);
        }
        !(sum as u16)
    }
}

/// Returns the checksum of bytes without a pseudo-header: an IPv4 header or an `ICMPv4` message. The
/// result is 0 for bytes that contain their correct checksum.
#[must_use]
pub fn of(bytes: &[u8]) -> u16 {
    Sum::default().bytes(bytes).checksum()
}

/// Returns the checksum to send with a TCP, UDP or `ICMPv6` segment whose checksum field is zero. It
/// covers the pseudo-header (RFC 9293 section 3.1, RFC 8200 section 8.1). The result is 0 (UDP:
/// 0xffff) for a segment that contains its correct checksum.
///
/// One formula serves both families: the mapped form of an IPv4 address adds 0xffff, which is zero in
/// this arithmetic.
#[must_use]
#[expect(
    clippy::cast_possible_truncation,
    reason = "an IP packet is shorter than 64 KiB"
)]
pub fn transport(source: Address, destination: Address, protocol: u8, segment: &[u8]) -> u16 {
    let pseudo = pseudo_header(source, destination, protocol, segment.len() as u32);
    let sum = pseudo.bytes(segment).checksum();
    if protocol == udp::PROTOCOL {
        udp::on_wire(sum)
    } else {
        sum
    }
}

fn pseudo_header(source: Address, destination: Address, protocol: u8, len: u32) -> Sum {
    Sum::default()
        .bytes(&source.octets())
        .bytes(&destination.octets())
        .number(len)
        .number(u32::from(protocol))
}

/// Returns the unfinished checksum of a segment of `len` bytes: the pseudo-header's sum, as a sender stores
/// it that leaves the rest to its network card.
#[must_use]
pub fn unfinished(source: Address, destination: Address, protocol: u8, len: u32) -> u16 {
    !pseudo_header(source, destination, protocol, len).checksum()
}

/// Returns whether a packet's IPv4 header checksum and transport checksum are correct; a packet must
/// be verified before it is answered. A fragment's transport checksum and those of other protocols
/// are not verified. A UDP datagram over IPv4 may have no checksum.
#[must_use]
pub fn are_correct(frame: &[u8], packet: &IpPacket) -> bool {
    let (network, start) = (packet.network.into(), packet.transport_start.into());
    let (Some(header), Some(segment)) = (
        frame.get(network..start),
        frame.get(start..packet.end.into()),
    ) else {
        return false;
    };
    let header_right = packet.family == Family::V6 || of(header) == 0;
    let sum = |protocol, segment| transport(packet.source, packet.destination, protocol, segment);
    header_right
        && match packet.transport {
            _ if packet.fragment.is_some() => true,
            Transport::Tcp { .. } => sum(tcp::PROTOCOL, segment) == 0,
            Transport::Udp { .. } => {
                let Some(udp) = udp::Header::from_prefix(segment) else {
                    return false;
                };
                let len = usize::from(udp.total_len()).min(segment.len());
                if udp.checksum() == udp::NO_CHECKSUM {
                    packet.family == Family::V4
                } else {
                    sum(udp::PROTOCOL, &segment[..len]) == udp::on_wire(0)
                }
            }
            Transport::Icmp { .. } if packet.family == Family::V4 => of(segment) == 0,
            Transport::Icmp { .. } => sum(ICMP_V6, segment) == 0,
            Transport::Other(_) => true,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CORNERS: [u16; 12] = [
        0, 1, 2, 0x00ff, 0x0100, 0x7fff, 0x8000, 0xff00, 0xfeff, 0xfffd, 0xfffe, 0xffff,
    ];

    fn checksum_of(words: &[u16]) -> u16 {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
        of(&bytes)
    }

    /// The sum in RFC 1071 section 3 is 0xddf2.
    #[test]
    fn the_sum_equals_the_example_of_rfc_1071() {
        assert_eq!(
            !of(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]),
            0xddf2
        );
    }

    /// RFC 1624 section 4: when 0x5555 becomes 0x3285, checksum 0xdd2f becomes 0x0000.
    #[test]
    fn an_update_equals_the_example_of_rfc_1624() {
        assert_eq!(Delta::between(&[0x5555], &[0x3285]).apply(0xdd2f), 0x0000);
    }

    #[test]
    fn an_odd_last_byte_is_padded_with_zero() {
        assert_eq!(of(&[0x12, 0x34, 0x56]), of(&[0x12, 0x34, 0x56, 0x00]));
    }

    /// Every word, from and to each corner value, in a message of two words.
    #[test]
    fn an_update_equals_a_recomputation() {
        for word in 0..=u16::MAX {
            for corner in CORNERS {
                for other in [1, 0x0100, 0xfffe, 0xffff] {
                    for (old, new) in [(word, corner), (corner, word)] {
                        let before = checksum_of(&[old, other]);
                        let after = checksum_of(&[new, other]);
                        let delta = Delta::between(&[old], &[new]);
                        assert_eq!(delta.apply(before), after, "{old:#x} to {new:#x}");
                    }
                }
            }
        }
    }

    /// For every checksum, 0xffff only when nothing changes.
    #[test]
    fn an_update_and_its_reverse_cancel_out() {
        for checksum in 0..=u16::MAX {
            assert_eq!(Delta::between(&[7], &[7]).apply(checksum), checksum);
            for (old, new) in [
                (0, 0xffff),
                (0xffff, 0),
                (0x1234, 0),
                (1, 0xfffe),
                (0x0100, 0),
            ] {
                let there = Delta::between(&[old], &[new]);
                let back = Delta::between(&[new], &[old]);
                assert_eq!(there + back, Delta::default());
                if checksum != 0xffff {
                    assert_eq!(back.apply(there.apply(checksum)), checksum);
                    assert_ne!(there.apply(checksum), 0xffff);
                }
            }
        }
    }

    #[test]
    fn the_sum_of_two_deltas_equals_one_delta_of_both_changes() {
        for a in CORNERS {
            for b in CORNERS {
                let apart = Delta::between(&[a], &[b]) + Delta::between(&[b], &[0x4711]);
                assert_eq!(apart, Delta::between(&[a, b], &[b, 0x4711]));
            }
        }
    }

    #[test]
    fn a_udp_update_keeps_no_checksum_and_never_produces_it() {
        for checksum in 0..=u16::MAX {
            for corner in CORNERS {
                let updated = Delta::between(&[corner], &[0x5a5a]).apply_udp(checksum);
                assert_eq!(updated == udp::NO_CHECKSUM, checksum == udp::NO_CHECKSUM);
            }
        }
    }
}
