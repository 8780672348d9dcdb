//! Reads and writes header fields by the byte ranges that each protocol's `field` module names.
//!
//! Invariant: a range is a constant inside the fixed-size header that it is used on. So no access
//! fails, and the compiler removes the bounds checks.

use std::ops::Range;

/// Returns a header's constant length as an offset into a frame.
pub(crate) const fn offset(len: usize) -> u16 {
    assert!(len <= u16::MAX as usize);
    #[expect(clippy::cast_possible_truncation, reason = "asserted just above")]
    let offset = len as u16;
    offset
}

#[inline(always)]
pub(crate) fn bytes<const N: usize>(header: &[u8], field: Range<usize>) -> [u8; N] {
    let mut value = [0; N];
    value.copy_from_slice(&header[field]);
    value
}

/// Reads a 16-bit field in network order.
#[inline(always)]
pub(crate) fn word(header: &[u8], field: Range<usize>) -> u16 {
    u16::from_be_bytes(bytes(header, field))
}

/// Reads a 32-bit field in network order.
#[inline(always)]
pub(crate) fn long(header: &[u8], field: Range<usize>) -> u32 {
    u32::from_be_bytes(bytes(header, field))
}

#[inline(always)]
pub(crate) fn set<const N: usize>(header: &mut [u8], field: Range<usize>, value: [u8; N]) {
    header[field].copy_from_slice(&value);
}

/// Writes a 16-bit field in network order.
#[inline(always)]
pub(crate) fn set_word(header: &mut [u8], field: Range<usize>, value: u16) {
    set(header, field, value.to_be_bytes());
}

/// Replaces a 16-bit field by the result of `change`.
#[inline(always)]
pub(crate) fn update(header: &mut [u8], field: Range<usize>, change: impl FnOnce(u16) -> u16) {
    let value = change(word(header, field.clone()));
    set_word(header, field, value);
}

/// Swaps two fields of `N` bytes.
#[inline(always)]
pub(crate) fn swap<const N: usize>(header: &mut [u8], one: Range<usize>, other: Range<usize>) {
    let (a, b): ([u8; N], [u8; N]) = (bytes(header, one.clone()), bytes(header, other.clone()));
    set(header, one, b);
    set(header, other, a);
}

/// Defines a view of a fixed-size header and one getter per listed field. A `u8` field is an index,
/// any other a range.
macro_rules! header_view {
    (
        $(#[$view_doc:meta])*
        $view:ident($len:ident);
        $( $(#[$doc:meta])* $getter:ident: $type:ident = $field:expr; )*
    ) => {
        $(#[$view_doc])*
        #[derive(Clone, Copy, Debug)]
        pub struct $view<'a>(&'a [u8; $len]);

        impl<'a> $view<'a> {
            /// Returns the header at the start of `bytes`, or `None` when `bytes` is shorter.
            #[inline(always)]
            #[must_use]
            pub fn from_prefix(bytes: &'a [u8]) -> Option<Self> {
                bytes.first_chunk().map(Self)
            }

            $(
                $(#[$doc])*
                #[inline(always)]
                #[must_use]
                pub fn $getter(self) -> $type {
                    $crate::wire::header_view!(@read $type, self.0, $field)
                }
            )*
        }
    };
    (@read u8, $header:expr, $field:expr) => { $header[$field] };
    (@read u16, $header:expr, $field:expr) => { $crate::wire::word($header, $field) };
    (@read u32, $header:expr, $field:expr) => { $crate::wire::long($header, $field) };
}
pub(crate) use header_view;
