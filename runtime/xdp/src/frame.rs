//! Frames and their pool.
//!
//! A frame occupies one chunk of the UMEM, a jumbo frame several. The worker rewrites only the first; the
//! others move with it.
//!
//! Invariant: for each chunk of the UMEM there is exactly one [`Chunk`], or none while the kernel holds the
//! chunk. A `Chunk` is created when this process gets a chunk (at start, from the receive and completion
//! rings) and consumed when the chunk goes to the kernel (into the fill and transmit rings), nowhere else.
//! It is neither `Copy` nor `Clone`, so its owner has exclusive access to the chunk's memory. A descriptor
//! is marked `XDP_PKT_CONTD` only while it is in a ring.

use std::cell::{Cell, RefCell};
use std::ptr::NonNull;
use std::rc::Rc;
use std::slice;
use std::vec::Drain;

use waxwing_dataplane::{BATCH, FrameBuf, PortId};
use xsk_rs::{umem::Umem, umem::frame::FrameDesc};

use crate::options::CHUNKS_MAX;
use crate::window::{Move, Window};

/// Descriptor option: the frame continues in the next descriptor (`<linux/if_xdp.h>`).
const XDP_PKT_CONTD: u32 = 1 << 0;

/// Jumbo frames that a worker may hold at once, besides one incomplete frame per port: a batch, and one
/// written as a copy.
const JUMBO_MAX: usize = BATCH + 1;

/// Exclusive ownership of a chunk of the worker's UMEM.
pub(crate) struct Chunk(FrameDesc);

impl Chunk {
    /// # Safety
    /// `desc` describes a chunk of the UMEM of the worker's [`Pool`]. Neither the kernel nor another
    /// `Chunk` owns it.
    pub(crate) const unsafe fn adopt(desc: FrameDesc) -> Self {
        Self(desc)
    }

    /// Ends ownership; returns the descriptor to pass to the kernel.
    pub(crate) fn release(self) -> FrameDesc {
        self.0
    }

    /// Returns whether the frame continues in the next chunk received.
    #[inline]
    pub(crate) fn is_continued(&self) -> bool {
        self.0.options() & XDP_PKT_CONTD != 0
    }

    /// Clears the mark; returns whether it was set.
    pub(crate) fn clear_continued(&mut self) -> bool {
        let was_continued = self.is_continued();
        self.0.set_options(0);
        was_continued
    }

    fn len(&self) -> usize {
        self.0.lengths().data()
    }
}

/// A jumbo frame's chunks behind the first.
struct TailChunks {
    /// Capacity: [`CHUNKS_MAX`] - 1.
    chunks: Vec<Chunk>,
    /// Frame bytes in all of them.
    len: usize,
}

/// A worker's free chunks, and the number of chunks in its frames.
pub(crate) struct Pool {
    umem: Umem,
    free: RefCell<Vec<Chunk>>,
    #[expect(clippy::vec_box, reason = "frames take and return the boxes")]
    tails: RefCell<Vec<Box<TailChunks>>>,
    held: Cell<usize>,
    total: usize,
}

impl Pool {
    /// Creates the pool of one worker with `total` chunks of `umem`, of which `free` are free.
    /// `jumbo_ports` is the worker's number of ports, or `None` without jumbo frames.
    pub(crate) fn new(
        umem: Umem,
        free: Vec<Chunk>,
        total: usize,
        jumbo_ports: Option<usize>,
    ) -> Rc<Self> {
        let tails = jumbo_ports.map_or(0, |ports| ports + JUMBO_MAX);
        let tail = |_| {
            Box::new(TailChunks {
                chunks: Vec::with_capacity(CHUNKS_MAX - 1),
                len: 0,
            })
        };
        Rc::new(Self {
            umem,
            free: RefCell::new(free),
            tails: RefCell::new((0..tails).map(tail).collect()),
            held: Cell::new(0),
            total,
        })
    }

    /// Returns the number of free chunks.
    pub(crate) fn free(&self) -> usize {
        self.free.borrow().len()
    }

