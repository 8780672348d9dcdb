//! A worker's ports in memory, where every frame is known by what came in.
//!
//! Invariant: a frame's end is written down once. One that has none, when its turn is over, was
//! dropped.

use std::collections::VecDeque;
use std::time::Duration;

use waxwing_dataplane::{DropReason, FrameBuf, FrameIo, PortId};
use waxwing_packet::{Packet, parse};
use waxwing_testkit::memory::{MemoryFrame, MemoryIo};

/// What became of a frame.
#[derive(Debug)]
pub(crate) enum Fate {
    Sent(PortId, Vec<u8>),
    Kernel(Vec<u8>),
}

/// A frame of the last turn.
#[derive(Debug)]
pub(crate) struct Handled {
    pub(crate) port: PortId,
    pub(crate) bytes: Vec<u8>,
    /// All that became of it: none where it was dropped.
    pub(crate) fates: Vec<Fate>,
}

/// A frame that the worker made itself, and the port it left by.
pub(crate) type Own = (PortId, Vec<u8>);

/// A frame that knows which one it is; what the balancer makes itself has no number.
pub(crate) struct Tagged {
    frame: MemoryFrame,
    number: Option<usize>,
}

impl FrameBuf for Tagged {
    fn port(&self) -> PortId {
        self.frame.port()
    }

    fn bytes(&self) -> &[u8] {
        self.frame.bytes()
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        self.frame.bytes_mut()
    }

    fn rest_len(&self) -> usize {
        self.frame.rest_len()
    }

    fn rest(&self, number: usize) -> Option<&[u8]> {
        self.frame.rest(number)
    }

    fn rest_mut(&mut self, number: usize) -> Option<&mut [u8]> {
        self.frame.rest_mut(number)
    }

    fn move_start(&mut self, by: isize) -> bool {
        self.frame.move_start(by)
    }

    fn set_len(&mut self, len: usize) -> bool {
        self.frame.set_len(len)
    }
}

pub(crate) struct Wire {
    memory: MemoryIo,
    received: Vec<MemoryFrame>,
    arriving: VecDeque<(PortId, Vec<u8>)>,
    handled: Vec<Handled>,
    /// The numbers of what was sent, and of what went to the kernel, in order.
    sent: Vec<Option<usize>>,
    to_kernel: Vec<Option<usize>>,
    /// The kernel takes nothing.
    pub(crate) kernel_full: bool,
    /// Frames that the worker made itself.
    pub(crate) allocated: u64,
    pub(crate) refused_by_kernel: u64,
    /// Frames that the worker made itself and the kernel got: fragments that had waited.
    pub(crate) released_to_kernel: u64,
}

impl Wire {
    pub(crate) fn new(frames: usize) -> Self {
        Self {
            memory: MemoryIo::new(2, frames),
            received: Vec::new(),
            arriving: VecDeque::new(),
            handled: Vec::new(),
            sent: Vec::new(),
            to_kernel: Vec::new(),
            kernel_full: false,
            allocated: 0,
            refused_by_kernel: 0,
            released_to_kernel: 0,
        }
    }

    /// Whether a frame found room.
    pub(crate) fn inject(&mut self, port: PortId, bytes: Vec<u8>) -> bool {
        let fits = self.memory.inject(port, &bytes);
        if fits {
            self.arriving.push_back((port, bytes));
        }
        fits
    }

    pub(crate) fn is_waiting(&self) -> bool {
        !self.arriving.is_empty()
    }

    /// So many more frames fit the transmit rings; `None`: any number.
    pub(crate) fn limit(&mut self, frames: Option<usize>) {
        self.memory.limit_transmit(frames.unwrap_or(usize::MAX));
    }

    /// What the turn did, and what the worker sent of its own.
    ///
    /// # Errors
    /// Where a frame is not where it is to be.
    pub(crate) fn take(&mut self) -> Result<(Vec<Handled>, Vec<Own>), String> {
        let mut own = Vec::new();
        let mut handled = std::mem::take(&mut self.handled);
        for (number, (port, bytes)) in self.sent.drain(..).zip(self.memory.sent()) {
            match number {
                Some(number) => handled[number].fates.push(Fate::Sent(port, bytes)),
                None => own.push((port, bytes)),
            }
        }
        for (number, (_, bytes)) in self.to_kernel.drain(..).zip(self.memory.passed_to_kernel()) {
            match number {
                Some(number) => handled[number].fates.push(Fate::Kernel(bytes)),
                None if is_fragment(&bytes) => self.released_to_kernel += 1,
                None => return Err("a frame of the worker's own went to the kernel".into()),
            }
        }
        let (out, waiting) = (self.memory.in_flight(), self.arriving.len());
        if out != waiting {
            return Err(format!(
                "{out} frames are out of the pool, and {waiting} wait"
            ));
        }
        Ok((handled, own))
    }
}

/// Whether it is a fragment, which the worker makes itself only where it releases one that was held.
pub(crate) fn is_fragment(frame: &[u8]) -> bool {
    matches!(parse(frame), Ok(Packet::Ip(packet)) if packet.fragment.is_some())
}

impl FrameIo for Wire {
    type Frame = Tagged;

    fn receive(&mut self, into: &mut Vec<Tagged>) {
        self.memory.receive(&mut self.received);
        for frame in self.received.drain(..) {
            let Some((port, bytes)) = self.arriving.pop_front() else {
                break;
            };
            let number = Some(self.handled.len());
            self.handled.push(Handled {
                port,
                bytes,
                fates: Vec::new(),
            });
            into.push(Tagged { frame, number });
        }
    }

    fn allocate(&mut self, port: PortId) -> Option<Tagged> {
        let frame = self.memory.allocate(port)?;
        self.allocated += 1;
        Some(Tagged {
            frame,
            number: None,
        })
    }

    fn send(&mut self, port: PortId, frame: Tagged) -> Result<(), DropReason> {
        self.memory.send(port, frame.frame)?;
        self.sent.push(frame.number);
        Ok(())
    }

    fn pass_to_kernel(&mut self, frame: Tagged) -> Result<(), DropReason> {
        if self.kernel_full {
            self.refused_by_kernel += 1;
            return Err(DropReason::KernelPathFull);
        }
        self.memory.pass_to_kernel(frame.frame)?;
        self.to_kernel.push(frame.number);
        Ok(())
    }

    fn flush(&mut self) {
        self.memory.flush();
    }

    fn wait(&mut self, _timeout: Duration) {}
}
