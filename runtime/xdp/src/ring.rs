//! One end of a ring shared with the kernel (Documentation/networking/af_xdp.rst, `<linux/if_xdp.h>`).
//!
//! A ring has a producer's index, a consumer's index and a power of two of entries. The indices count entries
//! and wrap at 2^32; an entry's place is its index modulo the ring's size. Each end writes its own index and
//! reads the other's: once for a batch, because the other end writes to that cache line.
//!
//! Invariant: an entry is accessed by one end only. The producer writes those that the consumer has released,
//! the consumer reads those that the producer has submitted.

use std::io;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::mapping::Mapping;

/// Flag of a ring: the kernel waits for a wake-up.
const NEED_WAKEUP: u32 = libc::XDP_RING_NEED_WAKEUP;

/// A received frame, or one to send, or a part of a jumbo frame (`struct xdp_desc`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Descriptor {
    /// Its first byte's address in the UMEM.
    pub address: u64,
    /// In bytes.
    pub len: u32,
    /// `XDP_PKT_CONTD` or 0.
    pub options: u32,
}

/// An entry of a ring: any bytes are valid.
pub trait Entry: Copy + sealed::Sealed {}

/// Of the transmit and of the receive ring.
impl Entry for Descriptor {}
/// Of the fill and of the completion ring: an address in the UMEM.
impl Entry for u64 {}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Descriptor {}
    impl Sealed for u64 {}
}

/// Where the parts of a ring are in its mapping, in bytes (`struct xdp_ring_offset`).
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct RingOffsets {
    pub producer: u64,
    pub consumer: u64,
    pub entries: u64,
    pub flags: u64,
}

/// [`RingOffsets`] of a socket's rings (`struct xdp_mmap_offsets`).
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct SocketOffsets {
    pub rx: RingOffsets,
    pub tx: RingOffsets,
    pub fill: RingOffsets,
    pub completion: RingOffsets,
}

/// A mapped ring.
pub struct Ring<T> {
    producer: NonNull<AtomicU32>,
    consumer: NonNull<AtomicU32>,
    flags: NonNull<AtomicU32>,
    entries: NonNull<T>,
    size: u32,
    _mapping: Mapping,
}

// SAFETY: the pointers lead into the mapping, which is there for all threads, and `T: Entry` is plain data.
unsafe impl<T: Entry> Send for Ring<T> {}

impl<T: Entry> Ring<T> {
    /// Maps the ring with `size` entries at `page` of `file`, which is a socket or memory laid out like one.
    ///
    /// # Errors
    /// It cannot be mapped; `InvalidInput` if `size` is no power of two or `at` is not aligned.
    #[expect(clippy::cast_possible_truncation, reason = "less than a `usize`")]
    pub fn map(file: &impl AsRawFd, page: u64, at: &RingOffsets, size: u32) -> io::Result<Self> {
        let entries_len = u64::from(size) * size_of::<T>() as u64;
        let len = at.entries.checked_add(entries_len);
        let indices = [at.producer, at.consumer, at.flags];
        let is_index = |offset: &u64| offset.is_multiple_of(4) && *offset < at.entries;
        let is_valid = size.is_power_of_two()
            && at.entries.is_multiple_of(align_of::<T>() as u64)
            && indices.iter().all(is_index);
        let len = len
            .filter(|_| is_valid)
            .ok_or(io::ErrorKind::InvalidInput)?;
        let mapping = Mapping::new(file, page, usize::try_from(len).map_err(io::Error::other)?)?;
        let place = |offset: u64| {
            // SAFETY: below `len`, which fits `usize`, so in the mapping.
            unsafe { mapping.start().byte_add(offset as usize) }
        };
        Ok(Self {
            producer: place(at.producer).cast(),
            consumer: place(at.consumer).cast(),
            flags: place(at.flags).cast(),
            entries: place(at.entries).cast(),
            size,
            _mapping: mapping,
        })
    }

    #[inline]
    fn producer(&self) -> &AtomicU32 {
        // SAFETY: aligned and in the mapping, as `map` checked, and accessed as an atomic only.
        unsafe { self.producer.as_ref() }
    }

    #[inline]
    fn consumer(&self) -> &AtomicU32 {
        // SAFETY: as in `producer`.
        unsafe { self.consumer.as_ref() }
    }

    #[inline]
    fn needs_wakeup(&self) -> bool {
        // SAFETY: as in `producer`.
        let flags = unsafe { self.flags.as_ref() };
        flags.load(Ordering::Relaxed) & NEED_WAKEUP != 0
    }

    /// Returns the place of the entry with this index.
    #[inline]
    fn entry(&self, index: u32) -> NonNull<T> {
        let place = index & (self.size - 1);
        // SAFETY: less than `size`, so in the mapping.
        unsafe { self.entries.add(place as usize) }
    }

    /// Returns the entries from one index to another, as far as they are beside each other in memory.
    #[inline]
    fn span(&self, from: u32, to: u32) -> NonNull<[T]> {
        let behind = self.size - (from & (self.size - 1));
        let len = to.wrapping_sub(from).min(behind);
        NonNull::slice_from_raw_parts(self.entry(from), len as usize)
    }
}

/// The producer's end: fill and transmit ring.
pub struct Producer<T> {
    ring: Ring<T>,
    /// The index of the entry to write next.
    next: u32,
    /// The index up to which entries may be written.
    limit: u32,
}

impl<T: Entry> Producer<T> {
    /// Goes on where the last owner of this end has submitted.
    ///
    /// # Safety
    /// No one else has this end of the ring.
    pub unsafe fn adopt(ring: Ring<T>) -> Self {
        let next = ring.producer().load(Ordering::Relaxed);
        let limit = ring
            .consumer()
            .load(Ordering::Acquire)
            .wrapping_add(ring.size);
        Self { ring, next, limit }
    }

