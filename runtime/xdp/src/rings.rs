//! One socket's four rings.
//!
//! Invariant: putting a chunk into a ring consumes its [`Chunk`] or frame; taking it out creates a new one. A
//! ring's indices say how many chunks the kernel holds, so neither ring of a pair (fill and receive, transmit
//! and completion) overflows. The kernel may free entries later than it returns their chunks; the next round
//! tries again.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::sync::{Arc, Weak};

use waxwing_dataplane::{BATCH, DropReason, PortId};

use crate::frame::{Chunk, Pool, XDP_PKT_CONTD, XdpFrame};
use crate::ring::{Consumer, Descriptor, Producer, Ring, SocketOffsets};
use crate::sys::{self, Statistics};
use crate::{Options, PollMode};

/// Frames that the kernel sends per call in copy mode (`TX_BATCH_SIZE`, net/xdp/xsk.c).
const COPY_MODE_BATCH: u32 = 32;

/// Minimum number of chunks per refill.
const REFILL_MIN: u32 = BATCH_LEN / 2;

/// Maximum number of chunks refilled and reaped per round, which bounds its work.
const RING_BATCH: u32 = 4 * BATCH_LEN;

#[expect(clippy::cast_possible_truncation, reason = "64")]
const BATCH_LEN: u32 = BATCH as u32;

/// A bound AF_XDP socket, and what is needed to map its rings.
#[derive(Clone)]
pub struct BoundSocket {
    pub socket: Arc<OwnedFd>,
    /// Where its rings are.
    pub offsets: SocketOffsets,
    pub zero_copy: bool,
}

impl BoundSocket {
    /// Asks the kernel about a bound socket.
    ///
    /// # Errors
    /// `ENOTSOCK` or `ENOPROTOOPT` if it is no AF_XDP socket.
    pub fn of(socket: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            offsets: sys::ring_offsets(&socket)?,
            zero_copy: sys::is_zero_copy(&socket)?,
            socket: Arc::new(socket),
        })
    }
}

/// The rings of one bound socket.
pub(crate) struct Rings {
    rx: Consumer<Descriptor>,
    fill: Producer<u64>,
    tx: Producer<Descriptor>,
    completion: Consumer<u64>,
    size: u32,
    /// Whether the kernel signals when it needs a wake-up. Without the signal it always needs one.
    need_wakeup: bool,
    /// Whether the socket prefers busy polling.
    busy: bool,
    bound: BoundSocket,
}

/// The number of chunks in each of a socket's rings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RingAccount {
    pub(crate) fill: u32,
    pub(crate) rx: u32,
    pub(crate) tx: u32,
    pub(crate) completion: u32,
}

impl RingAccount {
    pub(crate) const fn total(self) -> usize {
        self.fill as usize + self.rx as usize + self.tx as usize + self.completion as usize
    }
}

impl Rings {
    /// Maps the rings of a socket that was bound with `options`, and goes on where they are.
    ///
    /// # Errors
    /// They cannot be mapped.
    ///
    /// # Safety
    /// No one else uses the rings. The socket's UMEM is the one of the pool that is passed to the other
    /// functions, and of the chunks in the rings no one has a [`Chunk`] or frame.
    pub(crate) unsafe fn adopt(bound: BoundSocket, options: &Options) -> io::Result<Self> {
        let (socket, at, size) = (&bound.socket, &bound.offsets, options.ring_size);
        let rx = Ring::map(
            socket,
            libc::XDP_PGOFF_RX_RING.cast_unsigned(),
            &at.rx,
            size,
        )?;
        let tx = Ring::map(
            socket,
            libc::XDP_PGOFF_TX_RING.cast_unsigned(),
            &at.tx,
            size,
        )?;
        let fill = Ring::map(socket, libc::XDP_UMEM_PGOFF_FILL_RING, &at.fill, size)?;
        let completion = libc::XDP_UMEM_PGOFF_COMPLETION_RING;
        let completion = Ring::map(socket, completion, &at.completion, size)?;
        let mut rings = Self {
            // SAFETY: no one else uses the rings, as the caller states.
            rx: unsafe { Consumer::adopt(rx) },
            // SAFETY: as above.
            fill: unsafe { Producer::adopt(fill) },
            // SAFETY: as above.
            tx: unsafe { Producer::adopt(tx) },
            // SAFETY: as above.
            completion: unsafe { Consumer::adopt(completion) },
            size,
            need_wakeup: options.need_wakeup,
            busy: options.poll == PollMode::Busy,
            bound,
        };
        rings.tx.make_room(rings.completion.next());
        Ok(rings)
    }

