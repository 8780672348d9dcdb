//! The load: UDP frames that the kernel itself puts on the client's wire.
//!
//! Invariant: a frame is 64 bytes long on the wire (the check sequence counted), its checksums are right,
//! and its source address and port are those of its flow, of which as many follow one another as the load
//! has, or all are different.

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
/// The first call of the kernel, which shows how long each of its rounds takes.
const FIRST_CALL_ROUNDS: u32 = 100_000;
/// How many rounds a call gets beyond those that it seems to need. What it does not need it is quick with.
const SPARE: f64 = 1.5;

/// What to send.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// How many flows the frames are of, in turns; each of one of its own without.
    pub(crate) flows: Option<u32>,
    /// Frames a second, with time stamps; as many as can be without.
    pub(crate) rate: Option<f64>,
}

/// `struct plan` of the program: the frame, then its numbers.
type Plan = [u64; 15];
const FLOWS: usize = 10;
const SOURCE_AT: usize = 11;
const INTERFACE: usize = 12;
const INTERVAL: usize = 13;
const IS_OVER: usize = 14;
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

    /// Sends while `measure` runs, which takes so long, and no longer: in one call of the kernel, because it is
    /// silent between two. A short call before shows how many rounds that one needs.
    pub(crate) fn during<T>(
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
            .context("no generator")?
            .try_into()?;
        let (client, plans) = (self.client, &mut self.plans);
        let a_second = client.enter(|| rounds_a_second(program, batch))??;
        let rounds = rounds(a_second, time);
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            let sending = scope.spawn(|| {
                client.enter(|| {
                    while !is_over.load(Ordering::Relaxed) {
                        call(program, batch, rounds)?;
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

/// How many frames a generator has put on the wire.
pub(crate) struct Sent<'a>(&'a Array<MapData, Progress>);

impl Sent<'_> {
    pub(crate) fn frames(&self) -> Result<u64> {
        let [sent, ..] = self.0.get(&0, 0)?;
        Ok(sent)
    }
}

/// How many rounds a second a call of the kernel has, with the load as it is.
fn rounds_a_second(program: &Xdp, batch: u32) -> Result<f64> {
    let took = call(program, batch, FIRST_CALL_ROUNDS)?;
    Ok(1.0 / took.as_secs_f64().max(1e-9))
}

/// Has the kernel run the program so many times. Returns how long it took for each; between two calls the
/// kernel is silent for some ten milliseconds.
fn call(program: &Xdp, batch: u32, rounds: u32) -> Result<Duration> {
    // The program writes the frame; what it gets is only as long.
    let room = [0; FRAME_LEN];
    let options = TestRunOptions {
        data_in: Some(&room),
        repeat: rounds,
        attrs: TestRunAttrs::new().xdp_live_frames(batch),
        ..TestRunOptions::new()
    };
    match program.test_run(options) {
        Ok(ran) => Ok(ran.duration),
        // A signal, whose handler ends this process.
        Err(ProgramError::SyscallError(error))
            if error.io_error.kind() == ErrorKind::Interrupted =>
        {
            Ok(Duration::ZERO)
        }
        Err(error) => {
            Err(error).context("the kernel does not run the generator (live frames: Linux 5.18)")
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "bounded before"
)]
fn rounds(a_second: f64, time: Duration) -> u32 {
    (a_second * time.as_secs_f64() * SPARE).clamp(1_000.0, 4e9) as u32
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
    let mut plan = Plan::default();
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
    plan[FLOWS] = 1;
    plan[SOURCE_AT] = u64::from(u32::from(SOURCE));
    plan[INTERFACE] = u64::from(interface);
    plan
}

/// The sum of 16-bit words, in the order of this machine's bytes (RFC 1071 section 2(B)).
fn sum(bytes: &[u8]) -> u64 {
    let words = bytes.as_chunks().0.iter();
    words.map(|word| u64::from(u16::from_ne_bytes(*word))).sum()
}
