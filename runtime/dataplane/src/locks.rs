//! How many locks a thread has taken: counted in debug builds, for the test that says that a hit takes none.
//!
//! Invariant: every lock of this crate that a worker may take is noted here, before it is waited for.

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

/// How many this thread has taken until now; `None` in a build that does not count.
#[must_use]
pub fn taken() -> Option<u64> {
    #[cfg(debug_assertions)]
    return Some(TAKEN.get());
    #[cfg(not(debug_assertions))]
    None
}
