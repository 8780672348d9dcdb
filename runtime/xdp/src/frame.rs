//! Frames and the pool they come from.
//!
//! A frame is one chunk of the UMEM; a jumbo frame is several, of which the first is the frame as far as
//! the worker is concerned, and the others follow it wherever it goes.
//!
//! Invariant: of every chunk of the UMEM there is exactly one [`Owned`], or none while the kernel
//! has the frame. An `Owned` is made where a frame enters this process's hands (at start, from the
//! receive and completion rings) and unmade where it leaves them (into the fill and transmit
//! rings), nowhere else. It can be neither copied nor cloned, so memory reached through it is
//! reached by nobody else. Its descriptor is marked to go on in another chunk only while it is in a ring.

use std::cell::{Cell, RefCell};
use std::ptr::NonNull;
use std::rc::Rc;
use std::slice;
use std::vec::Drain;

use waxwing_dataplane::{BATCH, FrameBuf, PortId};
use xsk_rs::{umem::Umem, umem::frame::FrameDesc};

use crate::options::CHUNKS_MAX;
use crate::window::{Move, Window};

/// A descriptor's mark that the frame goes on in the next (`XDP_PKT_CONTD`, `<linux/if_xdp.h>`).
const GOES_ON: u32 = 1 << 0;

/// Jumbo frames that a worker may hold at once, beside those of which a port has a part: a batch, and
/// the one that is made of a copy.
const JUMBO_MAX: usize = BATCH + 1;

/// A chunk of the worker's UMEM that is in nobody else's hands.
pub(crate) struct Owned(FrameDesc);

impl Owned {
    /// # Safety
    /// `desc` is of a frame of the UMEM of the worker's [`Pool`], that neither the kernel nor
    /// another `Owned` has.
    pub(crate) const unsafe fn adopt(desc: FrameDesc) -> Self {
        Self(desc)
    }

    /// Gives it up; what is left is its name, to hand to the kernel.
    pub(crate) fn release(self) -> FrameDesc {
        self.0
    }

    /// Whether it was received as a part of a frame that goes on in another chunk.
    #[inline]
    pub(crate) fn goes_on(&self) -> bool {
        self.0.options() & GOES_ON != 0
    }

    /// The same, and from here on the mark is off.
    pub(crate) fn take_mark(&mut self) -> bool {
        let goes_on = self.goes_on();
        self.0.set_options(0);
        goes_on
    }

    fn len(&self) -> usize {
        self.0.lengths().data()
    }
}

/// What lies behind a jumbo frame's first chunk.
struct Rest {
    /// With room for [`CHUNKS_MAX`], less the first.
    chunks: Vec<Owned>,
    /// In bytes, over all of them.
    len: usize,
}

/// A worker's chunks that are in nobody's hands, and how many are in the worker's.
pub(crate) struct Pool {
    umem: Umem,
    free: RefCell<Vec<Owned>>,
    #[expect(
        clippy::vec_box,
        reason = "they move in and out of frames, by their address"
    )]
    rests: RefCell<Vec<Box<Rest>>>,
    held: Cell<usize>,
    total: usize,
}

impl Pool {
    /// Of the chunks of one worker, each a chunk of `umem`: those that are free, of so many. A worker
    /// of so many ports; `None` where no frame is a jumbo frame.
    pub(crate) fn new(
        umem: Umem,
        free: Vec<Owned>,
        total: usize,
        jumbo_ports: Option<usize>,
    ) -> Rc<Self> {
        let rests = jumbo_ports.map_or(0, |ports| ports + JUMBO_MAX);
        let rest = |_| {
            Box::new(Rest {
                chunks: Vec::with_capacity(CHUNKS_MAX - 1),
                len: 0,
            })
        };
        Rc::new(Self {
            umem,
            free: RefCell::new(free),
            rests: RefCell::new((0..rests).map(rest).collect()),
            held: Cell::new(0),
            total,
        })
    }

    /// Chunks free.
    pub(crate) fn free(&self) -> usize {
        self.free.borrow().len()
    }

    /// Chunks that are in an [`XdpFrame`] now.
    pub(crate) fn held(&self) -> usize {
        self.held.get()
    }

    /// Chunks in all.
    pub(crate) fn total(&self) -> usize {
        self.total
    }

