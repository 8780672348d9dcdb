//! One socket's four rings.
//!
//! Invariant: putting a chunk into a ring consumes its [`Chunk`]; taking it out, or the ring not accepting
//! it, creates a new one. The two [`RingCredit`]s prevent overflow. The kernel may free slots later than it
//! returns chunks, so a ring with credit may accept nothing for a moment; the next round tries again.

use std::mem;
use std::os::fd::AsRawFd;
use std::rc::Rc;

use waxwing_dataplane::{BATCH, PortId};
use xsk_rs::socket::{RxQueue, TxQueue};
use xsk_rs::umem::frame::FrameDesc;
use xsk_rs::umem::{CompQueue, FillQueue};

use crate::frame::{Chunk, Pool, XdpFrame};
use crate::multi_buffer::PartialFrame;
use crate::ring_credit::RingCredit;
use crate::{Options, PollMode, sys};

/// Frames that the kernel sends per call in copy mode (`TX_BATCH_SIZE`, net/xdp/xsk.c).
const COPY_MODE_BATCH: usize = 32;

/// Minimum number of chunks per refill.
const REFILL_MIN: usize = BATCH / 2;

/// Maximum number of chunks refilled and reaped per round, which bounds its work.
const RING_BATCH: usize = 4 * BATCH;

/// The rings of one bound socket.
pub(crate) struct Rings {
    tx: TxQueue,
    rx: RxQueue,
    fill: FillQueue,
    completion: CompQueue,
    /// Credit of fill and receive ring.
    receive_side: RingCredit,
    /// Credit of transmit and completion ring.
    transmit_side: RingCredit,
    ring_size: u32,
    zero_copy: bool,
    /// Whether the kernel signals when it needs a wake-up. Without the signal it always needs one.
    need_wakeup: bool,
    /// Whether the socket prefers busy polling.
    busy: bool,
    /// Descriptors to send that are not in the transmit ring yet; the ring has room for all. They go
    /// into the ring together, so a frame's chunks do too.
    pending: Vec<FrameDesc>,
    scratch: Box<[FrameDesc]>,
}

/// The number of chunks in each of a socket's rings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RingAccount {
    pub(crate) fill: usize,
    pub(crate) rx: usize,
    pub(crate) tx: usize,
    pub(crate) completion: usize,
}

