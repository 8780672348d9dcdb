//! The spread of repeated runs of one measurement.
//!
//! Invariant: all runs count, so a busy machine shows in the spread.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::figure;

/// Median and extremes of repeated runs, in the unit of the measurement.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Spread {
    /// The median.
    pub median: f64,
    /// The lowest run.
    pub lowest: f64,
    /// The highest run.
    pub highest: f64,
    /// The number of runs.
    pub runs: usize,
}

impl Spread {
    /// The spread of these runs.
    pub fn of(runs: &[f64]) -> Self {
        assert!(!runs.is_empty(), "there are no runs");
        assert!(
            runs.iter().all(|run| run.is_finite()),
            "a run is not a finite number: {runs:?}"
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

    /// The spread of a value that does not vary, such as a size or an instruction count.
    pub fn exact(value: f64) -> Self {
        Self::of(&[value])
    }

    /// The spread of the ratio of two interleaved measurements. Ratios are taken run by run, so that a
    /// disturbance of both cancels out.
    pub fn of_ratio(runs: &[f64], to: &[f64]) -> Self {
        assert_eq!(runs.len(), to.len(), "interleaved runs come in pairs");
        let ratios: Vec<f64> = runs.iter().zip(to).map(|(run, to)| run / to).collect();
        Self::of(&ratios)
    }

    /// Converts to a unit that is `factor` times smaller.
    pub fn times(self, factor: f64) -> Self {
        Self {
            median: self.median * factor,
            lowest: self.lowest * factor,
            highest: self.highest * factor,
            runs: self.runs,
        }
    }
}

/// `41.2 (40.1 to 44.0)`, or `41.2` for one run.
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
    fn a_spread_has_median_and_extremes() {
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
    fn the_text_has_the_extremes_unless_there_is_one_run() {
        assert_eq!(
            Spread::of(&[1.0, 2.0, 30.0]).to_string(),
            "2.00 (1.00 to 30.0)"
        );
        assert_eq!(Spread::exact(1450.0).to_string(), "1,450");
    }

    #[test]
    #[should_panic(expected = "a run is not a finite number")]
    fn a_run_that_is_not_a_number_panics() {
        let _ = Spread::of(&[1.0, f64::NAN]);
    }
}
