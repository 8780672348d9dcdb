//! VLAN tags in the form in which the fast path compares and writes them.
//!
//! Invariant: equal tags have equal packed forms. (A TPID is that of a service tag or of a customer's: no
//! other one is parsed as a tag.)

use crate::{VlanTag, VlanTags, ethernet, wire};

/// Up to two VLAN tags, packed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PackedTags {
    /// From bit 4 on: how many (2 bits), and whether the outer and the inner TPID is that of a service tag
    /// rather than of a customer's (1 bit each).
    pub kind: u8,
    /// Tag control information, outer (upper half) and inner.
    pub tci: u32,
}

/// Length of two tags.
pub(crate) const TAGS_LEN_MAX: u8 = 8;
/// The first bytes of a frame with two tags, up to its `EtherType`.
pub(crate) const TAGGED_LINK: usize = ethernet::HEADER_LEN + TAGS_LEN_MAX as usize;
/// Offsets of the tags.
const OUTER: usize = ethernet::field::ETHERTYPE.start;
const INNER: usize = OUTER + ethernet::TAG_LEN;

impl From<&VlanTags> for PackedTags {
    fn from(tags: &VlanTags) -> Self {
        let [outer, inner] = tags.tags;
        let is_service = |tag: VlanTag| u8::from(tag.tpid == ethernet::TPID_SERVICE);
        let (one, two) = (tags.count > 0, tags.count > 1);
        Self {
            kind: tags.count.min(2) << 4
                | (u8::from(one) & is_service(outer)) << 6
                | (u8::from(two) & is_service(inner)) << 7,
            tci: if one { u32::from(outer.tci) << 16 } else { 0 }
                | if two { u32::from(inner.tci) } else { 0 },
        }
    }
}

impl PackedTags {
    /// The tags of a frame that [`crate::plain::read_tagged`] accepted, of this length.
    #[inline(always)]
    #[must_use]
    pub fn of(frame: &[u8], len: u8) -> Option<Self> {
        const SERVICE: u32 = ethernet::TPID_SERVICE as u32;
        if len == 0 {
            return Some(Self::default());
        }
        let head = frame.first_chunk::<TAGGED_LINK>()?;
        let outer = wire::long(head, OUTER..OUTER + 4);
        let one = Self {
            kind: 1 << 4 | u8::from(outer >> 16 == SERVICE) << 6,
            tci: outer << 16,
        };
        if len == 4 {
            return Some(one);
        }
        let inner = wire::long(head, INNER..INNER + 4);
        Some(Self {
            kind: (one.kind + (1 << 4)) | (u8::from(inner >> 16 == SERVICE) << 7),
            tci: one.tci | inner & 0xffff,
        })
    }

    /// Length in bytes.
    #[inline(always)]
    #[must_use]
    pub const fn len(self) -> usize {
        (self.kind >> 2 & 0b1100) as usize
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Whether both name the same VLAN; priorities may differ.
    #[inline(always)]
    #[must_use]
    pub const fn is_same_vlan(self, other: Self) -> bool {
        const IDS: u32 = 0x0fff_0fff;
        self.kind == other.kind && (self.tci ^ other.tci) & IDS == 0
    }

    #[inline(always)]
    const fn tpid(is_service: bool) -> u32 {
        (if is_service {
            ethernet::TPID_SERVICE
        } else {
            ethernet::TPID_CUSTOMER
        } as u32)
            << 16
    }

    #[inline(always)]
    pub(crate) fn write(self, head: &mut [u8; TAGGED_LINK]) {
        if self.kind & 0b11 << 4 != 0 {
            let outer = Self::tpid(self.kind & 1 << 6 != 0) | self.tci >> 16;
            wire::set(head, OUTER..OUTER + 4, outer.to_be_bytes());
        }
        if self.kind & 0b10 << 4 != 0 {
            let inner = Self::tpid(self.kind & 1 << 7 != 0) | self.tci & 0xffff;
            wire::set(head, INNER..INNER + 4, inner.to_be_bytes());
        }
    }
}
