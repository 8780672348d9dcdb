//! Free slots: a shared pool, and a cache of them in each worker.
//!
//! Invariant: a slot is in the pool or in a cache only while its line is free and not linked.

use super::sync::{Arc, AtomicU32, AtomicUsize, Mutex, Ordering, lock};

/// The largest magazine: 256 slots make one insert in 256 take the shared lock.
const MAGAZINE_MAX: u32 = 256;

/// The free slots that no cache holds.
pub(super) struct Pool {
    slots: Mutex<Vec<u32>>,
    /// No slot from here on was ever taken.
    taken: AtomicUsize,
    caches: Mutex<Caches>,
}

/// How many slots are in use, by the cache that they were taken from or given to.
#[derive(Default)]
struct Caches {
    each: Vec<Arc<InUse>>,
    /// Those of caches that were dropped.
    dropped: u32,
}

/// Slots taken from a cache less those given to it, wrapping. Only the cache's owner writes it, on a line of
/// its own.
#[repr(align(64))]
#[derive(Default)]
struct InUse(AtomicU32);

impl InUse {
    fn add(&self, n: u32) {
        let sum = self.0.load(Ordering::Relaxed).wrapping_add(n);
        self.0.store(sum, Ordering::Relaxed);
    }
}

impl Pool {
    /// `slots` holds all slots, the lowest last.
    pub(super) fn new(slots: Vec<u32>) -> Self {
        Self {
            slots: Mutex::new(slots),
            taken: AtomicUsize::new(0),
            caches: Mutex::new(Caches::default()),
        }
    }

    /// Returns how many slots, counted from the first, were ever taken.
    pub(super) fn taken(&self) -> usize {
        self.taken.load(Ordering::Acquire)
    }

    /// How many slots are in use. While workers take and give slots, as of no one moment.
    pub(super) fn in_use(&self) -> usize {
        let caches = lock(&self.caches);
        let sum = |sum: u32, cache: &Arc<InUse>| sum.wrapping_add(cache.0.load(Ordering::Relaxed));
        // Below zero if a slot was given after its taker was counted.
        let sum = caches.each.iter().fold(caches.dropped, sum);
        sum.cast_signed().max(0) as usize
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
    in_use: Arc<InUse>,
    pool: Arc<Pool>,
}

impl SlotCache {
    pub(super) fn new(pool: Arc<Pool>, capacity: u32) -> Self {
        let magazine = (capacity / 256).min(MAGAZINE_MAX) as usize;
        let in_use = Arc::new(InUse::default());
        lock(&pool.caches).each.push(Arc::clone(&in_use));
        Self {
            slots: Vec::with_capacity(2 * magazine + 1),
            magazine,
            in_use,
            pool,
        }
    }

    pub(super) fn take(&mut self) -> Option<u32> {
        if self.slots.is_empty() {
            self.refill();
        }
        let slot = self.slots.pop()?;
        self.in_use.add(1);
        Some(slot)
    }

    #[cold]
    fn refill(&mut self) {
        let mut shared = lock(&self.pool.slots);
        let keep = shared.len().saturating_sub(self.magazine.max(1));
        self.slots.extend(shared.drain(keep..));
        let highest = self.slots.iter().max();
        let taken = highest.map_or(0, |slot| *slot as usize + 1);
        self.pool.taken.fetch_max(taken, Ordering::Release);
    }

    /// Returns a slot. Beyond two magazines the older one goes to the pool.
    pub(super) fn give(&mut self, slot: u32) {
        self.in_use.add(u32::MAX);
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
        let mut caches = lock(&self.pool.caches);
        caches
            .each
            .retain(|cache| !Arc::ptr_eq(cache, &self.in_use));
        let in_use = self.in_use.0.load(Ordering::Relaxed);
        caches.dropped = caches.dropped.wrapping_add(in_use);
    }
}
