//! Hashes for policies that must agree over workers and balancers.
//!
//! Invariant: integer operations and IEEE 754's exact ones only, so that native code and Wasm
//! give the same bits. None of these is keyed: mix in [`crate::Backend::key`] or
//! [`crate::Flow::hash`], which are, where a client must not guess the outcome.

/// Spreads every bit of a number over all the bits: the finalizer of SplitMix64 (Steele, Lea,
/// Flood 2014, with Stafford's constants).
#[inline]
#[must_use]
pub const fn mix(mut value: u64) -> u64 {
    value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// A hash of some bytes: an address, a connection id, a token.
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

/// A number below `limit`, evenly over all hashes or random numbers; 0 if `limit` is 0.
#[inline]
#[must_use]
pub const fn below(hash: u64, limit: u64) -> u64 {
    ((hash as u128 * limit as u128) >> 64) as u64
}

/// A backend's score for a key in weighted rendezvous hashing, the highest of which wins:
/// `weight / -ln(u)` with `u` uniform in (0, 1) (Schindelhauer, Schomaker 2005). The key is of the
/// backend and of what wants one, such as one's key xor the other's hash.
#[must_use]
pub fn score(key: u64, weight: f64) -> f64 {
    weight / minus_ln(mix(key))
}

/// `-ln(hash / 2^64)`, to about 1e-6, by arithmetic that is exact everywhere (a library's `ln` may
/// differ in its last bit from one machine to another). Of random numbers it makes exponentially
/// distributed ones with mean 1; never 0.
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
    fn the_logarithm_is_one() {
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
    fn below_a_limit_every_number_comes_as_often() {
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
    fn bytes_of_one_prefix_differ() {
        assert_ne!(bytes(b"ab"), bytes(b"ab\0"));
        assert_ne!(bytes(b""), bytes(b"\0"));
        assert_ne!(bytes(b"12345678a"), bytes(b"12345678b"));
    }
}
