//! One datagram in fragments: what tells it from others, and which places of it were seen.
//!
//! Invariant: the places noted of a datagram share no byte and lie before its end, where that is
//! known. So the datagram is whole when their lengths add up to it.

use waxwing_packet::{Address, Family, Fragment, IpPacket, Protocol, Transport, tcp, udp};

use super::FRAGMENTS_MAX;
use crate::DropReason;
use crate::session::{Key, Tuple};

/// What the fragments of one datagram share (RFC 791 section 3.2, RFC 8200 section 4.5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct DatagramKey {
    source: Address,
    destination: Address,
    identification: u32,
    /// `None` in IPv6: there the first fragment alone says it, and later ones may say otherwise.
    protocol: Option<Protocol>,
}

impl DatagramKey {
    /// Of a fragment; `None` where its datagram is of no protocol that sessions are kept for.
    pub(crate) fn of(packet: &IpPacket, fragment: &Fragment) -> Option<Self> {
        let protocol = match (packet.family, packet.transport) {
            (Family::V6, _) => None,
            (Family::V4, Transport::Tcp { .. } | Transport::Other(tcp::PROTOCOL)) => {
                Some(Protocol::Tcp)
            }
            (Family::V4, Transport::Udp { .. } | Transport::Other(udp::PROTOCOL)) => {
                Some(Protocol::Udp)
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

    /// Its hash: that of a flow with the identification in place of the ports.
    #[expect(clippy::cast_possible_truncation, reason = "both halves are taken")]
    pub(super) fn hash(&self, key: &Key) -> u64 {
        let as_flow = Tuple {
            source: self.source,
            destination: self.destination,
            source_port: (self.identification >> 16) as u16,
            destination_port: self.identification as u16,
            protocol: self.protocol.unwrap_or(Protocol::Udp),
        };
        key.hash(&as_flow).bits()
    }
}

/// A fragment's place in its datagram, in bytes: from `start` to before `end`, and never empty.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ByteRange {
    start: u16,
    end: u16,
    /// Whether it is the datagram's last.
    last: bool,
}

impl ByteRange {
    /// The place of a fragment. All but the last are multiples of eight bytes long, and the datagram
    /// fits an IP packet (RFC 791 section 3.2, RFC 8200 section 4.5). A TCP header lies in the first
    /// (RFC 3128).
    pub(crate) fn of(packet: &IpPacket, fragment: &Fragment) -> Result<Self, DropReason> {
        let Fragment {
            offset, len, more, ..
        } = *fragment;
        // What stands before the data once it is put together, but for IPv6's fixed header.
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

/// The places of a datagram that were seen.
#[derive(Clone, Copy, Debug)]
pub(super) struct SeenRanges {
    count: u8,
    /// How long the datagram is, once its last fragment was seen.
    total: Option<u16>,
    places: [(u16, u16); FRAGMENTS_MAX],
}

impl SeenRanges {
    pub(super) const NONE: Self = Self {
        count: 0,
        total: None,
        places: [(0, 0); FRAGMENTS_MAX],
    };

    /// Notes a place.
    ///
    /// # Errors
    /// That it was noted before; that it cannot be a part of the same datagram, or is one too many,
    /// which both spoil the datagram.
    pub(super) fn add(&mut self, range: ByteRange) -> Result<(), DropReason> {
        let (start, end) = (range.start, range.end);
        let seen = &self.places[..usize::from(self.count)];
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
        let place = self.places.get_mut(usize::from(self.count));
        *place.ok_or(DropReason::FragmentLimit)? = (start, end);
        self.count += 1;
        if range.last {
            self.total = Some(end);
        }
        Ok(())
    }

    /// Whether the first fragment was seen.
    pub(super) fn have_first(&self) -> bool {
        let seen = &self.places[..usize::from(self.count)];
        seen.iter().any(|&(start, _)| start == 0)
    }

    /// Whether all of the datagram was seen.
    pub(super) fn are_whole(&self) -> bool {
        let seen = &self.places[..usize::from(self.count)];
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
    fn places_that_cannot_be_of_one_datagram_are_told() {
        // Seen before, the next, what comes of it.
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
    fn a_datagram_is_whole_with_its_last_missing_byte() {
        let all = [range(16, 21, true), range(0, 8, false), range(8, 16, false)];
        let mut ranges = SeenRanges::NONE;
        for (n, range) in all.into_iter().enumerate() {
            assert!(!ranges.are_whole(), "after {n}");
            assert_eq!(ranges.add(range), Ok(()));
            assert_eq!(ranges.have_first(), n > 0);
        }
        assert!(ranges.are_whole());
    }

    #[test]
    fn more_ranges_than_are_followed_are_one_too_many() {
        let mut ranges = SeenRanges::NONE;
        let mut at = |n: u16| ranges.add(range(n * 8, n * 8 + 8, false));
        let room = u16::try_from(FRAGMENTS_MAX).expect("a few");
        for n in 0..room {
            assert_eq!(at(n), Ok(()));
        }
        assert_eq!(at(room), Err(FragmentLimit));
    }
}
