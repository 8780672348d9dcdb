//! The packet generator: a BPF program sends UDP frames from the client's interface.
//!
//! Invariant: a frame has 64 bytes on the wire (frame check sequence included) and correct checksums. Its
//! source address and port identify its flow; flows follow one another in turn, or each frame has its own.

use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use aya::maps::{Array, MapData};
use aya::programs::{ProgramError, TestRun as _, TestRunAttrs, TestRunOptions, Xdp};
use aya::{Ebpf, include_bytes_aligned};
use nix::net::if_::if_nametoindex;
use waxwing_tests::Namespace;

/// The BPF programs of generator and sink.
pub(super) static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/wire.bpf.o"));

pub(crate) const FRAME_LEN: usize = 60;
pub(crate) const IP: usize = 14;
const UDP: usize = IP + 20;
const PROTOCOL_UDP: u8 = 17;
/// The first source address. All sources are in 10.64.0.0/10, which no interface uses.
const SOURCE: Ipv4Addr = Ipv4Addr::new(10, 64, 0, 0);

/// Frames that the kernel hands on together: a NIC's batch, or few if paced, so that none waits for others.
pub(crate) const BATCH: u32 = 64;
const BATCH_PACED: u32 = 8;
/// Runs of the program in the first call, which measures how long one takes.
const CALIBRATION_RUNS: u32 = 100_000;
/// The factor of runs that a call gets beyond those that it seems to need. Surplus runs end quickly.
const SPARE: f64 = 1.5;

/// A packet load.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    /// The number of flows, which take turns; `None`: each frame has a flow of its own.
    pub(super) flows: Option<u32>,
    /// Frames a second, with time stamps; `None`: as many as possible, without.
    pub(super) rate: Option<f64>,
}

/// `struct plan` in `wire.bpf.c`: the frame, then its parameters.
type Plan = [u64; 15];
const FLOWS: usize = 10;
const SOURCE_AT: usize = 11;
const INTERFACE: usize = 12;
const INTERVAL: usize = 13;
const IS_OVER: usize = 14;
/// `struct progress` in `wire.bpf.c`: frames sent, next flow, due time of the next frame.
type Progress = [u64; 3];

/// The generator on the client's host.
pub(super) struct Generator<'a> {
    client: &'a Namespace,
    ebpf: Ebpf,
    plans: Array<MapData, Plan>,
    progresses: Array<MapData, Progress>,
    /// The plan of an unpaced load of one flow.
    plan: Plan,
}

impl<'a> Generator<'a> {
    /// Loads a generator that sends from the client's `eth0` to `vip` and `port`, by the gateway with this
    /// MAC address.
    pub(super) fn new(
        client: &'a Namespace,
        gateway: [u8; 6],
        vip: Ipv4Addr,
        port: u16,
    ) -> Result<Self> {
        let mut ebpf =
            Ebpf::load(OBJECT).context("cannot load the BPF object with the generator")?;
        let program: &mut Xdp = ebpf
            .program_mut("generate")
            .context("the BPF object has no program `generate`")?
            .try_into()?;
        program.load().context("the kernel rejects the generator")?;
        let mut array = |name| {
            ebpf.take_map(name)
                .with_context(|| format!("the BPF object has no map `{name}`"))
        };
        let (plans, progresses) = (
            array("plans")?.try_into()?,
            array("progresses")?.try_into()?,
        );
        let frame = frame([gateway, client.mac("eth0")?], vip, port);
        let interface = client.enter(|| if_nametoindex("eth0"))??;
        Ok(Self {
            client,
            ebpf,
            plans,
            progresses,
            plan: plan(&frame, vip, interface),
        })
    }

    /// Sends while `measure` runs, which takes about `time`. One system call sends the whole load, because
    /// the kernel pauses between two; a calibration call before measures how many runs that call needs.
    pub(super) fn during<T>(
        &mut self,
        load: Load,
        time: Duration,
        measure: impl FnOnce(&Sent<'_>) -> Result<T>,
    ) -> Result<T> {
        let mut plan = self.plan;
        plan[FLOWS] = load.flows.map_or(0, u64::from);
        plan[INTERVAL] = load.rate.map_or(0, interval);
        self.plans.set(0, plan, 0)?;
        let [sent, flow, _] = self.progresses.get(&0, 0)?;
        self.progresses.set(0, [sent, flow, 0], 0)?;
        let batch = match load.rate {
            Some(_) => BATCH_PACED,
            None => BATCH,
        };
        let program: &Xdp = self
            .ebpf
            .program("generate")
            .context("the BPF object has no program `generate`")?
            .try_into()?;
        let (client, plans) = (self.client, &mut self.plans);
        let rate = client.enter(|| runs_per_second(program, batch))??;
        let runs = runs_for(rate, time);
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            let sending = scope.spawn(|| {
                client.enter(|| {
                    while !is_over.load(Ordering::Relaxed) {
                        call(program, batch, runs)?;
                    }
                    Ok::<_, anyhow::Error>(())
                })
            });
            let measured = measure(&Sent(&self.progresses));
            is_over.store(true, Ordering::Relaxed);
            plan[IS_OVER] = 1;
            let ended = plans.set(0, plan, 0);
            let sent = sending.join();
            sent.map_err(|_| anyhow!("the generator panicked"))???;
            ended?;
            measured
        })
    }
}

