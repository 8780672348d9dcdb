//! The least that AF_XDP forwarding costs: Waxwing's own frame I/O, and nothing of Waxwing above it.
//!
//! Two ports; what a service's rule takes from the kernel on one of them leaves by the other, with that
//! port's MAC address as its source and a given one as its destination. Nothing is parsed, looked up or
//! counted by packet (but what is dropped). So it is the ceiling for anything that does more with the same rings, the same XDP
//! program, the same batches and the same way to wait, and `cargo xtask bench wire` measures Waxwing
//! against it.
//!
//! ```sh
//! bare-forwarder --port front=02:00:00:00:00:01 --port back=02:00:00:00:00:02 \
//!     --service 203.0.113.10:80/tcp --cpu 1
//! ```
//!
//! Invariant: it forwards until it is ended by a signal, and the kernel has its interfaces again then,
//! because the program is attached by a link that ends with the process.

mod arguments;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use waxwing_dataplane::steering::{Rules, Steering as _};
use waxwing_dataplane::{BATCH, FrameBuf as _, FrameIo, PortId};
use waxwing_packet::{Address, Mac};
use waxwing_xdp::{Options, PollMode, PortOptions, pin_current_thread};

use crate::arguments::{Arguments, Service};

/// How long an idle turn sleeps at most, as a worker of Waxwing's does.
const IDLE_WAIT: Duration = Duration::from_millis(20);
/// How much it goes before others on its processor, as a worker of Waxwing's does.
const NICE: i32 = -10;
/// How often it says what passed, and after how many turns it looks at the clock for that.
const SAY_EVERY: Duration = Duration::from_secs(1);
const TURNS_A_LOOK: u32 = 64;

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
        pin_current_thread(cpu).with_context(|| format!("cannot be pinned to CPU {cpu}"))?;
    }
    rustix::process::setpriority_process(None, NICE).context("cannot go before others")?;
    let parts = workers.into_iter().next().context("a port has no queue")?;
    println!("ready");
    forward(parts.into_io(), &macs)
}

/// What is taken from the kernel: frames to the services, and what their servers answer.
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

/// Sends every frame out of the other port, with that port's addresses: destination, then source.
fn forward(mut io: impl FrameIo, macs: &[(Mac, Mac)]) -> Result<()> {
    let mut frames = Vec::with_capacity(BATCH);
    let mut count = Count::default();
    let mut said = Instant::now();
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
        if turn % TURNS_A_LOOK == 0 && said.elapsed() >= SAY_EVERY {
            count.say();
            said = Instant::now();
        }
    }
    Ok(())
}

/// What passed since the start.
#[derive(Default)]
struct Count {
    received: u64,
    /// Of these: the way out was full.
    dropped: u64,
    batches: u64,
}

impl Count {
    fn say(&self) {
        let Self {
            received,
            dropped,
            batches,
        } = self;
        let forwarded = received - dropped;
        println!("forwarded {forwarded} dropped {dropped} batches {batches}");
    }
}
