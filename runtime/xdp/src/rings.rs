//! One socket's four rings, spoken to in owned frames only.
//!
//! Invariant: a frame goes into a ring by giving up its [`Owned`] and comes out as a new one, and so
//! does one that the ring did not take. The two [`Loan`]s keep every ring from overflowing; but the
//! kernel may be late in freeing the slots of what it has given back, so a ring with room by its
//! loan may take nothing for a moment, which is tried again.

use std::mem;
use std::os::fd::AsRawFd;
use std::rc::Rc;

use waxwing_dataplane::{BATCH, PortId};
use xsk_rs::socket::{RxQueue, TxQueue};
use xsk_rs::umem::frame::FrameDesc;
use xsk_rs::umem::{CompQueue, FillQueue};

use crate::assembly::Assembly;
use crate::frame::{Owned, Pool, XdpFrame};
use crate::loan::Loan;
use crate::{Options, PollMode, sys};

/// Frames that the kernel sends per call in copy mode (`TX_BATCH_SIZE`, net/xdp/xsk.c).
const COPY_MODE_BATCH: usize = 32;

/// Fewest frames worth a refill, unless the driver ran dry.
const REFILL_MIN: usize = BATCH / 2;

/// Refilled and reaped per round, at most: bounds a round's work.
const RING_BATCH: usize = 4 * BATCH;

/// The rings of one bound socket.
pub(crate) struct Rings {
    tx: TxQueue,
    rx: RxQueue,
    fill: FillQueue,
    completion: CompQueue,
    receive_side: Loan,
    transmit_side: Loan,
    ring_size: u32,
    zero_copy: bool,
    /// Whether the kernel says when it needs a wake-up; it always does where it does not say.
    says_when: bool,
    /// Whether the socket prefers busy polling.
    busy: bool,
    /// Given up by the worker, not yet in the transmit ring. Room for them is kept there. The chunks of
    /// a frame go into the ring together, as all of these do.
    pending: Vec<FrameDesc>,
    scratch: Box<[FrameDesc]>,
}

/// How many of a socket's frames are where, now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RingAccount {
    pub(crate) fill: usize,
    pub(crate) rx: usize,
    pub(crate) tx: usize,
    pub(crate) completion: usize,
}

impl Rings {
    /// Of a socket just bound as `options` ask, to which no frame has been lent.
    pub(crate) fn new(
        (tx, rx, fill, completion): (TxQueue, RxQueue, FillQueue, CompQueue),
        options: &Options,
        zero_copy: bool,
    ) -> Self {
        let ring_size = options.ring_size;
        Self {
            tx,
            rx,
            fill,
            completion,
            receive_side: Loan::new(ring_size),
            transmit_side: Loan::new(ring_size),
            ring_size,
            zero_copy,
            says_when: options.need_wakeup,
            busy: options.poll == PollMode::Busy,
            pending: Vec::with_capacity(ring_size as usize),
            scratch: vec![FrameDesc::default(); RING_BATCH].into(),
        }
    }

    /// The socket.
    pub(crate) fn socket(&self) -> &impl AsRawFd {
        self.rx.fd()
    }

    /// Frames that were sent go back to the pool.
    pub(crate) fn reap(&mut self, pool: &Pool) {
        if self.transmit_side.lent() == 0 {
            return;
        }
        // SAFETY: the descriptors only receive values; this ring is of the pool's UMEM.
        let count = unsafe { self.completion.consume(&mut self.scratch) };
        self.transmit_side.give_back(count);
        for &desc in &self.scratch[..count] {
            // SAFETY: the kernel gave it back just now, each once; `transmit` gave up its `Owned`.
            pool.put(unsafe { Owned::adopt(desc) });
        }
    }

    /// Lends the kernel frames to receive into, where it has room for some.
    pub(crate) fn refill(&mut self, pool: &Pool) {
        let room = self.receive_side.room();
        if room < REFILL_MIN {
            return;
        }
        let count = pool.take(room.min(RING_BATCH), |frames| self.stage(frames));
        let taken = self.lend(count);
        for &desc in &self.scratch[taken..count] {
            // SAFETY: it was an `Owned`'s of the pool until `stage`, and the ring did not take it.
            pool.put(unsafe { Owned::adopt(desc) });
        }
    }