    /// Returns the number of chunks in frames ([`XdpFrame`]).
    pub(crate) fn held(&self) -> usize {
        self.held.get()
    }

    /// Returns the worker's number of chunks.
    pub(crate) fn total(&self) -> usize {
        self.total
    }

    /// Passes up to `count` free chunks to `with`, which must consume all of them: the others are
    /// lost.
    pub(crate) fn take<R>(&self, count: usize, with: impl FnOnce(Drain<'_, Chunk>) -> R) -> R {
        let mut free = self.free.borrow_mut();
        let kept = free.len().saturating_sub(count);
        with(free.drain(kept..))
    }

    /// Returns a chunk to the pool.
    pub(crate) fn put(&self, chunk: Chunk) {
        self.free.borrow_mut().push(chunk);
    }

    /// Returns a frame's chunk to the pool.
    fn put_held(&self, chunk: Chunk) {
        self.held.set(self.held.get() - 1);
        self.put(chunk);
    }

    /// Sets a chunk's length, limited to its capacity; returns the new length.
    fn resize(&self, chunk: &mut Chunk, len: usize) -> usize {
        // SAFETY: the descriptor is of a `Chunk` of this UMEM, borrowed mutably, so access is exclusive.
        let mut segment = unsafe { self.umem.data_mut(&mut chunk.0) };
        let mut cursor = segment.cursor();
        let len = len.min(cursor.buf_len());
        cursor.set_pos(len);
        len
    }

    /// Returns a chunk's bytes, up to its length.
    fn bytes_mut<'a>(&'a self, chunk: &'a mut Chunk) -> &'a mut [u8] {
        let len = chunk.len();
        // SAFETY: the descriptor is of a `Chunk` of this UMEM, borrowed mutably, so access is exclusive.
        let mut segment = unsafe { self.umem.data_mut(&mut chunk.0) };
        let data = NonNull::from(segment.contents_mut()).cast();
        // SAFETY: `data` points to the segment just borrowed, of at least `len` bytes, in memory that the
        // pool keeps mapped. The result borrows the `Chunk` mutably, so it is the only reference.
        unsafe { slice::from_raw_parts_mut(data.as_ptr(), len) }
    }

    /// Turns a received or free chunk into a frame.
    pub(crate) fn hold(self: &Rc<Self>, mut frame: Chunk, port: PortId) -> XdpFrame {
        let len = frame.0.lengths().data();
        // SAFETY: `frame` is a `Chunk` of this UMEM, owned here, so access is exclusive.
        let mut segment = unsafe { self.umem.data_mut(&mut frame.0) };
        let mut cursor = segment.cursor();
        let capacity = cursor.buf_len();
        cursor.set_pos(capacity);
        let data = NonNull::from(segment.contents_mut()).cast();
        self.held.set(self.held.get() + 1);
        let window = Window::new(len, capacity);
        XdpFrame {
            frame: Some(frame),
            data,
            window,
            port,
            tail: None,
            pool: Rc::clone(self),
        }
    }
}

/// A frame in the UMEM, owned by the worker. Its chunks return to the pool on drop.
pub struct XdpFrame {
    /// First chunk; `None` only while the frame is being sent or dropped.
    frame: Option<Chunk>,
    /// The first chunk's data segment, of the window's capacity. It stays mapped: the pool owns the UMEM.
    data: NonNull<u8>,
    window: Window,
    port: PortId,
    /// Set in a jumbo frame, and never empty.
    tail: Option<Box<TailChunks>>,
    pool: Rc<Pool>,
}

impl XdpFrame {
    fn segment(&self) -> &[u8] {
        // SAFETY: `data` and the capacity come from one slice over this chunk's data segment, which stays
        // mapped. This value owns the `Chunk`, and `&self` excludes writers.
        unsafe { slice::from_raw_parts(self.data.as_ptr(), self.window.capacity()) }
    }