impl Rings {
    /// Creates the rings of a newly bound socket. The kernel holds no chunks.
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
            receive_side: RingCredit::new(ring_size),
            transmit_side: RingCredit::new(ring_size),
            ring_size,
            zero_copy,
            need_wakeup: options.need_wakeup,
            busy: options.poll == PollMode::Busy,
            pending: Vec::with_capacity(ring_size as usize),
            scratch: vec![FrameDesc::default(); RING_BATCH].into(),
        }
    }

    pub(crate) fn socket(&self) -> &impl AsRawFd {
        self.rx.fd()
    }

    /// Returns sent chunks to the pool.
    pub(crate) fn reap(&mut self, pool: &Pool) {
        if self.transmit_side.outstanding() == 0 {
            return;
        }
        // SAFETY: the call only writes `scratch`; this ring belongs to the pool's UMEM.
        let count = unsafe { self.completion.consume(&mut self.scratch) };
        self.transmit_side.give_back(count);
        for &desc in &self.scratch[..count] {
            // SAFETY: the kernel just returned each once; `XdpFrame::release` consumed its `Chunk`.
            pool.put(unsafe { Chunk::adopt(desc) });
        }
    }

    /// Gives the kernel chunks to receive into, if at least [`REFILL_MIN`] fit.
    pub(crate) fn refill(&mut self, pool: &Pool) {
        let available = self.receive_side.available();
        if available < REFILL_MIN {
            return;
        }
        let count = pool.take(available.min(RING_BATCH), |chunks| self.stage(chunks));
        let accepted = self.submit_fill(count);
        for &desc in &self.scratch[accepted..count] {
            // SAFETY: `stage` consumed its `Chunk` of the pool, and the ring did not accept it.
            pool.put(unsafe { Chunk::adopt(desc) });
        }
    }

    /// Gives the kernel as many of these chunks as the fill ring accepts, before the first frame.
    pub(crate) fn fill_up(&mut self, chunks: &mut Vec<Chunk>) {
        while self.receive_side.available() > 0 && !chunks.is_empty() {
            let available = self.receive_side.available();
            let count = chunks.len().min(available).min(RING_BATCH);
            let count = self.stage(chunks.drain(chunks.len() - count..));
            let accepted = self.submit_fill(count);
            let refused = self.scratch[accepted..count].iter();
            // SAFETY: `stage` consumed its `Chunk`, and the ring did not accept it.
            chunks.extend(refused.map(|&desc| unsafe { Chunk::adopt(desc) }));
            if accepted == 0 {
                return;
            }
        }
    }

    /// Moves at most [`RING_BATCH`] chunks into `scratch`; returns their number.
    fn stage(&mut self, chunks: impl Iterator<Item = Chunk>) -> usize {
        let mut count = 0;
        for (slot, chunk) in self.scratch.iter_mut().zip(chunks) {
            *slot = chunk.release();
            count += 1;
        }
        count
    }

    /// Puts the first `count` descriptors of `scratch`, for which there is credit, into the fill ring;
    /// returns how many the ring accepted. In copy mode the kernel delivers received chunks a moment
    /// before it frees their slots in the fill ring (`xsk_flush`, net/xdp/xsk.c); in between the ring is
    /// full.
    fn submit_fill(&mut self, count: usize) -> usize {
        // SAFETY: `stage` consumed the `Chunk` of each descriptor, which is of this UMEM.
        let accepted = unsafe { self.fill.produce(&self.scratch[..count]) };
        self.receive_side.take(accepted);
        accepted
    }

    /// Appends the frames of at most `max` chunks and one batch; returns the number of chunks received.
    /// `partial` keeps this socket's incomplete frame.
    pub(crate) fn receive(
        &mut self,
        pool: &Rc<Pool>,
        port: PortId,
        max: usize,
        partial: &mut PartialFrame<XdpFrame>,
        into: &mut Vec<XdpFrame>,
    ) -> usize {
        let max = max.min(BATCH);
        // SAFETY: the call only writes `scratch`; this ring belongs to the pool's UMEM.
        let count = unsafe { self.rx.consume(&mut self.scratch[..max]) };
        self.receive_side.give_back(count);
        for &desc in &self.scratch[..count] {
            // SAFETY: the kernel just returned each once; `stage` consumed its `Chunk`.
            let mut chunk = unsafe { Chunk::adopt(desc) };
            if partial.is_empty() && !chunk.is_continued() {
                into.push(pool.hold(chunk, port));
                continue;
            }
            let has_more = chunk.clear_continued();
            let start = |chunk| pool.hold(chunk, port);
            into.extend(partial.push(chunk, has_more, start, XdpFrame::append));
        }
        count
    }

    /// Returns whether a frame of `chunks` chunks can be queued.
    pub(crate) fn has_room(&self, chunks: usize) -> bool {
        self.pending.len() + chunks <= self.transmit_side.available()
    }

    /// Queues a frame for which [`Rings::has_room`].
    pub(crate) fn queue(&mut self, frame: XdpFrame) {
        frame.release(&mut self.pending);
    }

    /// Submits queued frames, and wakes the kernel if needed.
    pub(crate) fn flush(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        // SAFETY: `queue` consumed the `Chunk` of each descriptor, which is of this UMEM.
        let accepted = unsafe { self.tx.produce(&self.pending) };
        // The next flush submits the others.
        self.pending.drain(..accepted);
        self.transmit_side.take(accepted);
        if !self.need_wakeup || self.tx.needs_wakeup() {
            self.kick_transmit();
        }
    }

    /// Makes the kernel send. In copy mode each call sends at most [`COPY_MODE_BATCH`] frames.
    fn kick_transmit(&mut self) {
        let calls = if self.zero_copy {
            1
        } else {
            1 + self.unsent() / COPY_MODE_BATCH
        };
        for _ in 0..calls {
            // On an error the device is down or gone: the frames stay in the ring until it is back, or
            // the socket is closed.
            let failed = self.tx.wakeup().is_err();
            if failed || self.unsent() == 0 {
                return;
            }
        }
        if self.busy && self.zero_copy {
            self.wake_sender();
        }
    }

    /// Wakes the driver itself. A send call on a socket that prefers busy polling only polls the device's
    /// receive NAPI (`xsk_no_wakeup`, net/xdp/xsk.c). Most drivers send from there too. Virtio sends from
    /// another NAPI, which only its wake-up starts; `poll` wakes regardless of the preference (`xsk_poll`).
    fn wake_sender(&self) {
        if self.tx.needs_wakeup() {
            sys::wake(self.tx.fd());
        }
    }

    /// Returns the number of chunks in the transmit ring that the kernel has not taken yet.
    fn unsent(&mut self) -> usize {
        (self.ring_size - self.tx.nb_free_exact()) as usize
    }

    /// Wakes the kernel for outstanding transmissions, before the worker sleeps; returns whether there were
    /// any. Some drivers in zero-copy mode send, or report completions, only after a wake-up, even when
    /// they signal that they need none.
    pub(crate) fn kick_outstanding(&mut self) -> bool {
        if self.transmit_side.outstanding() == 0 {
            return false;
        }
        if self.zero_copy || self.unsent() > 0 {
            self.kick_transmit();
        }
        if self.busy && self.zero_copy && self.transmit_side.outstanding() > 0 {
            // The NAPI that sends also reports completions.
            self.wake_sender();
        }
        true
    }

    /// Wakes the kernel if it waits for chunks to receive into.
    pub(crate) fn kick_starved(&self) {
        if self.fill.needs_wakeup() {
            sys::kick_receive(self.rx.fd());
        }
    }

    /// Counts the chunks that the kernel holds, and the queued ones as `tx`.
    pub(crate) fn account(&mut self) -> RingAccount {
        let rx = self.rx.nb_avail_exact() as usize;
        let completion = self.completion.nb_avail_exact() as usize;
        RingAccount {
            fill: self.receive_side.outstanding() - rx,
            rx,
            tx: self.transmit_side.outstanding() - completion + self.pending.len(),
            completion,
        }
    }
}

impl Drop for Rings {
    fn drop(&mut self) {
        if !mem::take(&mut self.pending).is_empty() {
            tracing::debug!("queued frames were not sent: their socket closed before a flush");
        }
    }
}

#[cfg(test)]
mod tests {
    use waxwing_packet::Mac;

    use super::*;
    use crate::socket::{QueueSocket, bind_all};
    use crate::{Buffers, Interface, ZeroCopy};

    /// The kernel has returned chunks, but not yet freed their slots in the fill ring.
    #[test]
    fn chunks_that_the_fill_ring_does_not_accept_stay_in_the_pool() {
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
            transmit_queues: 1,
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
        assert_eq!(pool.free(), total - RING as usize, "no chunk is lost");
        assert_eq!(rings.receive_side.outstanding(), RING as usize - BATCH / 2);
    }
}
