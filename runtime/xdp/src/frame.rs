//! Frames and the pool they come from.
//!
//! Invariant: of every frame of the UMEM there is exactly one [`Owned`], or none while the kernel
//! has the frame. An `Owned` is made where a frame enters this process's hands (at start, from the
//! receive and completion rings) and unmade where it leaves them (into the fill and transmit
//! rings), nowhere else. It can be neither copied nor cloned, so memory reached through it is
//! reached by nobody else.

use std::cell::{Cell, RefCell};
use std::ptr::NonNull;
use std::rc::Rc;
use std::slice;
use std::vec::Drain;

use waxwing_dataplane::{FrameBuf, PortId};
use xsk_rs::{umem::Umem, umem::frame::FrameDesc};

use crate::window::{Move, Window};

/// A frame of the worker's UMEM that is in nobody else's hands.
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
}

/// A worker's frames that are in nobody's hands, and how many are in the worker's.
pub(crate) struct Pool {
    umem: Umem,
    free: RefCell<Vec<Owned>>,
    held: Cell<usize>,
    total: usize,
}

impl Pool {
    /// Of the frames of one worker, each a frame of `umem`: those that are free, of so many.
    pub(crate) fn new(umem: Umem, free: Vec<Owned>, total: usize) -> Rc<Self> {
        Rc::new(Self {
            umem,
            free: RefCell::new(free),
            held: Cell::new(0),
            total,
        })
    }

    /// Frames free.
    pub(crate) fn free(&self) -> usize {
        self.free.borrow().len()
    }

    /// Frames that are an [`XdpFrame`] now.
    pub(crate) fn held(&self) -> usize {
        self.held.get()
    }

    /// Frames in all.
    pub(crate) fn total(&self) -> usize {
        self.total
    }

    /// Takes up to `count` frames; what `with` does not consume of them is not a frame any more,
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

    /// Makes a received or fresh frame one that the worker can use.
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
            pool: Rc::clone(self),
        }
    }
}

/// A frame of the UMEM as the worker has it. Dropped, it goes back to its pool.
pub struct XdpFrame {
    /// There until the frame is sent or dropped, both of which end this value.
    frame: Option<Owned>,
    /// The frame's data segment, of the window's capacity. It stays mapped: the pool has the UMEM.
    data: NonNull<u8>,
    window: Window,
    port: PortId,
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
    /// descriptor as long as the packet.
    pub(crate) fn into_owned(mut self) -> Option<Owned> {
        let (window, moved) = self.window.at_start();
        self.settle(window, moved);
        let mut frame = self.frame.take()?;
        // SAFETY: the descriptor is an `Owned`'s of this UMEM, and `data` is not used again.
        let mut segment = unsafe { self.pool.umem.data_mut(&mut frame.0) };
        segment.cursor().set_pos(window.range().len());
        self.pool.held.set(self.pool.held.get() - 1);
        Some(frame)
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

    fn move_start(&mut self, by: isize) -> bool {
        let Some((window, moved)) = self.window.move_start(by) else {
            return false;
        };
        self.settle(window, moved);
        true
    }

    fn set_len(&mut self, len: usize) -> bool {
        let Some(window) = self.window.set_len(len) else {
            return false;
        };
        self.window = window;
        true
    }
}

impl Drop for XdpFrame {
    fn drop(&mut self) {
        if let Some(frame) = self.frame.take() {
            self.pool.held.set(self.pool.held.get() - 1);
            self.pool.put(frame);
        }
    }
}
