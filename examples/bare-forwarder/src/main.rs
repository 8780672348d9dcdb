//! The minimal cost of AF_XDP forwarding: Waxwing's frame I/O without the balancer.
//!
//! Frames that a service's rule takes from the kernel at one port leave by the other port, with that port's
//! MAC address as source and a given one as destination. The forwarder parses, looks up and counts nothing
//! per packet (except drops). It is the upper bound for any program with the same rings, XDP program,
//! batches and polling; `cargo xtask bench wire` compares Waxwing with it.
//!
//! ```sh
//! bare-forwarder --port front=02:00:00:00:00:01 --port back=02:00:00:00:00:02 \
//!     --service 203.0.113.10:80/tcp --cpu 1
//! ```
//!
//! Invariant: it forwards until a signal ends it. The kernel then has its interfaces back, because the XDP
//! program is attached by a link that ends with the process.

mod arguments;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use waxwing_dataplane::steering::{Rules, Steering as _};
use waxwing_dataplane::{BATCH, FrameBuf as _, FrameIo, PortId};
use waxwing_packet::{Address, Mac};
use waxwing_xdp::{Options, PollMode, PortOptions, pin_current_thread};

use crate::arguments::{Arguments, Service};

/// The longest sleep of an idle turn, as in a worker of Waxwing.
const IDLE_WAIT: Duration = Duration::from_millis(20);
/// Its scheduling priority, as for a worker of Waxwing.
const NICE: i32 = -10;
/// The time between two reports, and the turns between two readings of the clock for that.
const REPORT_EVERY: Duration = Duration::from_secs(1);
const TURNS_PER_CHECK: u32 = 64;

fn main() -> Result<()> {
    let Arguments {
        ports,
        services,
        cpu,
        busy,
    } = Arguments::read();
    let options = Options {
        poll: if busy {
            PollMode::Busy
        } else {
            PollMode::Adaptive
        },
        kernel_path: None,
        ..Options::default()
    };
    let names = ports.iter().map(|port| PortOptions {
        interface: port.interface.clone(),
    });
    let (mut attached, workers) = waxwing_xdp::attach(&names.collect::<Vec<_>>(), &options)?;
    let own = attached.reports().iter().map(|report| report.interface.mac);
    let macs: Vec<_> = ports.iter().map(|port| port.mac).zip(own).collect();
    attached
        .apply(&rules(&services))
        .map_err(anyhow::Error::msg)?;
    if let Some(cpu) = cpu {
        pin_current_thread(cpu).with_context(|| format!("cannot pin this thread to CPU {cpu}"))?;
    }
    rustix::process::setpriority_process(None, NICE)
        .context("cannot raise the priority; needs root or CAP_SYS_NICE")?;
    let parts = workers.into_iter().next().context("a port has no queue")?;
    println!("ready");
    forward(parts.into_io(), &macs)
}

/// Rules for the frames to take from the kernel: to the services, and replies of their servers.
fn rules(services: &[Service]) -> Rules {
    let endpoint = |service: &Service| {
        let Service { address, protocol } = *service;
        (Address::from(address.ip()), address.port(), protocol as u8)
    };
    Rules {
        services: services.iter().map(endpoint).collect(),
        backends: services.iter().map(endpoint).collect(),
        ..Rules::default()
    }
}

/// Sends every frame out of the other port. `macs` has each port's destination and source address.
fn forward(mut io: impl FrameIo, macs: &[(Mac, Mac)]) -> Result<()> {
    let mut frames = Vec::with_capacity(BATCH);
    let mut count = Count::default();
    let mut reported = Instant::now();
    for turn in 0_u32.. {
        io.receive(&mut frames);
        if frames.is_empty() {
            io.wait(IDLE_WAIT);
        } else {
            count.batches += 1;
            count.received += frames.len() as u64;
        }
        for mut frame in frames.drain(..) {
            let out = PortId(1 - frame.port().0);
            let (destination, source) = macs[out.index()];
            frame.bytes_mut()[0..6].copy_from_slice(&destination.0);
            frame.bytes_mut()[6..12].copy_from_slice(&source.0);
            if io.send(out, frame).is_err() {
                count.dropped += 1;
            }
        }
        io.flush();
        if turn % TURNS_PER_CHECK == 0 && reported.elapsed() >= REPORT_EVERY {
            count.report();
            reported = Instant::now();
        }
    }
    Ok(())
}

/// Frames since the start.
#[derive(Default)]
struct Count {
    received: u64,
    /// Received frames that were dropped because the other port was full.
    dropped: u64,
    batches: u64,
}

impl Count {
    fn report(&self) {
        let Self {
            received,
            dropped,
            batches,
        } = self;
        let forwarded = received - dropped;
        println!("forwarded {forwarded} dropped {dropped} batches {batches}");
    }
}
