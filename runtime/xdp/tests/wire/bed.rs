//! A wire with an end that asks and one that answers.

use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use libtest_mimic::Failed;
use waxwing_dataplane::steering::{Rules, Steering};
use waxwing_dataplane::{BATCH, DropReason, FrameBuf, FrameIo, PortId};
use waxwing_packet::{Address, Mac};
use waxwing_xdp::{
    Attached, FrameAccount, Options, PortOptions, WorkerParts, XdpFrame, XdpIo, attach,
};

use crate::Outcome;

pub(crate) const UDP: u8 = 17;
pub(crate) const ASKER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
pub(crate) const ANSWERER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
pub(crate) const ASKER_PORT: u16 = 40_000;
pub(crate) const ANSWERER_PORT: u16 = 7;
pub(crate) const PORT: PortId = PortId(0);

/// Ethernet, IPv4 and UDP headers; the sequence number follows.
pub(crate) const PAYLOAD: usize = 42;

pub(crate) const FRAME_LEN: usize = 64;
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn ip(arguments: &str) -> Outcome {
    let output = Command::new("ip").args(arguments.split(' ')).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!(
        "ip {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    )
    .into())
}

/// A veth pair, both ends up; removed when dropped.
pub(crate) struct Wire;

impl Wire {
    pub(crate) fn new(queues: u32) -> Result<Self, Failed> {
        Self::with_mtu(queues, 1500)
    }

    pub(crate) fn with_mtu(queues: u32, mtu: u32) -> Result<Self, Failed> {
        let many = format!("mtu {mtu} numrxqueues {queues} numtxqueues {queues}");
        ip(&format!(
            "link add ask {many} type veth peer name answer {many}"
        ))?;
        let wire = Self;
        ip("link set ask up")?;
        ip("link set answer up")?;
        Ok(wire)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        let _ = ip("link del ask");
    }
}

/// One end of the wire, attached.
pub(crate) struct End {
    pub(crate) attached: Attached,
    pub(crate) mac: Mac,
}

pub(crate) fn small() -> Options {
    Options {
        ring_size: 512,
        frames_per_queue: 1024 + 256,
        kernel_path: None,
        services_max: 16,
        backends_max: 16,
        locals_max: 16,
        ..Options::default()
    }
}

/// Attaches `interface`, steering UDP to this address and port.
pub(crate) fn end(
    interface: &str,
    options: &Options,
    to: (Ipv4Addr, u16),
) -> Result<(End, Vec<WorkerParts>), Failed> {
    let (mut attached, workers) = attach(
        &[PortOptions {
            interface: interface.into(),
        }],
        options,
    )?;
    let services = [(Address::v4(to.0.octets()), to.1, UDP)].into();
    attached.apply(&Rules {
        services,
        ..Rules::default()
    })?;
    let mac = attached.reports()[0].interface.mac;
    Ok((End { attached, mac }, workers))
}

/// A UDP frame that carries a number.
pub(crate) fn write_question(frame: &mut XdpFrame, from: Mac, to: Mac, number: u64) {
    let mut bytes = [0; FRAME_LEN];
    write_headers(&mut bytes, from, to, number);
    assert!(frame.set_len(FRAME_LEN));
    frame.copy_from(&bytes);
}

/// The headers of a UDP packet, and a number behind them, in a frame of zeros.
pub(crate) fn write_headers(bytes: &mut [u8], from: Mac, to: Mac, number: u64) {
    let ip_len = u16::try_from(bytes.len() - 14).expect("a packet");
    bytes[0..6].copy_from_slice(&to.0);
    bytes[6..12].copy_from_slice(&from.0);
    bytes[12..14].copy_from_slice(&[8, 0]);
    bytes[14] = 0x45;
    bytes[16..18].copy_from_slice(&ip_len.to_be_bytes());
    bytes[22] = 64;
    bytes[23] = UDP;
    bytes[26..30].copy_from_slice(&ASKER.octets());
    bytes[30..34].copy_from_slice(&ANSWERER.octets());
    let sum: u32 = (14..34)
        .step_by(2)
        .map(|at| u32::from(u16::from_be_bytes([bytes[at], bytes[at + 1]])))
        .sum();
    let folded = !(sum + (sum >> 16)).to_be_bytes()[2..]
        .iter()
        .fold(0_u16, |value, &byte| (value << 8) | u16::from(byte));
    bytes[24..26].copy_from_slice(&folded.to_be_bytes());
    bytes[34..36].copy_from_slice(&ASKER_PORT.to_be_bytes());
    bytes[36..38].copy_from_slice(&ANSWERER_PORT.to_be_bytes());
    bytes[38..40].copy_from_slice(&(ip_len - 20).to_be_bytes());
    bytes[PAYLOAD..PAYLOAD + 8].copy_from_slice(&number.to_be_bytes());
}

