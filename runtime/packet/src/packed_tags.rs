//! VLAN tags in the form in which the fast path compares and writes them.
//!
//! Invariant: equal tags have equal packed forms. (A TPID is that of a service tag or of a customer's: no
//! other one is parsed as a tag.)

use crate::{VlanTag, VlanTags, ethernet};

/// Up to two VLAN tags, packed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PackedTags {
    /// From bit 4 on: how many (2 bits), and whether the TPID of the last one and of the one before is that
    /// of a service tag rather than of a customer's (1 bit each).
    pub kind: u8,
    /// Tag control information: of the last tag (lower half) and of the one before.
    pub tci: u32,
}

/// The bits of [`PackedTags::kind`]: one tag, and a service tag as the last one and as the one before.
const ONE: u8 = 1 << 4;
const SERVICE: [u8; 2] = [1 << 6, 1 << 7];

/// What [`PackedTags::words`] has of the TPIDs, by the two topmost bits of [`PackedTags::kind`].
const TPIDS: [u64; 4] = {
    const TPIDS: [u64; 2] = [
        ethernet::TPID_CUSTOMER as u64,
        ethernet::TPID_SERVICE as u64,
    ];
    let mut words = [0; 4];
    let mut at = 0;
    while at < 4 {
        words[at] = TPIDS[at >> 1] << 48 | TPIDS[at & 1] << 16;
        at += 1;
    }
    words
};

impl From<&VlanTags> for PackedTags {
    fn from(tags: &VlanTags) -> Self {
        let push = |packed: Self, tag: &VlanTag| {
            packed.push(u32::from(tag.tpid) << 16 | u32::from(tag.tci))
        };
        tags.as_slice().iter().fold(Self::default(), push)
    }
}

impl From<PackedTags> for VlanTags {
    #[inline]
    fn from(packed: PackedTags) -> Self {
        let [a, b, c, d] = packed.tci.to_be_bytes();
        let tag = |bit: u8, tci: [u8; 2]| VlanTag {
            tpid: if packed.kind & bit == 0 {
                ethernet::TPID_CUSTOMER
            } else {
                ethernet::TPID_SERVICE
            },
            tci: u16::from_be_bytes(tci),
        };
        let last = tag(SERVICE[0], [c, d]);
        match packed.len() {
            0 => Self::NONE,
            4 => Self::one(last),
            _ => Self::two(tag(SERVICE[1], [a, b]), last),
        }
    }
}

impl PackedTags {
    /// The tags and one more behind them: its TPID (upper half) and tag control information. There is at
    /// most one so far.
    #[inline(always)]
    #[must_use]
    pub(crate) const fn push(self, tag: u32) -> Self {
        const TPID_SERVICE: u32 = ethernet::TPID_SERVICE as u32;
        let is_service = (tag >> 16 == TPID_SERVICE) as u8;
        Self {
            kind: ((self.kind & ONE) + ONE) | ((self.kind & SERVICE[0]) << 1) | (is_service << 6),
            tci: self.tci << 16 | tag & 0xffff,
        }
    }

    /// Length in bytes.
    #[inline(always)]
    #[must_use]
    pub const fn len(self) -> usize {
        (self.kind >> 2 & 0b1100) as usize
    }

    /// Whether there is none.
    #[inline(always)]
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

    /// The eight bytes before a frame's `EtherType`, as far as they are tags.
    #[inline(always)]
    #[must_use]
    pub const fn words(self) -> [u8; 8] {
        let [first, last] = [self.tci >> 16, self.tci & 0xffff];
        let tcis = (first as u64) << 32 | last as u64;
        (TPIDS[(self.kind >> 6) as usize] | tcis).to_be_bytes()
    }
}
