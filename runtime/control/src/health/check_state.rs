//! One check of one backend: its results, debounced by `rise` and `fall`.

use std::time::Duration;

use crate::config::CheckTiming;

/// The result of one run of a check.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct CheckResult {
    pub(crate) passed: bool,
    /// The server is healthy, but asks for no new sessions.
    pub(crate) draining: bool,
    /// The share of its weight that the server asks for, in percent.
    pub(crate) weight: Option<u32>,
    pub(crate) reason: String,
    pub(crate) took: Duration,
    /// The lines that the module logged.
    pub(crate) log: Vec<String>,
}

/// What the results say after `rise` and `fall`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Debounced {
    #[default]
    Undecided,
    Passing,
    Failing,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct CheckState {
    pub(crate) debounced: Debounced,
    /// Results in a row that contradict `debounced`.
    pub(crate) contradicting: u32,
    /// The last result, and when it arrived.
    pub(crate) last: Option<(Duration, CheckResult)>,
    /// The last weight that a passing result gave, in percent.
    pub(super) weight: Option<u32>,
    pub(super) draining: bool,
}

impl CheckState {
    /// Returns the state of a check that is new to a backend already in service: it takes `fall`
    /// failures, not one, to take the backend down.
    pub(crate) fn passing() -> Self {
        Self {
            debounced: Debounced::Passing,
            ..Self::default()
        }
    }

    /// Records a result. The first one decides at once, later ones by `rise` and `fall`.
    pub(super) fn record(&mut self, result: &CheckResult, timing: CheckTiming, now: Duration) {
        let (agrees, enough) = match self.debounced {
            Debounced::Undecided => (false, 1),
            Debounced::Passing => (result.passed, timing.fall),
            Debounced::Failing => (!result.passed, timing.rise),
        };
        self.contradicting = if agrees { 0 } else { self.contradicting + 1 };
        if self.contradicting >= enough {
            self.contradicting = 0;
            self.debounced = if result.passed {
                Debounced::Passing
            } else {
                Debounced::Failing
            };
        }
        if result.passed {
            self.draining = result.draining;
            self.weight = result.weight.or(self.weight);
        }
        self.last = Some((now, result.clone()));
    }

    /// Returns whether the next result may change the state, so that it is wanted soon.
    pub(crate) fn is_undecided(&self) -> bool {
        self.debounced == Debounced::Undecided || self.contradicting > 0
    }

    pub(super) fn reason(&self) -> &str {
        self.last
            .as_ref()
            .map_or("no result yet", |(_, last)| last.reason.as_str())
    }
}
