//! A veth pair with a client and a server.

use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use libtest_mimic::Failed;
use waxwing_dataplane::steering::{Rules, Steering};
use waxwing_dataplane::{BATCH, DropReason, FrameBuf, FrameIo, PortId};
use waxwing_packet::{Address, Link, Mac};
use waxwing_testkit::build;
use waxwing_xdp::{
    Attached, FrameAccount, Options, PortOptions, WorkerSockets, XdpFrame, XdpIo, attach,
};

use crate::Outcome;

pub(crate) const UDP: u8 = 17;
pub(crate) const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
pub(crate) const SERVER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
pub(crate) const CLIENT_PORT: u16 = 40_000;
pub(crate) const SERVER_PORT: u16 = 7;
pub(crate) const PORT: PortId = PortId(0);

/// Offset of the payload, which starts with the request's number.
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

/// A veth pair, both ends up; deleted on drop.
pub(crate) struct Wire;

impl Wire {
    pub(crate) fn new(queues: u32) -> Result<Self, Failed> {
        Self::with_mtu(queues, 1500)
    }

    pub(crate) fn with_mtu(queues: u32, mtu: u32) -> Result<Self, Failed> {
        let many = format!("mtu {mtu} numrxqueues {queues} numtxqueues {queues}");
        ip(&format!(
            "link add client {many} type veth peer name server {many}"
        ))?;
        let wire = Self;
        ip("link set client up")?;
        ip("link set server up")?;
        Ok(wire)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        let _ = ip("link del client");
    }
}

/// One end of the veth pair, attached.
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
        ..Options::default()
    }
}

/// Attaches `interface`, and steers UDP to this endpoint.
pub(crate) fn end(
    interface: &str,
    options: &Options,
    to: (Ipv4Addr, u16),
) -> Result<(End, Vec<WorkerSockets>), Failed> {
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

/// Returns a UDP frame of `len` bytes with a number; the payload behind it depends on the number.
pub(crate) fn request(from: Mac, to: Mac, number: u64, len: usize) -> Vec<u8> {
    let mut payload: Vec<u8> = (PAYLOAD..len)
        .map(|at| (at as u64 * 7 + number * 13 + at as u64 / 256).to_le_bytes()[0])
        .collect();
    payload[..8].copy_from_slice(&number.to_be_bytes());
    build::Udp {
        link: Link {
            source: from,
            destination: to,
        },
        source: (Address::v4(CLIENT.octets()), CLIENT_PORT),
        destination: (Address::v4(SERVER.octets()), SERVER_PORT),
        payload: &payload,
        ..build::Udp::default()
    }
    .frame()
}

/// Allocates a frame with these bytes.
pub(crate) fn allocate(io: &mut XdpIo, bytes: &[u8]) -> Option<XdpFrame> {
    let mut frame = io.allocate(PORT)?;
    assert!(frame.set_len(bytes.len()));
    frame.copy_from(bytes);
    Some(frame)
}

pub(crate) fn number(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(
        bytes.get(PAYLOAD..PAYLOAD + 8)?.try_into().ok()?,
    ))
}

/// Swaps source and destination in all three headers.
pub(crate) fn swap_endpoints(bytes: &mut [u8]) {
    let (to, from) = bytes[0..12].split_at_mut(6);
    to.swap_with_slice(from);
    let (from, to) = bytes[26..34].split_at_mut(4);
    from.swap_with_slice(to);
    let (from, to) = bytes[34..38].split_at_mut(2);
    from.swap_with_slice(to);
}

/// A thread that answers every frame until it is stopped.
pub(crate) struct Server {
    pub(crate) end: Option<Arc<AtomicBool>>,
    pub(crate) answered: Arc<AtomicU64>,
    pub(crate) thread: Option<JoinHandle<FrameAccount>>,
}

impl Server {
    pub(crate) fn start(sockets: WorkerSockets, answer: fn(&mut XdpFrame)) -> Self {
        let (end, answered) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let (ended, count) = (Arc::clone(&end), Arc::clone(&answered));
        let thread = thread::spawn(move || {
            let mut io = sockets.into_io();
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
            .map_err(|_| "the server thread panicked".into())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.thread.is_some() {
            let _ = self.stop();
        }
    }
}

/// Waits until no frame is being sent, and counts the chunks.
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

/// Checks that every chunk is in the pool or in the fill ring.
pub(crate) fn check_idle(account: FrameAccount) -> Outcome {
    let FrameAccount {
        free, fill, total, ..
    } = account;
    if account.is_balanced() && free + fill == total {
        Ok(())
    } else {
        Err(format!("{account:?}").into())
    }
}

/// Sends `count` requests, `window` at a time, until each was answered once.
pub(crate) fn send_requests(
    io: &mut XdpIo,
    from: Mac,
    to: Mac,
    count: u64,
    window: u64,
) -> Outcome {
    let mut answered = vec![false; usize::try_from(count)?];
    let (mut sent, mut back) = (0, 0);
    let mut batch = Vec::with_capacity(BATCH);
    let deadline = Instant::now() + PATIENCE;
    while back < count {
        while sent < count && sent - back < window {
            let Some(frame) = allocate(io, &request(from, to, sent, FRAME_LEN)) else {
                break;
            };
            io.send(PORT, frame).map_err(DropReason::label)?;
            sent += 1;
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
                return Err(format!("request {number} was answered twice").into());
            }
            back += 1;
        }
        if Instant::now() > deadline {
            return Err(format!("{back} of {sent} were answered: {:?}", io.account()).into());
        }
    }
    Ok(())
}
