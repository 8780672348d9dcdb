//! The atomics and locks of the session table: std's, or loom's where the table is model-checked.
//!
//! Invariant: the session table takes every atomic, lock and shared pointer from here, so that the
//! model explores the very code that runs.

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

/// Many locks that stand for many more things: a thing's lock is chosen by its number.
pub(super) struct Stripes(Box<[Mutex<()>]>);

/// How many locks there are: a power of two. With 16 workers inserting at once, two of them meet
/// at one lock about once in a hundred inserts.
#[cfg(not(loom))]
const STRIPES: usize = 2048;
#[cfg(loom)]
const STRIPES: usize = 2;

impl Stripes {
    pub(super) fn new() -> Self {
        Self((0..STRIPES).map(|_| Mutex::new(())).collect())
    }

    /// Locks for one number.
    pub(super) fn lock(&self, number: usize) -> MutexGuard<'_, ()> {
        lock(&self.0[number % STRIPES])
    }

    /// Locks for two numbers, always the lower lock first, so that no two threads wait for one
    /// another.
    pub(super) fn lock_both(&self, one: usize, other: usize) -> [Option<MutexGuard<'_, ()>>; 2] {
        let (one, other) = (one % STRIPES, other % STRIPES);
        let first = Some(self.lock(one.min(other)));
        [first, (one != other).then(|| self.lock(one.max(other)))]
    }

    /// How much memory the locks take.
    pub(super) const fn memory_bytes() -> usize {
        STRIPES * size_of::<Mutex<()>>()
    }
}

#[cfg(not(loom))]
pub(super) use crate::locks::lock;

/// As [`crate::locks::lock`].
#[cfg(loom)]
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    crate::locks::note();
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
