//! Ethernet II with up to two VLAN tags (IEEE 802.3, 802.1Q, 802.1ad).
//!
//! Invariant: in an [`Ethernet`] that was parsed or created by [`Ethernet::new`], `payload` is the
//! header's length.

use crate::{Mac, ParseError, wire};

/// Length of the header without tags.
pub const HEADER_LEN: usize = 14;
/// Length of one VLAN tag.
pub const TAG_LEN: usize = 4;
/// Tag protocol identifier of a customer tag (IEEE 802.1Q).
pub const TPID_CUSTOMER: u16 = 0x8100;
/// Tag protocol identifier of a service tag (IEEE 802.1ad).
pub const TPID_SERVICE: u16 = 0x88a8;
/// The bits of a tag's VLAN id.
const VLAN_ID: u16 = 0xfff;

pub(crate) mod field {
    use std::ops::Range;

    pub(crate) const DESTINATION: Range<usize> = 0..6;
    pub(crate) const SOURCE: Range<usize> = 6..12;
    pub(crate) const ETHERTYPE: Range<usize> = 12..14;
    /// In a tag, which follows the `EtherType` that announces it.
    pub(crate) const TAG_CONTROL: Range<usize> = 0..2;
    pub(crate) const TAG_ETHERTYPE: Range<usize> = 2..4;
}

/// The Ethernet header with up to two VLAN tags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ethernet {
    /// Destination MAC.
    pub destination: Mac,
    /// Source MAC.
    pub source: Mac,
    /// The tags, outermost first.
    pub tags: VlanTags,
    /// The payload's `EtherType`.
    pub ethertype: u16,
    /// Offset of the payload in the frame.
    pub payload: u16,
}

/// One VLAN tag (IEEE 802.1Q).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct VlanTag {
    /// Tag protocol identifier: 0x8100 or 0x88a8.
    pub tpid: u16,
    /// Tag control information: priority, drop eligibility, VLAN id.
    pub tci: u16,
}

/// Zero to two VLAN tags, outermost first.
#[derive(Clone, Copy, Debug, Eq, Default)]
pub struct VlanTags {
    /// Number of `tags` in use.
    pub count: u8,
    /// The tags.
    pub tags: [VlanTag; 2],
}

impl PartialEq for VlanTags {
    #[inline(always)]
    fn eq(&self, other: &Self) -> bool {
        self.count == other.count && (self.count == 0 || self.as_slice() == other.as_slice())
    }
}

/// The MAC addresses of a frame to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Link {
    /// The egress port's address.
    pub source: Mac,
    /// The next hop's address.
    pub destination: Mac,
}

impl VlanTags {
    /// No tag.
    pub const NONE: Self = Self {
        count: 0,
        tags: [VlanTag { tpid: 0, tci: 0 }; 2],
    };

    /// One tag.
    #[must_use]
    pub const fn one(tag: VlanTag) -> Self {
        Self {
            count: 1,
            tags: [tag, VlanTag { tpid: 0, tci: 0 }],
        }
    }

    /// Two tags.
    #[must_use]
    pub const fn two(outer: VlanTag, inner: VlanTag) -> Self {
        Self {
            count: 2,
            tags: [outer, inner],
        }
    }

    /// Returns whether there are no tags.
    #[inline]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Returns whether they name no VLAN: there are none, or one with a priority alone (IEEE 802.1Q section
    /// 9.6).
    #[must_use]
    pub fn is_untagged(&self) -> bool {
        match self.as_slice() {
            [] => true,
            [tag] => tag.tpid == TPID_CUSTOMER && tag.tci & VLAN_ID == 0,
            _ => false,
        }
    }

    /// Returns whether both name the same VLAN. Priorities may differ.
    #[must_use]
    pub fn is_same_vlan(&self, other: &Self) -> bool {
        let name = |tag: &VlanTag| (tag.tpid, tag.tci & VLAN_ID);
        let (own, others) = (self.as_slice().iter(), other.as_slice().iter());
        own.map(name).eq(others.map(name))
    }

    /// Returns the tags in use.
    #[inline]
    #[must_use]
    pub fn as_slice(&self) -> &[VlanTag] {
        self.tags
            .get(..usize::from(self.count))
            .unwrap_or(&self.tags)
    }
}

impl Ethernet {
    /// Creates a header to write.
    #[must_use]
    pub fn new(link: Link, tags: VlanTags, ethertype: u16) -> Self {
        Self {
            destination: link.destination,
            source: link.source,
            tags,
            ethertype,
            payload: wire::offset(HEADER_LEN + tags.as_slice().len() * TAG_LEN),
        }
    }

    /// Parses the header of a frame without tags, or the part before the tags.
    #[inline(always)]
    pub(crate) fn parse_untagged(frame: &[u8]) -> Result<Self, ParseError> {
        let header = frame
            .first_chunk::<HEADER_LEN>()
            .ok_or(ParseError::Truncated)?;
        Ok(Self {
            destination: Mac(wire::bytes(header, field::DESTINATION)),
            source: Mac(wire::bytes(header, field::SOURCE)),
            tags: VlanTags::NONE,
            ethertype: wire::word(header, field::ETHERTYPE),
            payload: const { wire::offset(HEADER_LEN) },
        })
    }

    /// Parses the tags after [`Ethernet::parse_untagged`], at most two. A third stays in `ethertype`,
    /// as the payload's.
    pub(crate) fn parse_tags(&mut self, frame: &[u8]) -> Result<(), ParseError> {
        let mut rest = frame.get(HEADER_LEN..).ok_or(ParseError::Truncated)?;
        for tag in &mut self.tags.tags {
            if !is_tag(self.ethertype) {
                break;
            }
            let (bytes, behind) = rest
                .split_first_chunk::<TAG_LEN>()
                .ok_or(ParseError::Truncated)?;
            tag.tpid = self.ethertype;
            tag.tci = wire::word(bytes, field::TAG_CONTROL);
            self.ethertype = wire::word(bytes, field::TAG_ETHERTYPE);
            self.tags.count += 1;
            self.payload += const { wire::offset(TAG_LEN) };
            rest = behind;
        }
        Ok(())
    }

    /// Returns the length of the header with its tags, in bytes.
    #[inline]
    #[must_use]
    pub fn header_len(&self) -> usize {
        usize::from(self.payload)
    }

    /// Returns the header of a reply on the same VLAN, from `mac` to `destination`.
    #[must_use]
    pub const fn answer(&self, mac: Mac, destination: Mac) -> Self {
        Self {
            source: mac,
            destination,
            ..*self
        }
    }

    /// Writes the header and returns the bytes behind it. Returns `None` and writes nothing when the
    /// frame is shorter than the header.
    pub fn write<'a>(&self, frame: &'a mut [u8]) -> Option<&'a mut [u8]> {
        let tags = self.tags.as_slice();
        let (header, payload) = frame.split_at_mut_checked(HEADER_LEN + tags.len() * TAG_LEN)?;
        wire::set(header, field::DESTINATION, self.destination.0);
        wire::set(header, field::SOURCE, self.source.0);
        let mut at = field::ETHERTYPE.start;
        let words = tags
            .iter()
            .flat_map(|tag| [tag.tpid, tag.tci])
            .chain([self.ethertype]);
        for word in words {
            wire::set_word(header, at..at + size_of::<u16>(), word);
            at += size_of::<u16>();
        }
        Some(payload)
    }
}

#[inline(always)]
pub(crate) const fn is_tag(ethertype: u16) -> bool {
    matches!(ethertype, TPID_CUSTOMER | TPID_SERVICE)
}
