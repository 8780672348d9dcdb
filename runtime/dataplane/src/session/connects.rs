//! When the SYN of each pending connection passed, to measure its connect time.
//!
//! Invariant: a session gets its own measurement or none. Sessions share entries; the latest to begin has the
//! entry, and a tag tells whose it is. An entry is one word, so no lock or ordering is needed: at worst a
//! measurement is lost.

use std::collections::TryReserveError;
use std::sync::atomic::{AtomicU64, Ordering};

use super::SessionRef;
use super::words::{high, low, pack};
use crate::Now;

/// The number of entries. At 100,000 new sessions per second they cover the last 160 ms, longer than most
/// backends take to answer.
const ATTEMPTS_MAX: u32 = 1 << 14;

/// The latest pending connections, by slot. Upper half of a word: the tag, never 0. Lower half: the time of
/// the SYN in microseconds, which wraps after 71 minutes. 0 is empty.
pub(super) struct Connects(Box<[AtomicU64]>);

impl Connects {
    pub(super) fn new(sessions: u32) -> Result<Self, TryReserveError> {
        let len = sessions.min(ATTEMPTS_MAX) as usize;
        Ok(Self(super::memory::allocate(len)?))
    }

    /// Records the session's first SYN.
    pub(super) fn begin(&self, at: SessionRef, now: Now) {
        self.place(at)
            .store(pack(tag(at), clock_us(now)), Ordering::Relaxed);
    }

    /// Cancels the measurement if this is not the first SYN.
    pub(super) fn repeat(&self, at: SessionRef, now: Now) {
        let word = self.place(at).load(Ordering::Relaxed);
        if high(word) == tag(at) && low(word) != clock_us(now) {
            self.place(at).store(0, Ordering::Relaxed);
        }
    }

    /// The microseconds since the session's only SYN.
    pub(super) fn elapsed_us(&self, at: SessionRef, now: Now) -> Option<u32> {
        let word = self.place(at).load(Ordering::Relaxed);
        let elapsed = clock_us(now).wrapping_sub(low(word));
        // More than half the clock's range means a negative time: the worker that saw the answer read its
        // clock first.
        (high(word) == tag(at) && elapsed <= u32::MAX / 2).then_some(elapsed)
    }

    pub(super) fn memory_bytes(&self) -> usize {
        size_of_val(&*self.0)
    }

    fn place(&self, at: SessionRef) -> &AtomicU64 {
        &self.0[at.slot as usize % self.0.len()]
    }
}

/// Distinguishes sessions that share an entry: the slot's bits above those that choose the entry, and the
/// version's lower ones, of which the lowest is 1 while the session lives.
const fn tag(at: SessionRef) -> u32 {
    (at.version << 14) | (at.slot / ATTEMPTS_MAX)
}

/// Microseconds, wrapping.
const fn clock_us(now: Now) -> u32 {
    low(now.micros())
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::session::table::SESSIONS_MAX;

    fn at(us: u64) -> Now {
        Now::from_start(Duration::from_micros(us))
    }

    fn session(slot: u32, version: u32) -> SessionRef {
        SessionRef { slot, version }
    }

    #[test]
    fn an_answer_is_measured_from_its_own_syn() {
        let connects = Connects::new(SESSIONS_MAX).expect("memory");
        let wraps = u64::from(u32::MAX) - 100;
        for start in [0, 1, 5_000_000, wraps] {
            connects.begin(session(7, 1), at(start));
            let elapsed = connects.elapsed_us(session(7, 1), at(start + 250));
            assert_eq!(elapsed, Some(250), "from {start}");
        }
        for other in [
            session(7, 3),
            session(8, 1),
            session(7 + ATTEMPTS_MAX, 1),
            session(SESSIONS_MAX - 1, 1),
        ] {
            assert_eq!(connects.elapsed_us(other, at(wraps)), None, "{other:?}");
        }
    }

    #[test]
    fn a_syn_sent_again_leaves_nothing_to_measure() {
        let connects = Connects::new(100).expect("memory");
        connects.begin(session(7, 1), at(1_000));
        connects.repeat(session(7, 1), at(1_000));
        connects.repeat(session(7, 3), at(1_100));
        let elapsed = connects.elapsed_us(session(7, 1), at(1_200));
        assert_eq!(elapsed, Some(200), "neither was a SYN sent again");
        connects.repeat(session(7, 1), at(1_300));
        assert_eq!(connects.elapsed_us(session(7, 1), at(1_400)), None);
    }

    #[test]
    fn the_latest_of_two_that_share_a_place_has_it() {
        let connects = Connects::new(SESSIONS_MAX).expect("memory");
        let (older, newer) = (session(7, 1), session(7 + ATTEMPTS_MAX, 1));
        connects.begin(older, at(1_000));
        connects.begin(newer, at(2_000));
        assert_eq!(connects.elapsed_us(older, at(3_000)), None);
        assert_eq!(connects.elapsed_us(newer, at(3_000)), Some(1_000));
    }

    #[test]
    fn an_answer_seen_by_a_slower_clock_is_not_measured() {
        let connects = Connects::new(1).expect("memory");
        connects.begin(session(0, 1), at(1_000));
        assert_eq!(connects.elapsed_us(session(0, 1), at(999)), None);
    }
}
