//! Measures of picks: evenness and stability.
//!
//! Invariant: they look only at the backends' ids and weights.

use alloc::vec;
use alloc::vec::Vec;

use crate::Pick;
use crate::abi::BackendRecord;

/// Returns how many picks each of `n` backends got.
#[must_use]
pub fn counts(picks: &[Pick], n: usize) -> Vec<usize> {
    let mut counts = vec![0; n];
    for pick in picks {
        if let Pick::Backend(index) | Pick::Keep(index) = pick {
            counts[*index] += 1;
        }
    }
    counts
}

/// Returns how far the most loaded backend is over its share by weight: 0.02 is 2 % over.
#[must_use]
#[expect(
    clippy::cast_precision_loss,
    reason = "counts of a test are far below 2^52"
)]
pub fn overload(counts: &[usize], weights: &[u32]) -> f64 {
    let total = counts.iter().sum::<usize>() as f64;
    let weight = weights.iter().copied().map(f64::from).sum::<f64>();
    counts
        .iter()
        .zip(weights)
        .filter(|(_, share)| **share > 0)
        .map(|(count, share)| *count as f64 / (total * f64::from(*share) / weight) - 1.0)
        .fold(0.0, f64::max)
}

/// Returns the fairness of the shares for the weights, by Jain's index: 1 if all shares follow the
/// weights, 1/n if one backend of n has everything (Jain, Chiu, Hawe 1984).
#[must_use]
#[expect(
    clippy::cast_precision_loss,
    reason = "counts of a test are far below 2^52"
)]
pub fn fairness(counts: &[usize], weights: &[u32]) -> f64 {
    let with_weight = counts
        .iter()
        .zip(weights)
        .filter(|(_, weight)| **weight > 0);
    let shares = with_weight.map(|(count, weight)| *count as f64 / f64::from(*weight));
    let (n, sum, squares) = shares.fold((0.0, 0.0, 0.0), |(n, sum, squares), share| {
        (n + 1.0, sum + share, squares + share * share)
    });
    if squares > 0.0 {
        sum * sum / (n * squares)
    } else {
        1.0
    }
}

/// Returns the fraction of flows that changed backend, by id, although their first backend is still
/// there. Consistent policies keep it small. `before` and `after` are picks for the same flows,
/// each with its backends.
///
/// # Panics
/// Panics if the two differ in length.
#[must_use]
#[expect(
    clippy::cast_precision_loss,
    reason = "counts of a test are far below 2^52"
)]
pub fn disruption(before: (&[Pick], &[BackendRecord]), after: (&[Pick], &[BackendRecord])) -> f64 {
    assert_eq!(before.0.len(), after.0.len(), "picks for the same flows");
    let id = |pick: &Pick, backends: &[BackendRecord]| match pick {
        Pick::Backend(index) | Pick::Keep(index) => Some(backends[*index].id),
        Pick::Drop | Pick::Fallback => None,
    };
    let stays = |old: u32| {
        after
            .1
            .iter()
            .any(|backend| backend.id == old && backend.weight > 0)
    };
    let moved = before.0.iter().zip(after.0).filter(|(old, new)| {
        let (old, new) = (id(old, before.1), id(new, after.1));
        old.is_some_and(stays) && old != new
    });
    moved.count() as f64 / before.0.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overload_and_fairness_follow_their_definitions() {
        let cases = [
            (&[10, 20, 30][..], &[1, 2, 3][..], 0.0, 1.0),
            (&[12, 8], &[1, 1], 0.2, 400.0 / 416.0),
            (&[9, 0, 0], &[1, 1, 1], 2.0, 1.0 / 3.0),
            (&[5, 0], &[1, 0], 0.0, 1.0),
            (&[0, 0], &[1, 1], 0.0, 1.0),
        ];
        for (counts, weights, over, fair) in cases {
            let (got_over, got_fair) = (overload(counts, weights), fairness(counts, weights));
            assert!((got_over - over).abs() < 1e-9, "{counts:?}: {got_over}");
            assert!((got_fair - fair).abs() < 1e-9, "{counts:?}: {got_fair}");
        }
    }
}
