//! IPv4 (RFC 791).
//!
//! Invariant: a [`Header`] is the fixed 20 bytes, so its getters cannot fail; what they give is as
//! the sender wrote it, and only [`crate::parse()`] has held it against the frame.

use crate::{Address, Fragment, checksum, wire};

/// The `EtherType`.
pub const ETHERTYPE: u16 = 0x0800;
/// The version field's value.
pub const VERSION: u8 = 4;
/// Length of the header without options.
pub const HEADER_LEN: usize = IHL_MIN as usize * 4;
/// The same in units of four bytes, as the header says it.
const IHL_MIN: u8 = 5;
const IHL_MAX: u8 = 15;
/// The first byte of a header without options, and of one with as many as fit.
const VERSION_IHL_MIN: u8 = VERSION << 4 | IHL_MIN;
const VERSION_IHL_MAX: u8 = VERSION << 4 | IHL_MAX;
/// More fragments follow.
pub(crate) const MORE_FRAGMENTS: u16 = 0x2000;
/// The fragment's offset in units of eight bytes.
const OFFSET_MASK: u16 = 0x1fff;
/// No router may cut the packet to pieces.
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

    /// Length of the header with its options, in bytes; `None` where its first byte says that
    /// it is not IPv4, or shorter than its fixed part.
    #[inline(always)]
    #[must_use]
    pub const fn header_len(self) -> Option<u16> {
        match self.0[field::VERSION_IHL] {
            first @ VERSION_IHL_MIN..=VERSION_IHL_MAX => Some((first & IHL_MAX) as u16 * 4),
            _ => None,
        }
    }

    /// Length of the packet, in bytes.
    #[inline(always)]
    #[must_use]
    pub fn total_len(self) -> u16 {
        wire::word(self.0, field::TOTAL_LEN)
    }

    /// What the fragments of one packet share.
    #[inline(always)]
    #[must_use]
    pub fn identification(self) -> u16 {
        wire::word(self.0, field::IDENTIFICATION)
    }

    /// Whether this is a part of a packet and not a whole one.
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

    /// Whether a packet that does not fit is to be given up, and its sender told.
    #[inline(always)]
    #[must_use]
    pub fn dont_fragment(self) -> bool {
        wire::word(self.0, field::FLAGS_OFFSET) & DONT_FRAGMENT != 0
    }

    /// The fragment's place in its packet, in bytes.
    #[inline(always)]
    #[must_use]
    pub fn fragment_offset(self) -> u16 {
        (wire::word(self.0, field::FLAGS_OFFSET) & OFFSET_MASK) * 8
    }

    /// The place of a fragment with `len` bytes of data, or `None` where it is the whole packet.
    #[must_use]
    pub fn fragment(self, len: u16) -> Option<Fragment> {
        self.is_fragment().then(|| Fragment {
            identification: self.identification().into(),
            offset: self.fragment_offset(),
            len,
            more: self.more_fragments(),
        })
    }

    /// Time to live.
    #[inline(always)]
    #[must_use]
    pub const fn ttl(self) -> u8 {
        self.0[field::TTL]
    }

    /// The payload's protocol number.
    #[inline(always)]
    #[must_use]
    pub const fn protocol(self) -> u8 {
        self.0[field::PROTOCOL]
    }

    /// The header's checksum.
    #[inline(always)]
    #[must_use]
    pub fn checksum(self) -> u16 {
        wire::word(self.0, field::CHECKSUM)
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

/// A header without options, to be written: "don't fragment" set, not a fragment.
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
