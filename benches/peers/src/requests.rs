//! What TCP clients see: requests a second, how long each takes, and bulk throughput.
//!
//! Invariant: every request was answered well; a run in which one was not is no figure.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use waxwing_tests::{Load, actors};

use crate::bed::{Bed, Offloads, PORT, VIP};
use crate::contender::{Contender, Poll, Protocol};
use crate::cpu::Cores;
use crate::sample::{Latency, Sample, Watch};

/// Connections that are open at once.
const CONNECTIONS: u32 = 32;
/// What a program may take above its own time.
const GRACE: Duration = Duration::from_secs(20);
const TIMEOUT: Duration = Duration::from_secs(5);

/// Requests a second by wrk: each on a connection of its own, or all on connections that are kept.
pub(crate) fn flat_out(
    cores: Cores,
    contender: Contender,
    poll: Poll,
    keep_alive: bool,
    seconds: u32,
) -> Result<Sample> {
    let bed = Bed::new(cores, servers_of(contender), Offloads::Off)?;
    let _servers = web_servers(&bed)?;
    let running = contender.start(&bed, Protocol::Tcp, poll)?;
    let (connections, duration) = (format!("-c{CONNECTIONS}"), format!("-d{seconds}"));
    let url = format!("http://{VIP}:{PORT}/");
    let mut arguments = vec!["-t1", &connections, &duration];
    if !keep_alive {
        arguments.extend(["-H", "Connection: close"]);
    }
    arguments.push(&url);
    let watch = Watch::begin(cores)?;
    let wrk = bed.topology.client.spawn("wrk", &arguments)?;
    let finished = wrk.finish(Duration::from_secs(seconds.into()) + GRACE)?;
    let [load_cpu, cpu] = watch.end()?;
    running.stop()?;
    let rate = requests_a_second(&finished.stdout)
        .with_context(|| format!("{contender}: {}{}", finished.stdout, finished.stderr))?;
    Ok(Sample {
        rate,
        cpu,
        load_cpu,
        ..Sample::default()
    })
}

/// How long requests on kept connections take, at so many a second; at as many as can be with 0.
pub(crate) fn paced(
    cores: Cores,
    contender: Contender,
    poll: Poll,
    rate: u32,
    seconds: u32,
) -> Result<Sample> {
    let bed = Bed::new(cores, servers_of(contender), Offloads::Off)?;
    let _servers = web_servers(&bed)?;
    let running = contender.start(&bed, Protocol::Tcp, poll)?;
    let duration = Duration::from_secs(seconds.into());
    let load = Load {
        target: SocketAddr::from((VIP, PORT)),
        clients: CONNECTIONS,
        keep_alive: true,
        rate,
        duration,
        interval: Duration::from_millis(100),
        timeout: TIMEOUT,
    };
    let watch = Watch::begin(cores)?;
    let tally = actors::load(&bed.topology.client, load)?;
    let [load_cpu, cpu] = watch.end()?;
    running.stop()?;
    ensure!(
        tally.failed() == 0,
        "{contender}: requests failed: {:?}",
        tally.failures
    );
    let us = |quantile| tally.latency(quantile).as_secs_f64() * 1e6;
    Ok(Sample {
        rate: f64::from(u32::try_from(tally.answers())?) / duration.as_secs_f64(),
        latency: Some(Latency {
            p50: us(0.5),
            p99: us(0.99),
            p999: us(0.999),
        }),
        cpu,
        load_cpu,
        ..Sample::default()
    })
}

/// Bits a second of one connection, by iperf3.
pub(crate) fn bulk(
    cores: Cores,
    contender: Contender,
    poll: Poll,
    offloads: Offloads,
    seconds: u32,
) -> Result<Sample> {
    // Its two connections have to meet one server.
    let bed = Bed::new(cores, 1, offloads)?;
    let _server = actors::iperf3_server(&bed.topology.servers[0], PORT)?;
    let running = contender.start(&bed, Protocol::Tcp, poll)?;
    let (vip, port, time) = (VIP.to_string(), PORT.to_string(), seconds.to_string());
    let arguments = ["-c", &vip, "-p", &port, "-t", &time, "--json"];
    let watch = Watch::begin(cores)?;
    let iperf = bed.topology.client.spawn("iperf3", &arguments)?;
    let finished = iperf.finish(Duration::from_secs(seconds.into()) + GRACE)?;
    let [load_cpu, cpu] = watch.end()?;
    running.stop()?;
    let rate = bits_a_second(&finished.stdout)
        .with_context(|| format!("{contender}: {}{}", finished.stdout, finished.stderr))?;
    Ok(Sample {
        rate,
        cpu,
        load_cpu,
        ..Sample::default()
    })
}

fn servers_of(contender: Contender) -> u8 {
    if contender.has_one_server() { 1 } else { 2 }
}

fn web_servers(bed: &Bed) -> Result<Vec<waxwing_tests::Process>> {
    (1..=bed.servers())
        .map(|number| actors::nginx(&bed.topology, number, PORT, 1))
        .collect()
}

/// From what wrk prints; nothing where a request failed.
fn requests_a_second(text: &str) -> Option<f64> {
    if text.contains("Socket errors") || text.contains("Non-2xx") {
        return None;
    }
    let rate = text
        .lines()
        .find_map(|line| line.strip_prefix("Requests/sec:"))?;
    rate.trim().parse().ok()
}

/// From what iperf3 prints: what the server received.
fn bits_a_second(json: &str) -> Option<f64> {
    let report: serde_json::Value = serde_json::from_str(json).ok()?;
    report["end"]["sum_received"]["bits_per_second"].as_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrk_and_iperf3_are_understood() {
        let good = "Running 2s test\n  100 requests in 2.00s, 1KB read\nRequests/sec:  9712.34\nTransfer/sec: 1MB\n";
        assert_eq!(requests_a_second(good), Some(9712.34));
        let json = r#"{"end": {"sum_received": {"bits_per_second": 5.5e9}}}"#;
        assert_eq!(bits_a_second(json), Some(5.5e9));
    }

    #[test]
    fn failed_requests_make_no_figure() {
        let failed = "  Socket errors: connect 0, read 7, write 0, timeout 0\nRequests/sec: 9.1\n";
        let refused = "  Non-2xx or 3xx responses: 3\nRequests/sec: 9.1\n";
        for text in [failed, refused, ""] {
            assert_eq!(requests_a_second(text), None);
        }
        assert_eq!(bits_a_second(r#"{"error": "unable to connect"}"#), None);
    }
}
