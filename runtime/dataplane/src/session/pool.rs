//! Free slots: a shared pool, and a cache of them in each worker.
//!
//! Invariant: a slot is in the pool or in a cache only while its line is free and not linked.

use super::sync::{Arc, AtomicUsize, Mutex, Ordering, lock};

/// The largest magazine: 256 slots make one insert in 256 take the shared lock.
const MAGAZINE_MAX: u32 = 256;

/// The free slots that no cache holds.
pub(super) struct Pool {
    slots: Mutex<Vec<u32>>,
    /// No slot from here on was ever taken.
    taken: AtomicUsize,
}

impl Pool {
    /// `slots` holds all slots, the lowest last.
    pub(super) fn new(slots: Vec<u32>) -> Self {
        Self {
            slots: Mutex::new(slots),
            taken: AtomicUsize::new(0),
        }
    }

    /// Returns how many slots, counted from the first, were ever taken.
    pub(super) fn taken(&self) -> usize {
        self.taken.load(Ordering::Acquire)
    }
}

/// A worker's own free slots, so that opening and closing sessions seldom takes the shared lock. Dropping the
/// cache returns its slots.
///
/// A cache holds at most two magazines, each of 256 slots or 1/256 of the table, whichever is less (none for
/// a table of fewer than 256 sessions). So with 1 M sessions and 8 workers, an insert may find the table full
/// while up to 3,584 slots (0.4 %) are free in other workers' caches.
pub struct SlotCache {
    slots: Vec<u32>,
    magazine: usize,
    pool: Arc<Pool>,
}

impl SlotCache {
    pub(super) fn new(pool: Arc<Pool>, capacity: u32) -> Self {
        let magazine = (capacity / 256).min(MAGAZINE_MAX) as usize;
        Self {
            slots: Vec::with_capacity(2 * magazine + 1),
            magazine,
            pool,
        }
    }

    pub(super) fn take(&mut self) -> Option<u32> {
        if self.slots.is_empty() {
            let mut shared = lock(&self.pool.slots);
            let keep = shared.len().saturating_sub(self.magazine.max(1));
            self.slots.extend(shared.drain(keep..));
            let highest = self.slots.iter().max();
            let taken = highest.map_or(0, |slot| *slot as usize + 1);
            self.pool.taken.fetch_max(taken, Ordering::Release);
        }
        self.slots.pop()
    }

    /// Returns a slot. Beyond two magazines the older one goes to the pool.
    pub(super) fn give(&mut self, slot: u32) {
        self.slots.push(slot);
        if self.slots.len() > 2 * self.magazine {
            let surplus = self.slots.len() - self.magazine;
            lock(&self.pool.slots).extend(self.slots.drain(..surplus));
        }
    }

    pub(super) fn is_of(&self, pool: &Arc<Pool>) -> bool {
        Arc::ptr_eq(&self.pool, pool)
    }
}

impl Drop for SlotCache {
    fn drop(&mut self) {
        lock(&self.pool.slots).append(&mut self.slots);
    }
}
