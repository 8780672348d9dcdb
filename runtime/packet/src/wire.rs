//! Fields of a header: read and written by the byte ranges that their protocols name.
//!
//! Invariant: a range is a constant that lies inside the fixed-size header it names a field of;
//! so these cannot fail, and the compiler sees it and leaves no check behind.

use std::ops::Range;

/// A header's constant length as an offset into a frame.
pub(crate) const fn offset(len: usize) -> u16 {
    assert!(len <= u16::MAX as usize);
    #[expect(clippy::cast_possible_truncation, reason = "asserted just above")]
    let offset = len as u16;
    offset
}

/// The bytes of a field.
#[inline(always)]
pub(crate) fn bytes<const N: usize>(header: &[u8], field: Range<usize>) -> [u8; N] {
    let mut value = [0; N];
    value.copy_from_slice(&header[field]);
    value
}

/// A 16-bit field, from network order.
#[inline(always)]
pub(crate) fn word(header: &[u8], field: Range<usize>) -> u16 {
    u16::from_be_bytes(bytes(header, field))
}

/// A 32-bit field, from network order.
#[inline(always)]
pub(crate) fn long(header: &[u8], field: Range<usize>) -> u32 {
    u32::from_be_bytes(bytes(header, field))
}

/// Writes a field.
#[inline(always)]
pub(crate) fn set<const N: usize>(header: &mut [u8], field: Range<usize>, value: [u8; N]) {
    header[field].copy_from_slice(&value);
}

/// Writes a 16-bit field in network order.
#[inline(always)]
pub(crate) fn set_word(header: &mut [u8], field: Range<usize>, value: u16) {
    set(header, field, value.to_be_bytes());
}

/// Changes a 16-bit field.
#[inline(always)]
pub(crate) fn update(header: &mut [u8], field: Range<usize>, change: impl FnOnce(u16) -> u16) {
    let value = change(word(header, field.clone()));
    set_word(header, field, value);
}

/// Swaps two fields of one size.
#[inline(always)]
pub(crate) fn swap<const N: usize>(header: &mut [u8], one: Range<usize>, other: Range<usize>) {
    let (a, b): ([u8; N], [u8; N]) = (bytes(header, one.clone()), bytes(header, other.clone()));
    set(header, one, b);
    set(header, other, a);
}