    /// Before the first frame: lends the kernel as many as it has room for, or as there are.
    pub(crate) fn fill_up(&mut self, frames: &mut Vec<Owned>) {
        while self.receive_side.room() > 0 && !frames.is_empty() {
            let count = frames.len().min(self.receive_side.room()).min(RING_BATCH);
            let count = self.stage(frames.drain(frames.len() - count..));
            let taken = self.lend(count);
            let rest = self.scratch[taken..count].iter();
            // SAFETY: each was an `Owned`'s until `stage`, and the ring did not take it.
            frames.extend(rest.map(|&desc| unsafe { Owned::adopt(desc) }));
            if taken == 0 {
                return;
            }
        }
    }

    /// Gives up frames, at most [`RING_BATCH`], into `scratch`; says how many.
    fn stage(&mut self, frames: impl Iterator<Item = Owned>) -> usize {
        let mut count = 0;
        for (slot, frame) in self.scratch.iter_mut().zip(frames) {
            *slot = frame.release();
            count += 1;
        }
        count
    }

    /// Lends the first `count` frames in `scratch`, for which the loan has room; says how many the
    /// ring took. In copy mode the kernel hands received frames over a moment before it frees their
    /// slots in the fill ring (`xsk_flush`, net/xdp/xsk.c): seen in between, the ring is full.
    fn lend(&mut self, count: usize) -> usize {
        // SAFETY: each descriptor was an `Owned`'s of this UMEM, given up by `stage`.
        let taken = unsafe { self.fill.produce(&self.scratch[..count]) };
        self.receive_side.lend(taken);
        taken
    }

    /// Appends received frames, at most `max` and a batch; says how many chunks were received. What
    /// there is of a frame whose rest was not taken yet waits in `assembly`, which is this socket's.
    pub(crate) fn receive(
        &mut self,
        pool: &Rc<Pool>,
        port: PortId,
        max: usize,
        assembly: &mut Assembly<XdpFrame>,
        into: &mut Vec<XdpFrame>,
    ) -> usize {
        let max = max.min(BATCH);
        // SAFETY: the descriptors only receive values; this ring is of the pool's UMEM.
        let count = unsafe { self.rx.consume(&mut self.scratch[..max]) };
        self.receive_side.give_back(count);
        for &desc in &self.scratch[..count] {
            // SAFETY: the kernel gave it back just now, each once; `refill` gave up its `Owned`.
            let mut chunk = unsafe { Owned::adopt(desc) };
            if assembly.is_empty() && !chunk.goes_on() {
                into.push(pool.hold(chunk, port));
                continue;
            }
            let goes_on = chunk.take_mark();
            let begin = |chunk| pool.hold(chunk, port);
            into.extend(assembly.take(chunk, goes_on, begin, XdpFrame::append));
        }
        count
    }

    /// Whether a frame in so many chunks can be queued.
    pub(crate) fn has_room(&self, chunks: usize) -> bool {
        self.pending.len() + chunks <= self.transmit_side.room()
    }

    /// Queues a frame, for which there is room.
    pub(crate) fn queue(&mut self, frame: XdpFrame) {
        frame.release(&mut self.pending);
    }

    /// Submits what was queued and wakes the kernel where it asks for that.
    pub(crate) fn flush(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        // SAFETY: each descriptor was an `Owned`'s of this UMEM, given up when it was queued.
        let taken = unsafe { self.tx.produce(&self.pending) };
        // What the ring has no room for yet waits for the next flush.
        self.pending.drain(..taken);
        self.transmit_side.lend(taken);
        if !self.says_when || self.tx.needs_wakeup() {
            self.kick_transmit();
        }
    }

    /// Lets the kernel send. In copy mode a call sends a bounded number, so several may be needed.
    fn kick_transmit(&mut self) {
        let calls = if self.zero_copy {
            1
        } else {
            1 + self.unsent() / COPY_MODE_BATCH
        };
        for _ in 0..calls {
            // An error is of the device (it went down or away): the frames stay in the ring, and
            // are sent when it is back or returned when the socket is closed.
            let gone = self.tx.wakeup().is_err();
            if gone || self.unsent() == 0 {
                return;
            }
        }
        if self.busy && self.zero_copy {
            self.wake_sender();
        }
    }

