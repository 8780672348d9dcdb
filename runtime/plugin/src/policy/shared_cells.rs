//! The cells that a module's instances on all workers add to and read.
//!
//! Invariant: a worker adds what its instance added, once, and writes the totals back, between two batches
//! and with atomics: no call of a guest waits for it. The cells live as long as an instance that has them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use crate::build::module::ModuleHash;
use crate::lock::lock;
use crate::policy::regions::{COUNTER_SIZE, Regions};

/// How often a service's cells are added up, at most, in milliseconds.
const PERIOD_MS: u64 = 10;
/// The cells that are added up between two batches; other services follow after the next batch.
pub(crate) const CELLS_PER_TURN: usize = 16_384;

/// Cells have one meaning for one build of a module and one config of a service.
type Key = (Arc<str>, ModuleHash, Arc<str>);

/// The cells of one module, over all its builds and services.
#[derive(Default)]
pub(crate) struct ModuleCells {
    sets: Mutex<HashMap<Key, Weak<[AtomicU64]>>>,
}

impl ModuleCells {
    /// Returns the cells of a service under this build and config: those of other instances, else new ones.
    pub(crate) fn of(
        &self,
        (service, hash, config): (&Arc<str>, ModuleHash, &Arc<str>),
        count: usize,
    ) -> SharedCells {
        let mut shared = SharedCells::default();
        if count == 0 {
            return shared;
        }
        let mut sets = lock(&self.sets);
        sets.retain(|_, cells| cells.strong_count() > 0);
        let key = (Arc::clone(service), hash, Arc::clone(config));
        let cells = sets.get(&key).and_then(Weak::upgrade);
        shared.cells = cells.unwrap_or_else(|| {
            let cells: Arc<[AtomicU64]> = (0..count).map(|_| AtomicU64::new(0)).collect();
            sets.insert(key, Arc::downgrade(&cells));
            cells
        });
        shared.due_ms = 0;
        shared
    }
}

/// One instance's view of a service's cells.
pub(crate) struct SharedCells {
    cells: Arc<[AtomicU64]>,
    /// When they are added up next; never if there are none.
    due_ms: u64,
}

impl Default for SharedCells {
    fn default() -> Self {
        Self {
            cells: Arc::new([]),
            due_ms: u64::MAX,
        }
    }
}

impl SharedCells {
    /// Adds up, at most every [`PERIOD_MS`]. Returns how many cells it went over.
    #[inline]
    pub(crate) fn add_up_if_due(
        &mut self,
        memory: &mut [u8],
        regions: &Regions,
        now_ms: u64,
    ) -> usize {
        if now_ms < self.due_ms {
            return 0;
        }
        self.due_ms = now_ms + PERIOD_MS;
        self.add_up(memory, regions);
        self.cells.len()
    }

    /// Takes the guest's additions, and writes the totals.
    pub(crate) fn add_up(&self, memory: &mut [u8], regions: &Regions) {
        let bytes = self.cells.len() * COUNTER_SIZE;
        let region = memory.get_mut(regions.shared..regions.shared + 2 * bytes);
        let (totals, added) = region.unwrap_or_default().split_at_mut(bytes);
        let totals = totals.as_chunks_mut::<COUNTER_SIZE>().0;
        let added = added.as_chunks_mut::<COUNTER_SIZE>().0;
        for ((cell, total), added) in self.cells.iter().zip(totals).zip(added) {
            let sum = match u64::from_le_bytes(*added) {
                0 => cell.load(Ordering::Relaxed),
                more => {
                    *added = [0; COUNTER_SIZE];
                    cell.fetch_add(more, Ordering::Relaxed).wrapping_add(more)
                }
            };
            *total = sum.to_le_bytes();
        }
    }
}
