//! Free slots: a shared pool, and a magazine of them with each worker.
//!
//! Invariant: a slot is in the pool or in one cache only while its line is free and linked nowhere.

use super::sync::{Arc, Mutex, lock};

/// The largest magazine. 256 slots make the shared lock one in 256 inserts.
const MAGAZINE_MAX: u32 = 256;

/// The free slots that no cache holds.
pub(super) struct Pool {
    slots: Mutex<Vec<u32>>,
}

impl Pool {
    /// All slots below `slots.len()`, as it comes: filled by the table, lowest last.
    pub(super) fn new(slots: Vec<u32>) -> Self {
        Self {
            slots: Mutex::new(slots),
        }
    }
}

/// A worker's own free slots, so that making and ending sessions seldom touches what workers
/// share. Dropping it gives the slots back.
///
/// A cache holds at most two magazines of 256 slots or of 1/256 of the table, whichever is less
/// (none at all below 256 sessions). So a table of 1 M sessions and 8 workers may be called full
/// with up to 3,584 slots free in the other workers' caches, 0.4 % of it.
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

    /// A free slot, from here or from the pool.
    pub(super) fn take(&mut self) -> Option<u32> {
        if self.slots.is_empty() {
            let mut shared = lock(&self.pool.slots);
            let keep = shared.len().saturating_sub(self.magazine.max(1));
            self.slots.extend(shared.drain(keep..));
        }
        self.slots.pop()
    }

    /// Takes a slot back. Of more than two magazines the older one goes to the pool.
    pub(super) fn give(&mut self, slot: u32) {
        self.slots.push(slot);
        if self.slots.len() > 2 * self.magazine {
            let surplus = self.slots.len() - self.magazine;
            lock(&self.pool.slots).extend(self.slots.drain(..surplus));
        }
    }

    /// Whether its slots are those of this pool.
    pub(super) fn is_of(&self, pool: &Arc<Pool>) -> bool {
        Arc::ptr_eq(&self.pool, pool)
    }
}

impl Drop for SlotCache {
    fn drop(&mut self) {
        lock(&self.pool.slots).append(&mut self.slots);
    }
}
