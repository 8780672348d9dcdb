//! A worker's ports in memory, which record the outcome of every received frame.
//!
//! Invariant: an outcome is recorded once. A frame without an outcome at the end of its turn was dropped.

use std::collections::VecDeque;
use std::time::Duration;

use waxwing_dataplane::{DropReason, FrameBuf, FrameIo, PortId};
use waxwing_packet::{Packet, parse};
use waxwing_testkit::memory::{MemoryFrame, MemoryIo};

/// The outcome of a frame that was not dropped.
#[derive(Debug, Hash)]
pub(crate) enum Outcome {
    Sent(PortId, Vec<u8>),
    ToKernel(Vec<u8>),
}

/// A frame received in the last turn.
#[derive(Debug, Hash)]
pub(crate) struct Handled {
    pub(crate) port: PortId,
    pub(crate) bytes: Vec<u8>,
    /// Its outcomes; empty if it was dropped.
    pub(crate) outcomes: Vec<Outcome>,
}

/// A frame made by the worker, and the port that it was sent by.
pub(crate) type Generated = (PortId, Vec<u8>);

/// A frame with its place in the turn; `None` for frames made by the worker.
pub(crate) struct NumberedFrame {
    frame: MemoryFrame,
    number: Option<usize>,
}

impl FrameBuf for NumberedFrame {
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

/// The ports of a worker.
pub(crate) struct TracedIo {
    memory: MemoryIo,
    received: Vec<MemoryFrame>,
    arriving: VecDeque<(PortId, Vec<u8>)>,
    handled: Vec<Handled>,
    /// The numbers of sent frames and of frames to the kernel, in order.
    sent: Vec<Option<usize>>,
    to_kernel: Vec<Option<usize>>,
    /// Whether the kernel refuses frames.
    pub(crate) kernel_full: bool,
    /// Frames made by the worker.
    pub(crate) allocated: u64,
    pub(crate) refused_by_kernel: u64,
    /// Frames made by the worker that the kernel got: released fragments.
    pub(crate) released_to_kernel: u64,
}

impl TracedIo {
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

    /// Lets a frame arrive. Returns whether there was room.
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

    /// Limits the room in the transmit rings; `None`: no limit.
    pub(crate) fn limit(&mut self, frames: Option<usize>) {
        self.memory.limit_transmit(frames.unwrap_or(usize::MAX));
    }

    /// Takes the turn's frames with their outcomes, and the frames made by the worker.
    ///
    /// # Errors
    /// A frame was leaked or went to the wrong place.
    pub(crate) fn take(&mut self) -> Result<(Vec<Handled>, Vec<Generated>), String> {
        let mut generated = Vec::new();
        let mut handled = std::mem::take(&mut self.handled);
        for (number, (port, bytes)) in self.sent.drain(..).zip(self.memory.sent()) {
            match number {
                Some(number) => handled[number].outcomes.push(Outcome::Sent(port, bytes)),
                None => generated.push((port, bytes)),
            }
        }
        for (number, (_, bytes)) in self.to_kernel.drain(..).zip(self.memory.passed_to_kernel()) {
            match number {
                Some(number) => handled[number].outcomes.push(Outcome::ToKernel(bytes)),
                None if is_fragment(&bytes) => self.released_to_kernel += 1,
                None => return Err("a frame made by the worker went to the kernel".into()),
            }
        }
        let (out, waiting) = (self.memory.in_flight(), self.arriving.len());
        if out != waiting {
            return Err(format!(
                "{out} frames are in use, but {waiting} are waiting"
            ));
        }
        Ok((handled, generated))
    }
}

/// Whether a frame is a fragment. The worker makes fragments only to release held ones.
pub(crate) fn is_fragment(frame: &[u8]) -> bool {
    matches!(parse(frame), Ok(Packet::Ip(packet)) if packet.fragment.is_some())
}

impl FrameIo for TracedIo {
    type Frame = NumberedFrame;

    fn receive(&mut self, into: &mut Vec<NumberedFrame>) {
        self.memory.receive(&mut self.received);
        for frame in self.received.drain(..) {
            let Some((port, bytes)) = self.arriving.pop_front() else {
                break;
            };
            let number = Some(self.handled.len());
            self.handled.push(Handled {
                port,
                bytes,
                outcomes: Vec::new(),
            });
            into.push(NumberedFrame { frame, number });
        }
    }

    fn allocate(&mut self, port: PortId) -> Option<NumberedFrame> {
        let frame = self.memory.allocate(port)?;
        self.allocated += 1;
        Some(NumberedFrame {
            frame,
            number: None,
        })
    }

    fn send(&mut self, port: PortId, frame: NumberedFrame) -> Result<(), DropReason> {
        self.memory.send(port, frame.frame)?;
        self.sent.push(frame.number);
        Ok(())
    }

    fn pass_to_kernel(&mut self, frame: NumberedFrame) -> Result<(), DropReason> {
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
