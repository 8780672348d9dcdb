//! How many locks a thread has taken: counted in debug builds, for the test that says that a hit takes none.
//!
//! Invariant: every lock of this crate is noted here, before it is waited for. `clippy.toml` disallows the
//! standard library's own ways to take one.

use std::sync::{Mutex, MutexGuard, PoisonError};

#[cfg(debug_assertions)]
thread_local! {
    static TAKEN: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// One more is about to be taken.
#[inline(always)]
pub(crate) fn note() {
    #[cfg(debug_assertions)]
    TAKEN.set(TAKEN.get() + 1);
}

/// Locks. A lock whose holder panicked is taken all the same: what each of them guards is consistent, or
/// bounded whatever it holds, after every single step.
#[inline]
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    note();
    #[expect(clippy::disallowed_methods, reason = "it has been noted")]
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How many this thread has taken until now; `None` in a build that does not count.
#[must_use]
pub fn taken() -> Option<u64> {
    #[cfg(debug_assertions)]
    return Some(TAKEN.get());
    #[cfg(not(debug_assertions))]
    None
}
