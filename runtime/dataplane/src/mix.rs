//! Hashes of numbers that nobody chooses to collide.

use waxwing_packet::Address;

/// The finalizer of `SplitMix64` (Steele, Lea and Flood, 2014).
pub(crate) const fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The hash of a backend's endpoint.
pub(crate) const fn endpoint_hash(address: Address, port: u16) -> u64 {
    let [high, low] = halves(address.bits());
    mix(high ^ mix(low ^ port as u64))
}

#[expect(clippy::cast_possible_truncation, reason = "each half has 64 bits")]
const fn halves(bits: u128) -> [u64; 2] {
    [(bits >> 64) as u64, bits as u64]
}
