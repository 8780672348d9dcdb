//! The interface to frame I/O.
//!
//! Invariant: a frame has exactly one owner. It moves by value: sending consumes it, dropping it returns it
//! to its pool. A double send does not compile.

use std::iter;
use std::time::Duration;

use crate::{DropReason, PortId};

/// A received or allocated frame: bytes from the Ethernet header on, with headroom before them.
///
/// A jumbo frame is longer than a buffer and lies in several. The hot path reads and writes the first one
/// only, which holds the headers and the start of the payload.
///
/// Dropping a frame returns its memory to its pool.
pub trait FrameBuf {
    /// The port it was received on, or allocated for.
    fn port(&self) -> PortId;

    /// The frame from the Ethernet header to the end of its first buffer, without frame check sequence.
    fn bytes(&self) -> &[u8];

    /// [`FrameBuf::bytes`], mutable.
    fn bytes_mut(&mut self) -> &mut [u8];

    /// The number of bytes in further buffers: 0 unless it is a jumbo frame.
    fn rest_len(&self) -> usize;

    /// A further buffer, numbered from 0; `None` after the last.
    fn rest(&self, number: usize) -> Option<&[u8]>;

    /// [`FrameBuf::rest`], mutable.
    fn rest_mut(&mut self, number: usize) -> Option<&mut [u8]>;

    /// Its total length in bytes.
    #[inline]
    fn frame_len(&self) -> usize {
        self.bytes().len() + self.rest_len()
    }

    /// Moves the frame's start by `by` bytes: a negative value grows it into its headroom, a positive one
    /// cuts bytes off its start. Returns `false` and changes nothing if there is no room.
    fn move_start(&mut self, by: isize) -> bool;

    /// Sets the total length; new bytes are unspecified. Returns `false` and changes nothing if there is no
    /// room, or if a frame of several buffers is to grow.
    fn set_len(&mut self, len: usize) -> bool;

    /// Copies the frame out, as far as `into` has room; returns the bytes copied.
    fn copy_to(&self, into: &mut [u8]) -> usize {
        let parts = iter::once(self.bytes()).chain((0..).map_while(|number| self.rest(number)));
        let mut copied = 0;
        for part in parts {
            let len = part.len().min(into.len() - copied);
            into[copied..copied + len].copy_from_slice(&part[..len]);
            copied += len;
        }
        copied
    }

    /// Overwrites the frame with as many bytes.
    ///
    /// # Panics
    /// If the lengths differ.
    fn copy_from(&mut self, bytes: &[u8]) {
        let (head, mut bytes) = bytes.split_at(self.bytes().len());
        self.bytes_mut().copy_from_slice(head);
        for number in 0.. {
            let Some(part) = self.rest_mut(number) else {
                break;
            };
            let (filled, left) = bytes.split_at(part.len());
            part.copy_from_slice(filled);
            bytes = left;
        }
        assert!(bytes.is_empty(), "the frame's length was not set");
    }
}

/// A worker's ports: receive, transmit, wait. One value per worker, owned by its thread.
pub trait FrameIo {
    type Frame: FrameBuf;

    /// Appends frames received on any of the worker's ports, until `into` has [`crate::BATCH`]. Also reaps
    /// completed transmissions and refills the receive side, so a worker that calls it keeps all frames in
    /// circulation.
    fn receive(&mut self, into: &mut Vec<Self::Frame>);

    /// A new frame for a packet of our own, such as an announcement; `None` if the pool is empty.
    fn allocate(&mut self, port: PortId) -> Option<Self::Frame>;

    /// Queues a frame on a port. A frame that cannot be queued returns to its pool.
    ///
    /// # Errors
    /// [`DropReason::TransmitRingFull`] or [`DropReason::PortMissing`].
    fn send(&mut self, port: PortId, frame: Self::Frame) -> Result<(), DropReason>;

    /// Queues each of `frames` on the port at its index in `ports`, which are as many. A frame that cannot be
    /// queued returns to its pool, and `refused` is called with its index. `frames` is empty afterwards.
    #[inline(always)]
    fn send_batch(
        &mut self,
        frames: &mut Vec<Self::Frame>,
        ports: &[PortId],
        mut refused: impl FnMut(usize, DropReason),
    ) where
        Self: Sized,
    {
        let (mut frames, mut rest) = (frames.drain(..), ports.iter());
        while let Some(port) = rest.next()
            && let Some(frame) = frames.next()
        {
            if let Err(reason) = self.send(*port, frame) {
                refused(ports.len() - rest.len() - 1, reason);
            }
        }
    }

    /// Passes a frame that is not ours to the kernel, as if it had arrived there.
    ///
    /// # Errors
    /// [`DropReason::KernelPathFull`] if the kernel does not take it.
    fn pass_to_kernel(&mut self, frame: Self::Frame) -> Result<(), DropReason>;

    /// Submits queued frames and wakes the kernel if it needs that. Called once per batch.
    fn flush(&mut self);

    /// Waits until a frame may have arrived or `timeout` has passed. Called after an empty
    /// [`FrameIo::receive`]; an adaptive implementation spins before it sleeps.
    fn wait(&mut self, timeout: Duration);
}
