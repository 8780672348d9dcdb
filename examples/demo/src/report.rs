//! The demo's report: each phase's shares compared with those that its policy must yield.
//!
//! Invariant: whether a phase passed depends on the counts alone, by bounds derived below.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;
use waxwing_tests::Tally;
use waxwing_tests::load::Failure;

/// The share of new sessions that each server must get.
pub(crate) type Shares = &'static [(&'static str, f64)];

/// The quantities that bound the deviation of counts from the expected shares.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// The most requests in flight.
    pub(crate) clients: u32,
    /// Instances of the policy, each with its own sequence of picks.
    pub(crate) workers: u32,
}

impl Bounds {
    /// The largest deviation of a server's count from its expected count, in requests.
    ///
    /// The demo's policies pick in fixed sequences: in any interval, an instance's count deviates by at
    /// most two from its share. Picks and answers differ only at the start and the end of a phase, each
    /// time by the requests in flight.
    fn deviation(self) -> u32 {
        2 * self.clients + 2 * self.workers
    }
}

/// The whole run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// Whether no request failed and every phase passed.
    pub(crate) passed: bool,
    /// Answered requests, including those between phases.
    pub(crate) requests: u64,
    /// Failed requests, including those between phases.
    pub(crate) failures: u64,
    /// Failures by kind.
    pub(crate) failures_by_kind: BTreeMap<Failure, u64>,
    pub(crate) phases: Vec<Phase>,
    /// The error that ended the run early.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

/// One phase.
#[derive(Debug, Serialize)]
pub(crate) struct Phase {
    pub(crate) name: &'static str,
    /// What the policy does.
    pub(crate) policy: &'static str,
    /// The duration of the measurement.
    pub(crate) seconds: f64,
    /// Answered requests.
    pub(crate) requests: u64,
    /// Failed requests.
    pub(crate) failures: u64,
    /// The serving module's hash.
    pub(crate) module: String,
    /// Each server's share.
    pub(crate) servers: BTreeMap<&'static str, Server>,
    /// The largest deviation of a share: the deviation in requests over the requests.
    pub(crate) tolerance: f64,
    /// Median latency, in microseconds.
    pub(crate) latency_p50_us: u64,
    /// 99th percentile of latency, in microseconds.
    pub(crate) latency_p99_us: u64,
    /// Whether no request failed and the shares are as expected.
    pub(crate) passed: bool,
    /// Why the phase failed.
    pub(crate) problems: Vec<String>,
}

/// One server's share of a phase.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub(crate) struct Server {
    /// Requests that it answered.
    pub(crate) requests: u64,
    /// Its share of all requests, 0 to 1.
    pub(crate) share: f64,
    /// The share that the policy must yield.
    pub(crate) expected: f64,
}

impl Phase {
    /// Evaluates a phase.
    pub(crate) fn new(
        name: &'static str,
        policy: &'static str,
        expected: Shares,
        module: String,
        seconds: f64,
        tally: &Tally,
        bounds: Bounds,
    ) -> Self {
        let requests = tally.answers();
        let tolerance = f64::from(bounds.deviation()) / requests.max(1) as f64;
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

/// Far below one request's share, far above rounding errors.
const ROUNDING: f64 = 1e-9;

fn problems(
    servers: &BTreeMap<&'static str, Server>,
    tally: &Tally,
    tolerance: f64,
) -> Vec<String> {
    let mut problems = Vec::new();
    if tally.answers() == 0 {
        problems.push("no request was answered".to_owned());
    }
    problems.extend(
        tally
            .failures
            .iter()
            .map(|(kind, n)| format!("{n} requests failed: {kind}")),
    );
    for (name, server) in servers {
        // A drained server has no requests in flight: a phase is measured after the requests from before were
        // answered.
        let allowed = if server.expected == 0.0 {
            0.0
        } else {
            tolerance
        };
        if (server.share - server.expected).abs() > allowed + ROUNDING {
            problems.push(format!(
                "server {name} got {:.2} % of the requests instead of {:.2} % (+/- {:.2} %)",
                server.share * 100.0,
                server.expected * 100.0,
                allowed * 100.0
            ));
        }
    }
    problems
}

impl Report {
    pub(crate) fn new(
        phases: Vec<Phase>,
        phases_planned: usize,
        total: &Tally,
        error: Option<String>,
    ) -> Self {
        let is_complete = error.is_none() && phases.len() == phases_planned;
        let passed = is_complete && total.failed() == 0 && phases.iter().all(|phase| phase.passed);
        Self {
            passed,
            requests: total.answers(),
            failures: total.failed(),
            failures_by_kind: total.failures.clone(),
            phases,
            error,
        }
    }

    /// The summary as text.
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
        let result = if self.passed { "passed" } else { "FAILED" };
        let _ = write!(
            text,
            "{result}: {} requests, {} failed",
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

    const BOUNDS: Bounds = Bounds {
        clients: 4,
        workers: 1,
    };
    const SHARES: Shares = &[("1", 0.6), ("2", 0.4), ("3", 0.0)];

    fn phase(counts: [u64; 3], failed: u64) -> Phase {
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
            BOUNDS,
        )
    }

    #[test]
    fn a_phase_passes_up_to_its_tolerance() {
        for (what, counts, failed, passes) in [
            ("the expected shares", [600, 400, 0], 0, true),
            ("the requests in flight", [610, 390, 0], 0, true),
            ("one request more", [611, 389, 0], 0, false),
            ("a drained server that answers", [600, 399, 1], 0, false),
            ("a failed request", [600, 400, 0], 1, false),
            ("no request", [0, 0, 0], 0, false),
        ] {
            let phase = phase(counts, failed);
            assert_eq!(phase.passed, passes, "{what}: {:?}", phase.problems);
        }
    }

    #[test]
    fn a_run_passes_only_if_complete_and_without_failure() {
        let good = || vec![phase([600, 400, 0], 0)];
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
