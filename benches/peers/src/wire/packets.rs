//! Packets a second, and how long each is on its way: UDP from our generator to our sink.
//!
//! Invariant: what is measured was first seen to pass well: the flows' packets, at least nine of ten, had right
//! checksums and got to every server.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::bed::{Bed, Offloads, PORT, VIP};
use crate::contender::{Contender, Poll, Protocol};
use crate::cpu::Cores;
use crate::generator::{Generator, Load, Sent};
use crate::sample::{Latency, Sample, Watch};
use crate::sink::{Arrivals, Sink};

/// Flows of the established load.
pub(crate) const FLOWS: u32 = 10_000;
/// Each is opened by so many packets, at a rate that everybody forwards; the first call of the kernel has some.
const OPENING_PACKETS: u32 = 5;
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
    let sample = generator.during(load, WARM_UP + duration, |sent| {
        thread::sleep(WARM_UP);
        let before = Moment::now(sent, &sink)?;
        let watch = Watch::begin(cores)?;
        thread::sleep(duration);
        let after = Moment::now(sent, &sink)?;
        let [load_cpu, cpu] = watch.end()?;
        let took = (after.at - before.at).as_secs_f64();
        let latencies = after.arrivals.latencies.since(&before.arrivals.latencies);
        Ok(Sample {
            rate: float(after.arrivals.packets - before.arrivals.packets) / took,
            offered: Some(float(after.sent - before.sent) / took),
            latency: Latency::of(&latencies),
            cpu,
            load_cpu,
        })
    })?;
    let bad = sink.arrivals()?.bad;
    ensure!(bad == 0, "{contender}: {bad} packets with a wrong checksum");
    running.stop()?;
    Ok(sample)
}

/// What was sent and has arrived up to now.
struct Moment {
    at: Instant,
    sent: u64,
    arrivals: Arrivals,
}

impl Moment {
    fn now(sent: &Sent<'_>, sink: &Sink) -> Result<Self> {
        Ok(Self {
            at: Instant::now(),
            sent: sent.frames()?,
            arrivals: sink.arrivals()?,
        })
    }
}

/// Opens the flows, and looks at where their packets went.
fn open(generator: &mut Generator<'_>, sink: &Sink, servers: u8) -> Result<()> {
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
        "of {sent} packets that open flows {arrived} arrived"
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
const fn float(count: u64) -> f64 {
    count as f64
}
