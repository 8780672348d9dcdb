//! A worker's frame I/O: its queue of every port, its chunks, and its queue of the TAP device.
//!
//! Invariant: each of the worker's chunks is in exactly one place: free in the pool, in a frame of the
//! worker, or in the rings of one socket. [`XdpIo::account`] counts them in each place.

use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use waxwing_dataplane::{BATCH, DropReason, FrameBuf, FrameIo, PortId};
use xsk_rs::umem::Umem;

use crate::frame::{Chunk, Pool, XdpFrame};
use crate::multi_buffer::PartialFrame;
use crate::socket::QueueSocket;
use crate::sys::{self, PollSet};
use crate::tap::TapQueue;
use crate::{Buffers, PollMode};

/// How long an adaptive worker polls before it sleeps: at least as long as falling asleep and waking take.
const SPIN: Duration = Duration::from_micros(50);

/// Maximum sleep while frames are being sent: their chunks return to the pool only when the worker reaps
/// completions.
const REAP_PAUSE: Duration = Duration::from_millis(1);

/// One worker's sockets and chunks, created on the control thread. The worker's thread turns them into an
/// [`XdpIo`].
pub struct WorkerSockets {
    pub(crate) queue: u32,
    pub(crate) umem: Umem,
    /// Chunks that are not in a ring.
    pub(crate) free: Vec<Chunk>,
    /// The worker's number of chunks.
    pub(crate) total: usize,
    /// By port; `None` for a port without this queue.
    pub(crate) sockets: Vec<Option<QueueSocket>>,
    pub(crate) tap: Option<TapQueue>,
    pub(crate) poll: PollMode,
    pub(crate) buffers: Buffers,
}

impl WorkerSockets {
    /// Returns the queue index that this worker serves on every port.
    #[must_use]
    pub fn queue(&self) -> u32 {
        self.queue
    }

    /// Creates the worker's I/O. Call it on the worker's thread.
    #[must_use]
    pub fn into_io(self) -> XdpIo {
        let sockets = self.sockets.iter().flatten();
        let poll_set = PollSet::new(sockets.map(|socket| socket.rings.socket().as_raw_fd()));
        let jumbo_ports = match self.buffers {
            Buffers::One => None,
            Buffers::Several => Some(self.sockets.len()),
        };
        XdpIo {
            partials: self.sockets.iter().map(|_| PartialFrame::new()).collect(),
            pool: Pool::new(self.umem, self.free, self.total, jumbo_ports),
            ports: self.sockets,
            tap: self.tap,
            poll: self.poll,
            poll_set,
            next: 0,
            idle_since: None,
        }
    }
}

/// One worker's frame I/O. Dropping it closes the sockets; the kernel then gets their traffic.
pub struct XdpIo {
    ports: Vec<Option<QueueSocket>>,
    /// By port.
    partials: Vec<PartialFrame<XdpFrame>>,
    pool: Rc<Pool>,
    tap: Option<TapQueue>,
    poll: PollMode,
    poll_set: PollSet,
    /// The port to receive from first in the next round.
    next: usize,
    /// The first wait since the last received frame.
    idle_since: Option<Instant>,
}

/// The number of a worker's chunks in each place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrameAccount {
    /// In the pool.
    pub free: usize,
    /// In frames of the worker: received or allocated, not yet sent or dropped.
    pub held: usize,
    /// With the kernel, to receive into.
    pub fill: usize,
    /// Received, not yet read by the worker.
    pub rx: usize,
    /// Queued, or with the kernel, to be sent.
    pub tx: usize,
    /// Sent, not yet reaped.
    pub completion: usize,
    /// All chunks.
    pub total: usize,
}

impl FrameAccount {
    /// Returns whether every chunk is in exactly one place.
    #[must_use]
    pub const fn is_balanced(&self) -> bool {
        self.free + self.held + self.fill + self.rx + self.tx + self.completion == self.total
    }
}

impl XdpIo {
    /// Counts the worker's chunks. Call it between batches.
    pub fn account(&mut self) -> FrameAccount {
        let mut account = FrameAccount {
            free: self.pool.free(),
            held: self.pool.held(),
            total: self.pool.total(),
            ..FrameAccount::default()
        };
        for socket in self.ports.iter_mut().flatten() {
            let rings = socket.rings.account();
            account.fill += rings.fill;
            account.rx += rings.rx;
            account.tx += rings.tx;
            account.completion += rings.completion;
        }
        account
    }
}

impl FrameIo for XdpIo {
    type Frame = XdpFrame;

    fn receive(&mut self, into: &mut Vec<XdpFrame>) {
        let mut received = 0;
        let count = self.ports.len();
        for turn in 0..count {
            let at = (self.next + turn) % count;
            let Some(socket) = &mut self.ports[at] else {
                continue;
            };
            let rings = &mut socket.rings;
            rings.reap(&self.pool);
            rings.refill(&self.pool);
            let room = BATCH.saturating_sub(into.len());
            let port = PortId(u8::try_from(at).unwrap_or(u8::MAX));
            let partial = &mut self.partials[at];
            let chunks = rings.receive(&self.pool, port, room, partial, into);
            received += chunks;
            if chunks == 0 {
                match self.poll {
                    PollMode::Adaptive => rings.kick_starved(),
                    PollMode::Busy => sys::kick_receive(rings.socket()),
                }
            }
        }
        if received > 0 {
            self.idle_since = None;
            self.next = (self.next + 1) % count;
        }
    }

    fn allocate(&mut self, port: PortId) -> Option<XdpFrame> {
        self.ports.get(port.index())?.as_ref()?;
        let fresh = self.pool.take(1, |mut frames| frames.next())?;
        let mut frame = self.pool.hold(fresh, port);
        frame.set_len(0);
        Some(frame)
    }

    fn send(&mut self, port: PortId, frame: XdpFrame) -> Result<(), DropReason> {
        let socket = self.ports.get_mut(port.index()).and_then(Option::as_mut);
        let rings = &mut socket.ok_or(DropReason::PortMissing)?.rings;
        if !rings.has_room(frame.chunks()) {
            return Err(DropReason::TransmitRingFull);
        }
        rings.queue(frame);
        Ok(())
    }

    fn pass_to_kernel(&mut self, mut frame: XdpFrame) -> Result<(), DropReason> {
        let tap = self.tap.as_mut().ok_or(DropReason::KernelPathFull)?;
        tap.write(&mut frame)
            .map_err(|_| DropReason::KernelPathFull)
    }

    fn flush(&mut self) {
        for socket in self.ports.iter_mut().flatten() {
            socket.rings.flush();
        }
    }

    fn wait(&mut self, timeout: Duration) {
        let idle_since = self.idle_since.get_or_insert_with(Instant::now);
        if idle_since.elapsed() < SPIN {
            std::hint::spin_loop();
            return;
        }
        let mut outstanding = false;
        for socket in self.ports.iter_mut().flatten() {
            outstanding |= socket.rings.kick_outstanding();
        }
        if self.poll == PollMode::Busy {
            return;
        }
        self.poll_set.wait(if outstanding {
            timeout.min(REAP_PAUSE)
        } else {
            timeout
        });
    }
}

impl Drop for XdpIo {
    fn drop(&mut self) {
        let account = self.account();
        if !account.is_balanced() {
            tracing::error!(?account, "a bug: chunks are missing or counted twice");
        }
    }
}
