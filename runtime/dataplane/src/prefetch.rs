//! Prefetch hints: they change speed only.

/// Prefetches the cache lines of a value.
#[inline(always)]
#[cfg_attr(
    all(target_arch = "x86_64", not(loom)),
    expect(unsafe_code, reason = "the standard library has no safe prefetch")
)]
pub(crate) fn prefetch<T>(value: &T) {
    #[cfg(all(target_arch = "x86_64", not(loom)))]
    for line in 0..size_of::<T>().div_ceil(LINE) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let at = std::ptr::from_ref(value)
            .cast::<i8>()
            .wrapping_add(line * LINE);
        // SAFETY: the instruction reads nothing that the program can see and faults on no address
        // (Intel SDM volume 2, PREFETCHh); the address lies in a live value besides.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at) };
    }
    #[cfg(any(not(target_arch = "x86_64"), loom))]
    let _ = value;
}

/// Prefetches the first cache line of an item of a slice; of memory behind the slice if it has no such item.
#[inline(always)]
#[cfg_attr(
    all(target_arch = "x86_64", not(loom)),
    expect(unsafe_code, reason = "the standard library has no safe prefetch")
)]
pub(crate) fn prefetch_at<T>(items: &[T], at: usize) {
    #[cfg(all(target_arch = "x86_64", not(loom)))]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let at = items.as_ptr().wrapping_add(at).cast::<i8>();
        // SAFETY: the instruction reads nothing that the program can see and faults on no address
        // (Intel SDM volume 2, PREFETCHh).
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at) };
    }
    #[cfg(any(not(target_arch = "x86_64"), loom))]
    let _ = (items, at);
}

/// Bytes in a cache line.
#[cfg(all(target_arch = "x86_64", not(loom)))]
const LINE: usize = 64;
