//! IPv4 (RFC 791).
//!
//! Invariant: a [`Header`] holds the sender's values unchecked; only [`crate::parse()`] compares
//! them with the frame.

use crate::wire::{self, header_view};
use crate::{Address, Fragment, checksum};

/// The `EtherType`.
pub const ETHERTYPE: u16 = 0x0800;
/// The version field's value.
pub const VERSION: u8 = 4;
/// Length of the header without options.
pub const HEADER_LEN: usize = IHL_MIN as usize * 4;
/// [`HEADER_LEN`] in 32-bit words, the header's own unit.
const IHL_MIN: u8 = 5;
const IHL_MAX: u8 = 15;
/// The first byte of a header without options, and with the most options.
const VERSION_IHL_MIN: u8 = VERSION << 4 | IHL_MIN;
const VERSION_IHL_MAX: u8 = VERSION << 4 | IHL_MAX;
/// More fragments follow.
pub(crate) const MORE_FRAGMENTS: u16 = 0x2000;
/// The fragment offset, in units of eight bytes.
pub(crate) const OFFSET_MASK: u16 = 0x1fff;
/// Routers must not fragment the packet.
const DONT_FRAGMENT: u16 = 0x4000;

pub(crate) mod field {
    use std::ops::Range;

    pub(crate) const VERSION_IHL: usize = 0;
    pub(crate) const TYPE_OF_SERVICE: usize = 1;
    pub(crate) const TOTAL_LEN: Range<usize> = 2..4;
    pub(crate) const IDENTIFICATION: Range<usize> = 4..6;
    pub(crate) const FLAGS_OFFSET: Range<usize> = 6..8;
    pub(crate) const TTL: usize = 8;
    pub(crate) const PROTOCOL: usize = 9;
    pub(crate) const CHECKSUM: Range<usize> = 10..12;
    pub(crate) const SOURCE: Range<usize> = 12..16;
    pub(crate) const DESTINATION: Range<usize> = 16..20;
}

header_view! {
    /// A view of the header's fixed part.
    Header(HEADER_LEN);
    /// Length of the packet, in bytes.
    total_len: u16 = field::TOTAL_LEN;
    /// The value that all fragments of one packet share.
    identification: u16 = field::IDENTIFICATION;
    /// Time to live.
    ttl: u8 = field::TTL;
    /// The payload's protocol number.
    protocol: u8 = field::PROTOCOL;
    /// The header's checksum.
    checksum: u16 = field::CHECKSUM;
}

impl Header<'_> {
    /// Length of the header with its options, in bytes. `None` when the first byte has another
    /// version, or a length below that of the fixed part.
    #[inline(always)]
    #[must_use]
    pub const fn header_len(self) -> Option<u16> {
        match self.0[field::VERSION_IHL] {
            first @ VERSION_IHL_MIN..=VERSION_IHL_MAX => Some((first & IHL_MAX) as u16 * 4),
            _ => None,
        }
    }

    /// Whether this is a fragment, not a whole packet.
    #[inline(always)]
    #[must_use]
    pub fn is_fragment(self) -> bool {
        wire::word(self.0, field::FLAGS_OFFSET) & (MORE_FRAGMENTS | OFFSET_MASK) != 0
    }

    /// Whether more fragments follow.
    #[inline(always)]
    #[must_use]
    pub fn more_fragments(self) -> bool {
        wire::word(self.0, field::FLAGS_OFFSET) & MORE_FRAGMENTS != 0
    }

    /// Whether routers must not fragment the packet.
    #[inline(always)]
    #[must_use]
    pub fn dont_fragment(self) -> bool {
        wire::word(self.0, field::FLAGS_OFFSET) & DONT_FRAGMENT != 0
    }

    /// The fragment's offset in its packet, in bytes.
    #[inline(always)]
    #[must_use]
    pub fn fragment_offset(self) -> u16 {
        (wire::word(self.0, field::FLAGS_OFFSET) & OFFSET_MASK) * 8
    }

    /// The place of a fragment with `len` bytes of data, or `None` for a whole packet.
    #[must_use]
    pub fn fragment(self, len: u16) -> Option<Fragment> {
        self.is_fragment().then(|| Fragment {
            identification: self.identification().into(),
            offset: self.fragment_offset(),
            len,
            more: self.more_fragments(),
        })
    }

    /// Source address.
    #[inline(always)]
    #[must_use]
    pub fn source(self) -> Address {
        Address::v4(wire::bytes(self.0, field::SOURCE))
    }

    /// Destination address.
    #[inline(always)]
    #[must_use]
    pub fn destination(self) -> Address {
        Address::v4(wire::bytes(self.0, field::DESTINATION))
    }
}

/// A header to write: without options, not a fragment, "don't fragment" set.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewHeader {
    pub(crate) type_of_service: u8,
    pub(crate) total_len: u16,
    pub(crate) ttl: u8,
    pub(crate) protocol: u8,
    pub(crate) source: Address,
    pub(crate) destination: Address,
}

impl NewHeader {
    pub(crate) fn write(&self, header: &mut [u8; HEADER_LEN]) {
        header.fill(0);
        header[field::VERSION_IHL] = VERSION_IHL_MIN;
        header[field::TYPE_OF_SERVICE] = self.type_of_service;
        wire::set_word(header, field::TOTAL_LEN, self.total_len);
        wire::set_word(header, field::FLAGS_OFFSET, DONT_FRAGMENT);
        header[field::TTL] = self.ttl;
        header[field::PROTOCOL] = self.protocol;
        wire::set(header, field::SOURCE, self.source.v4_octets());
        wire::set(header, field::DESTINATION, self.destination.v4_octets());
        let checksum = checksum::of(header);
        wire::set_word(header, field::CHECKSUM, checksum);
    }
}
