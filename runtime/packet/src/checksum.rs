//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).
//!
//! Invariant: a [`Delta`] is a number modulo 65,535 in its one canonical form, 0 to 0xfffe. So a
//! change and its reverse cancel out exactly, and an update never turns a checksum into 0xffff,
//! the second zero of ones' complement, which a sender never computes (RFC 1624 section 3).

use std::ops::{Add, AddAssign};

use crate::{Address, Family, IpPacket, Transport, icmp, tcp, udp};

/// The modulus of ones' complement arithmetic on 16 bits.
const MODULUS: u32 = 0xffff;

/// What a change of some 16-bit words adds to a ones' complement checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Delta(
    /// In network order: the arithmetic does not care (RFC 1071 section 2 B), and an update then
    /// swaps no bytes.
    u16,
);

impl Delta {
    /// What a decrement of TTL adds: it is the upper byte of its word.
    pub(crate) const HOP_LIMIT_DECREMENT: Self = Self::between(&[0x0100], &[0x0000]);

    /// Of words that become others: the sum of `~m + m'` (RFC 1624 equation 3).
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

    /// Of an address that becomes another. IPv4 addresses in their mapped form give what their
    /// four octets would: the upper words do not change.
    #[must_use]
    pub const fn between_addresses(old: Address, new: Address) -> Self {
        Self::between(&words(old), &words(new))
    }

    /// The checksum after the change (RFC 1624 equation 3).
    #[inline]
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the sum is folded to 16 bits"
    )]
    pub const fn apply(self, checksum: u16) -> u16 {
        let sum = !checksum.to_be() as u32 + self.0 as u32;
        // At most 0x1fffd, so one fold carries all there is to carry.
        u16::from_be(!((sum & MODULUS) + (sum >> 16)) as u16)
    }

    /// The UDP checksum after the change: zero means that there is none and stays, and a computed
    /// zero is sent as 0xffff (RFC 768).
    #[inline]
    #[must_use]
    pub const fn apply_udp(self, checksum: u16) -> u16 {
        match checksum {
            udp::NO_CHECKSUM => udp::NO_CHECKSUM,
            checksum => udp::on_wire(self.apply(checksum)),
        }
    }

    /// Both changes together; `+` for constants.
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

/// A ones' complement sum in the making (RFC 1071).
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum(u64);

impl Sum {
    /// Adds bytes as 16-bit words. An odd last byte is the upper half of its word, so only the
    /// last piece of a message may be of odd length.
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

    /// Adds a number as the words it consists of.
    #[must_use]
    pub fn number(self, number: u32) -> Self {
        self.bytes(&number.to_be_bytes())
    }

    /// The checksum: the complement of the sum.
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

/// The checksum of bytes alone: an IPv4 header, an `ICMPv4` message. Over bytes that hold their
/// checksum it is 0 where that is right.
#[must_use]
pub fn of(bytes: &[u8]) -> u16 {
    Sum::default().bytes(bytes).checksum()
}

/// The checksum of a TCP, UDP or `ICMPv6` segment with its pseudo-header (RFC 9293 section 3.1,
/// RFC 8200 section 8.1), as it goes onto the wire once the segment's own field is zero. Over
/// a segment that holds its checksum it is 0 (UDP: 0xffff) where that is right.
///
/// One formula serves both families: the mapped form of an IPv4 address adds only 0xffff, which
/// is zero in this arithmetic.
#[must_use]
#[expect(
    clippy::cast_possible_truncation,
    reason = "an IP packet is shorter than 64 KiB"
)]
pub fn transport(source: Address, destination: Address, protocol: u8, segment: &[u8]) -> u16 {
    let sum = Sum::default()
        .bytes(&source.octets())
        .bytes(&destination.octets())
        .number(segment.len() as u32)
        .number(u32::from(protocol))
        .bytes(segment)
        .checksum();
    if protocol == udp::PROTOCOL {
        udp::on_wire(sum)
    } else {
        sum
    }
}

/// Whether a packet's checksums are right, as who answers it has to know: of its IPv4 header, and
/// of its segment unless that is a part, or of a protocol that has none here. A UDP datagram over
/// IPv4 may do without.
#[must_use]
pub fn are_right(frame: &[u8], packet: &IpPacket) -> bool {
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
            Transport::Icmp { .. } => sum(icmp::PROTOCOL_V6, segment) == 0,
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

    /// RFC 1071 section 3: the example's sum is 0xddf2.
    #[test]
    fn sums_the_example_of_rfc_1071() {
        assert_eq!(
            !of(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]),
            0xddf2
        );
    }

    /// RFC 1624 section 4: 0x5555 becomes 0x3285 under checksum 0xdd2f, which becomes 0x0000.
    #[test]
    fn updates_the_example_of_rfc_1624() {
        assert_eq!(Delta::between(&[0x5555], &[0x3285]).apply(0xdd2f), 0x0000);
    }

    #[test]
    fn an_odd_last_byte_is_padded_with_zero() {
        assert_eq!(of(&[0x12, 0x34, 0x56]), of(&[0x12, 0x34, 0x56, 0x00]));
    }

    /// Every old word, every new word: against a recomputation over a message of two words.
    #[test]
    fn update_equals_recomputation_for_every_word() {
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

    /// Every checksum: an update and its reverse cancel out, to the bit, also for 0xffff when
    /// nothing changed.
    #[test]
    fn update_is_reversible_for_every_checksum() {
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
    fn adding_equals_one_change_of_both() {
        for a in CORNERS {
            for b in CORNERS {
                let apart = Delta::between(&[a], &[b]) + Delta::between(&[b], &[0x4711]);
                assert_eq!(apart, Delta::between(&[a, b], &[b, 0x4711]));
            }
        }
    }

    #[test]
    fn a_udp_checksum_keeps_its_rules() {
        for checksum in 0..=u16::MAX {
            for corner in CORNERS {
                let updated = Delta::between(&[corner], &[0x5a5a]).apply_udp(checksum);
                assert_eq!(updated == udp::NO_CHECKSUM, checksum == udp::NO_CHECKSUM);
            }
        }
    }
}
