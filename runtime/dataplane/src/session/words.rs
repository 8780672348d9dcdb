//! Packing small numbers into words. The first argument is the upper part.

#[inline(always)]
pub(super) const fn high(word: u64) -> u32 {
    (word >> 32) as u32
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "takes the lower half")]
pub(super) const fn low(word: u64) -> u32 {
    word as u32
}

#[inline(always)]
pub(super) const fn pack(high: u32, low: u32) -> u64 {
    (high as u64) << 32 | low as u64
}

#[inline(always)]
pub(super) const fn pack16(high: u16, low: u16) -> u32 {
    (high as u32) << 16 | low as u32
}

/// The two 16-bit numbers of [`pack16`].
#[inline(always)]
pub(super) const fn ports(word: u32) -> [u16; 2] {
    let [a, b, c, d] = word.to_be_bytes();
    [u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])]
}
