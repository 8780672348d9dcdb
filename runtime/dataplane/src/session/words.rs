//! Words of which parts are numbers of their own.
//!
//! Invariant: the first-named part is the upper one.

/// Upper 32 bits.
#[inline(always)]
pub(super) const fn high(word: u64) -> u32 {
    (word >> 32) as u32
}

/// Lower 32 bits.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the lower half is meant")]
pub(super) const fn low(word: u64) -> u32 {
    word as u32
}

/// Two halves in one word.
#[inline(always)]
pub(super) const fn pack(high: u32, low: u32) -> u64 {
    (high as u64) << 32 | low as u64
}

/// The same of a half.
#[inline(always)]
pub(super) const fn pack16(high: u16, low: u16) -> u32 {
    (high as u32) << 16 | low as u32
}

/// A half taken apart.
#[inline(always)]
pub(super) const fn ports(word: u32) -> [u16; 2] {
    let [a, b, c, d] = word.to_be_bytes();
    [u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])]
}
