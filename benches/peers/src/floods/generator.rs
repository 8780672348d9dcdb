//! The flood generator: a BPF program sends a flood's frames from the client's interface.
//!
//! Invariant: a frame's source is nobody's address, so nobody answers what it is sent.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context as _, Result, anyhow};
use aya::maps::{Array, MapData};
use aya::programs::Xdp;
use aya::{Ebpf, include_bytes_aligned};
use nix::net::if_::if_nametoindex;
use waxwing_tests::Namespace;

use super::rows::{FULL_RATE, Flood, Packets};
use crate::network::VIP;
use crate::wire::generator::{BATCH, FRAME_LEN, IP, call, sum};

static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/flood.bpf.o"));

/// The network of all sources: 10.64.0.0/10, which no interface uses.
const SOURCE: Ipv4Addr = Ipv4Addr::new(10, 64, 0, 0);
pub(super) const SOURCES: &str = "10.64.0.0/10";
/// Runs of the program in one call: some tenths of a second.
const RUNS: u32 = 4_000_000;
/// Frames that the kernel hands on together if they are paced.
const BATCH_PACED: u32 = 16;
/// Seconds from a source's first packet to its second.
const LATER_S: f64 = 0.03;
const TRANSPORT: usize = IP + 20;
const TCP_LEN: usize = 20;

/// `struct plan` in `flood.bpf.c`: the frame, then its parameters.
type Plan = [u64; 17];
const FIRST: usize = 10;
const IS_OVER: usize = 16;
/// `struct progress` in `flood.bpf.c`: frames sent, due time of the next frame.
type Progress = [u64; 2];

/// The generator on the client's host.
pub(super) struct Generator<'a> {
    client: &'a Namespace,
    ebpf: Ebpf,
    control: Control,
}

/// What a running flood is controlled by.
pub(super) struct Control {
    plans: Array<MapData, Plan>,
    progresses: Array<MapData, Progress>,
    macs: [[u8; 6]; 2],
    interface: u32,
}

impl<'a> Generator<'a> {
    /// Loads a generator that sends from the client's `eth0`, by the gateway with this MAC address.
    pub(super) fn new(client: &'a Namespace, gateway: [u8; 6]) -> Result<Self> {
        let mut ebpf = Ebpf::load(OBJECT).context("cannot load the BPF object of the floods")?;
        let program: &mut Xdp = ebpf
            .program_mut("flood")
            .context("the BPF object has no program `flood`")?
            .try_into()?;
        program.load().context("the kernel rejects the flood")?;
        let mut array = |name| {
            ebpf.take_map(name)
                .with_context(|| format!("the BPF object has no map `{name}`"))
        };
        let control = Control {
            plans: array("plans")?.try_into()?,
            progresses: array("progresses")?.try_into()?,
            macs: [gateway, client.mac("eth0")?],
            interface: client.enter(|| if_nametoindex("eth0"))??,
        };
        Ok(Self {
            client,
            ebpf,
            control,
        })
    }

    /// Floods while `measure` runs.
    pub(super) fn during<T>(
        &mut self,
        flood: Flood,
        measure: impl FnOnce(&mut Control) -> Result<T>,
    ) -> Result<T> {
        let Self {
            client,
            ebpf,
            control,
        } = self;
        control.set(flood)?;
        let program: &Xdp = ebpf
            .program("flood")
            .context("the BPF object has no program `flood`")?
            .try_into()?;
        let batch = match flood.rate {
            Some(_) => BATCH_PACED,
            None => BATCH,
        };
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            let sending = scope.spawn(|| {
                client.enter(|| {
                    while !is_over.load(Ordering::Relaxed) {
                        call(program, batch, RUNS)?;
                    }
                    Ok::<_, anyhow::Error>(())
                })
            });
            let measured = measure(control);
            is_over.store(true, Ordering::Relaxed);
            let mut plan = control.plans.get(&0, 0)?;
            plan[IS_OVER] = 1;
            let ended = control.plans.set(0, plan, 0);
            let sent = sending.join();
            sent.map_err(|_| anyhow!("the generator panicked"))???;
            ended?;
            measured
        })
    }
}

