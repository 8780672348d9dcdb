//! Connection attempts under way: when each one's SYN passed, to measure how long its answer takes.
//!
//! Invariant: what is measured is the time of the very session that asks, or nothing. A session's
//! place is shared with others and the latest to begin has it; the tag tells whose it is. Each is
//! one word, so that neither lock nor order is needed: whatever is lost is one measurement.

use std::collections::TryReserveError;
use std::sync::atomic::{AtomicU64, Ordering};

use super::SessionRef;
use super::words::{high, low, pack};
use crate::Now;

/// The most attempts that are kept. At 100,000 new sessions a second these are the last 160 ms,
/// which is longer than most backends take.
const ATTEMPTS_MAX: u32 = 1 << 14;

/// The latest attempts, by slot. Words: upper half the tag, which is never 0; lower half the time
/// of the SYN in microseconds, which wraps after 71 minutes; 0 is empty.
pub(super) struct Connects(Box<[AtomicU64]>);

impl Connects {
    /// For a table of this many sessions.
    pub(super) fn new(sessions: u32) -> Result<Self, TryReserveError> {
        let len = sessions.min(ATTEMPTS_MAX) as usize;
        Ok(Self(super::memory::allocate(len)?))
    }

    /// The session's first SYN.
    pub(super) fn begin(&self, at: SessionRef, now: Now) {
        self.place(at)
            .store(pack(tag(at), clock_us(now)), Ordering::Relaxed);
    }

    /// A SYN of the session that may be another than the first.
    pub(super) fn repeat(&self, at: SessionRef, now: Now) {
        let word = self.place(at).load(Ordering::Relaxed);
        if high(word) == tag(at) && low(word) != clock_us(now) {
            self.place(at).store(0, Ordering::Relaxed);
        }
    }

    /// The time since the session's one SYN, in microseconds.
    pub(super) fn elapsed_us(&self, at: SessionRef, now: Now) -> Option<u32> {
        let word = self.place(at).load(Ordering::Relaxed);
        let elapsed = clock_us(now).wrapping_sub(low(word));
        // More than half the clock's range: workers read their clocks apart, and the one that saw
        // the answer had read its own before.
        (high(word) == tag(at) && elapsed <= u32::MAX / 2).then_some(elapsed)
    }

    pub(super) fn memory_bytes(&self) -> usize {
        size_of_val(&*self.0)
    }

    fn place(&self, at: SessionRef) -> &AtomicU64 {
        &self.0[at.slot as usize % self.0.len()]
    }
}

/// Tells sessions that share a place apart: the slot's bits above those that chose the place, and
/// the version's lower ones, of which the lowest is 1 while the session lives.
const fn tag(at: SessionRef) -> u32 {
    (at.version << 14) | (at.slot / ATTEMPTS_MAX)
}

/// The clock that attempts are timed by: microseconds, wrapping.
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
