//! What the demo found: a phase's shares against those that its policy promises, and the verdict.
//!
//! Invariant: a verdict follows from the counts alone, by bounds that can be derived by hand.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;
use waxwing_tests::Tally;
use waxwing_tests::load::Failure;

/// The part of new sessions that each server should get, by server.
pub(crate) type Shares = &'static [(&'static str, f64)];

/// What bounds the distance of counts from the promised shares.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slack {
    /// Requests in flight at most.
    pub(crate) clients: u32,
    /// Instances of the policy, each with turns of its own.
    pub(crate) workers: u32,
}

impl Slack {
    /// The most by which one server's count may differ from its share of `answers`.
    ///
    /// The policies here deal in turns, so there is no chance in it: per instance, a count is
    /// within two of its share over any stretch of picks. Picks and answers differ only at the
    /// two ends of a phase, each time by the requests then in flight.
    fn requests(self) -> u32 {
        2 * self.clients + 2 * self.workers
    }
}

/// The whole run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// Whether there was no failure and every phase matched its policy.
    pub(crate) passed: bool,
    /// Requests answered, between phases too.
    pub(crate) requests: u64,
    /// Requests that failed, between phases too.
    pub(crate) failures: u64,
    /// Failures by kind.
    pub(crate) failures_by_kind: BTreeMap<Failure, u64>,
    /// The phases, in order.
    pub(crate) phases: Vec<Phase>,
    /// What ended the run early.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

/// One phase.
#[derive(Debug, Serialize)]
pub(crate) struct Phase {
    /// Its name.
    pub(crate) name: &'static str,
    /// What the policy in it promises.
    pub(crate) policy: &'static str,
    /// How long it was measured.
    pub(crate) seconds: f64,
    /// Requests answered.
    pub(crate) requests: u64,
    /// Requests that failed.
    pub(crate) failures: u64,
    /// Hash of the module in use.
    pub(crate) module: String,
    /// Shares, measured and promised.
    pub(crate) servers: BTreeMap<&'static str, Server>,
    /// How far a share may be from the promised one: the bound in requests over the requests.
    pub(crate) tolerance: f64,
    /// Latency of the median request, in microseconds.
    pub(crate) latency_p50_us: u64,
    /// Latency that one of a hundred requests exceeded, in microseconds.
    pub(crate) latency_p99_us: u64,
    /// Whether nothing failed and the shares are the promised ones.
    pub(crate) passed: bool,
    /// What is wrong, for people.
    pub(crate) problems: Vec<String>,
}

/// One server's part in a phase.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub(crate) struct Server {
    /// Requests it answered.
    pub(crate) requests: u64,
    /// Its part of all, 0 to 1.
    pub(crate) share: f64,
    /// The part that the policy promises.
    pub(crate) expected: f64,
}

impl Phase {
    /// Judges a phase.
    #[must_use]
    pub(crate) fn new(
        name: &'static str,
        policy: &'static str,
        expected: Shares,
        module: String,
        seconds: f64,
        tally: &Tally,
        slack: Slack,
    ) -> Self {
        let requests = tally.answers();
        let tolerance = f64::from(slack.requests()) / requests.max(1) as f64;
        let servers: BTreeMap<_, _> = expected
            .iter()
            .map(|(name, expected)| {
                let requests = tally.servers.get(*name).copied().unwrap_or(0);
                let share = tally.share(name);
                (
                    *name,
                    Server {
                        requests,
                        share,
                        expected: *expected,
                    },
                )
            })
            .collect();
        let problems = problems(&servers, tally, tolerance);
        Self {
            name,
            policy,
            seconds,
            requests,
            failures: tally.failed(),
            module,
            servers,
            tolerance,
            latency_p50_us: us(tally.latency(0.5)),
            latency_p99_us: us(tally.latency(0.99)),
            passed: problems.is_empty(),
            problems,
        }
    }
}

/// Far below one request's share, far above what arithmetic on shares is off by.
const ROUNDING: f64 = 1e-9;

