//! One fragmented datagram: its key, and the byte ranges seen of it.
//!
//! Invariant: the ranges of a datagram do not overlap and lie before its end, if that is known. So the
//! datagram is complete when their lengths add up to its own.

use waxwing_packet::{Address, Family, Fragment, IpPacket, Protocol, Transport, icmp, tcp, udp};

use super::FRAGMENTS_MAX;
use crate::DropReason;
use crate::session::{Key, Tuple};

/// What the fragments of one datagram share (RFC 791 section 3.2, RFC 8200 section 4.5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct DatagramKey {
    source: Address,
    destination: Address,
    identification: u32,
    /// 0 for IPv6: only the first fragment states it reliably.
    protocol: u8,
}

impl DatagramKey {
    /// The key of a fragment's datagram; `None` unless it is TCP, UDP or ICMP.
    pub(crate) fn of(packet: &IpPacket, fragment: &Fragment) -> Option<Self> {
        let protocol = match (packet.family, packet.transport) {
            (Family::V6, _) => 0,
            (Family::V4, Transport::Tcp { .. } | Transport::Other(tcp::PROTOCOL)) => tcp::PROTOCOL,
            (Family::V4, Transport::Udp { .. } | Transport::Other(udp::PROTOCOL)) => udp::PROTOCOL,
            (Family::V4, Transport::Icmp { .. } | Transport::Other(icmp::PROTOCOL_V4)) => {
                icmp::PROTOCOL_V4
            }
            (Family::V4, _) => return None,
        };
        Some(Self {
            source: packet.source,
            destination: packet.destination,
            identification: fragment.identification,
            protocol,
        })
    }

    /// Hashed like a flow, with the identification instead of the ports.
    #[expect(clippy::cast_possible_truncation, reason = "both halves are taken")]
    pub(super) fn hash(&self, key: &Key) -> u64 {
        let as_flow = Tuple {
            source: self.source,
            destination: self.destination,
            source_port: (self.identification >> 16) as u16,
            destination_port: self.identification as u16,
            // The protocol tells apart datagrams that share a bucket.
            protocol: Protocol::Udp,
        };
        key.hash(&as_flow).bits()
    }
}

/// A fragment's byte range in its datagram: `start..end`, never empty.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ByteRange {
    start: u16,
    end: u16,
    /// Whether it ends the datagram.
    last: bool,
}

impl ByteRange {
    /// The range of a fragment. All but the last have a multiple of eight bytes, and the datagram must fit an
    /// IP packet (RFC 791 section 3.2, RFC 8200 section 4.5). A TCP header must be in the first (RFC 3128).
    pub(crate) fn of(packet: &IpPacket, fragment: &Fragment) -> Result<Self, DropReason> {
        let Fragment {
            offset, len, more, ..
        } = *fragment;
        // The headers that would precede the reassembled data, without IPv6's fixed header.
        let fixed = match packet.family {
            Family::V4 => 0,
            Family::V6 => 48,
        };
        let headers = (packet.end - len - packet.network).saturating_sub(fixed);
        let end = offset.checked_add(len).ok_or(DropReason::Malformed)?;
        if len == 0 || (more && len % 8 != 0) || end.checked_add(headers).is_none() {
            return Err(DropReason::Malformed);
        }
        let tcp = packet.transport == Transport::Other(tcp::PROTOCOL);
        if tcp && usize::from(offset) < tcp::HEADER_LEN {
            return Err(DropReason::TinyFragment);
        }
        Ok(Self {
            start: offset,
            end,
            last: !more,
        })
    }
}

/// The ranges seen of a datagram.
#[derive(Clone, Copy, Debug)]
pub(super) struct SeenRanges {
    count: u8,
    /// The datagram's length in bytes, once its last fragment was seen.
    total: Option<u16>,
    ranges: [(u16, u16); FRAGMENTS_MAX],
}

impl SeenRanges {
    pub(super) const NONE: Self = Self {
        count: 0,
        total: None,
        ranges: [(0, 0); FRAGMENTS_MAX],
    };