    fn segment_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `segment`; `&mut self` makes the result the only reference.
        unsafe { slice::from_raw_parts_mut(self.data.as_ptr(), self.window.capacity()) }
    }

    fn apply_window(&mut self, window: Window, moved: Option<Move>) {
        if let Some(Move { from, to }) = moved {
            self.segment_mut().copy_within(from, to);
        }
        self.window = window;
    }

    /// Ends ownership to send the frame: moves the packet to the segment's start and appends the
    /// descriptors, in order, each with its chunk's length.
    pub(crate) fn release(mut self, into: &mut Vec<FrameDesc>) {
        let (window, moved) = self.window.at_start();
        self.apply_window(window, moved);
        let Some(mut frame) = self.frame.take() else {
            return;
        };
        self.pool.resize(&mut frame, window.range().len());
        self.pool.held.set(self.pool.held.get() - 1);
        if let Some(tail) = self.tail.take() {
            let last = self.release_tail(frame, tail, into);
            into.push(last);
        } else {
            into.push(frame.release());
        }
    }

    /// Appends the descriptors of all chunks but the last, whose descriptor it returns.
    #[cold]
    fn release_tail(
        &self,
        first: Chunk,
        mut tail: Box<TailChunks>,
        into: &mut Vec<FrameDesc>,
    ) -> FrameDesc {
        let held = &self.pool.held;
        held.set(held.get() - tail.chunks.len());
        let mut last = first.release();
        for chunk in tail.chunks.drain(..) {
            last.set_options(XDP_PKT_CONTD);
            into.push(last);
            last = chunk.release();
        }
        tail.len = 0;
        self.pool.tails.borrow_mut().push(tail);
        last
    }

    /// Returns the number of chunks.
    #[inline]
    pub(crate) fn chunks(&self) -> usize {
        1 + self.tail.as_ref().map_or(0, |tail| tail.chunks.len())
    }

    /// Appends a received chunk. A frame with more than [`CHUNKS_MAX`] chunks, which the kernel never
    /// delivers, becomes empty, and is then dropped as malformed.
    pub(crate) fn append(&mut self, chunk: Chunk) {
        if self.bytes().is_empty() {
            self.pool.put(chunk);
        } else if !self.insert(self.chunks() - 1, chunk) {
            self.set_len(0);
        }
    }

    /// Inserts a chunk into the tail. Returns `false`, and the chunk to the pool, when the frame may not
    /// have more.
    fn insert(&mut self, at: usize, chunk: Chunk) -> bool {
        let tail = match self.tail.take() {
            Some(tail) => Some(tail),
            None => self.pool.tails.borrow_mut().pop(),
        };
        let Some(mut tail) = tail else {
            self.pool.put(chunk);
            return false;
        };
        let fits = tail.chunks.len() < CHUNKS_MAX - 1;
        if fits {
            tail.len += chunk.len();
            tail.chunks.insert(at, chunk);
            self.pool.held.set(self.pool.held.get() + 1);
        } else {
            self.pool.put(chunk);
        }
        self.tail = Some(tail);
        fits
    }

    /// Makes room for `count` bytes in the first chunk: moves its last bytes into a new second chunk. A
    /// full chunk cannot grow at its start, because chunks are sent from a fixed offset.
    #[cold]
    fn spill(&mut self, count: usize) -> bool {
        let Some(kept) = self.bytes().len().checked_sub(count) else {
            return false;
        };
        let Some(mut chunk) = self.pool.take(1, |mut chunks| chunks.next()) else {
            return false;
        };
        if self.pool.resize(&mut chunk, count) < count {
            self.pool.put(chunk);
            return false;
        }
        let bytes = &self.segment()[self.window.range()][kept..];
        self.pool.bytes_mut(&mut chunk).copy_from_slice(bytes);
        if !self.insert(0, chunk) {
            return false;
        }
        self.window.set_len(kept).is_some_and(|window| {
            self.window = window;
            true
        })
    }

