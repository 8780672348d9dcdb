//! Frames and their pool.
//!
//! A frame occupies one chunk of the UMEM, a jumbo frame several. The worker rewrites only the first; the
//! others move with it. The kernel leaves room before a received frame, and sends a frame from wherever it
//! starts in its chunk, so bytes are added and removed at its start without moving the others.
//!
//! Invariant: for each chunk of the UMEM there is exactly one [`Chunk`] or frame, or none while the kernel
//! holds the chunk. A `Chunk` is created when this process gets a chunk (at start, from the receive and
//! completion rings) and consumed when the chunk goes to the kernel (into the fill and transmit rings),
//! nowhere else. It is neither `Copy` nor `Clone`, so its owner has exclusive access to the chunk's memory.

use std::cell::{Cell, RefCell};
use std::mem::ManuallyDrop;
use std::ptr::{self, NonNull};
use std::rc::Rc;
use std::slice;
use std::sync::Arc;

use waxwing_dataplane::{BATCH, FrameBuf, PortId};

use crate::options::{CHUNKS_MAX, XDP_HEADROOM};
use crate::ring::Descriptor;
use crate::umem::Umem;

/// Descriptor option: the frame continues in the next descriptor (`<linux/if_xdp.h>`).
pub(crate) const XDP_PKT_CONTD: u32 = 1 << 0;

/// Jumbo frames that a worker may hold at once: a batch, and one written as a copy.
const JUMBO_MAX: usize = BATCH + 1;

/// Exclusive ownership of a chunk: the address of a byte in it.
pub(crate) struct Chunk(u64);

impl Chunk {
    /// # Safety
    /// The address is of a chunk of the UMEM of the worker's [`Pool`]. Neither the kernel nor another `Chunk`
    /// or frame owns it.
    #[inline]
    pub(crate) const unsafe fn adopt(address: u64) -> Self {
        Self(address)
    }

    /// Ends ownership; returns the address to pass to the kernel.
    #[inline]
    pub(crate) const fn release(self) -> u64 {
        self.0
    }
}

/// A part of a jumbo frame: `len` bytes at the chunk's address.
struct Part {
    chunk: Chunk,
    len: u32,
}

/// A jumbo frame's parts behind the first.
struct Tail {
    /// Capacity: [`CHUNKS_MAX`] - 1.
    parts: Vec<Part>,
    /// Frame bytes in all of them.
    len: usize,
}

/// A worker's free chunks. Each frame has a reference to it, so the references count the frames.
pub(crate) struct Pool {
    umem: Arc<Umem>,
    /// The UMEM's start.
    start: NonNull<u8>,
    free: RefCell<Vec<Chunk>>,
    #[expect(clippy::vec_box, reason = "frames take and return the boxes")]
    tails: RefCell<Vec<Box<Tail>>>,
    /// Chunks in tails of frames.
    in_tails: Cell<usize>,
    total: usize,
}

impl Pool {
    /// Creates the pool of one worker with `total` chunks of `umem`, of which `free` are free.
    pub(crate) fn new(umem: Arc<Umem>, free: Vec<Chunk>, total: usize, jumbo: bool) -> Rc<Self> {
        let tail = |_| {
            Box::new(Tail {
                parts: Vec::with_capacity(CHUNKS_MAX - 1),
                len: 0,
            })
        };
        let tails = if jumbo { JUMBO_MAX } else { 0 };
        Rc::new(Self {
            start: umem.start(),
            umem,
            free: RefCell::new(free),
            tails: RefCell::new((0..tails).map(tail).collect()),
            in_tails: Cell::new(0),
            total,
        })
    }

    pub(crate) fn umem(&self) -> &Arc<Umem> {
        &self.umem
    }

    /// Returns the number of free chunks.
    pub(crate) fn free(&self) -> usize {
        self.free.borrow().len()
    }

    /// Returns the number of chunks in frames ([`XdpFrame`]). The reference of the worker's I/O is no frame.
    pub(crate) fn held(self: &Rc<Self>) -> usize {
        Rc::strong_count(self) - 1 + self.in_tails.get()
    }

    /// Returns the worker's number of chunks.
    pub(crate) fn total(&self) -> usize {
        self.total
    }

    /// Calls `with` with the free chunks.
    #[inline]
    pub(crate) fn with_free<R>(&self, with: impl FnOnce(&mut Vec<Chunk>) -> R) -> R {
        with(&mut self.free.borrow_mut())
    }

    fn put(&self, chunk: Chunk) {
        self.free.borrow_mut().push(chunk);
    }

