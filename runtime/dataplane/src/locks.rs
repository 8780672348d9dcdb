//! Counts the locks a thread takes, in debug builds: a test asserts that the fast path takes none.
//!
//! Invariant: every lock of this crate is counted here before the thread waits for it. `clippy.toml` forbids
//! the standard library's own methods.

use std::sync::{Mutex, MutexGuard, PoisonError};

#[cfg(debug_assertions)]
thread_local! {
    static TAKEN: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// Counts a lock that is about to be taken.
#[inline(always)]
pub(crate) fn note() {
    #[cfg(debug_assertions)]
    TAKEN.set(TAKEN.get() + 1);
}

/// Locks a mutex, also if a holder panicked: what each of them guards is consistent after every single step.
#[inline]
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    note();
    #[expect(clippy::disallowed_methods, reason = "counted above")]
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The locks this thread has taken; `None` in a release build, which does not count.
#[must_use]
pub fn taken() -> Option<u64> {
    #[cfg(debug_assertions)]
    return Some(TAKEN.get());
    #[cfg(not(debug_assertions))]
    None
}
