//! Memory regions of small values, aligned as the ABI requires.
//!
//! Invariant: the first value is at a multiple of 8, whatever the allocator returns, and does not
//! move while the region lives.

use alloc::boxed::Box;
use alloc::vec;
use core::ops::{Deref, DerefMut, Range};

use crate::abi::ALIGNMENT;

/// A slice that may start a few bytes into its allocation. Records do not need this: their type has
/// the alignment.
pub(crate) struct Aligned<T> {
    room: Box<[T]>,
    used: Range<usize>,
}

impl<T: Copy> Aligned<T> {
    /// Makes a region of `count` copies of a value, which has 1, 2, 4 or 8 bytes.
    pub(crate) fn new(value: T, count: usize) -> Self {
        let spare = ALIGNMENT as usize / size_of::<T>() - 1;
        let room: Box<[T]> = vec![value; count + spare].into();
        // At most `spare`, because the allocation has the type's own alignment.
        let start = room.as_ptr().align_offset(ALIGNMENT as usize);
        Self {
            room,
            used: start..start + count,
        }
    }
}

impl<T> Deref for Aligned<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.room[self.used.clone()]
    }
}

impl<T> DerefMut for Aligned<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.room[self.used.clone()]
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    fn is_aligned<T>(region: &[T]) -> bool {
        region.as_ptr().align_offset(ALIGNMENT as usize) == 0
    }

    #[test]
    fn regions_are_aligned_at_any_allocation() {
        // Kept alive, so that each region has another address.
        let mut held = Vec::new();
        for count in 0..200 {
            let (bytes, words) = (Aligned::new(7_u8, count), Aligned::new(7_u32, count));
            assert!(is_aligned(&bytes) && is_aligned(&words), "{count}");
            assert_eq!((bytes.len(), words.len()), (count, count));
            held.push((bytes, words));
        }
        assert!(held.iter().all(|(bytes, words)| {
            bytes.iter().all(|byte| *byte == 7) && words.iter().all(|word| *word == 7)
        }));
    }
}
