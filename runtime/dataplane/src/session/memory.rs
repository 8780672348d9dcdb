//! The memory of a table: all of it at once, in huge pages where the kernel has some.
//!
//! Sessions are looked up all over the table. With pages of 4 KiB nearly each of them would miss the TLB,
//! which costs as much again as the miss of the cache; and a table of millions would take a page fault for
//! every few dozen sessions at start.
//!
//! Invariant: what is asked of the kernel here changes how fast memory is, and nothing else.

use std::collections::TryReserveError;

/// A slice of defaults, all of it touched, or an error where there is no memory for it.
pub(super) fn allocate<T: Default>(len: usize) -> Result<Box<[T]>, TryReserveError> {
    let mut items: Vec<T> = Vec::new();
    items.try_reserve_exact(len)?;
    ask_for_huge_pages(&items);
    items.resize_with(len, T::default);
    Ok(items.into_boxed_slice())
}

/// Asks for huge pages under memory that was not touched yet, in whole pages of the smallest size.
#[cfg_attr(
    not(loom),
    expect(unsafe_code, reason = "advice names memory by its address")
)]
fn ask_for_huge_pages<T>(items: &Vec<T>) {
    #[cfg(not(loom))]
    {
        const PAGE: usize = 4096;
        let start = items.as_ptr().cast::<u8>();
        let before = start.align_offset(PAGE);
        let len = (items.capacity() * size_of::<T>()).saturating_sub(before) / PAGE * PAGE;
        let first_page = start.wrapping_add(before).cast_mut().cast();
        // SAFETY: the pages lie in the vector's own memory, of which this advice changes no byte
        // (madvise(2), MADV_HUGEPAGE). An error, where the kernel knows none, leaves it as it is.
        let _ = unsafe { rustix::mm::madvise(first_page, len, rustix::mm::Advice::LinuxHugepage) };
    }
    #[cfg(loom)]
    let _ = items;
}
