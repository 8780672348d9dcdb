//! IPv6 and its extension headers (RFC 8200).
//!
//! Invariant: a [`Header`] holds the sender's values unchecked; only [`crate::parse()`] compares
//! them with the frame.

use crate::wire::{self, header_view};
use crate::{Address, Fragment};

/// The `EtherType`.
pub const ETHERTYPE: u16 = 0x86dd;
/// The version field's value.
pub const VERSION: u8 = 6;
/// Length of the fixed header.
pub const HEADER_LEN: usize = 40;
/// Minimum length of an extension header; length of a fragment header.
pub const EXTENSION_LEN_MIN: usize = 8;

/// Next header: hop-by-hop options.
pub const HOP_BY_HOP: u8 = 0;
/// Next header: routing.
pub const ROUTING: u8 = 43;
/// Next header: fragment.
pub const FRAGMENT: u8 = 44;
/// Next header: authentication (RFC 4302). Also the protocol number in IPv4.
pub const AUTHENTICATION: u8 = 51;
/// Next header: destination options.
pub const DESTINATION_OPTIONS: u8 = 60;

pub(crate) mod field {
    use std::ops::Range;

    /// Four bits of version, eight of traffic class, twenty of flow label.
    pub(crate) const VERSION_CLASS: Range<usize> = 0..2;
    pub(crate) const PAYLOAD_LEN: Range<usize> = 4..6;
    pub(crate) const NEXT_HEADER: usize = 6;
    pub(crate) const HOP_LIMIT: usize = 7;
    pub(crate) const SOURCE: Range<usize> = 8..24;
    pub(crate) const DESTINATION: Range<usize> = 24..40;
}

mod extension_field {
    use std::ops::Range;

    pub(super) const NEXT_HEADER: usize = 0;
    /// In units of eight bytes, without the first eight.
    pub(super) const LEN: usize = 1;
    /// Routing header only.
    pub(super) const SEGMENTS_LEFT: usize = 3;
    /// Fragment header only: 13 bits of offset, 2 reserved, 1 "more fragments".
    pub(super) const FRAGMENT_OFFSET: Range<usize> = 2..4;
    /// Fragment header only.
    pub(super) const IDENTIFICATION: Range<usize> = 4..8;
}

header_view! {
    /// A view of the fixed header.
    Header(HEADER_LEN);
    /// Length of the packet behind this header, extension headers included, in bytes.
    payload_len: u16 = field::PAYLOAD_LEN;
    /// Number of the next header: an extension header or a protocol.
    next_header: u8 = field::NEXT_HEADER;
    /// Hop limit.
    hop_limit: u8 = field::HOP_LIMIT;
}

impl Header<'_> {
    /// IP version.
    #[inline(always)]
    #[must_use]
    pub const fn version(self) -> u8 {
        self.0[field::VERSION_CLASS.start] >> 4
    }

    /// Source address.
    #[inline(always)]
    #[must_use]
    pub fn source(self) -> Address {
        Address::v6(wire::bytes(self.0, field::SOURCE))
    }

    /// Destination address.
    #[inline(always)]
    #[must_use]
    pub fn destination(self) -> Address {
        Address::v6(wire::bytes(self.0, field::DESTINATION))
    }
}

header_view! {
    /// A view of an extension header's first eight bytes, the minimum length.
    Extension(EXTENSION_LEN_MIN);
    /// Number of the next header.
    next_header: u8 = extension_field::NEXT_HEADER;
    /// Routing header: number of nodes still to visit.
    segments_left: u8 = extension_field::SEGMENTS_LEFT;
}

impl Extension<'_> {
    /// Length in bytes. A fragment header has no length field: it is 8 bytes long.
    #[must_use]
    pub const fn total_len(self) -> u16 {
        (self.0[extension_field::LEN] as u16 + 1) * 8
    }

    /// Fragment header: the place of a fragment with `len` bytes of data. `None` for an atomic
    /// fragment, which is handled as a whole packet (RFC 6946).
    #[must_use]
    pub fn fragment(self, len: u16) -> Option<Fragment> {
        let word = wire::word(self.0, extension_field::FRAGMENT_OFFSET);
        let (offset, more) = (word & !0b111, word & 1 != 0);
        let identification = wire::long(self.0, extension_field::IDENTIFICATION);
        (offset > 0 || more).then_some(Fragment {
            identification,
            offset,
            len,
            more,
        })
    }
}

/// A fixed header to write, with flow label zero.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewHeader {
    pub(crate) traffic_class: u8,
    pub(crate) payload_len: u16,
    pub(crate) next_header: u8,
    pub(crate) hop_limit: u8,
    pub(crate) source: Address,
    pub(crate) destination: Address,
}

impl NewHeader {
    pub(crate) fn write(&self, header: &mut [u8; HEADER_LEN]) {
        header.fill(0);
        let version_class = u16::from(VERSION) << 12 | u16::from(self.traffic_class) << 4;
        wire::set_word(header, field::VERSION_CLASS, version_class);
        wire::set_word(header, field::PAYLOAD_LEN, self.payload_len);
        header[field::NEXT_HEADER] = self.next_header;
        header[field::HOP_LIMIT] = self.hop_limit;
        wire::set(header, field::SOURCE, self.source.octets());
        wire::set(header, field::DESTINATION, self.destination.octets());
    }
}
