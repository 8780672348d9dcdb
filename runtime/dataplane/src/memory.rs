//! A [`FrameIo`] in memory: the core's wire in tests, benches and the simulator.
//!
//! Invariant: every frame of the pool is in exactly one place. [`MemoryIo::in_flight`] counts those
//! outside of the pool, so that a test sees a leak at once.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use crate::{BATCH, DropReason, FrameBuf, FrameIo, PortId};

/// Bytes before a frame's start, as XDP leaves them.
const HEADROOM: usize = 256;
/// A frame's whole buffer.
const BUFFER: usize = 4096;

#[derive(Default)]
struct Pool {
    free: RefCell<Vec<Box<[u8]>>>,
    out: Cell<usize>,
}

/// A frame in memory; returns to its pool when dropped.
pub struct MemoryFrame {
    port: PortId,
    buffer: Box<[u8]>,
    start: usize,
    len: usize,
    pool: Rc<Pool>,
}

impl Drop for MemoryFrame {
    fn drop(&mut self) {
        self.pool.out.set(self.pool.out.get() - 1);
        self.pool
            .free
            .borrow_mut()
            .push(std::mem::take(&mut self.buffer));
    }
}

impl FrameBuf for MemoryFrame {
    fn port(&self) -> PortId {
        self.port
    }

    fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.start + self.len]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.buffer[self.start..self.start + self.len]
    }

    fn move_start(&mut self, by: isize) -> bool {
        let Some(start) = self.start.checked_add_signed(by) else {
            return false;
        };
        let end = self.start + self.len;
        if start > end {
            return false;
        }
        self.start = start;
        self.len = end - start;
        true
    }

    fn set_len(&mut self, len: usize) -> bool {
        let fits = self.start + len <= self.buffer.len();
        if fits {
            self.len = len;
        }
        fits
    }
}

/// Ports in memory: frames are injected on one side and collected on the other.
pub struct MemoryIo {
    pool: Rc<Pool>,
    arriving: VecDeque<MemoryFrame>,
    sent: Vec<MemoryFrameOut>,
    to_kernel: Vec<MemoryFrameOut>,
    ports: u8,
    transmit_room: usize,
    recycling: bool,
}

/// A frame that left the core, still in its buffer until it is taken.
type MemoryFrameOut = (PortId, MemoryFrame);

impl MemoryIo {
    /// With this many ports, and a pool of `frames` frames.
    #[must_use]
    pub fn new(ports: u8, frames: usize) -> Self {
        let pool = Rc::new(Pool::default());
        pool.free
            .borrow_mut()
            .extend((0..frames).map(|_| vec![0; BUFFER].into_boxed_slice()));
        Self {
            pool,
            arriving: VecDeque::with_capacity(frames),
            sent: Vec::with_capacity(frames),
            to_kernel: Vec::with_capacity(frames),
            ports,
            transmit_room: usize::MAX,
            recycling: false,
        }
    }

    /// Lets a frame arrive on a port. `false` where the pool is empty or the frame too long.
    pub fn inject(&mut self, port: PortId, bytes: &[u8]) -> bool {
        let Some(mut frame) = self.take(port) else {
            return false;
        };
        if !frame.set_len(bytes.len()) {
            return false;
        }
        frame.bytes_mut().copy_from_slice(bytes);
        self.arriving.push_back(frame);
        true
    }

    /// The frames sent since the last call, with the port each left by.
    pub fn sent(&mut self) -> Vec<(PortId, Vec<u8>)> {
        self.sent
            .drain(..)
            .map(|(port, frame)| (port, frame.bytes().to_vec()))
            .collect()
    }

    /// The frames handed to the kernel since the last call, with the port each came by.
    pub fn passed_to_kernel(&mut self) -> Vec<(PortId, Vec<u8>)> {
        self.to_kernel
            .drain(..)
            .map(|(port, frame)| (port, frame.bytes().to_vec()))
            .collect()
    }

    /// From now on at most this many more frames fit the transmit rings.
    pub fn limit_transmit(&mut self, frames: usize) {
        self.transmit_room = frames;
    }

    /// From now on sent frames go straight back to the pool, as a bench wants it.
    pub fn recycle_sent(&mut self) {
        self.recycling = true;
    }

    /// Frames outside of the pool: arriving, held, or sent and not yet taken.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.pool.out.get()
    }

    fn take(&self, port: PortId) -> Option<MemoryFrame> {
        let buffer = self.pool.free.borrow_mut().pop()?;
        self.pool.out.set(self.pool.out.get() + 1);
        Some(MemoryFrame {
            port,
            buffer,
            start: HEADROOM,
            len: 0,
            pool: Rc::clone(&self.pool),
        })
    }
}

impl FrameIo for MemoryIo {
    type Frame = MemoryFrame;

    fn receive(&mut self, into: &mut Vec<MemoryFrame>) {
        let n = self.arriving.len().min(BATCH.saturating_sub(into.len()));
        into.extend(self.arriving.drain(..n));
    }

    fn allocate(&mut self, port: PortId) -> Option<MemoryFrame> {
        self.take(port)
    }

    fn send(&mut self, port: PortId, frame: MemoryFrame) -> Result<(), DropReason> {
        if port.0 >= self.ports {
            return Err(DropReason::PortMissing);
        }
        let Some(room) = self.transmit_room.checked_sub(1) else {
            return Err(DropReason::TransmitRingFull);
        };
        if self.transmit_room != usize::MAX {
            self.transmit_room = room;
        }
        if !self.recycling {
            self.sent.push((port, frame));
        }
        Ok(())
    }

    fn pass_to_kernel(&mut self, frame: MemoryFrame) -> Result<(), DropReason> {
        if !self.recycling {
            self.to_kernel.push((frame.port, frame));
        }
        Ok(())
    }

    fn flush(&mut self) {}

    fn wait(&mut self, _timeout: Duration) {}
}