impl Control {
    /// Changes to another flood.
    pub(super) fn set(&mut self, flood: Flood) -> Result<()> {
        let plan = plan(flood, self.macs, self.interface);
        self.plans.set(0, plan, 0)?;
        Ok(())
    }

    /// The frames sent so far.
    pub(super) fn sent(&self) -> Result<u64> {
        let [sent, _] = self.progresses.get(&0, 0)?;
        Ok(sent)
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "rates are positive, and far below 2^32"
)]
fn plan(flood: Flood, macs: [[u8; 6]; 2], interface: u32) -> Plan {
    let (protocol, first, second) = match flood.packets {
        Packets::Udp => (17, 0, 0),
        Packets::Tcp(flags) => (6, flags, 0),
        Packets::SynThenAck => (6, 0x02, 0x10),
    };
    let frame = frame(macs, protocol, flood.port);
    let mut padded = [0; 64];
    padded[..FRAME_LEN].copy_from_slice(&frame);
    let mut plan = Plan::default();
    let words = padded.as_chunks().0.iter();
    let words = words.map(|word| u64::from_ne_bytes(*word));
    plan.iter_mut().zip(words).for_each(|(to, word)| *to = word);
    plan[8] = sum(&frame[IP..TRANSPORT]);
    let end = IP + usize::from(u16::from_be_bytes([frame[IP + 2], frame[IP + 3]]));
    let len = u16::try_from(end - TRANSPORT).unwrap_or(0).to_be_bytes();
    // The pseudo-header (RFC 768, RFC 9293 section 3.1).
    plan[9] = sum(&frame[TRANSPORT..end]) + sum(&VIP.octets()) + sum(&[0, protocol]) + sum(&len);
    // Data offset and flags.
    let word = |flags: u8| match flags {
        0 => 0,
        flags => u64::from(u16::from_ne_bytes([(TCP_LEN as u8 / 4) << 4, flags])),
    };
    let sources_per_s = flood.rate.unwrap_or(FULL_RATE) / 2.0;
    let later = [
        word(first),
        word(second),
        (sources_per_s * LATER_S) as u64,
        u64::from(u32::from(SOURCE)),
        u64::from(interface),
        flood.rate.map_or(0, |rate| (1e9 / rate) as u64),
        0,
    ];
    plan[FIRST..].copy_from_slice(&later);
    plan
}

/// Builds a frame without its source, TCP's numbers and flags, and checksums.
fn frame(macs: [[u8; 6]; 2], protocol: u8, port: u16) -> [u8; FRAME_LEN] {
    let mut frame = [0; FRAME_LEN];
    let end = match protocol {
        6 => TRANSPORT + TCP_LEN,
        _ => FRAME_LEN,
    };
    let len = |from: usize| u16::try_from(end - from).unwrap_or(0).to_be_bytes();
    frame[..12].copy_from_slice(macs.as_flattened());
    frame[12..IP].copy_from_slice(&[0x08, 0x00]);
    frame[IP] = 0x45;
    frame[IP + 2..IP + 4].copy_from_slice(&len(IP));
    // TTL and protocol.
    frame[IP + 8..IP + 10].copy_from_slice(&[64, protocol]);
    frame[IP + 16..TRANSPORT].copy_from_slice(&VIP.octets());
    frame[TRANSPORT + 2..TRANSPORT + 4].copy_from_slice(&port.to_be_bytes());
    if protocol == 17 {
        frame[TRANSPORT + 4..TRANSPORT + 6].copy_from_slice(&len(TRANSPORT));
    } else {
        // A window that is open.
        frame[TRANSPORT + 14..TRANSPORT + 16].copy_from_slice(&[0xff, 0xff]);
    }
    frame
}
