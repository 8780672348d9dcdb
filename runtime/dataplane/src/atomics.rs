//! Copies of atomic numbers.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

pub(crate) fn copy_u32(number: &AtomicU32) -> AtomicU32 {
    AtomicU32::new(number.load(Ordering::Relaxed))
}

pub(crate) fn copy_u64(number: &AtomicU64) -> AtomicU64 {
    AtomicU64::new(number.load(Ordering::Relaxed))
}
