//! The results of a case: one series of samples per contender.
//!
//! Invariant: every round runs each contender once, and each round starts with another contender. A
//! disturbance of the machine therefore hits all contenders alike, and runs of one round are compared.

use serde::Serialize;
use waxwing_report::Spread;

use crate::sample::Sample;

/// What a case measures.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Unit {
    PacketsPerSecond,
    RequestsPerSecond,
    BitsPerSecond,
    /// On an emulated CPU, where only ratios matter.
    PerSecondEmulated,
    Latency,
}

impl Unit {
    /// The unit in tables and charts.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::PacketsPerSecond => "M packets/s",
            Self::RequestsPerSecond => "k requests/s",
            Self::BitsPerSecond => "Gbit/s",
            Self::PerSecondEmulated => "a second, emulated",
            Self::Latency => "us",
        }
    }

    /// The factor from a sample's unit to the one of tables and charts.
    pub(crate) const fn factor(self) -> f64 {
        match self {
            Self::PacketsPerSecond => 1e-6,
            Self::RequestsPerSecond => 1e-3,
            Self::BitsPerSecond => 1e-9,
            Self::PerSecondEmulated | Self::Latency => 1.0,
        }
    }
}

/// All samples of a case.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Outcome {
    /// The case in one word, as in file names.
    pub(crate) case: &'static str,
    pub(crate) title: String,
    pub(crate) unit: Unit,
    /// One per contender.
    pub(crate) series: Vec<Series>,
}

/// The samples of one contender.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Series {
    pub(crate) name: String,
    /// One per round.
    pub(crate) runs: Vec<Sample>,
}

impl Series {
    /// Starts a series without samples.
    pub(crate) fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            runs: Vec::new(),
        }
    }

    pub(crate) fn spread(&self, value: impl Fn(&Sample) -> f64) -> Spread {
        Spread::of(&self.values(value))
    }

    pub(crate) fn values(&self, value: impl Fn(&Sample) -> f64) -> Vec<f64> {
        self.runs.iter().map(value).collect()
    }

    /// The ratio of this contender's rate to another's, round by round.
    pub(crate) fn rate_ratio(&self, to: &Self) -> Spread {
        Spread::of_ratio(&self.values(|run| run.rate), &to.values(|run| run.rate))
    }
}

impl Outcome {
    /// The series of a contender.
    pub(crate) fn series(&self, name: &str) -> Option<&Series> {
        self.series.iter().find(|series| series.name == name)
    }
}

/// The order in which a round (from 0) runs the contenders.
pub(crate) fn order_of(round: usize, contenders: usize) -> impl Iterator<Item = usize> {
    (0..contenders).map(move |turn| (round + turn) % contenders)
}

#[cfg(test)]
mod tests {
    use super::order_of;

    #[test]
    fn each_round_starts_with_another_contender_and_runs_all() {
        let rounds = [0, 1, 2, 3].map(|round| order_of(round, 3).collect::<Vec<_>>());
        assert_eq!(rounds, [[0, 1, 2], [1, 2, 0], [2, 0, 1], [0, 1, 2]]);
    }
}
