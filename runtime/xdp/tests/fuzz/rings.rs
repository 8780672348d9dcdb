//! The property of the rings: the worker and the kernel pass chunks to and fro, in any order of their steps
//! and over any hand-over, and each chunk stays in one place, each frame whole and in order.

use std::collections::VecDeque;

use waxwing_dataplane::{DropReason, FrameBuf as _, FrameIo as _, PortId};
use waxwing_xdp::{Options, XdpFrame, XdpIo};

use super::kernel::{Kernel, adopt, worker};

const PORTS: u8 = 2;
const RING: u32 = 64;
const CHUNKS: u32 = 3 * RING;
/// Bytes in each part of a frame.
const PART: usize = 64;

/// The worker, the kernel, and what each has to see next.
struct World {
    io: XdpIo,
    kernels: Vec<Kernel>,
    /// Frames that the worker has received.
    batch: Vec<XdpFrame>,
    /// By port: the frames on their way to the worker.
    arriving: Vec<VecDeque<Vec<u8>>>,
    /// By port: the frames on their way to the wire.
    leaving: Vec<VecDeque<Vec<u8>>>,
    /// Frames made.
    made: u64,
}

fn options() -> Options {
    Options {
        ring_size: RING,
        ..Options::default()
    }
}

fn to_vec(frame: &XdpFrame) -> Vec<u8> {
    let mut bytes = vec![0; frame.frame_len()];
    frame.copy_to(&mut bytes);
    bytes
}

impl World {
    fn new(index: u32) -> Self {
        let (sockets, kernels) = worker(PORTS, CHUNKS, &options(), index).expect("memory");
        Self {
            io: sockets.into_io(),
            kernels,
            batch: Vec::new(),
            arriving: vec![VecDeque::new(); PORTS.into()],
            leaving: vec![VecDeque::new(); PORTS.into()],
            made: 0,
        }
    }

    /// A frame of `parts` parts arrives.
    fn arrive(&mut self, port: usize, parts: usize) {
        self.made += 1;
        let number = self.made.to_be_bytes();
        let frame: Vec<u8> = number.into_iter().cycle().take(parts * PART).collect();
        let parts: Vec<&[u8]> = frame.chunks(PART).collect();
        if self.kernels[port].receive(&parts) {
            self.arriving[port].push_back(frame);
        }
    }

    fn receive(&mut self) {
        let before = self.batch.len();
        self.io.receive(&mut self.batch);
        for frame in &self.batch[before..] {
            let expected = self.arriving[frame.port().index()].pop_front();
            assert!(expected == Some(to_vec(frame)), "out of order, or damaged");
        }
    }

    /// Sends the oldest frame, with its start moved by `by` bytes and back.
    fn send(&mut self, port: usize, by: isize) {
        if self.batch.is_empty() {
            return;
        }
        let mut frame = self.batch.remove(0);
        assert!(frame.move_start(by));
        assert!(frame.move_start(-by));
        let bytes = to_vec(&frame);
        match self
            .io
            .send(PortId(u8::try_from(port).expect("a port")), frame)
        {
            Ok(()) => self.leaving[port].push_back(bytes),
            Err(reason) => assert_eq!(reason, DropReason::TransmitRingFull),
        }
    }

    /// Sends a frame of the worker's own, of any length.
    fn originate(&mut self, port: usize, len: usize) {
        let Some(mut frame) = self
            .io
            .allocate(PortId(u8::try_from(port).expect("a port")))
        else {
            return;
        };
        if frame.set_len(len) {
            let bytes: Vec<u8> = (0..len).map(|at| at.to_le_bytes()[0]).collect();
            frame.copy_from(&bytes);
            self.batch.insert(0, frame);
            self.send(port, 0);
        }
    }

    fn transmit(&mut self, port: usize) {
        if let Some(parts) = self.kernels[port].transmit() {
            let expected = self.leaving[port].pop_front();
            assert!(expected == Some(parts.concat()), "out of order, or damaged");
        }
    }

    fn hand_over(&mut self) {
        self.batch.clear();
        let io = std::mem::replace(&mut self.io, XdpIo::closed());
        let handover = io.hand_over().expect("sockets");
        self.io = adopt(handover, &options()).expect("memory").into_io();
    }

    fn check(&self) {
        let account = self.io.account();
        assert!(account.is_balanced(), "{account:?}");
        assert_eq!(account.total, CHUNKS as usize);
        assert!(account.held >= self.batch.len(), "{account:?}");
    }

    /// One step, by a byte: what, at which port, how often.
    fn step(&mut self, byte: u8) {
        let port = usize::from(byte >> 4 & 1);
        let count = 1 << (byte >> 5);
        match byte & 15 {
            0 => (0..count).for_each(|_| self.arrive(port, 1)),
            // At most as many parts as the kernel makes of a frame.
            1 => self.arrive(port, count.min(18)),
            2 => self.kernels[port].deliver(),
            3 => self.kernels[port].release_fill(),
            4 => (0..count).for_each(|_| self.transmit(port)),
            5 => self.kernels[port].release_transmit(),
            6 => self.kernels[port].complete(count),
            7 | 8 => self.receive(),
            9 => (0..count).for_each(|_| self.send(port, -8)),
            10 => (0..count).for_each(|_| self.send(port, 14)),
            11 => self.batch.truncate(self.batch.len().saturating_sub(count)),
            12 => self.originate(port, 37 << (byte >> 5)),
            13 | 14 => self.io.flush(),
            _ => self.hand_over(),
        }
        self.check();
    }

    /// Lets all frames reach their ends; then each chunk is free or with the kernel, once.
    fn end(mut self) {
        for _ in 0..=CHUNKS {
            self.io.flush();
            for port in 0..self.kernels.len() {
                self.kernels[port].deliver();
                self.kernels[port].release_fill();
                (0..RING).for_each(|_| self.transmit(port));
                self.kernels[port].release_transmit();
                self.kernels[port].complete(RING as usize);
            }
            self.receive();
            self.batch.clear();
            self.check();
        }
        let is_empty = |queue: &VecDeque<_>| queue.is_empty();
        assert!(self.arriving.iter().all(is_empty), "a frame is lost");
        assert!(self.leaving.iter().all(is_empty), "a frame is not sent");
        let free = self.io.hand_over().expect("sockets").free.into_iter();
        let with_kernel = self.kernels.into_iter().flat_map(Kernel::into_chunks);
        let mut chunks: Vec<u64> = free.chain(with_kernel).map(|at| at / 2048).collect();
        chunks.sort_unstable();
        assert_eq!(chunks, (0..u64::from(CHUNKS)).collect::<Vec<_>>());
    }
}

/// Runs the steps that the bytes stand for; the first four are the rings' index at the start.
pub(crate) fn rings(bytes: &[u8]) {
    let Some((index, steps)) = bytes.split_first_chunk() else {
        return;
    };
    let mut world = World::new(u32::from_le_bytes(*index));
    for &byte in steps {
        world.step(byte);
    }
    world.end();
}