    /// [`FrameBuf::set_len`] for a frame that has, or needs, several chunks.
    #[cold]
    fn set_len_multi(&mut self, len: usize) -> bool {
        let first = self.bytes().len();
        if self.tail.is_some() {
            if len > first + self.rest_len() {
                return false;
            }
            self.shrink_tail(len.saturating_sub(first));
            return len >= first || self.set_len(len);
        }
        let window = self.window;
        let capacity = window.capacity() - window.range().start;
        let Some(full) = window.set_len(capacity) else {
            return false;
        };
        self.window = full;
        let grown = self.grow_tail(len - capacity);
        if !grown {
            self.shrink_tail(0);
            self.window = window;
        }
        grown
    }

    /// Appends free chunks for `len` bytes. Returns `false` when there are too few.
    fn grow_tail(&mut self, mut len: usize) -> bool {
        while len > 0 {
            let Some(mut chunk) = self.pool.take(1, |mut chunks| chunks.next()) else {
                return false;
            };
            len -= self.pool.resize(&mut chunk, len);
            if !self.insert(self.chunks() - 1, chunk) {
                return false;
            }
        }
        true
    }

    /// Shortens the tail to at most `len` bytes; unneeded chunks return to the pool.
    #[cold]
    fn shrink_tail(&mut self, len: usize) {
        let Some(mut tail) = self.tail.take() else {
            return;
        };
        while let Some(mut chunk) = tail.chunks.pop() {
            tail.len -= chunk.len();
            if tail.len >= len {
                self.pool.put_held(chunk);
                continue;
            }
            tail.len += self.pool.resize(&mut chunk, len - tail.len);
            tail.chunks.push(chunk);
            break;
        }
        if tail.chunks.is_empty() {
            self.pool.tails.borrow_mut().push(tail);
        } else {
            self.tail = Some(tail);
        }
    }
}

impl FrameBuf for XdpFrame {
    #[inline]
    fn port(&self) -> PortId {
        self.port
    }

    #[inline]
    fn bytes(&self) -> &[u8] {
        &self.segment()[self.window.range()]
    }

    #[inline]
    fn bytes_mut(&mut self) -> &mut [u8] {
        let range = self.window.range();
        &mut self.segment_mut()[range]
    }

    #[inline]
    fn rest_len(&self) -> usize {
        self.tail.as_ref().map_or(0, |tail| tail.len)
    }

    fn rest(&self, number: usize) -> Option<&[u8]> {
        let chunk = self.tail.as_ref()?.chunks.get(number)?;
        // SAFETY: this frame owns the `Chunk`, which is of this UMEM, and `&self` excludes writers.
        let segment = unsafe { self.pool.umem.data(&chunk.0) };
        let data = NonNull::from(segment.contents()).cast();
        // SAFETY: `data` points to the segment just borrowed, of at least that length, in memory that the
        // pool keeps mapped. The result borrows this frame, which owns the `Chunk`.
        Some(unsafe { slice::from_raw_parts(data.as_ptr(), chunk.len()) })
    }

    fn rest_mut(&mut self, number: usize) -> Option<&mut [u8]> {
        let chunk = self.tail.as_mut()?.chunks.get_mut(number)?;
        Some(self.pool.bytes_mut(chunk))
    }

    fn move_start(&mut self, by: isize) -> bool {
        let mut placed = self.window.move_start(by);
        if placed.is_none() && by < 0 && self.spill(by.unsigned_abs()) {
            placed = self.window.move_start(by);
        }
        let Some((window, moved)) = placed else {
            return false;
        };
        self.apply_window(window, moved);
        true
    }

    fn set_len(&mut self, len: usize) -> bool {
        match self.window.set_len(len) {
            Some(window) if self.tail.is_none() => {
                self.window = window;
                true
            }
            _ => self.set_len_multi(len),
        }
    }
}

impl Drop for XdpFrame {
    fn drop(&mut self) {
        if let Some(frame) = self.frame.take() {
            self.pool.put_held(frame);
            if self.tail.is_some() {
                self.shrink_tail(0);
            }
        }
    }
}
