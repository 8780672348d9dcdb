//! Hashes for policies that must agree on all workers and balancers.
//!
//! Invariant: only integer operations and exact IEEE 754 operations, so native code and Wasm
//! compute the same bits. No function here is keyed. Where a client must not predict the result,
//! mix in [`crate::Backend::key`] or [`crate::Flow::hash`], which are.

/// Spreads every input bit over all output bits: the finalizer of SplitMix64 (Steele, Lea, Flood
/// 2014, with Stafford's constants).
#[inline]
#[must_use]
pub const fn mix(mut value: u64) -> u64 {
    value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// Returns a hash of bytes, such as an address, a connection id or a token.
#[inline]
#[must_use]
pub fn bytes(bytes: &[u8]) -> u64 {
    bytes
        .chunks(8)
        .fold(mix(bytes.len() as u64), |hash, chunk| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            mix(hash ^ u64::from_le_bytes(word))
        })
}

/// Maps a hash or a random number evenly to `0..limit`; returns 0 if `limit` is 0.
#[inline]
#[must_use]
pub const fn below(hash: u64, limit: u64) -> u64 {
    ((hash as u128 * limit as u128) >> 64) as u64
}

/// Returns the score of a backend for a key in weighted rendezvous hashing, where the highest score
/// wins: `weight / -ln(u)` with `u` uniform in (0, 1) (Schindelhauer, Schomaker 2005).
///
/// The key combines the backend and the flow, such as the backend's key XOR the flow's hash.
#[must_use]
pub fn score(key: u64, weight: f64) -> f64 {
    weight / minus_ln(mix(key))
}

/// Returns `-ln(hash / 2^64)`, accurate to about 1e-6 and never 0.
///
/// The arithmetic is exact on every machine; a library's `ln` may differ in the last bit. Uniform
/// random numbers become exponentially distributed ones with mean 1.
#[must_use]
pub fn minus_ln(hash: u64) -> f64 {
    // The hash as a mantissa in [1, 2) and an exponent.
    let hash = hash.max(1);
    let shift = hash.leading_zeros();
    let mantissa = f64::from_bits((hash << shift << 1 >> 12) | 1_f64.to_bits());
    // ln m = 2 atanh((m - 1) / (m + 1)).
    let s = (mantissa - 1.0) / (mantissa + 1.0);
    let s2 = s * s;
    let ln = 2.0 * s * (1.0 + s2 * (1.0 / 3.0 + s2 * (0.2 + s2 * (1.0 / 7.0 + s2 / 9.0))));
    (f64::from(shift + 1) * core::f64::consts::LN_2 - ln).max(f64::MIN_POSITIVE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minus_ln_is_accurate() {
        for hash in [
            1,
            2,
            12345,
            1 << 40,
            u64::MAX / 3,
            u64::MAX / 2,
            u64::MAX - (1 << 53),
        ] {
            #[expect(
                clippy::cast_precision_loss,
                reason = "the check is as precise as a float"
            )]
            let exact = -((hash as f64) / 2_f64.powi(64)).ln();
            let error = (minus_ln(hash) - exact).abs();
            assert!(
                error < 1e-5,
                "-ln of {hash:#x}: {} against {exact}",
                minus_ln(hash)
            );
        }
        assert!(minus_ln(u64::MAX) > 0.0 && minus_ln(0).is_finite());
    }

    #[test]
    fn below_is_uniform() {
        let mut counts = [0; 6];
        for n in 0..60_000 {
            counts[usize::try_from(below(mix(n), 6)).unwrap_or(usize::MAX)] += 1;
        }
        assert!(
            counts.iter().all(|n| (9_700..10_300).contains(n)),
            "{counts:?}"
        );
        assert_eq!((below(u64::MAX, u64::MAX), below(7, 0)), (u64::MAX - 1, 0));
    }

    #[test]
    fn inputs_with_a_common_prefix_have_different_hashes() {
        assert_ne!(bytes(b"ab"), bytes(b"ab\0"));
        assert_ne!(bytes(b""), bytes(b"\0"));
        assert_ne!(bytes(b"12345678a"), bytes(b"12345678b"));
    }
}