pub(crate) fn number(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(
        bytes.get(PAYLOAD..PAYLOAD + 8)?.try_into().ok()?,
    ))
}

/// Source and destination change places, in all three headers.
pub(crate) fn turn_around(bytes: &mut [u8]) {
    let (to, from) = bytes[0..12].split_at_mut(6);
    to.swap_with_slice(from);
    let (from, to) = bytes[26..34].split_at_mut(4);
    from.swap_with_slice(to);
    let (from, to) = bytes[34..38].split_at_mut(2);
    from.swap_with_slice(to);
}

/// Answers what it receives until told to end.
pub(crate) struct Answerer {
    pub(crate) end: Option<Arc<AtomicBool>>,
    pub(crate) answered: Arc<AtomicU64>,
    pub(crate) thread: Option<JoinHandle<FrameAccount>>,
}

impl Answerer {
    pub(crate) fn start(parts: WorkerParts, answer: fn(&mut XdpFrame)) -> Self {
        let (end, answered) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let (ended, count) = (Arc::clone(&end), Arc::clone(&answered));
        let thread = thread::spawn(move || {
            let mut io = parts.into_io();
            let mut batch = Vec::with_capacity(BATCH);
            while !ended.load(Ordering::Relaxed) {
                io.receive(&mut batch);
                if batch.is_empty() {
                    io.wait(Duration::from_millis(20));
                    continue;
                }
                count.fetch_add(batch.len() as u64, Ordering::Relaxed);
                for mut frame in batch.drain(..) {
                    answer(&mut frame);
                    let port = frame.port();
                    io.send(port, frame).expect("room in the transmit ring");
                }
                io.flush();
                assert!(io.account().is_balanced());
            }
            settle(&mut io)
        });
        Self {
            end: Some(end),
            answered,
            thread: Some(thread),
        }
    }

    pub(crate) fn stop(&mut self) -> Result<FrameAccount, Failed> {
        if let Some(end) = self.end.take() {
            end.store(true, Ordering::Relaxed);
        }
        let thread = self.thread.take().ok_or("stopped twice")?;
        thread
            .join()
            .map_err(|_| "the answering worker panicked".into())
    }
}

impl Drop for Answerer {
    fn drop(&mut self) {
        if self.thread.is_some() {
            let _ = self.stop();
        }
    }
}

/// Waits until nothing is on its way out, and counts.
pub(crate) fn settle(io: &mut XdpIo) -> FrameAccount {
    let deadline = Instant::now() + PATIENCE;
    let mut batch = Vec::new();
    loop {
        io.receive(&mut batch);
        batch.clear();
        let account = io.account();
        if account.tx + account.completion + account.rx == 0 || Instant::now() > deadline {
            return account;
        }
        io.wait(Duration::from_millis(1));
    }
}

/// At rest every frame is in the pool or lent to receive into.
pub(crate) fn at_rest(account: FrameAccount) -> Outcome {
    let FrameAccount {
        free, fill, total, ..
    } = account;
    if account.is_balanced() && free + fill == total {
        Ok(())
    } else {
        Err(format!("{account:?}").into())
    }
}

/// Asks `count` questions, `window` at a time, until each was answered once.
pub(crate) fn ask(io: &mut XdpIo, from: Mac, to: Mac, count: u64, window: u64) -> Outcome {
    let mut answered = vec![false; usize::try_from(count)?];
    let (mut asked, mut back) = (0, 0);
    let mut batch = Vec::with_capacity(BATCH);
    let deadline = Instant::now() + PATIENCE;
    while back < count {
        while asked < count && asked - back < window {
            let Some(mut frame) = io.allocate(PORT) else {
                break;
            };
            write_question(&mut frame, from, to, asked);
            io.send(PORT, frame).map_err(DropReason::label)?;
            asked += 1;
        }
        io.flush();
        io.receive(&mut batch);
        if batch.is_empty() {
            io.wait(Duration::from_millis(20));
        }
        for frame in batch.drain(..) {
            let number = number(frame.bytes()).ok_or("a short answer")?;
            let seen = answered
                .get_mut(usize::try_from(number)?)
                .ok_or("a wrong answer")?;
            if std::mem::replace(seen, true) {
                return Err(format!("question {number} answered twice").into());
            }
            back += 1;
        }
        if Instant::now() > deadline {
            return Err(format!("{back} of {asked} came back: {:?}", io.account()).into());
        }
    }
    Ok(())
}
