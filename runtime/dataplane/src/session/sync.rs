//! The atomics and locks of the session table: std's, or loom's when the table is model-checked.
//!
//! Invariant: the session table takes every atomic, lock and shared pointer from here, so the model checks
//! the code that runs.

#[cfg(loom)]
pub(super) use loom::sync::{
    Arc, Mutex, MutexGuard,
    atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering, fence},
};
#[cfg(not(loom))]
pub(super) use std::sync::{
    Arc, Mutex, MutexGuard,
    atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering, fence},
};

/// Striped locks: item `n` shares lock `n % STRIPES`.
pub(super) struct Stripes(Box<[Mutex<()>]>);

/// A power of two. With 16 workers inserting at once, two contend for one lock about once in a hundred
/// inserts.
#[cfg(not(loom))]
const STRIPES: usize = 2048;
#[cfg(loom)]
const STRIPES: usize = 2;

impl Stripes {
    pub(super) fn new() -> Self {
        Self((0..STRIPES).map(|_| Mutex::new(())).collect())
    }

    pub(super) fn lock(&self, number: usize) -> MutexGuard<'_, ()> {
        lock(&self.0[number % STRIPES])
    }

    /// Locks two items, the lower lock first, so threads cannot deadlock.
    pub(super) fn lock_both(&self, one: usize, other: usize) -> [Option<MutexGuard<'_, ()>>; 2] {
        let (one, other) = (one % STRIPES, other % STRIPES);
        let first = Some(self.lock(one.min(other)));
        [first, (one != other).then(|| self.lock(one.max(other)))]
    }

    pub(super) const fn memory_bytes() -> usize {
        STRIPES * size_of::<Mutex<()>>()
    }
}

#[cfg(not(loom))]
pub(super) use crate::locks::lock;

/// Like [`crate::locks::lock`].
#[cfg(loom)]
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    crate::locks::note();
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
