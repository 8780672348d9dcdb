//! The memory of a table: allocated at once, in huge pages if the kernel has some.
//!
//! Lookups hit random lines of the table. With 4 KiB pages nearly each would miss the TLB, which costs as
//! much again as the cache miss; and a table of millions would take a page fault for every few dozen sessions
//! at start.
//!
//! Invariant: the advice to the kernel changes speed only.

use std::collections::TryReserveError;

/// Allocates and touches a slice of defaults.
pub(super) fn allocate<T: Default>(len: usize) -> Result<Box<[T]>, TryReserveError> {
    let mut items: Vec<T> = Vec::new();
    items.try_reserve_exact(len)?;
    ask_for_huge_pages(&items);
    items.resize_with(len, T::default);
    Ok(items.into_boxed_slice())
}

/// Advises huge pages for memory that was not touched yet, in whole small pages.
#[cfg_attr(
    not(any(loom, miri)),
    expect(unsafe_code, reason = "advice names memory by its address")
)]
fn ask_for_huge_pages<T>(items: &Vec<T>) {
    #[cfg(not(any(loom, miri)))]
    {
        const PAGE: usize = 4096;
        let start = items.as_ptr().cast::<u8>();
        let before = start.align_offset(PAGE);
        let len = (items.capacity() * size_of::<T>()).saturating_sub(before) / PAGE * PAGE;
        let first_page = start.wrapping_add(before).cast_mut().cast();
        // SAFETY: the pages lie in the vector's own memory, and this advice changes none of its bytes
        // (madvise(2), MADV_HUGEPAGE). A kernel without huge pages returns an error and changes nothing.
        let _ = unsafe { rustix::mm::madvise(first_page, len, rustix::mm::Advice::LinuxHugepage) };
    }
    #[cfg(any(loom, miri))]
    let _ = items;
}