    /// Takes up to `count` chunks; what `with` does not consume of them is not a chunk any more,
    /// so it consumes all.
    pub(crate) fn take<R>(&self, count: usize, with: impl FnOnce(Drain<'_, Owned>) -> R) -> R {
        let mut free = self.free.borrow_mut();
        let rest = free.len().saturating_sub(count);
        with(free.drain(rest..))
    }

    /// Puts one back.
    pub(crate) fn put(&self, frame: Owned) {
        self.free.borrow_mut().push(frame);
    }

    /// Puts one back that a frame had.
    fn put_held(&self, chunk: Owned) {
        self.held.set(self.held.get() - 1);
        self.put(chunk);
    }

    /// Sets a chunk's length, to at most what it has room for; says what that is.
    fn resize(&self, chunk: &mut Owned, len: usize) -> usize {
        // SAFETY: the descriptor is an `Owned`'s of this UMEM, so nobody else reaches its memory.
        let mut segment = unsafe { self.umem.data_mut(&mut chunk.0) };
        let mut cursor = segment.cursor();
        let len = len.min(cursor.buf_len());
        cursor.set_pos(len);
        len
    }

    /// A chunk's bytes, as many as its length says.
    fn bytes_mut<'a>(&'a self, chunk: &'a mut Owned) -> &'a mut [u8] {
        let len = chunk.len();
        // SAFETY: the descriptor is an `Owned`'s of this UMEM, so nobody else reaches its memory.
        let mut segment = unsafe { self.umem.data_mut(&mut chunk.0) };
        let data = NonNull::from(segment.contents_mut()).cast();
        // SAFETY: the pointer and the length are of the slice just made, over memory that the pool keeps
        // mapped; the chunk is borrowed for as long.
        unsafe { slice::from_raw_parts_mut(data.as_ptr(), len) }
    }

    /// Makes a received or fresh chunk a frame that the worker can use.
    pub(crate) fn hold(self: &Rc<Self>, mut frame: Owned, port: PortId) -> XdpFrame {
        let len = frame.0.lengths().data();
        // SAFETY: the descriptor is an `Owned`'s of this UMEM, so nobody else reaches its memory.
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
            rest: None,
            pool: Rc::clone(self),
        }
    }
}

/// A frame in the UMEM as the worker has it. Dropped, it goes back to its pool.
pub struct XdpFrame {
    /// Its first chunk; there until the frame is sent or dropped, both of which end this value.
    frame: Option<Owned>,
    /// That chunk's data segment, of the window's capacity. It stays mapped: the pool has the UMEM.
    data: NonNull<u8>,
    window: Window,
    port: PortId,
    /// Of a jumbo frame, and never empty.
    rest: Option<Box<Rest>>,
    pool: Rc<Pool>,
}

impl XdpFrame {
    fn segment(&self) -> &[u8] {
        // SAFETY: `data` and the capacity came from one slice over this frame's data segment; the
        // frame is ours alone while this value lives, and `&self` keeps it from being written.
        unsafe { slice::from_raw_parts(self.data.as_ptr(), self.window.capacity()) }
    }

