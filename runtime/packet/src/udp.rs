//! UDP (RFC 768).
//!
//! Invariant: a [`Header`] is the fixed 8 bytes, so its getters cannot fail.

use crate::wire;

/// The IP protocol number.
pub const PROTOCOL: u8 = 17;
/// Length of the header.
pub const HEADER_LEN: usize = 8;
/// What stands for "the sender computed no checksum".
pub const NO_CHECKSUM: u16 = 0;

pub(crate) mod field {
    use std::ops::Range;

    pub(crate) const SOURCE: Range<usize> = 0..2;
    pub(crate) const DESTINATION: Range<usize> = 2..4;
    pub(crate) const LEN: Range<usize> = 4..6;
    pub(crate) const CHECKSUM: Range<usize> = 6..8;
}

/// A computed checksum as it goes onto the wire: zero means "none" there, so its other form in
/// ones' complement is sent.
#[inline(always)]
#[must_use]
pub const fn on_wire(checksum: u16) -> u16 {
    match checksum {
        NO_CHECKSUM => 0xffff,
        checksum => checksum,
    }
}

/// A view of the header.
#[derive(Clone, Copy, Debug)]
pub struct Header<'a>(&'a [u8; HEADER_LEN]);

impl<'a> Header<'a> {
    /// The header that `bytes` start with, or `None` where they are too few.
    #[inline(always)]
    #[must_use]
    pub fn from_prefix(bytes: &'a [u8]) -> Option<Self> {
        bytes.first_chunk().map(Self)
    }

    /// Source port.
    #[inline(always)]
    #[must_use]
    pub fn source(self) -> u16 {
        wire::word(self.0, field::SOURCE)
    }

    /// Destination port.
    #[inline(always)]
    #[must_use]
    pub fn destination(self) -> u16 {
        wire::word(self.0, field::DESTINATION)
    }

    /// Length of header and payload, in bytes.
    #[inline(always)]
    #[must_use]
    pub fn total_len(self) -> u16 {
        wire::word(self.0, field::LEN)
    }

    /// Checksum, [`NO_CHECKSUM`] where the sender computed none.
    #[inline(always)]
    #[must_use]
    pub fn checksum(self) -> u16 {
        wire::word(self.0, field::CHECKSUM)
    }
}
