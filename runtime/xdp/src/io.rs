//! A worker's frame I/O: its queue of every port, its pool, its way back to the kernel.
//!
//! Invariant: every frame of the worker is free in the pool, held by the worker, or in the hands
//! of the kernel by one socket's rings; [`XdpIo::account`] counts them in each place.

use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use waxwing_dataplane::{BATCH, DropReason, FrameBuf, FrameIo, PortId};
use xsk_rs::umem::Umem;

use crate::assembly::Assembly;
use crate::frame::{Owned, Pool, XdpFrame};
use crate::socket::QueueSocket;
use crate::sys::{self, PollSet};
use crate::tap::TapQueue;
use crate::{Buffers, PollMode};

/// How long an adaptive worker looks for frames before it sleeps: no shorter than a sleep and its end take.
const SPIN: Duration = Duration::from_micros(50);

/// The longest sleep while frames are on their way out: they are the pool's only after their
/// completion was reaped.
const REAP_PAUSE: Duration = Duration::from_millis(1);

/// Everything of one worker's, made on the control thread; the worker's thread makes an
/// [`XdpIo`] of it.
pub struct WorkerParts {
    pub(crate) queue: u32,
    pub(crate) umem: Umem,
    /// Those of its frames that are not lent to a socket, and how many it has in all.
    pub(crate) free: Vec<Owned>,
    pub(crate) total: usize,
    /// By port; `None` where the port has no such queue.
    pub(crate) sockets: Vec<Option<QueueSocket>>,
    pub(crate) tap: Option<TapQueue>,
    pub(crate) poll: PollMode,
    pub(crate) buffers: Buffers,
}

impl WorkerParts {
    /// The queue index that this worker serves on every port.
    #[must_use]
    pub fn queue(&self) -> u32 {
        self.queue
    }

    /// The worker's I/O, on the thread that will run it.
    #[must_use]
    pub fn into_io(self) -> XdpIo {
        let sockets = self.sockets.iter().flatten();
        let poll_set = PollSet::new(sockets.map(|socket| socket.rings.socket().as_raw_fd()));
        let jumbo_ports = match self.buffers {
            Buffers::One => None,
            Buffers::Several => Some(self.sockets.len()),
        };
        XdpIo {
            assemblies: self.sockets.iter().map(|_| Assembly::new()).collect(),
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

/// One worker's ports. Dropped, it closes its sockets, and the kernel has their traffic.
pub struct XdpIo {
    ports: Vec<Option<QueueSocket>>,
    /// By port, too.
    assemblies: Vec<Assembly<XdpFrame>>,
    pool: Rc<Pool>,
    tap: Option<TapQueue>,
    poll: PollMode,
    poll_set: PollSet,
    /// The port whose turn it is to be first.
    next: usize,
    /// Since the first wait of those without a frame between.
    idle_since: Option<Instant>,
}

/// Where a worker's frames are, counted in chunks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrameAccount {
    /// In the pool.
    pub free: usize,
    /// Held by the worker: received or allocated, not yet sent or dropped.
    pub held: usize,
    /// With the kernel to receive into.
    pub fill: usize,
    /// Received, not yet taken.
    pub rx: usize,
    /// Queued or with the kernel to be sent.
    pub tx: usize,
    /// Sent, not yet reaped.
    pub completion: usize,
    /// All there are.
    pub total: usize,
}

impl FrameAccount {
    /// Whether every frame is in exactly one place.
    #[must_use]
    pub const fn is_balanced(&self) -> bool {
        self.free + self.held + self.fill + self.rx + self.tx + self.completion == self.total
    }
}

impl XdpIo {
    /// Counts the worker's frames; call it between batches.
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
            let assembly = &mut self.assemblies[at];
            let taken = rings.receive(&self.pool, port, room, assembly, into);
            received += taken;
            if taken == 0 {
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
            tracing::error!(
                ?account,
                "frames are missing or owned twice: a bug in this process"
            );
        }
    }
}
