//! TCP (RFC 9293).
//!
//! Invariant: a [`Header`] is the fixed 20 bytes, so its getters cannot fail.

use crate::wire;

/// The IP protocol number.
pub const PROTOCOL: u8 = 6;
/// Length of the header without options.
pub const HEADER_LEN: usize = DATA_OFFSET_MIN as usize * 4;
/// The same in units of four bytes, as the header says it.
const DATA_OFFSET_MIN: u8 = 5;

pub(crate) mod field {
    use std::ops::Range;

    pub(crate) const SOURCE: Range<usize> = 0..2;
    pub(crate) const DESTINATION: Range<usize> = 2..4;
    pub(crate) const SEQUENCE: Range<usize> = 4..8;
    pub(crate) const ACKNOWLEDGMENT: Range<usize> = 8..12;
    pub(crate) const DATA_OFFSET: usize = 12;
    pub(crate) const FLAGS: usize = 13;
    pub(crate) const WINDOW: Range<usize> = 14..16;
    pub(crate) const CHECKSUM: Range<usize> = 16..18;
}

/// TCP header flags (RFC 9293 section 3.1), the low eight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// FIN.
    pub const FIN: u8 = 0x01;
    /// SYN.
    pub const SYN: u8 = 0x02;
    /// RST.
    pub const RST: u8 = 0x04;
    /// PSH.
    pub const PSH: u8 = 0x08;
    /// ACK.
    pub const ACK: u8 = 0x10;

    /// Whether all of `flags` are set.
    #[inline]
    #[must_use]
    pub const fn has(self, flags: u8) -> bool {
        self.0 & flags == flags
    }

    /// Whether any of `flags` is set.
    #[inline]
    #[must_use]
    pub const fn has_any(self, flags: u8) -> bool {
        self.0 & flags != 0
    }
}

/// A view of the header's fixed part.
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

    /// Sequence number.
    #[inline(always)]
    #[must_use]
    pub fn sequence(self) -> u32 {
        wire::long(self.0, field::SEQUENCE)
    }

    /// Acknowledgment number.
    #[inline(always)]
    #[must_use]
    pub fn acknowledgment(self) -> u32 {
        wire::long(self.0, field::ACKNOWLEDGMENT)
    }

    /// Length of the header with its options, in bytes.
    #[inline(always)]
    #[must_use]
    pub const fn header_len(self) -> u16 {
        (self.0[field::DATA_OFFSET] >> 4) as u16 * 4
    }

    /// Flags.
    #[inline(always)]
    #[must_use]
    pub const fn flags(self) -> TcpFlags {
        TcpFlags(self.0[field::FLAGS])
    }

    /// Checksum.
    #[inline(always)]
    #[must_use]
    pub fn checksum(self) -> u16 {
        wire::word(self.0, field::CHECKSUM)
    }
}

/// A header without options, to be written; its checksum is left zero.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewHeader {
    pub(crate) source: u16,
    pub(crate) destination: u16,
    pub(crate) sequence: u32,
    pub(crate) acknowledgment: u32,
    pub(crate) flags: TcpFlags,
    pub(crate) window: u16,
}

impl NewHeader {
    pub(crate) fn write(&self, header: &mut [u8; HEADER_LEN]) {
        header.fill(0);
        wire::set_word(header, field::SOURCE, self.source);
        wire::set_word(header, field::DESTINATION, self.destination);
        wire::set(header, field::SEQUENCE, self.sequence.to_be_bytes());
        wire::set(
            header,
            field::ACKNOWLEDGMENT,
            self.acknowledgment.to_be_bytes(),
        );
        header[field::DATA_OFFSET] = DATA_OFFSET_MIN << 4;
        header[field::FLAGS] = self.flags.0;
        wire::set_word(header, field::WINDOW, self.window);
    }
}