    /// Takes a free chunk for a part of at most `len` bytes, at the place where the kernel puts frames.
    fn take(&self, len: usize) -> Option<Part> {
        let Chunk(address) = self.free.borrow_mut().pop()?;
        let size = self.umem.chunk_size();
        let chunk = Chunk((address & !u64::from(size - 1)) + u64::from(XDP_HEADROOM));
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        let len = len.min(size - XDP_HEADROOM);
        Some(Part { chunk, len })
    }

    #[inline]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "less than the length of a mapping"
    )]
    fn at(&self, Chunk(address): &Chunk) -> NonNull<u8> {
        debug_assert!(*address < self.umem.len() as u64, "no address of this UMEM");
        // SAFETY: a `Chunk` is of this UMEM.
        unsafe { self.start.byte_add(*address as usize) }
    }

    /// Returns a part's bytes.
    fn bytes<'a>(&'a self, part: &'a Part) -> &'a [u8] {
        // SAFETY: the part's bytes are in its chunk, which the borrowed `Part` owns.
        unsafe { slice::from_raw_parts(self.at(&part.chunk).as_ptr(), part.len as usize) }
    }

    /// [`Pool::bytes`], mutable.
    fn bytes_mut<'a>(&'a self, part: &'a mut Part) -> &'a mut [u8] {
        // SAFETY: as in `bytes`; `part` is borrowed mutably, so this is the only reference.
        unsafe { slice::from_raw_parts_mut(self.at(&part.chunk).as_ptr(), part.len as usize) }
    }

    /// Makes a frame of a received chunk, and prefetches its headers.
    #[inline]
    #[expect(clippy::needless_pass_by_value, reason = "the frame owns it")]
    pub(crate) fn hold(self: &Rc<Self>, chunk: Chunk, len: u32, port: PortId) -> XdpFrame {
        let data = self.at(&chunk);
        prefetch(data);
        XdpFrame {
            data,
            pool: Rc::clone(self),
            tail: None,
            len,
            port,
        }
    }

    /// Makes an empty frame of a free chunk.
    pub(crate) fn allocate(self: &Rc<Self>, port: PortId) -> Option<XdpFrame> {
        let part = self.take(0)?;
        Some(self.hold(part.chunk, part.len, port))
    }
}