    pub(crate) fn bound(&self) -> &BoundSocket {
        &self.bound
    }

    /// Unmaps the rings; the socket stays bound.
    pub(crate) fn into_bound(self) -> BoundSocket {
        self.bound
    }

    pub(crate) fn socket(&self) -> &impl AsRawFd {
        &*self.bound.socket
    }

    pub(crate) fn counts(&self) -> Counts {
        Counts(Arc::downgrade(&self.bound.socket))
    }

    /// Returns the number of chunks that went to be sent and did not come back.
    fn outstanding(&self) -> u32 {
        self.tx.next().wrapping_sub(self.completion.next())
    }

    /// Returns sent chunks to the pool.
    #[inline]
    pub(crate) fn reap(&mut self, pool: &Pool) {
        if self.outstanding() == 0 {
            return;
        }
        if self.completion.look(RING_BATCH) > 0 {
            pool.with_free(|free| {
                while let entries @ [_, ..] = self.completion.entries() {
                    // SAFETY: the kernel just returned each chunk, once; sending its frame consumed that.
                    free.extend(entries.iter().map(|&at| unsafe { Chunk::adopt(at) }));
                    let count = entries.len();
                    self.completion.advance(count);
                }
            });
            self.completion.release();
        }
        self.tx.make_room(self.completion.next());
    }

    /// Gives the kernel chunks to receive into, if at least [`REFILL_MIN`] fit.
    #[inline]
    pub(crate) fn refill(&mut self, pool: &Pool) {
        let with_kernel = self.fill.next().wrapping_sub(self.rx.next());
        if self.size.saturating_sub(with_kernel) >= REFILL_MIN {
            pool.with_free(|free| self.fill_with(free, RING_BATCH));
        }
    }

    /// Gives the kernel as many of these chunks as the fill ring takes, before the first frame.
    pub(crate) fn fill_up(&mut self, chunks: &mut Vec<Chunk>) {
        self.fill_with(chunks, self.size);
    }

    /// Gives the kernel at most `max` of these chunks to receive into. In copy mode the kernel delivers
    /// received chunks a moment before it frees their entries in the fill ring (`xsk_flush`, net/xdp/xsk.c);
    /// in between the ring takes fewer.
    fn fill_with(&mut self, chunks: &mut Vec<Chunk>, max: u32) {
        self.fill.make_room(self.rx.next());
        let mut left = (self.fill.room().min(max) as usize).min(chunks.len());
        while left > 0 {
            let entries = self.fill.vacant();
            let count = entries.len().min(left);
            let given = chunks.drain(chunks.len() - count..);
            for (entry, chunk) in entries.iter_mut().zip(given) {
                *entry = chunk.release();
            }
            self.fill.advance(count);
            left -= count;
        }
        self.fill.submit();
    }

    /// Appends the frames of at most `max` chunks; returns the number of chunks received. The last frame may
    /// exceed `max`.
    #[inline]
    pub(crate) fn receive(
        &mut self,
        pool: &Rc<Pool>,
        port: PortId,
        max: u32,
        into: &mut Vec<XdpFrame>,
    ) -> u32 {
        if self.rx.look(max) == 0 {
            return 0;
        }
        let start = self.rx.next();
        while let entries @ [_, ..] = self.rx.entries() {
            let is_part = |descriptor: &Descriptor| descriptor.options & XDP_PKT_CONTD != 0;
            let jumbo = entries.iter().position(is_part);
            let count = jumbo.unwrap_or(entries.len());
            let frames = entries[..count].iter();
            into.extend(frames.map(|&descriptor| start_frame(pool, descriptor, port)));
            self.rx.advance(count);
            if jumbo.is_some() {
                self.receive_jumbo(pool, port, start.wrapping_add(max), into);
                break;
            }
        }
        self.rx.release();
        self.rx.next().wrapping_sub(start)
    }

    /// Goes on with frames of any number of chunks, until the frame in which index `end` is. The kernel
    /// submits a frame's chunks together; one of which some are missing stays in the ring.
    #[cold]
    fn receive_jumbo(&mut self, pool: &Rc<Pool>, port: PortId, end: u32, into: &mut Vec<XdpFrame>) {
        self.rx.look(u32::MAX);
        while end.wrapping_sub(self.rx.next()).cast_signed() > 0 {
            let mut chunks = (0..).map_while(|ahead| self.rx.peek(ahead));
            if chunks.all(|descriptor| descriptor.options & XDP_PKT_CONTD != 0) {
                return;
            }
            let Some(first) = self.rx.pop() else { return };
            let mut frame = start_frame(pool, first, port);
            let mut has_more = first.options & XDP_PKT_CONTD != 0;
            while has_more && let Some(part) = self.rx.pop() {
                has_more = part.options & XDP_PKT_CONTD != 0;
                // SAFETY: as in `start_frame`.
                frame.append(unsafe { Chunk::adopt(part.address) }, part.len);
            }
            into.push(frame);
        }
    }