/// The counter of frames that a generator sent.
pub(super) struct Sent<'a>(&'a Array<MapData, Progress>);

impl Sent<'_> {
    pub(super) fn frames(&self) -> Result<u64> {
        let [sent, ..] = self.0.get(&0, 0)?;
        Ok(sent)
    }
}

/// Measures how often a second the kernel runs the program under the current load.
fn runs_per_second(program: &Xdp, batch: u32) -> Result<f64> {
    let took = call(program, batch, CALIBRATION_RUNS)?;
    Ok(1.0 / took.as_secs_f64().max(1e-9))
}

/// Lets the kernel run the program `runs` times. Returns the time of one run. The kernel pauses for some ten
/// milliseconds between two calls.
pub(crate) fn call(program: &Xdp, batch: u32, runs: u32) -> Result<Duration> {
    // The program writes the frame; only the length of the input matters.
    let room = [0; FRAME_LEN];
    let options = TestRunOptions {
        data_in: Some(&room),
        repeat: runs,
        attrs: TestRunAttrs::new().xdp_live_frames(batch),
        ..TestRunOptions::new()
    };
    match program.test_run(options) {
        Ok(ran) => Ok(ran.duration),
        // A signal arrived; its handler ends this process.
        Err(ProgramError::SyscallError(error))
            if error.io_error.kind() == ErrorKind::Interrupted =>
        {
            Ok(Duration::ZERO)
        }
        Err(error) => {
            Err(error).context("the kernel cannot run the generator: live frames need Linux 5.18")
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the value is clamped"
)]
fn runs_for(rate: f64, time: Duration) -> u32 {
    (rate * time.as_secs_f64() * SPARE).clamp(1_000.0, 4e9) as u32
}

/// Nanoseconds between two frames.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the interval is at most some seconds, and not negative"
)]
fn interval(rate: f64) -> u64 {
    (1e9 / rate).round().max(1.0) as u64
}

/// Builds a frame without source address, source port, checksums and time stamp.
fn frame(macs: [[u8; 6]; 2], vip: Ipv4Addr, port: u16) -> [u8; FRAME_LEN] {
    let mut frame = [0; FRAME_LEN];
    let len = |from: usize| u16::try_from(FRAME_LEN - from).unwrap_or(0).to_be_bytes();
    frame[..12].copy_from_slice(macs.as_flattened());
    frame[12..IP].copy_from_slice(&[0x08, 0x00]);
    frame[IP] = 0x45;
    frame[IP + 2..IP + 4].copy_from_slice(&len(IP));
    // TTL and protocol.
    frame[IP + 8..IP + 10].copy_from_slice(&[64, PROTOCOL_UDP]);
    frame[IP + 16..UDP].copy_from_slice(&vip.octets());
    frame[UDP + 2..UDP + 4].copy_from_slice(&port.to_be_bytes());
    frame[UDP + 4..UDP + 6].copy_from_slice(&len(UDP));
    frame
}

/// Builds the plan of an unpaced load of one flow.
fn plan(frame: &[u8; FRAME_LEN], vip: Ipv4Addr, interface: u32) -> Plan {
    let mut padded = [0; 64];
    padded[..FRAME_LEN].copy_from_slice(frame);
    let mut plan = Plan::default();
    let words = padded
        .as_chunks()
        .0
        .iter()
        .map(|word| u64::from_ne_bytes(*word));
    plan.iter_mut().zip(words).for_each(|(to, word)| *to = word);
    // RFC 768: the pseudo-header repeats addresses, protocol and length.
    let pseudo = sum(&vip.octets()) + sum(&[0, PROTOCOL_UDP]) + sum(&frame[UDP + 4..UDP + 6]);
    plan[8] = sum(&frame[IP..UDP]);
    plan[9] = sum(&frame[UDP..]) + pseudo;
    plan[FLOWS] = 1;
    plan[SOURCE_AT] = u64::from(u32::from(SOURCE));
    plan[INTERFACE] = u64::from(interface);
    plan
}

/// The sum of 16-bit words in host byte order (RFC 1071 section 2(B)).
pub(crate) fn sum(bytes: &[u8]) -> u64 {
    let words = bytes.as_chunks().0.iter();
    words.map(|word| u64::from(u16::from_ne_bytes(*word))).sum()
}