fn problems(
    servers: &BTreeMap<&'static str, Server>,
    tally: &Tally,
    tolerance: f64,
) -> Vec<String> {
    let mut problems = Vec::new();
    if tally.answers() == 0 {
        problems.push("nothing was answered".to_owned());
    }
    problems.extend(
        tally
            .failures
            .iter()
            .map(|(kind, n)| format!("{n} requests failed: {kind}")),
    );
    for (name, server) in servers {
        // One that takes no new sessions has none in flight either: a phase is measured from
        // when the requests of before have been answered.
        let allowed = if server.expected == 0.0 {
            0.0
        } else {
            tolerance
        };
        if (server.share - server.expected).abs() > allowed + ROUNDING {
            problems.push(format!(
                "server {name} has {:.2} % of the requests; its policy promises {:.2} %, give or take {:.2}",
                server.share * 100.0,
                server.expected * 100.0,
                allowed * 100.0
            ));
        }
    }
    problems
}

impl Report {
    /// Sums up.
    #[must_use]
    pub(crate) fn new(
        phases: Vec<Phase>,
        phases_planned: usize,
        total: &Tally,
        error: Option<String>,
    ) -> Self {
        let complete = error.is_none() && phases.len() == phases_planned;
        let passed = complete && total.failed() == 0 && phases.iter().all(|phase| phase.passed);
        Self {
            passed,
            requests: total.answers(),
            failures: total.failed(),
            failures_by_kind: total.failures.clone(),
            phases,
            error,
        }
    }

    /// The summary for people.
    #[must_use]
    pub(crate) fn summary(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        for phase in &self.phases {
            let _ = write!(
                text,
                "{:<4} {:<24}",
                if phase.passed { "ok" } else { "FAIL" },
                phase.name
            );
            for (name, server) in &phase.servers {
                let _ = write!(
                    text,
                    "  server {name} {:>5.1} % (of {:>4.1})",
                    server.share * 100.0,
                    server.expected * 100.0
                );
            }
            let _ = writeln!(
                text,
                "  {:>6} requests, {} failed, p99 {:.1} ms",
                phase.requests,
                phase.failures,
                Duration::from_micros(phase.latency_p99_us).as_secs_f64() * 1000.0
            );
            for problem in &phase.problems {
                let _ = writeln!(text, "     {problem}");
            }
        }
        let verdict = if self.passed { "passed" } else { "FAILED" };
        let _ = write!(
            text,
            "{verdict}: {} requests, {} failed",
            self.requests, self.failures
        );
        if let Some(error) = &self.error {
            let _ = write!(text, "; ended early: {error}");
        }
        text
    }
}

fn us(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLACK: Slack = Slack {
        clients: 4,
        workers: 1,
    };
    const SHARES: Shares = &[("1", 0.6), ("2", 0.4), ("3", 0.0)];

    fn judge(counts: [u64; 3], failed: u64) -> Phase {
        let mut tally = Tally::default();
        tally.servers = ["1", "2", "3"]
            .map(str::to_owned)
            .into_iter()
            .zip(counts)
            .collect();
        if failed > 0 {
            tally.failures.insert(Failure::Reset, failed);
        }
        Phase::new(
            "a phase",
            "a policy",
            SHARES,
            String::new(),
            1.0,
            &tally,
            SLACK,
        )
    }

    #[test]
    fn a_phase_passes_within_its_bound_and_no_further() {
        for (what, counts, failed, passes) in [
            ("the promised shares", [600, 400, 0], 0, true),
            ("what was in flight", [610, 390, 0], 0, true),
            ("one more than could be", [611, 389, 0], 0, false),
            ("a drained server that answers", [600, 399, 1], 0, false),
            ("a failure", [600, 400, 0], 1, false),
            ("nothing at all", [0, 0, 0], 0, false),
        ] {
            let phase = judge(counts, failed);
            assert_eq!(phase.passed, passes, "{what}: {:?}", phase.problems);
        }
    }

    #[test]
    fn a_run_passes_only_whole_and_without_failure() {
        let good = || vec![judge([600, 400, 0], 0)];
        let mut failing = Tally::default();
        failing.failures.insert(Failure::Timeout, 1);
        assert!(Report::new(good(), 1, &Tally::default(), None).passed);
        assert!(
            !Report::new(good(), 2, &Tally::default(), None).passed,
            "a phase is missing"
        );
        assert!(
            !Report::new(good(), 1, &failing, None).passed,
            "a failure between phases"
        );
        assert!(
            !Report::new(good(), 1, &Tally::default(), Some("x".to_owned())).passed,
            "an error"
        );
    }
}