/// Fetches a cache line into the cache. A hint: it changes speed only.
#[inline]
fn prefetch(at: NonNull<u8>) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: the instruction reads nothing that the program can see and faults on no address (Intel SDM
        // volume 2, PREFETCHh).
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// A frame in the UMEM, owned by the worker. Its chunks return to the pool on drop.
pub struct XdpFrame {
    /// The first byte: in a chunk that this frame owns, of the UMEM that the pool keeps mapped.
    data: NonNull<u8>,
    pool: Rc<Pool>,
    /// Set in a jumbo frame, and never empty.
    tail: Option<Box<Tail>>,
    /// Bytes in the first chunk.
    len: u32,
    port: PortId,
}

impl XdpFrame {
    #[inline]
    fn address(&self) -> u64 {
        (self.data.addr().get() - self.pool.start.addr().get()) as u64
    }

    /// Returns the number of bytes between the first chunk's start and the frame's. Chunks are aligned to
    /// their size, because the UMEM is aligned to pages.
    #[inline]
    fn headroom(&self) -> usize {
        self.data.addr().get() & (self.pool.umem.chunk_size() as usize - 1)
    }

    /// Returns the maximum number of bytes in the first chunk.
    fn capacity(&self) -> u32 {
        let size = self.pool.umem.chunk_size();
        size - u32::try_from(self.headroom()).unwrap_or(size)
    }

    #[inline]
    pub(crate) fn is_jumbo(&self) -> bool {
        self.tail.is_some()
    }

    /// Returns the number of chunks.
    pub(crate) fn chunks(&self) -> usize {
        1 + self.tail.as_ref().map_or(0, |tail| tail.parts.len())
    }

    /// Returns the first chunk's descriptor.
    #[inline]
    pub(crate) fn descriptor(&self) -> Descriptor {
        Descriptor {
            address: self.address(),
            len: self.len,
            options: 0,
        }
    }

    /// Ends ownership of the first chunk, which goes to the kernel. The frame is not jumbo.
    #[inline]
    pub(crate) fn release(self) {
        let frame = ManuallyDrop::new(self);
        // SAFETY: `frame` is neither used nor dropped afterwards.
        drop(unsafe { ptr::read(&raw const frame.pool) });
    }

    /// Ends ownership of all chunks, which go to the kernel: passes their descriptors, in order, to `push`.
    pub(crate) fn release_parts(mut self, mut push: impl FnMut(Descriptor)) {
        let mut last = self.descriptor();
        if let Some(mut tail) = self.tail.take() {
            let in_tails = &self.pool.in_tails;
            in_tails.set(in_tails.get() - tail.parts.len());
            for Part { chunk, len } in tail.parts.drain(..) {
                last.options = XDP_PKT_CONTD;
                push(last);
                last = Descriptor {
                    address: chunk.release(),
                    len,
                    options: 0,
                };
            }
            tail.len = 0;
            self.pool.tails.borrow_mut().push(tail);
        }
        push(last);
        self.release();
    }

    /// Appends a received chunk. A frame with more than [`CHUNKS_MAX`] chunks, which the kernel never
    /// delivers, becomes empty, and is then dropped as malformed.
    pub(crate) fn append(&mut self, chunk: Chunk, len: u32) {
        if self.len == 0 {
            self.pool.put(chunk);
        } else if !self.push_part(Part { chunk, len }) {
            self.set_len(0);
        }
    }

    /// Appends a part. Returns `false`, and the chunk to the pool, when the frame may not have more.
    fn push_part(&mut self, part: Part) -> bool {
        let tail = match self.tail.take() {
            Some(tail) => Some(tail),
            None => self.pool.tails.borrow_mut().pop(),
        };
        let Some(mut tail) = tail else {
            self.pool.put(part.chunk);
            return false;
        };
        let fits = tail.parts.len() < CHUNKS_MAX - 1;
        if fits {
            tail.len += part.len as usize;
            tail.parts.push(part);
            let in_tails = &self.pool.in_tails;
            in_tails.set(in_tails.get() + 1);
        } else {
            self.pool.put(part.chunk);
        }
        self.tail = Some(tail);
        fits
    }

    /// [`FrameBuf::set_len`] for a frame that has, or needs, several chunks.
    #[cold]
    fn set_len_multi(&mut self, len: usize) -> bool {
        let first = self.len;
        if self.tail.is_some() {
            if len > self.frame_len() {
                return false;
            }
            self.shrink_tail(len.saturating_sub(first as usize));
            return len >= first as usize || self.set_len(len);
        }
        self.len = self.capacity();
        let grown = self.grow_tail(len - self.len as usize);
        if !grown {
            self.shrink_tail(0);
            self.len = first;
        }
        grown
    }

    /// Appends free chunks for `len` bytes. Returns `false` when there are too few.
    fn grow_tail(&mut self, mut len: usize) -> bool {
        while len > 0 {
            let Some(part) = self.pool.take(len) else {
                return false;
            };
            len -= part.len as usize;
            if !self.push_part(part) {
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
        while tail.len > len
            && let Some(part) = tail.parts.last_mut()
        {
            let excess = u32::try_from(tail.len - len).unwrap_or(u32::MAX);
            if excess < part.len {
                part.len -= excess;
                tail.len = len;
            } else if let Some(Part { chunk, len }) = tail.parts.pop() {
                tail.len -= len as usize;
                let in_tails = &self.pool.in_tails;
                in_tails.set(in_tails.get() - 1);
                self.pool.put(chunk);
            }
        }
        if tail.parts.is_empty() {
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
        // SAFETY: these bytes are in a chunk that this frame owns, and `&self` excludes writers.
        unsafe { slice::from_raw_parts(self.data.as_ptr(), self.len as usize) }
    }

    #[inline]
    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`; `&mut self` makes the result the only reference.
        unsafe { slice::from_raw_parts_mut(self.data.as_ptr(), self.len as usize) }
    }

    #[inline]
    fn rest_len(&self) -> usize {
        self.tail.as_ref().map_or(0, |tail| tail.len)
    }

    fn rest(&self, number: usize) -> Option<&[u8]> {
        let part = self.tail.as_ref()?.parts.get(number)?;
        Some(self.pool.bytes(part))
    }

    fn rest_mut(&mut self, number: usize) -> Option<&mut [u8]> {
        let part = self.tail.as_mut()?.parts.get_mut(number)?;
        Some(self.pool.bytes_mut(part))
    }

    #[inline]
    fn move_start(&mut self, by: isize) -> bool {
        let room = if by < 0 {
            self.headroom()
        } else {
            self.len as usize
        };
        let Some(by) = i32::try_from(by)
            .ok()
            .filter(|by| by.unsigned_abs() as usize <= room)
        else {
            return false;
        };
        // SAFETY: the new start is in the chunk: it has `room` bytes on that side.
        self.data = unsafe { self.data.byte_offset(by as isize) };
        self.len = self.len.wrapping_sub_signed(by);
        true
    }

    #[inline]
    fn set_len(&mut self, len: usize) -> bool {
        match u32::try_from(len) {
            Ok(len) if self.tail.is_none() && len <= self.capacity() => {
                self.len = len;
                true
            }
            _ => self.set_len_multi(len),
        }
    }
}

impl Drop for XdpFrame {
    #[inline]
    fn drop(&mut self) {
        self.pool.put(Chunk(self.address()));
        if self.tail.is_some() {
            self.shrink_tail(0);
        }
    }
}
