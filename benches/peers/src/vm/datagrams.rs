//! What is measured of a contender: how much passes it in both directions in a few seconds.
//!
//! Invariant: a load waits for its answers, so that no contender is flooded: client, contender and
//! servers share two emulated processors.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use waxwing_tests::echo::Pinger;
use waxwing_tests::vm::guest::Report;
use waxwing_tests::{Namespace, actors};

/// How long each load is put on, after a moment for caches and neighbours.
const WARM_UP: Duration = Duration::from_millis(500);
const SECONDS: u64 = 3;

/// The longest that an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Flows of datagrams, with a datagram under way in each.
const FLOWS: usize = 32;

/// What is measured, by the name that the host gets a value under.
pub(crate) const DATAGRAMS: &str = "datagrams there and back, established flows, a second";
pub(crate) const REQUESTS: &str = "HTTP requests on connections that stay, a second";
pub(crate) const CONNECTIONS: &str = "HTTP requests with a connection each, a second";
pub(crate) const ALL: [&str; 3] = [DATAGRAMS, REQUESTS, CONNECTIONS];

/// Where the loads go.
#[derive(Clone, Copy)]
pub(crate) struct Targets {
    pub(crate) http: SocketAddr,
    pub(crate) echo: SocketAddr,
}

/// Puts all loads on, one after the other.
pub(crate) fn all(client: &Namespace, targets: Targets, report: &Report) -> Result<()> {
    let rate = client.enter(|| datagrams(targets.echo))?;
    report.measured(DATAGRAMS, rate.context("datagrams")?);
    for (what, headers) in [
        (REQUESTS, &[][..]),
        (CONNECTIONS, &["-H", "Connection: close"]),
    ] {
        report.measured(what, wrk(client, targets.http, headers).context(what)?);
    }
    Ok(())
}

/// Round trips a second: one datagram of each flow, then all answers, and again.
#[expect(clippy::cast_precision_loss, reason = "a count of some seconds")]
fn datagrams(server: SocketAddr) -> io::Result<f64> {
    let flows = (0..FLOWS).map(|_| Pinger::new(server, PATIENCE));
    let flows = flows.collect::<io::Result<Vec<_>>>()?;
    let volley = |number| {
        flows.iter().try_for_each(|flow| flow.send(number))?;
        flows.iter().try_for_each(|flow| flow.wait(number))
    };
    let volleys_for = |time| {
        let begun = Instant::now();
        let mut count = 0;
        while begun.elapsed() < time {
            volley(count)?;
            count += 1;
        }
        let rate = (count * FLOWS as u64) as f64 / begun.elapsed().as_secs_f64();
        io::Result::Ok(rate)
    };
    volleys_for(WARM_UP)?;
    volleys_for(Duration::from_secs(SECONDS))
}

/// Requests a second, all of which were answered well.
#[expect(clippy::cast_precision_loss, reason = "a count of some seconds")]
fn wrk(client: &Namespace, server: SocketAddr, headers: &[&str]) -> Result<f64> {
    let (time, url) = (format!("-d{SECONDS}s"), format!("http://{server}/"));
    let load = ["-t1", "-c16", &time, "--timeout", "5s", &url];
    let process = client.spawn("wrk", &[&load, headers].concat())?;
    let finished = process.finish(Duration::from_secs(SECONDS) + 4 * PATIENCE)?;
    Ok(actors::wrk_requests(&finished)? as f64 / SECONDS as f64)
}
