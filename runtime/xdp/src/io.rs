//! A worker's frame I/O: its queues of every port, its chunks, and its queue of the TAP device.
//!
//! Invariant: each of the worker's chunks is in exactly one place: free in the pool, in a frame of the
//! worker, or in the rings of one socket. [`XdpIo::account`] counts them in each place.

use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use waxwing_dataplane::{BATCH, DropReason, FrameIo, PortId};

use crate::frame::{Chunk, Pool, XdpFrame};
use crate::rings::Rings;
use crate::sys::{self, PollSet};
use crate::tap::TapQueue;
use crate::umem::Umem;
use crate::{Buffers, PollMode};

/// How long an adaptive worker polls before it sleeps: at least as long as falling asleep and waking take.
const SPIN: Duration = Duration::from_micros(50);

/// Maximum sleep while frames are being sent: their chunks return to the pool only when the worker reaps
/// completions.
const REAP_PAUSE: Duration = Duration::from_millis(1);

/// One worker's sockets and chunks, created on the control thread. The worker's thread turns them into an
/// [`XdpIo`].
pub struct WorkerSockets {
    pub(crate) worker: u32,
    pub(crate) umem: Arc<Umem>,
    /// Chunks that are not in a ring.
    pub(crate) free: Vec<Chunk>,
    /// The worker's number of chunks.
    pub(crate) total: usize,
    /// First one of each port, by port id, to send and receive; then further ones, to receive. Empty if a
    /// port has too few queues for this worker.
    pub(crate) sockets: Vec<(PortId, Rings)>,
    pub(crate) tap: Option<TapQueue>,
    pub(crate) poll: PollMode,
    pub(crate) buffers: Buffers,
}

impl WorkerSockets {
    /// Returns the worker's number, which is also its queue on every port.
    #[must_use]
    pub fn worker(&self) -> u32 {
        self.worker
    }

    /// Creates the worker's I/O. Call it on the worker's thread.
    #[must_use]
    pub fn into_io(self) -> XdpIo {
        let sockets = self.sockets.iter();
        let poll_set = PollSet::new(sockets.map(|(_, rings)| rings.socket().as_raw_fd()));
        let jumbo = self.buffers == Buffers::Several;
        XdpIo {
            worker: self.worker,
            buffers: self.buffers,
            pool: Some(Pool::new(self.umem, self.free, self.total, jumbo)),
            poll: if self.sockets.is_empty() {
                PollMode::Adaptive
            } else {
                self.poll
            },
            sockets: self.sockets,
            tap: self.tap,
            poll_set,
            wake: None,
            next: 0,
            idle_since: None,
        }
    }
}

/// One worker's frame I/O. Dropping it closes the sockets; their traffic is lost until the program is
/// detached or the ports have sockets again.
pub struct XdpIo {
    pub(crate) worker: u32,
    pub(crate) buffers: Buffers,
    /// As [`WorkerSockets::sockets`].
    pub(crate) sockets: Vec<(PortId, Rings)>,
    /// `None` without sockets.
    pub(crate) pool: Option<Rc<Pool>>,
    pub(crate) tap: Option<TapQueue>,
    poll: PollMode,
    poll_set: PollSet,
    /// See [`XdpIo::wake_by`].
    wake: Option<Arc<OwnedFd>>,
    /// The socket to receive from first in the next round.
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
    /// Has a wait end once this is readable.
    pub fn wake_by(&mut self, descriptor: Arc<OwnedFd>) {
        self.poll_set.add(descriptor.as_raw_fd());
        self.wake = Some(descriptor);
    }

    /// Returns an I/O without ports: for a worker whose ports are being attached again.
    #[must_use]
    pub fn closed() -> Self {
        Self {
            worker: 0,
            buffers: Buffers::One,
            sockets: Vec::new(),
            pool: None,
            tap: None,
            poll: PollMode::Adaptive,
            poll_set: PollSet::new([].into_iter()),
            wake: None,
            next: 0,
            idle_since: None,
        }
    }

    /// Counts the worker's chunks. Call it between batches.
    pub fn account(&self) -> FrameAccount {
        let mut account = self
            .pool
            .as_ref()
            .map_or_else(FrameAccount::default, |pool| FrameAccount {
                free: pool.free(),
                held: pool.held(),
                total: pool.total(),
                ..FrameAccount::default()
            });
        for (_, rings) in &self.sockets {
            let rings = rings.account();
            account.fill += rings.fill as usize;
            account.rx += rings.rx as usize;
            account.tx += rings.tx as usize;
            account.completion += rings.completion as usize;
        }
        account
    }
}

impl FrameIo for XdpIo {
    type Frame = XdpFrame;

    fn receive(&mut self, into: &mut Vec<XdpFrame>) {
        let Some(pool) = &self.pool else { return };
        let mut received = 0;
        let count = self.sockets.len();
        for turn in 0..count {
            let at = (self.next + turn) % count;
            let (port, rings) = &mut self.sockets[at];
            rings.reap(pool);
            rings.refill(pool);
            let room = BATCH.saturating_sub(into.len());
            let room = u32::try_from(room).unwrap_or(u32::MAX);
            let chunks = rings.receive(pool, *port, room, into);
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
        self.sockets
            .get(port.index())
            .filter(|(at, _)| *at == port)?;
        self.pool.as_ref()?.allocate(port)
    }

    #[inline]
    fn send(&mut self, port: PortId, frame: XdpFrame) -> Result<(), DropReason> {
        match self.sockets.get_mut(port.index()) {
            Some((at, rings)) if *at == port => rings.send(frame),
            _ => Err(DropReason::PortMissing),
        }
    }

    fn pass_to_kernel(&mut self, mut frame: XdpFrame) -> Result<(), DropReason> {
        let tap = self.tap.as_mut().ok_or(DropReason::KernelPathFull)?;
        tap.write(&mut frame)
            .map_err(|_| DropReason::KernelPathFull)
    }

    fn flush(&mut self) {
        for (_, rings) in &mut self.sockets {
            rings.flush();
        }
    }

    fn wait(&mut self, timeout: Duration) {
        let idle_since = self.idle_since.get_or_insert_with(Instant::now);
        if idle_since.elapsed() < SPIN {
            std::hint::spin_loop();
            return;
        }
        let mut outstanding = false;
        for (_, rings) in &mut self.sockets {
            outstanding |= rings.kick_outstanding();
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