    /// Returns the index of the entry that is written next.
    #[inline]
    pub fn next(&self) -> u32 {
        self.next
    }

    /// Returns how many entries can be pushed.
    #[inline]
    pub fn room(&self) -> u32 {
        self.limit.wrapping_sub(self.next)
    }

    /// Makes room: for each entry that was consumed, and whose frame came back. `returned` is the number of
    /// frames that came back by the ring in the other direction (receive for fill, completion for transmit),
    /// counted as this ring's indices. So that ring does not overflow either.
    #[inline]
    pub fn make_room(&mut self, returned: u32) {
        let consumed = self.ring.consumer().load(Ordering::Acquire);
        let ahead = |index| self.next.wrapping_sub(index);
        let used = ahead(consumed).max(ahead(returned));
        self.limit = self.next.wrapping_add(self.ring.size.saturating_sub(used));
    }

    /// Writes an entry, which the consumer sees after [`Producer::submit`]. Returns `false`, and does not
    /// call `entry`, if there is no room.
    #[inline]
    pub fn push(&mut self, entry: impl FnOnce() -> T) -> bool {
        if self.next == self.limit {
            return false;
        }
        // SAFETY: the consumer released this entry before `limit` was read, and this is the only producer.
        unsafe { self.ring.entry(self.next).write(entry()) };
        self.next = self.next.wrapping_add(1);
        true
    }

    /// Returns the next entries to write, as far as they are beside each other in memory;
    /// [`Producer::advance`] follows. Empty if there is no room.
    #[inline]
    pub fn vacant(&mut self) -> &mut [T] {
        // SAFETY: as in `push`, for each entry up to `limit`; the result borrows this value mutably.
        unsafe { self.ring.span(self.next, self.limit).as_mut() }
    }

    /// Counts entries that were written to [`Producer::vacant`].
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "at most the ring's size")]
    pub fn advance(&mut self, count: usize) {
        debug_assert!(count <= self.room() as usize, "no room for them");
        self.next = self.next.wrapping_add(count as u32);
    }

    /// Makes all entries visible to the consumer.
    #[inline]
    pub fn submit(&mut self) {
        self.ring.producer().store(self.next, Ordering::Release);
    }

    /// Returns whether all entries are submitted.
    #[inline]
    pub fn is_submitted(&self) -> bool {
        self.ring.producer().load(Ordering::Relaxed) == self.next
    }

    /// Returns how many entries the consumer has not released.
    pub fn unconsumed(&self) -> u32 {
        self.next
            .wrapping_sub(self.ring.consumer().load(Ordering::Acquire))
    }

    /// Returns whether the kernel waits for a wake-up.
    #[inline]
    pub fn needs_wakeup(&self) -> bool {
        self.ring.needs_wakeup()
    }
}

/// The consumer's end: receive and completion ring.
pub struct Consumer<T> {
    ring: Ring<T>,
    /// The index of the entry to read next.
    next: u32,
    /// The index up to which entries may be read.
    end: u32,
}

impl<T: Entry> Consumer<T> {
    /// Goes on where the last owner of this end has released.
    ///
    /// # Safety
    /// No one else has this end of the ring.
    pub unsafe fn adopt(ring: Ring<T>) -> Self {
        let next = ring.consumer().load(Ordering::Relaxed);
        Self {
            ring,
            next,
            end: next,
        }
    }

    /// Returns the index of the entry that is read next.
    #[inline]
    pub fn next(&self) -> u32 {
        self.next
    }

    /// Returns the number of entries submitted.
    #[inline]
    pub fn submitted(&self) -> u32 {
        let producer = self.ring.producer().load(Ordering::Acquire);
        producer.wrapping_sub(self.next)
    }

    /// Looks for entries, at most `max`; returns how many can be read.
    #[inline]
    pub fn look(&mut self, max: u32) -> u32 {
        let count = self.submitted().min(max);
        self.end = self.next.wrapping_add(count);
        count
    }

    /// Returns an entry, `ahead` of the next one; `None` if [`Consumer::look`] did not see it.
    #[inline]
    pub fn peek(&self, ahead: u32) -> Option<T> {
        if ahead >= self.end.wrapping_sub(self.next) {
            return None;
        }
        // SAFETY: the producer submitted this entry before `end` was read, and writes it again only after
        // its release.
        Some(unsafe { self.ring.entry(self.next.wrapping_add(ahead)).read() })
    }

    /// Returns the next entries that [`Consumer::look`] saw, as far as they are beside each other in memory;
    /// [`Consumer::advance`] follows.
    #[inline]
    pub fn entries(&self) -> &[T] {
        // SAFETY: as in `peek`, for each entry up to `end`.
        unsafe { self.ring.span(self.next, self.end).as_ref() }
    }

    /// Counts entries of [`Consumer::entries`] as taken.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "at most the ring's size")]
    pub fn advance(&mut self, count: usize) {
        debug_assert!(
            count <= self.end.wrapping_sub(self.next) as usize,
            "not seen"
        );
        self.next = self.next.wrapping_add(count as u32);
    }

    /// Takes the next entry; `None` if [`Consumer::look`] did not see it.
    #[inline]
    pub fn pop(&mut self) -> Option<T> {
        let entry = self.peek(0)?;
        self.next = self.next.wrapping_add(1);
        Some(entry)
    }

    /// Gives the entries taken back to the producer.
    #[inline]
    pub fn release(&mut self) {
        self.ring.consumer().store(self.next, Ordering::Release);
    }
}
