//! UDP (RFC 768).

use crate::wire::header_view;

/// The IP protocol number.
pub const PROTOCOL: u8 = 17;
/// Length of the header.
pub const HEADER_LEN: usize = 8;
/// The checksum field's value when the sender computed no checksum.
pub const NO_CHECKSUM: u16 = 0;

pub(crate) mod field {
    use std::ops::Range;

    pub(crate) const SOURCE: Range<usize> = 0..2;
    pub(crate) const DESTINATION: Range<usize> = 2..4;
    pub(crate) const LEN: Range<usize> = 4..6;
    pub(crate) const CHECKSUM: Range<usize> = 6..8;
}

/// Returns the value to send for a computed checksum: 0 means "no checksum" on the wire, so a
/// computed 0 is sent as 0xffff, its equal in ones' complement.
#[inline(always)]
#[must_use]
pub const fn on_wire(checksum: u16) -> u16 {
    match checksum {
        NO_CHECKSUM => 0xffff,
        checksum => checksum,
    }
}

header_view! {
    /// A view of the header.
    Header(HEADER_LEN);
    /// Source port.
    source: u16 = field::SOURCE;
    /// Destination port.
    destination: u16 = field::DESTINATION;
    /// Length of header and payload, in bytes.
    total_len: u16 = field::LEN;
    /// Checksum; [`NO_CHECKSUM`] when the sender computed none.
    checksum: u16 = field::CHECKSUM;
}
