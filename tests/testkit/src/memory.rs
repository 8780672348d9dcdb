//! A [`FrameIo`] in memory: the core's wire in tests, benches and the simulator.
//!
//! Invariant: every buffer of the pool is in exactly one place. [`MemoryIo::in_flight`] counts those
//! outside of the pool, so that a test sees a leak at once.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use crate::{BATCH, DropReason, FrameBuf, FrameIo, PortId};

/// Bytes before a frame's start, as XDP leaves them.
const HEADROOM: usize = 256;
/// A whole buffer.
const BUFFER: usize = 4096;

struct Pool {
    free: RefCell<Vec<Box<[u8]>>>,
    out: Cell<usize>,
    /// How many bytes a frame has in each of its buffers but the last.
    part_len: Cell<usize>,
}

impl Pool {
    fn take(&self) -> Option<Box<[u8]>> {
        let buffer = self.free.borrow_mut().pop()?;
        self.out.set(self.out.get() + 1);
        Some(buffer)
    }

    fn put(&self, buffer: Box<[u8]>) {
        self.out.set(self.out.get() - 1);
        self.free.borrow_mut().push(buffer);
    }
}

/// A frame in memory; returns to its pool when dropped.
pub struct MemoryFrame {
    port: PortId,
    buffer: Box<[u8]>,
    start: usize,
    len: usize,
    /// Of a jumbo frame.
    rest: Option<Box<Rest>>,
    pool: Rc<Pool>,
}

/// What of a frame lies behind its first buffer.
#[derive(Default)]
struct Rest {
    /// Each with the bytes of the frame in it.
    buffers: Vec<(Box<[u8]>, usize)>,
    /// In bytes, over all of them.
    len: usize,
}

impl MemoryFrame {
    /// Cuts the rest to so many bytes, of those that it has; buffers that it does not need go back.
    #[cold]
    fn cut_rest(&mut self, len: usize) {
        let Some(mut rest) = self.rest.take() else {
            return;
        };
        while let Some((buffer, part_len)) = rest.buffers.pop() {
            rest.len -= part_len;
            if rest.len < len {
                rest.buffers.push((buffer, len - rest.len));
                rest.len = len;
                self.rest = Some(rest);
                return;
            }
            self.pool.put(buffer);
        }
    }

    /// Takes buffers for a rest of so many bytes; whether there were enough.
    #[cold]
    fn grow_rest(&mut self, len: usize) -> bool {
        let mut rest = Box::<Rest>::default();
        while rest.len < len {
            let part_len = (len - rest.len).min(self.pool.part_len.get());
            let Some(buffer) = self.pool.take() else {
                break;
            };
            rest.buffers.push((buffer, part_len));
            rest.len += part_len;
        }
        let grown = rest.len == len;
        self.rest = Some(rest);
        if !grown {
            self.cut_rest(0);
        }
        grown
    }

    /// How many buffers it lies in.
    fn buffers(&self) -> usize {
        1 + self.rest.as_ref().map_or(0, |rest| rest.buffers.len())
    }

    fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.frame_len()];
        self.copy_to(&mut bytes);
        bytes
    }
}

impl Drop for MemoryFrame {
    fn drop(&mut self) {
        if self.rest.is_some() {
            self.cut_rest(0);
        }
        self.pool.put(std::mem::take(&mut self.buffer));
    }
}

impl FrameBuf for MemoryFrame {
    #[inline]
    fn port(&self) -> PortId {
        self.port
    }

    #[inline]
    fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.start + self.len]
    }

    #[inline]
    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.buffer[self.start..self.start + self.len]
    }

    #[inline]
    fn rest_len(&self) -> usize {
        self.rest.as_ref().map_or(0, |rest| rest.len)
    }

    fn rest(&self, number: usize) -> Option<&[u8]> {
        let (buffer, len) = self.rest.as_ref()?.buffers.get(number)?;
        Some(&buffer[..*len])
    }

    fn rest_mut(&mut self, number: usize) -> Option<&mut [u8]> {
        let (buffer, len) = self.rest.as_mut()?.buffers.get_mut(number)?;
        Some(&mut buffer[..*len])
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
        let room = (HEADROOM + self.pool.part_len.get()).saturating_sub(self.start);
        if self.rest.is_some() {
            let fits = len <= self.frame_len();
            if fits {
                self.cut_rest(len.saturating_sub(self.len));
                self.len = self.len.min(len);
            }
            return fits;
        }
        let fits = len <= room || self.grow_rest(len - room);
        if fits {
            self.len = len.min(room);
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
    /// With this many ports, and a pool of `frames` buffers, each of which is a frame unless that is
    /// a jumbo frame.
    #[must_use]
    pub fn new(ports: u8, frames: usize) -> Self {
        let buffers = (0..frames).map(|_| vec![0; BUFFER].into_boxed_slice());
        let pool = Rc::new(Pool {
            free: RefCell::new(buffers.collect()),
            out: Cell::new(0),
            part_len: Cell::new(BUFFER - HEADROOM),
        });
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
        frame.copy_from(bytes);
        self.arriving.push_back(frame);
        true
    }

    /// The frames sent since the last call, with the port each left by.
    pub fn sent(&mut self) -> Vec<(PortId, Vec<u8>)> {
        self.sent
            .drain(..)
            .map(|(port, frame)| (port, frame.to_vec()))
            .collect()
    }

    /// The frames handed to the kernel since the last call, with the port each came by.
    pub fn passed_to_kernel(&mut self) -> Vec<(PortId, Vec<u8>)> {
        self.to_kernel
            .drain(..)
            .map(|(port, frame)| (port, frame.to_vec()))
            .collect()
    }

    /// From now on at most this many more buffers fit the transmit rings.
    pub fn limit_transmit(&mut self, buffers: usize) {
        self.transmit_room = buffers;
    }

    /// From now on a frame has this many bytes in each of its buffers but the last, at most 3840.
    pub fn split_frames(&mut self, part_len: usize) {
        self.pool.part_len.set(part_len.clamp(1, BUFFER - HEADROOM));
    }

    /// From now on sent frames go straight back to the pool, as a bench wants it.
    pub fn recycle_sent(&mut self) {
        self.recycling = true;
    }

    /// Buffers outside of the pool: arriving, held, or sent and not yet taken.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.pool.out.get()
    }

    fn take(&self, port: PortId) -> Option<MemoryFrame> {
        Some(MemoryFrame {
            port,
            buffer: self.pool.take()?,
            rest: None,
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
        let Some(room) = self.transmit_room.checked_sub(frame.buffers()) else {
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
