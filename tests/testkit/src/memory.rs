//! A [`FrameIo`] in memory, for tests, benches and the simulator.
//!
//! Invariant: every buffer of the pool is in exactly one place. [`MemoryIo::in_flight`] counts the
//! buffers outside the pool, so a test detects a leak.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use waxwing_dataplane::{BATCH, DropReason, FrameBuf, FrameIo, PortId};

/// Free bytes before a frame, as with XDP.
const HEADROOM: usize = 256;
/// Length of a buffer in bytes, headroom included.
const BUFFER: usize = 4096;

struct Pool {
    free: RefCell<Vec<Box<[u8]>>>,
    out: Cell<usize>,
    /// Frame bytes in each buffer but the last.
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

/// A frame in memory; its buffers return to the pool on drop.
pub struct MemoryFrame {
    port: PortId,
    buffer: Box<[u8]>,
    start: usize,
    len: usize,
    /// `None` unless this is a jumbo frame.
    tail: Option<Box<TailBuffers>>,
    pool: Rc<Pool>,
}

/// A jumbo frame's buffers behind the first.
#[derive(Default)]
struct TailBuffers {
    /// Each with the number of frame bytes in it.
    buffers: Vec<(Box<[u8]>, usize)>,
    /// Frame bytes in all of them.
    len: usize,
}

impl MemoryFrame {
    /// Shortens the tail to at most `len` bytes and returns unneeded buffers to the pool.
    #[cold]
    fn shrink_tail(&mut self, len: usize) {
        let Some(mut tail) = self.tail.take() else {
            return;
        };
        while let Some((buffer, part_len)) = tail.buffers.pop() {
            tail.len -= part_len;
            if tail.len < len {
                tail.buffers.push((buffer, len - tail.len));
                tail.len = len;
                self.tail = Some(tail);
                return;
            }
            self.pool.put(buffer);
        }
    }

    /// Allocates a tail of `len` bytes. `false` when the pool has too few buffers.
    #[cold]
    fn grow_tail(&mut self, len: usize) -> bool {
        let mut tail = Box::<TailBuffers>::default();
        while tail.len < len {
            let part_len = (len - tail.len).min(self.pool.part_len.get());
            let Some(buffer) = self.pool.take() else {
                break;
            };
            tail.buffers.push((buffer, part_len));
            tail.len += part_len;
        }
        let grown = tail.len == len;
        self.tail = Some(tail);
        if !grown {
            self.shrink_tail(0);
        }
        grown
    }

    fn buffer_count(&self) -> usize {
        1 + self.tail.as_ref().map_or(0, |tail| tail.buffers.len())
    }

    fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.frame_len()];
        self.copy_to(&mut bytes);
        bytes
    }
}

impl Drop for MemoryFrame {
    fn drop(&mut self) {
        if self.tail.is_some() {
            self.shrink_tail(0);
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
        self.tail.as_ref().map_or(0, |tail| tail.len)
    }

    fn rest(&self, number: usize) -> Option<&[u8]> {
        let (buffer, len) = self.tail.as_ref()?.buffers.get(number)?;
        Some(&buffer[..*len])
    }

    fn rest_mut(&mut self, number: usize) -> Option<&mut [u8]> {
        let (buffer, len) = self.tail.as_mut()?.buffers.get_mut(number)?;
        Some(&mut buffer[..*len])
    }

    fn move_start(&mut self, by: isize) -> bool {
        // Below 0 it wraps.
        let start = self.start.wrapping_add_signed(by);
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
        if self.tail.is_some() {
            let fits = len <= self.frame_len();
            if fits {
                self.shrink_tail(len.saturating_sub(self.len));
                self.len = self.len.min(len);
            }
            return fits;
        }
        let fits = len <= room || self.grow_tail(len - room);
        if fits {
            self.len = len.min(room);
        }
        fits
    }
}

/// Ports in memory: a test injects frames and collects the frames sent.
pub struct MemoryIo {
    pool: Rc<Pool>,
    arriving: VecDeque<MemoryFrame>,
    sent: Vec<MemoryFrameOut>,
    to_kernel: Vec<MemoryFrameOut>,
    ports: u8,
    transmit_room: usize,
    recycling: bool,
}

/// A frame that left the core, not yet collected.
type MemoryFrameOut = (PortId, MemoryFrame);

impl MemoryIo {
    /// Creates `ports` ports and a pool of `frames` buffers. A jumbo frame takes several buffers.
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

    /// Queues a frame as received on a port. `false` when the pool has too few buffers.
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

    /// Returns the frames sent since the last call, each with its egress port.
    pub fn sent(&mut self) -> Vec<(PortId, Vec<u8>)> {
        self.sent
            .drain(..)
            .map(|(port, frame)| (port, frame.to_vec()))
            .collect()
    }

    /// Returns the frames passed to the kernel since the last call, each with its ingress port.
    pub fn passed_to_kernel(&mut self) -> Vec<(PortId, Vec<u8>)> {
        self.to_kernel
            .drain(..)
            .map(|(port, frame)| (port, frame.to_vec()))
            .collect()
    }

    /// Limits the room of the transmit rings to `buffers` more buffers.
    pub fn limit_transmit(&mut self, buffers: usize) {
        self.transmit_room = buffers;
    }

    /// Splits each frame allocated from now on into buffers of `part_len` bytes, at most 3840.
    pub fn split_frames(&mut self, part_len: usize) {
        self.pool.part_len.set(part_len.clamp(1, BUFFER - HEADROOM));
    }

    /// Returns sent frames to the pool at once instead of keeping them, for benches.
    pub fn recycle_sent(&mut self) {
        self.recycling = true;
    }

    /// Returns the number of buffers outside the pool: queued, held, or sent and not yet collected.
    pub fn in_flight(&self) -> usize {
        self.pool.out.get()
    }

    fn take(&self, port: PortId) -> Option<MemoryFrame> {
        Some(MemoryFrame {
            port,
            buffer: self.pool.take()?,
            tail: None,
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
        let Some(room) = self.transmit_room.checked_sub(frame.buffer_count()) else {
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
