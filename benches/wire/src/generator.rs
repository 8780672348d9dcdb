//! The load: UDP frames that the kernel itself puts on the client's wire.
//!
//! Invariant: a frame is 64 bytes long on the wire (the check sequence counted), its checksums are right,
//! and its source address and port are those of its flow, of which as many follow one another as the load
//! has, or all are different.

use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use aya::maps::{Array, MapData};
use aya::programs::{ProgramError, TestRun as _, TestRunAttrs, TestRunOptions, Xdp};
use aya::{Ebpf, include_bytes_aligned};
use nix::net::if_::if_nametoindex;
use waxwing_tests::Namespace;

/// Generator and sink.
pub(crate) static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/wire.bpf.o"));

const FRAME_LEN: usize = 60;
const IP: usize = 14;
const UDP: usize = IP + 20;
const PROTOCOL_UDP: u8 = 17;
/// The first source address: those of all flows are in 10.64.0.0/10, which nobody has.
const SOURCE: Ipv4Addr = Ipv4Addr::new(10, 64, 0, 0);

/// Frames between two looks of the kernel at what is to be done with them: a NIC's batch, and few, so that
/// none waits long for others.
const BATCH: u32 = 64;
const BATCH_PACED: u32 = 8;
/// How long one call of the kernel is to take: it makes its pages anew at each.
const CALL: Duration = Duration::from_millis(100);

/// What to send.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// How many flows the frames are of, in turns; each of one of its own without.
    pub(crate) flows: Option<u32>,
    /// Frames a second, with time stamps; as many as can be without.
    pub(crate) rate: Option<f64>,
}

/// `struct plan` of the program: the frame, then its numbers.
type Plan = [u64; 14];
/// `struct progress` of the program: sent, next flow, when the next is due.
type Progress = [u64; 3];

/// The generator, at the client's end of a wire.
pub(crate) struct Generator<'a> {
    client: &'a Namespace,
    ebpf: Ebpf,
    plans: Array<MapData, Plan>,
    progresses: Array<MapData, Progress>,
    /// Of a load without pace, of one flow.
    plan: Plan,
}

impl<'a> Generator<'a> {
    /// One that sends to `vip` and `port`, by the client's `eth0`, to the host with this MAC address.
    pub(crate) fn new(
        client: &'a Namespace,
        gateway: [u8; 6],
        vip: Ipv4Addr,
        port: u16,
    ) -> Result<Self> {
        let mut ebpf = Ebpf::load(OBJECT).context("the generator's object")?;
        let program: &mut Xdp = ebpf
            .program_mut("generate")
            .context("no generator")?
            .try_into()?;
        program.load().context("the kernel refuses the generator")?;
        let mut array = |name| {
            ebpf.take_map(name)
                .with_context(|| format!("no map {name}"))
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

    /// Sends for so long. Returns how many frames went on the wire, and in what time.
    pub(crate) fn run(&mut self, load: Load, duration: Duration) -> Result<(u64, Duration)> {
        let mut plan = self.plan;
        plan[10] = load.flows.map_or(0, u64::from);
        plan[13] = load.rate.map_or(0, interval);
        self.plans.set(0, plan, 0)?;
        let [before, flow, _] = self.progresses.get(&0, 0)?;
        self.progresses.set(0, [before, flow, 0], 0)?;
        let batch = if load.rate.is_some() {
            BATCH_PACED
        } else {
            BATCH
        };
        let program: &Xdp = self
            .ebpf
            .program("generate")
            .context("no generator")?
            .try_into()?;
        let took = self.client.enter(|| call_for(program, batch, duration))??;
        let [after, ..] = self.progresses.get(&0, 0)?;
        Ok((after - before, took))
    }
}

/// Has the kernel run the program for so long.
fn call_for(program: &Xdp, batch: u32, duration: Duration) -> Result<Duration> {
    let begun = Instant::now();
    let mut repeat = 10_000_u32;
    // The program writes the frame; what it gets is only as long.
    let room = [0; FRAME_LEN];
    while begun.elapsed() < duration {
        let called = Instant::now();
        let options = TestRunOptions {
            data_in: Some(&room),
            repeat,
            attrs: TestRunAttrs::new().xdp_live_frames(batch),
            ..TestRunOptions::new()
        };
        match program.test_run(options) {
            // A signal, whose handler ends this process.
            Err(ProgramError::SyscallError(error))
                if error.io_error.kind() == ErrorKind::Interrupted => {}
            ran => {
                ran.context("the kernel does not run the generator (live frames: Linux 5.18)")?;
            }
        }
        let left = duration.saturating_sub(begun.elapsed()).min(CALL);
        let factor = left.as_secs_f64() / called.elapsed().as_secs_f64();
        repeat = scaled(repeat, factor);
    }
    Ok(begun.elapsed())
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "bounded before"
)]
fn scaled(repeat: u32, factor: f64) -> u32 {
    (f64::from(repeat) * factor).clamp(1_000.0, 1e8) as u32
}

/// Nanoseconds between two frames.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a time between two frames is short, and not negative"
)]
fn interval(rate: f64) -> u64 {
    (1e9 / rate).round().max(1.0) as u64
}

/// A frame without source address, source port, checksums and stamp.
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

/// The plan of a frame, for one flow and without a pace.
fn plan(frame: &[u8; FRAME_LEN], vip: Ipv4Addr, interface: u32) -> Plan {
    let mut padded = [0; 64];
    padded[..FRAME_LEN].copy_from_slice(frame);
    let mut plan = [0; 14];
    let words = padded
        .as_chunks()
        .0
        .iter()
        .map(|word| u64::from_ne_bytes(*word));
    plan.iter_mut().zip(words).for_each(|(to, word)| *to = word);
    // RFC 768: the pseudo-header has the addresses, the protocol and the length again.
    let pseudo = sum(&vip.octets()) + sum(&[0, PROTOCOL_UDP]) + sum(&frame[UDP + 4..UDP + 6]);
    plan[8] = sum(&frame[IP..UDP]);
    plan[9] = sum(&frame[UDP..]) + pseudo;
    plan[10] = 1;
    plan[11] = u64::from(u32::from(SOURCE));
    plan[12] = u64::from(interface);
    plan
}

/// The sum of 16-bit words, in the order of this machine's bytes (RFC 1071 section 2(B)).
fn sum(bytes: &[u8]) -> u64 {
    let words = bytes.as_chunks().0.iter();
    words.map(|word| u64::from(u16::from_ne_bytes(*word))).sum()
}
