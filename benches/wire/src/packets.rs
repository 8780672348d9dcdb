//! Packets a second, and how long each is on its way: UDP from our generator to our sink.
//!
//! Invariant: what is measured was first seen to pass well: every flow is open, whole, and at a server.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::bed::{Bed, Offloads, PORT, VIP};
use crate::contender::{Contender, Poll, Protocol};
use crate::cpu::Cores;
use crate::generator::{Generator, Load};
use crate::sample::{Latency, Sample, Watch};
use crate::sink::Sink;

/// Flows of the established load.
pub(crate) const FLOWS: u32 = 10_000;
/// Each is opened by so many packets, at a rate that everybody forwards.
const OPENING_PACKETS: u32 = 3;
const OPENING_RATE: f64 = 50_000.0;
/// How much of the opening must arrive: the machine may be busy with others.
const OPENING_ARRIVES: f64 = 0.9;
/// The load's first part, which is not measured.
const WARM_UP: Duration = Duration::from_millis(200);

/// Measures a contender on a bed of its own.
pub(crate) fn measure(
    cores: Cores,
    contender: Contender,
    poll: Poll,
    load: Load,
    duration: Duration,
) -> Result<Sample> {
    let servers = if contender.has_one_server() { 1 } else { 2 };
    let bed = Bed::new(cores, servers, Offloads::Off)?;
    bed.sink_beside_contender()?;
    let running = contender.start(&bed, Protocol::Udp, poll)?;
    let topology = &bed.topology;
    let sink = Sink::attach(&topology.switch, "balancer", PORT)?;
    let gateway = topology.balancer.mac("front")?;
    let mut generator = Generator::new(&topology.client, gateway, VIP, PORT)?;

    open(&mut generator, &sink, servers)?;
    generator.run(load, WARM_UP)?;
    let (before, watch) = (sink.arrivals()?, Watch::begin(cores)?);
    let (sent, took) = generator.run(load, duration)?;
    let ([load_cpu, cpu], after) = (watch.end()?, sink.arrivals()?);
    ensure!(
        after.bad == 0,
        "{contender}: {} packets with a wrong checksum",
        after.bad
    );
    running.stop()?;
    let a_second = |packets| per_second(packets, took);
    Ok(Sample {
        rate: a_second(after.packets - before.packets),
        offered: Some(a_second(sent)),
        latency: Latency::of(&after.latencies.since(&before.latencies)),
        cpu,
        load_cpu,
    })
}

/// Opens the flows, and looks at where their packets went.
fn open(generator: &mut Generator<'_>, sink: &Sink, servers: u8) -> Result<()> {
    let load = Load {
        flows: Some(FLOWS),
        rate: Some(OPENING_RATE),
    };
    let packets = f64::from(FLOWS * OPENING_PACKETS);
    let (sent, took) = generator.run(load, Duration::from_secs_f64(packets / OPENING_RATE))?;
    let arrivals = sink.arrivals()?;
    let second = Duration::from_secs(1);
    let (sent, arrived) = (
        per_second(sent, second),
        per_second(arrivals.packets, second),
    );
    ensure!(
        arrived >= OPENING_ARRIVES * sent,
        "of {sent} packets that open flows {arrived} arrived, in {took:?}"
    );
    let used = arrivals
        .by_server
        .iter()
        .filter(|count| **count > 0)
        .count();
    ensure!(
        used == usize::from(servers),
        "of {servers} servers {used} got packets: {:?}",
        arrivals.by_server
    );
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "packets of a minute")]
fn per_second(count: u64, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}