    fn segment_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `segment`, and `&mut self` makes this borrow the only one.
        unsafe { slice::from_raw_parts_mut(self.data.as_ptr(), self.window.capacity()) }
    }

    fn settle(&mut self, window: Window, moved: Option<Move>) {
        if let Some(Move { from, to }) = moved {
            self.segment_mut().copy_within(from, to);
        }
        self.window = window;
    }

    /// Gives up the frame to be sent: the packet at the place packets are sent from, the
    /// descriptors as long as what is in them, in order.
    pub(crate) fn release(mut self, into: &mut Vec<FrameDesc>) {
        let (window, moved) = self.window.at_start();
        self.settle(window, moved);
        let Some(mut frame) = self.frame.take() else {
            return;
        };
        self.pool.resize(&mut frame, window.range().len());
        self.pool.held.set(self.pool.held.get() - 1);
        if let Some(rest) = self.rest.take() {
            let last = self.release_rest(frame, rest, into);
            into.push(last);
        } else {
            into.push(frame.release());
        }
    }

    /// Gives up all but the last chunk, and says which that is.
    #[cold]
    fn release_rest(
        &self,
        first: Owned,
        mut rest: Box<Rest>,
        into: &mut Vec<FrameDesc>,
    ) -> FrameDesc {
        let held = &self.pool.held;
        held.set(held.get() - rest.chunks.len());
        let mut last = first.release();
        for chunk in rest.chunks.drain(..) {
            last.set_options(GOES_ON);
            into.push(last);
            last = chunk.release();
        }
        rest.len = 0;
        self.pool.rests.borrow_mut().push(rest);
        last
    }

    /// How many chunks it lies in.
    #[inline]
    pub(crate) fn chunks(&self) -> usize {
        1 + self.rest.as_ref().map_or(0, |rest| rest.chunks.len())
    }

    /// Adds a chunk, received behind those that it has. Where that is one too many, which no frame of
    /// the kernel's has, nothing is left of the frame: it is then dropped as malformed.
    pub(crate) fn append(&mut self, chunk: Owned) {
        if self.bytes().is_empty() {
            self.pool.put(chunk);
        } else if !self.insert(self.chunks() - 1, chunk) {
            self.set_len(0);
        }
    }

    /// Puts a chunk in a place among those behind the first, where it may have one more.
    fn insert(&mut self, at: usize, chunk: Owned) -> bool {
        let rest = match self.rest.take() {
            Some(rest) => Some(rest),
            None => self.pool.rests.borrow_mut().pop(),
        };
        let Some(mut rest) = rest else {
            self.pool.put(chunk);
            return false;
        };
        let fits = rest.chunks.len() < CHUNKS_MAX - 1;
        if fits {
            rest.len += chunk.len();
            rest.chunks.insert(at, chunk);
            self.pool.held.set(self.pool.held.get() + 1);
        } else {
            self.pool.put(chunk);
        }
        self.rest = Some(rest);
        fits
    }

    /// Makes room in the first chunk: moves its last bytes into one that then follows it. Chunks are
    /// sent from a fixed place, so that a full one cannot grow towards its head.
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

    /// [`FrameBuf::set_len`] of a frame that lies in several chunks, or is to.
    #[cold]
    fn set_len_of_all(&mut self, len: usize) -> bool {
        let first = self.bytes().len();
        if self.rest.is_some() {
            if len > first + self.rest_len() {
                return false;
            }
            self.cut_rest(len.saturating_sub(first));
            return len >= first || self.set_len(len);
        }
        let window = self.window;
        let capacity = window.capacity() - window.range().start;
        let Some(full) = window.set_len(capacity) else {
            return false;
        };
        self.window = full;
        let grown = self.grow_rest(len - capacity);
        if !grown {
            self.cut_rest(0);
            self.window = window;
        }
        grown
    }

    /// Takes free chunks for a rest of so many bytes; whether there were enough.
    fn grow_rest(&mut self, mut len: usize) -> bool {
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

    /// Cuts the rest to so many bytes, of those that it has. What it does not need goes back.
    #[cold]
    fn cut_rest(&mut self, len: usize) {
        let Some(mut rest) = self.rest.take() else {
            return;
        };
        while let Some(mut chunk) = rest.chunks.pop() {
            rest.len -= chunk.len();
            if rest.len >= len {
                self.pool.put_held(chunk);
                continue;
            }
            rest.len += self.pool.resize(&mut chunk, len - rest.len);
            rest.chunks.push(chunk);
            break;
        }
        if rest.chunks.is_empty() {
            self.pool.rests.borrow_mut().push(rest);
        } else {
            self.rest = Some(rest);
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
        self.rest.as_ref().map_or(0, |rest| rest.len)
    }

    fn rest(&self, number: usize) -> Option<&[u8]> {
        let chunk = self.rest.as_ref()?.chunks.get(number)?;
        // SAFETY: the descriptor is an `Owned`'s of this UMEM, and `&self` keeps it from being written.
        let segment = unsafe { self.pool.umem.data(&chunk.0) };
        let data = NonNull::from(segment.contents()).cast();
        // SAFETY: the pointer and the length are of the slice just made, over memory that the pool keeps
        // mapped; the chunk is this frame's while it is borrowed.
        Some(unsafe { slice::from_raw_parts(data.as_ptr(), chunk.len()) })
    }

    fn rest_mut(&mut self, number: usize) -> Option<&mut [u8]> {
        let chunk = self.rest.as_mut()?.chunks.get_mut(number)?;
        Some(self.pool.bytes_mut(chunk))
    }

    fn move_start(&mut self, by: isize) -> bool {
        let mut settled = self.window.move_start(by);
        if settled.is_none() && by < 0 && self.spill(by.unsigned_abs()) {
            settled = self.window.move_start(by);
        }
        let Some((window, moved)) = settled else {
            return false;
        };
        self.settle(window, moved);
        true
    }

    fn set_len(&mut self, len: usize) -> bool {
        match self.window.set_len(len) {
            Some(window) if self.rest.is_none() => {
                self.window = window;
                true
            }
            _ => self.set_len_of_all(len),
        }
    }
}

impl Drop for XdpFrame {
    fn drop(&mut self) {
        if let Some(frame) = self.frame.take() {
            self.pool.put_held(frame);
            if self.rest.is_some() {
                self.cut_rest(0);
            }
        }
    }
}
