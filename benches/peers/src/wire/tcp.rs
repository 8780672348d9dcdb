//! Measurements of TCP clients: requests a second, response times, bulk throughput.
//!
//! Invariant: a run in which a request failed yields an error, not a sample.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use waxwing_tests::{Load, Namespace, Process, actors};

use super::run::{self, PORT, Run};
use crate::contender::Contender;
use crate::network::{Network, Offloads, Protocol};
use crate::sample::{CpuUse, CpuWatch, Latency, Sample};
use crate::wrk::Wrk;

/// Connections that are open at once.
const CONNECTIONS: u32 = 32;
/// What iperf3 may take beyond the time of the load.
const GRACE: Duration = Duration::from_secs(20);
const TIMEOUT: Duration = Duration::from_secs(5);

/// As many HTTP requests as possible: one per connection, or all on connections that are kept.
pub(super) fn flat_out(run: Run, contender: Contender, keep_alive: bool) -> Result<Sample> {
    let network = Network::pinned(run.cores, contender.servers(), Offloads::Off)?;
    let _servers = web_servers(&network)?;
    let wrk = Wrk {
        target: contender.target(run::service(Protocol::Tcp)),
        connections: CONNECTIONS,
        seconds: run.seconds,
        keep_alive,
    };
    let (rate, cpu) = under_load(run, contender, &network, |client| wrk.run(client))?;
    Ok(Sample {
        rate,
        cpu: Some(cpu),
        ..Sample::default()
    })
}

/// Response times of `rate` HTTP requests a second on connections that are kept; 0: as many as possible.
pub(super) fn paced(run: Run, contender: Contender, rate: u32) -> Result<Sample> {
    let network = Network::pinned(run.cores, contender.servers(), Offloads::Off)?;
    let _servers = web_servers(&network)?;
    let duration = Duration::from_secs(run.seconds.into());
    let load = Load {
        target: contender.target(run::service(Protocol::Tcp)),
        clients: CONNECTIONS,
        keep_alive: true,
        rate,
        duration,
        interval: Duration::from_millis(100),
        timeout: TIMEOUT,
    };
    let (tally, cpu) = under_load(run, contender, &network, |client| {
        actors::load(client, load)
    })?;
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
        cpu: Some(cpu),
        ..Sample::default()
    })
}

/// Bits a second of one TCP connection, by iperf3.
pub(super) fn bulk(run: Run, contender: Contender, offloads: Offloads) -> Result<Sample> {
    // iperf3's two connections have to reach the same server.
    let network = Network::pinned(run.cores, 1, offloads)?;
    let _server = actors::iperf3_server(&network.topology.servers[0], PORT)?;
    let vip = contender.target(run::service(Protocol::Tcp)).ip();
    let (vip, port, time) = (vip.to_string(), PORT.to_string(), run.seconds.to_string());
    let arguments = ["-c", &vip, "-p", &port, "-t", &time, "--json"];
    let load = |client: &Namespace| {
        let iperf3 = client.spawn("iperf3", &arguments)?;
        iperf3.finish(Duration::from_secs(run.seconds.into()) + GRACE)
    };
    let (finished, cpu) = under_load(run, contender, &network, load)?;
    let rate = bits_per_second(&finished.stdout)
        .with_context(|| format!("{contender}: {}{}", finished.stdout, finished.stderr))?;
    Ok(Sample {
        rate,
        cpu: Some(cpu),
        ..Sample::default()
    })
}

/// Starts a contender, applies the load, and stops the contender. Returns the load's result and the CPU use
/// during the load.
fn under_load<T>(
    run: Run,
    contender: Contender,
    network: &Network,
    load: impl FnOnce(&Namespace) -> Result<T>,
) -> Result<(T, CpuUse)> {
    let running = run.start(contender, network, Protocol::Tcp)?;
    let watch = CpuWatch::begin(run.cores)?;
    let result = load(&network.topology.client).with_context(|| contender.to_string())?;
    let cpu = watch.end()?;
    running.stop()?;
    Ok((result, cpu))
}

fn web_servers(network: &Network) -> Result<Vec<Process>> {
    (1..=network.servers())
        .map(|number| actors::nginx(&network.topology, number, PORT, 1))
        .collect()
}

/// Parses the rate that the server received from iperf3's JSON report.
fn bits_per_second(json: &str) -> Option<f64> {
    let report: serde_json::Value = serde_json::from_str(json).ok()?;
    report["end"]["sum_received"]["bits_per_second"].as_f64()
}

#[cfg(test)]
mod tests {
    use super::bits_per_second;

    #[test]
    fn the_bit_rate_is_parsed_and_a_failed_run_has_none() {
        let json = r#"{"end": {"sum_received": {"bits_per_second": 5.5e9}}}"#;
        assert_eq!(bits_per_second(json), Some(5.5e9));
        assert_eq!(bits_per_second(r#"{"error": "unable to connect"}"#), None);
    }
}