    /// Adds a range.
    ///
    /// # Errors
    /// A duplicate; or an inconsistent range or one too many, both of which spoil the datagram.
    pub(super) fn add(&mut self, range: ByteRange) -> Result<(), DropReason> {
        let (start, end) = (range.start, range.end);
        let seen = &self.ranges[..usize::from(self.count)];
        let same_end = range.last == (self.total == Some(end));
        if same_end && seen.contains(&(start, end)) {
            return Err(DropReason::FragmentDuplicate);
        }
        let overlaps = seen.iter().any(|&(from, to)| start < to && from < end);
        let behind = |total| end > total || (end == total && !range.last);
        let ends_before = range.last
            && (self.total.is_some_and(|total| total != end)
                || seen.iter().any(|&(_, to)| to > end));
        if overlaps || ends_before || self.total.is_some_and(behind) {
            return Err(DropReason::FragmentOverlap);
        }
        let next = self.ranges.get_mut(usize::from(self.count));
        *next.ok_or(DropReason::FragmentLimit)? = (start, end);
        self.count += 1;
        if range.last {
            self.total = Some(end);
        }
        Ok(())
    }

    pub(super) fn have_first(&self) -> bool {
        let seen = &self.ranges[..usize::from(self.count)];
        seen.iter().any(|&(start, _)| start == 0)
    }

    pub(super) fn are_complete(&self) -> bool {
        let seen = &self.ranges[..usize::from(self.count)];
        let sum: u32 = seen
            .iter()
            .map(|&(start, end)| u32::from(end - start))
            .sum();
        self.total.is_some_and(|total| u32::from(total) == sum)
    }
}

#[cfg(test)]
mod tests {
    use DropReason::{FragmentDuplicate, FragmentLimit, FragmentOverlap};

    use super::*;

    const fn range(start: u16, end: u16, last: bool) -> ByteRange {
        ByteRange { start, end, last }
    }

    #[test]
    fn inconsistent_ranges_are_refused() {
        // Ranges seen, the next range, the result.
        let rows: [(&[ByteRange], ByteRange, Result<(), DropReason>); 13] = [
            (&[], range(8, 16, false), Ok(())),
            (&[range(0, 8, false)], range(8, 16, false), Ok(())),
            (&[range(16, 24, true)], range(0, 8, false), Ok(())),
            (
                &[range(0, 8, false)],
                range(0, 8, false),
                Err(FragmentDuplicate),
            ),
            (
                &[range(8, 16, true)],
                range(8, 16, true),
                Err(FragmentDuplicate),
            ),
            (
                &[range(8, 16, true)],
                range(8, 16, false),
                Err(FragmentOverlap),
            ),
            (
                &[range(8, 16, false)],
                range(8, 16, true),
                Err(FragmentOverlap),
            ),
            (
                &[range(0, 16, false)],
                range(8, 24, false),
                Err(FragmentOverlap),
            ),
            (
                &[range(8, 16, false)],
                range(0, 24, false),
                Err(FragmentOverlap),
            ),
            (
                &[range(0, 24, false)],
                range(8, 16, false),
                Err(FragmentOverlap),
            ),
            (
                &[range(8, 16, true)],
                range(16, 24, false),
                Err(FragmentOverlap),
            ),
            (
                &[range(8, 16, true)],
                range(24, 32, true),
                Err(FragmentOverlap),
            ),
            (
                &[range(16, 24, false)],
                range(0, 8, true),
                Err(FragmentOverlap),
            ),
        ];
        for (seen, next, expected) in rows {
            let mut ranges = SeenRanges::NONE;
            for range in seen {
                assert_eq!(ranges.add(*range), Ok(()), "{range:?}");
            }
            assert_eq!(ranges.add(next), expected, "{next:?} after {seen:?}");
        }
    }

    #[test]
    fn a_datagram_is_complete_with_its_last_missing_byte() {
        let all = [range(16, 21, true), range(0, 8, false), range(8, 16, false)];
        let mut ranges = SeenRanges::NONE;
        for (n, range) in all.into_iter().enumerate() {
            assert!(!ranges.are_complete(), "after {n}");
            assert_eq!(ranges.add(range), Ok(()));
            assert_eq!(ranges.have_first(), n > 0);
        }
        assert!(ranges.are_complete());
    }

    #[test]
    fn a_datagram_has_a_limit_of_fragments() {
        let mut ranges = SeenRanges::NONE;
        let mut at = |n: u16| ranges.add(range(n * 8, n * 8 + 8, false));
        let room = u16::try_from(FRAGMENTS_MAX).expect("a few");
        for n in 0..room {
            assert_eq!(at(n), Ok(()));
        }
        assert_eq!(at(room), Err(FragmentLimit));
    }
}
