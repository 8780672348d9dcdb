//! What the core asks of the thing that moves frames.
//!
//! Invariant: a frame is owned by exactly one place at any time. It moves by value; sending
//! consumes it, dropping it returns it to the pool it came from. A double send does not compile.

use std::iter;
use std::time::Duration;

use crate::{DropReason, PortId};

/// A received (or allocated) frame: bytes from the Ethernet header on, with room before them.
///
/// A jumbo frame is longer than a buffer and lies in several. All that is read and written on a packet's
/// way, its headers and the beginning of its payload, is in the first; the rest goes where that goes.
///
/// Dropping one returns its memory to its pool; nothing else is sent or lost by it.
pub trait FrameBuf {
    /// The port it was received on, or was allocated for.
    fn port(&self) -> PortId;

    /// The frame, from the Ethernet header to its end (no frame check sequence), or to the end of its
    /// first buffer.
    fn bytes(&self) -> &[u8];

    /// The same, to be rewritten in place.
    fn bytes_mut(&mut self) -> &mut [u8];

    /// How many bytes of it lie in further buffers: 0 for all but jumbo frames.
    fn rest_len(&self) -> usize;

    /// What lies in one of these, numbered from 0; `None` behind the last.
    fn rest(&self, number: usize) -> Option<&[u8]>;

    /// The same, to be written to.
    fn rest_mut(&mut self, number: usize) -> Option<&mut [u8]>;

    /// Its whole length in bytes.
    #[inline]
    fn frame_len(&self) -> usize {
        self.bytes().len() + self.rest_len()
    }

    /// Moves the frame's start by `by` bytes: negative grows the frame into its headroom,
    /// positive cuts bytes off its head. `false`, and nothing changed, where there is no room.
    fn move_start(&mut self, by: isize) -> bool;

    /// Sets the frame's whole length; bytes that it grows by are unspecified. `false`, and nothing
    /// changed, where there is no room, or where it lies in several buffers already and is to grow.
    fn set_len(&mut self, len: usize) -> bool;

    /// Copies the frame out, or as much of it as `into` takes; says how much that was.
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

    /// Overwrites the frame with bytes that are as many.
    ///
    /// # Panics
    /// They are more or fewer: a bug of the caller, who has just set the length.
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

/// A worker's way to its ports: receive, transmit, wait. One value per worker, owned by its thread.
pub trait FrameIo {
    /// The frames it moves.
    type Frame: FrameBuf;

    /// Appends received frames, from all of the worker's ports, up to [`crate::BATCH`] in `into`.
    /// Also reaps completed transmissions and refills the receive side, so a worker that calls
    /// it keeps every frame in circulation.
    fn receive(&mut self, into: &mut Vec<Self::Frame>);

    /// A fresh frame to originate a packet with (an announcement), or `None` when the pool is empty.
    fn allocate(&mut self, port: PortId) -> Option<Self::Frame>;

    /// Queues a frame on a port. It is consumed either way; where it could not be queued it went
    /// back to its pool, and the reason says why.
    ///
    /// # Errors
    /// [`DropReason::TransmitRingFull`] or [`DropReason::PortMissing`].
    fn send(&mut self, port: PortId, frame: Self::Frame) -> Result<(), DropReason>;

    /// Hands a frame that is not ours back to the kernel, as if it had arrived there.
    ///
    /// # Errors
    /// [`DropReason::KernelPathFull`] where the kernel did not take it.
    fn pass_to_kernel(&mut self, frame: Self::Frame) -> Result<(), DropReason>;

    /// Submits what was queued and wakes the kernel where it asks for that. Called once per batch.
    fn flush(&mut self);

    /// Waits until a frame may have arrived or `timeout` has passed. Called after an empty
    /// [`FrameIo::receive`]; an adaptive implementation spins a while before it sleeps.
    fn wait(&mut self, timeout: Duration);
}
