//! HTTP load by wrk.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use waxwing_tests::Namespace;

/// What wrk may take beyond the time of the load.
const GRACE: Duration = Duration::from_secs(20);

/// A load of HTTP requests from one thread.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wrk {
    pub(crate) target: SocketAddr,
    /// Connections that are open at once.
    pub(crate) connections: u32,
    pub(crate) seconds: u32,
    /// Whether connections serve many requests, or one each.
    pub(crate) keep_alive: bool,
}

impl Wrk {
    /// Runs the load. Returns requests a second.
    pub(crate) fn run(&self, client: &Namespace) -> Result<f64> {
        let (connections, duration) = (
            format!("-c{}", self.connections),
            format!("-d{}", self.seconds),
        );
        let url = format!("http://{}/", self.target);
        let mut arguments = vec!["-t1", &connections, &duration, "--timeout", "5s"];
        if !self.keep_alive {
            arguments.extend(["-H", "Connection: close"]);
        }
        arguments.push(&url);
        let finished = client
            .spawn("wrk", &arguments)?
            .finish(Duration::from_secs(self.seconds.into()) + GRACE)?;
        requests_per_second(&finished.stdout).with_context(|| {
            format!(
                "wrk reports failed requests or no rate: {}{}",
                finished.stdout, finished.stderr
            )
        })
    }
}

/// Parses wrk's report. Returns `None` if a request failed.
fn requests_per_second(report: &str) -> Option<f64> {
    if report.contains("Socket errors") || report.contains("Non-2xx") {
        return None;
    }
    let rate = report
        .lines()
        .find_map(|line| line.strip_prefix("Requests/sec:"))?;
    rate.trim().parse().ok().filter(|rate| *rate > 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_rate_is_parsed() {
        let report = "Running 2s test\n  100 requests in 2.00s, 1KB read\n\
                      Requests/sec:  9712.34\nTransfer/sec: 1MB\n";
        assert_eq!(requests_per_second(report), Some(9712.34));
    }

    #[test]
    fn a_report_with_failed_requests_has_no_rate() {
        let lost = "  Socket errors: connect 0, read 7, write 0, timeout 0\nRequests/sec: 9.1\n";
        let refused = "  Non-2xx or 3xx responses: 3\nRequests/sec: 9.1\n";
        for report in [lost, refused, "Requests/sec: 0.00\n", ""] {
            assert_eq!(requests_per_second(report), None);
        }
    }
}
