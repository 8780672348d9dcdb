//! Repeated runs of one measurement.
//!
//! Invariant: all runs count. On a busy machine the spread says so; nothing hides it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::figure;

/// The middle and the ends of what repeated runs measured, in the unit that they measured in.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Spread {
    /// Half of the runs were below, half above.
    pub median: f64,
    /// The lowest run.
    pub lowest: f64,
    /// The highest run.
    pub highest: f64,
    /// How many there were.
    pub runs: usize,
}

impl Spread {
    /// Of these runs.
    ///
    /// # Panics
    /// There are none, or one is not a number: a bug of the bench.
    #[must_use]
    pub fn of(runs: &[f64]) -> Self {
        assert!(!runs.is_empty(), "a measurement has runs");
        assert!(
            runs.iter().all(|run| run.is_finite()),
            "a run measured no number: {runs:?}"
        );
        let mut sorted = runs.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (below, above) = ((sorted.len() - 1) / 2, sorted.len() / 2);
        Self {
            median: f64::midpoint(sorted[below], sorted[above]),
            lowest: sorted[0],
            highest: sorted[sorted.len() - 1],
            runs: sorted.len(),
        }
    }

    /// A value that does not vary: a size, a count of instructions.
    #[must_use]
    pub fn exact(value: f64) -> Self {
        Self::of(&[value])
    }

    /// Of the ratio of two things whose runs were interleaved: run by run, so that what disturbed
    /// both in one moment cancels out.
    ///
    /// # Panics
    /// There are not as many runs of both, or there are none: a bug of the bench.
    #[must_use]
    pub fn of_ratio(runs: &[f64], to: &[f64]) -> Self {
        assert_eq!(runs.len(), to.len(), "interleaved runs come in pairs");
        let ratios: Vec<f64> = runs.iter().zip(to).map(|(run, to)| run / to).collect();
        Self::of(&ratios)
    }

    /// In another unit, which is `factor` times smaller.
    #[must_use]
    pub fn times(self, factor: f64) -> Self {
        Self {
            median: self.median * factor,
            lowest: self.lowest * factor,
            highest: self.highest * factor,
            runs: self.runs,
        }
    }
}

/// `41.2 (40.1 to 44.0)`; the ends are left out where there is one run.
impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let median = figure(self.median);
        if self.runs == 1 {
            return f.pad(&median);
        }
        let (lowest, highest) = (figure(self.lowest), figure(self.highest));
        f.pad(&format!("{median} ({lowest} to {highest})"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_and_the_ends() {
        let odd = Spread::of(&[3.0, 1.0, 2.0]);
        assert_eq!((odd.median, odd.lowest, odd.highest), (2.0, 1.0, 3.0));
        let even = Spread::of(&[4.0, 1.0, 2.0, 3.0]);
        assert_eq!((even.median, even.lowest, even.highest), (2.5, 1.0, 4.0));
        assert_eq!(even.runs, 4);
    }

    #[test]
    fn a_ratio_is_taken_run_by_run() {
        // The machine was half as fast in the second run, for both.
        let ratio = Spread::of_ratio(&[90.0, 45.0], &[100.0, 50.0]);
        assert_eq!((ratio.median, ratio.lowest, ratio.highest), (0.9, 0.9, 0.9));
    }

    #[test]
    fn it_tells_its_ends_unless_it_has_none() {
        assert_eq!(
            Spread::of(&[1.0, 2.0, 30.0]).to_string(),
            "2.00 (1.00 to 30.0)"
        );
        assert_eq!(Spread::exact(1450.0).to_string(), "1,450");
    }

    #[test]
    #[should_panic(expected = "a run measured no number")]
    fn what_is_not_a_number_is_refused() {
        let _ = Spread::of(&[1.0, f64::NAN]);
    }
}
