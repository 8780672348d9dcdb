//! TCP (RFC 9293).

use crate::wire::{self, header_view};

/// The IP protocol number.
pub const PROTOCOL: u8 = 6;
/// Length of the header without options.
pub const HEADER_LEN: usize = DATA_OFFSET_MIN as usize * 4;
/// [`HEADER_LEN`] in 32-bit words, the header's own unit.
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

    /// Returns whether all of `flags` are set.
    #[inline]
    #[must_use]
    pub const fn has(self, flags: u8) -> bool {
        self.0 & flags == flags
    }

    /// Returns whether any of `flags` is set.
    #[inline]
    #[must_use]
    pub const fn has_any(self, flags: u8) -> bool {
        self.0 & flags != 0
    }
}

header_view! {
    /// A view of the header's fixed part.
    Header(HEADER_LEN);
    /// Source port.
    source: u16 = field::SOURCE;
    /// Destination port.
    destination: u16 = field::DESTINATION;
    /// Sequence number.
    sequence: u32 = field::SEQUENCE;
    /// Acknowledgment number.
    acknowledgment: u32 = field::ACKNOWLEDGMENT;
    /// Checksum.
    checksum: u16 = field::CHECKSUM;
}

impl Header<'_> {
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
}

/// A header to write, without options. Its checksum is written as zero.
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