    /// Wakes the driver itself. A socket that prefers busy polling only polls the device's receive
    /// loop when it is told to send (`xsk_no_wakeup`, net/xdp/xsk.c). Most drivers send in that same
    /// loop; but virtio sends in another, which nothing but its wake-up starts, and `poll` is the
    /// call that wakes without asking for the preference (`xsk_poll`).
    fn wake_sender(&self) {
        if self.tx.needs_wakeup() {
            sys::wake(self.tx.fd());
        }
    }

    /// Frames in the transmit ring that the kernel has not taken out yet.
    fn unsent(&mut self) -> usize {
        (self.ring_size - self.tx.nb_free_exact()) as usize
    }

    /// Before the worker sleeps: whether frames are still on their way out, after a kick. Some
    /// drivers in zero-copy mode send, or report what was sent, only after a wake-up, also when
    /// they say that none is needed.
    pub(crate) fn kick_outstanding(&mut self) -> bool {
        if self.transmit_side.lent() == 0 {
            return false;
        }
        if self.zero_copy || self.unsent() > 0 {
            self.kick_transmit();
        }
        if self.busy && self.zero_copy && self.transmit_side.lent() > 0 {
            // What was sent is reported in the same loop as it is sent in.
            self.wake_sender();
        }
        true
    }

    /// Lets the kernel receive, where it waits to be told that there are frames to receive into.
    pub(crate) fn kick_starved(&self) {
        if self.fill.needs_wakeup() {
            sys::kick_receive(self.rx.fd());
        }
    }

    /// Counts the frames in the kernel's hands, and those queued, as `tx`.
    pub(crate) fn account(&mut self) -> RingAccount {
        let rx = self.rx.nb_avail_exact() as usize;
        let completion = self.completion.nb_avail_exact() as usize;
        RingAccount {
            fill: self.receive_side.lent() - rx,
            rx,
            tx: self.transmit_side.lent() - completion + self.pending.len(),
            completion,
        }
    }
}

impl Drop for Rings {
    fn drop(&mut self) {
        // What was queued was promised to be sent; the last chance is now.
        if !mem::take(&mut self.pending).is_empty() {
            tracing::debug!("frames queued and not flushed were dropped with their socket");
        }
    }
}

#[cfg(test)]
mod tests {
    use waxwing_packet::Mac;

    use super::*;
    use crate::socket::{QueueSocket, bind_all};
    use crate::{Buffers, Interface, ZeroCopy};

    /// The kernel has given frames back whose slots in the fill ring it has not freed yet.
    #[test]
    fn frames_that_the_fill_ring_has_no_room_for_yet_stay_in_the_pool() {
        const RING: u32 = 64;
        let options = Options {
            zero_copy: ZeroCopy::Off,
            ring_size: RING,
            frames_per_queue: 4 * RING,
            huge_pages: false,
            ..Options::default()
        };
        let loopback = Interface {
            name: "lo".into(),
            index: 1,
            mac: Mac::default(),
            mtu: 1500,
            queues: 1,
        };
        let sockets = match bind_all(&[loopback], &options, Buffers::One) {
            Ok(sockets) => sockets,
            Err(error) => {
                eprintln!("skipped: AF_XDP sockets need root: {error}");
                return;
            }
        };
        let total = options.frames_per_queue as usize;
        let socket = sockets.bound.into_iter().flatten().next();
        let QueueSocket {
            mut rings, free, ..
        } = socket.expect("one socket");
        let pool = Pool::new(sockets.umem, free, total, None);
        assert_eq!(pool.free(), total - RING as usize);

        rings.receive_side.give_back(BATCH / 2);
        rings.refill(&pool);
        assert_eq!(pool.free(), total - RING as usize, "none is lost");
        assert_eq!(rings.receive_side.lent(), RING as usize - BATCH / 2);
    }
}