    /// Queues a frame.
    ///
    /// # Errors
    /// [`DropReason::TransmitRingFull`]: the frame's chunks return to the pool.
    #[inline]
    pub(crate) fn send(&mut self, frame: XdpFrame) -> Result<(), DropReason> {
        if frame.is_jumbo() {
            return self.send_jumbo(frame);
        }
        if !self.tx.push(|| frame.descriptor()) {
            return Err(DropReason::TransmitRingFull);
        }
        frame.release();
        Ok(())
    }

    #[cold]
    fn send_jumbo(&mut self, frame: XdpFrame) -> Result<(), DropReason> {
        if frame.chunks() > self.tx.room() as usize {
            return Err(DropReason::TransmitRingFull);
        }
        frame.release_parts(|descriptor| {
            self.tx.push(|| descriptor);
        });
        Ok(())
    }

    /// Submits queued frames, and wakes the kernel if needed.
    #[inline]
    pub(crate) fn flush(&mut self) {
        if self.tx.is_submitted() {
            return;
        }
        self.tx.submit();
        if !self.need_wakeup || self.tx.needs_wakeup() {
            self.kick_transmit();
        }
    }

    /// Makes the kernel send. In copy mode each call sends at most [`COPY_MODE_BATCH`] frames.
    fn kick_transmit(&mut self) {
        let calls = if self.bound.zero_copy {
            1
        } else {
            1 + self.tx.unconsumed() / COPY_MODE_BATCH
        };
        for _ in 0..calls {
            // On an error the device is gone: the frames stay in the ring until the socket is closed.
            let failed = sys::kick_transmit(self.socket()).is_err();
            if failed || self.tx.unconsumed() == 0 {
                return;
            }
        }
        if self.busy && self.bound.zero_copy {
            self.wake_sender();
        }
    }

    /// Wakes the driver itself. A send call on a socket that prefers busy polling only polls the device's
    /// receive NAPI (`xsk_no_wakeup`, net/xdp/xsk.c). Most drivers send from there too. Virtio sends from
    /// another NAPI, which only its wake-up starts; `poll` wakes regardless of the preference (`xsk_poll`).
    fn wake_sender(&self) {
        if self.tx.needs_wakeup() {
            sys::wake(self.socket());
        }
    }

    /// Wakes the kernel for outstanding transmissions, before the worker sleeps; returns whether there were
    /// any. Some drivers in zero-copy mode send, or report completions, only after a wake-up, even when
    /// they signal that they need none.
    pub(crate) fn kick_outstanding(&mut self) -> bool {
        if self.outstanding() == 0 {
            return false;
        }
        if self.bound.zero_copy || self.tx.unconsumed() > 0 {
            self.kick_transmit();
        }
        if self.busy && self.bound.zero_copy {
            // The NAPI that sends also reports completions.
            self.wake_sender();
        }
        true
    }

    /// Wakes the kernel if it waits for chunks to receive into.
    #[inline]
    pub(crate) fn kick_starved(&self) {
        if self.fill.needs_wakeup() {
            sys::kick_receive(self.socket());
        }
    }

    /// Counts the chunks that the kernel holds, and the queued ones as `tx`.
    pub(crate) fn account(&self) -> RingAccount {
        let (rx, completion) = (self.rx.submitted(), self.completion.submitted());
        RingAccount {
            fill: self.fill.next().wrapping_sub(self.rx.next()) - rx,
            rx,
            tx: self.outstanding() - completion,
            completion,
        }
    }
}

#[inline]
fn start_frame(pool: &Rc<Pool>, descriptor: Descriptor, port: PortId) -> XdpFrame {
    // SAFETY: the kernel just returned the chunk, once; filling the ring consumed its `Chunk`.
    let chunk = unsafe { Chunk::adopt(descriptor.address) };
    pool.hold(chunk, descriptor.len, port)
}

/// Reads a socket's counters from any thread while the socket is open.
#[derive(Clone)]
pub(crate) struct Counts(Weak<OwnedFd>);

impl Counts {
    /// Returns the counters; `None` after the worker has closed the socket.
    pub(crate) fn read(&self) -> Option<Statistics> {
        sys::statistics(&*self.0.upgrade()?).ok()
    }
}
