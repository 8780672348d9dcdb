//! Rate and one-way latency of UDP packets, from the generator to the sink.
//!
//! Invariant: a contender is measured only after it opened the flows correctly: at least nine of ten opening
//! packets arrived, and every server got some. A packet with a wrong checksum voids the run.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::generator::{Generator, Load, Sent};
use super::run::{PORT, Run};
use super::sink::{Arrivals, Sink};
use crate::contender::Contender;
use crate::network::{Network, Offloads, Protocol, VIP};
use crate::sample::{CpuWatch, Sample};

/// Flows of the established load.
pub(super) const FLOWS: u32 = 10_000;
/// Packets that open each flow, sent at a rate that every contender forwards. The generator's calibration
/// call sends some of them.
const OPENING_PACKETS: u32 = 5;
const OPENING_RATE: f64 = 50_000.0;
/// The share of opening packets that must arrive: other programs may disturb the machine.
const OPENING_ARRIVES: f64 = 0.9;
/// The load runs this long before the measurement starts.
const WARM_UP: Duration = Duration::from_millis(200);

/// Measures a contender on a network of its own.
pub(super) fn measure(run: Run, contender: Contender, load: Load) -> Result<Sample> {
    let network = Network::pinned(run.cores, contender.servers(), Offloads::Off)?;
    network.sink_on_contenders_cpu()?;
    let running = run.start(contender, &network, Protocol::Udp)?;
    let topology = &network.topology;
    let sink = Sink::attach(&topology.switch, "balancer", PORT)?;
    let gateway = topology.balancer.mac("front")?;
    let mut generator = Generator::new(&topology.client, gateway, VIP, PORT)?;
    let duration = Duration::from_secs(run.seconds.into());

    open_flows(&mut generator, &sink, contender.servers())?;
    let sample = generator.during(load, WARM_UP + duration, |sent| {
        thread::sleep(WARM_UP);
        let before = Reading::now(sent, &sink)?;
        let watch = CpuWatch::begin(run.cores)?;
        thread::sleep(duration);
        let after = Reading::now(sent, &sink)?;
        let cpu = watch.end()?;
        let seconds = (after.at - before.at).as_secs_f64();
        let latencies = after.arrivals.latencies.since(&before.arrivals.latencies);
        Ok(Sample {
            rate: float(after.arrivals.packets - before.arrivals.packets) / seconds,
            offered: Some(float(after.sent - before.sent) / seconds),
            latency: latencies.percentiles(),
            cpu: Some(cpu),
        })
    })?;
    let bad = sink.arrivals()?.bad;
    ensure!(bad == 0, "{contender}: {bad} packets with a wrong checksum");
    running.stop()?;
    Ok(sample)
}

/// The counters of generator and sink at one time.
struct Reading {
    at: Instant,
    sent: u64,
    arrivals: Arrivals,
}

impl Reading {
    fn now(sent: &Sent<'_>, sink: &Sink) -> Result<Self> {
        Ok(Self {
            at: Instant::now(),
            sent: sent.frames()?,
            arrivals: sink.arrivals()?,
        })
    }
}

/// Opens the flows, and checks that their packets arrived at every server.
fn open_flows(generator: &mut Generator<'_>, sink: &Sink, servers: u8) -> Result<()> {
    let load = Load {
        flows: Some(FLOWS),
        rate: Some(OPENING_RATE),
    };
    let time = Duration::from_secs_f64(f64::from(FLOWS * OPENING_PACKETS) / OPENING_RATE);
    let sent = generator.during(load, time, |sent| {
        thread::sleep(time);
        sent.frames()
    })?;
    let arrivals = sink.arrivals()?;
    let arrived = arrivals.packets;
    ensure!(
        float(arrived) >= OPENING_ARRIVES * float(sent),
        "only {arrived} of {sent} packets that open flows arrived"
    );
    let used = arrivals
        .by_server
        .iter()
        .filter(|count| **count > 0)
        .count();
    ensure!(
        used == usize::from(servers),
        "{used} of {servers} servers received packets: {:?}",
        arrivals.by_server
    );
    Ok(())
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a minute's packets are far below 2^52"
)]
const fn float(count: u64) -> f64 {
    count as f64
}
