//! The counters that a module defines for itself, summed over its instances.
//!
//! Invariant: workers add to them between two batches, with atomics, and never wait. So a value may be
//! some milliseconds old.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::lock::lock;
use crate::policy::regions::{COUNTER_SIZE, Regions};

/// How often a service's counters are published, at most, in milliseconds.
const PUBLISH_MS: u64 = 10;

/// A service's counters by name.
type Cells = BTreeMap<String, Arc<AtomicU64>>;

/// The counters of one module, over all its builds and workers.
#[derive(Default)]
pub(crate) struct ModuleCounters {
    by_service: Mutex<HashMap<Arc<str>, Cells>>,
}

impl ModuleCounters {
    /// Returns every service's counters of these names.
    pub(crate) fn values(&self, names: &[String]) -> HashMap<Arc<str>, BTreeMap<String, u64>> {
        let values = |cells: &Cells| {
            let cells = cells.iter().filter(|(name, _)| names.contains(name));
            let value = |(name, cell): (&String, &Arc<AtomicU64>)| {
                (name.clone(), cell.load(Ordering::Relaxed))
            };
            cells.map(value).collect()
        };
        let by_service = lock(&self.by_service);
        by_service
            .iter()
            .map(|(service, cells)| (Arc::clone(service), values(cells)))
            .collect()
    }

    /// Returns a service's counters of these names. Counters that only another build has are kept: that
    /// build may serve beside this one, or again.
    fn cells(&self, service: &Arc<str>, names: &[String]) -> Box<[Arc<AtomicU64>]> {
        if names.is_empty() {
            return Box::default();
        }
        let mut by_service = lock(&self.by_service);
        let cells = by_service.entry(Arc::clone(service)).or_default();
        names
            .iter()
            .map(|name| Arc::clone(cells.entry(name.clone()).or_default()))
            .collect()
    }
}

/// Publishes one instance's counters of one service: adds what the guest counted to the sums.
pub(crate) struct CounterPublisher {
    cells: Box<[Arc<AtomicU64>]>,
    /// The guest's values when they were published last.
    values: Box<[u64]>,
    /// Whether the guest has run since.
    pub(crate) dirty: bool,
    published_ms: u64,
}

impl CounterPublisher {
    pub(crate) fn new(counters: &ModuleCounters, service: &Arc<str>, names: &[String]) -> Self {
        let cells = counters.cells(service, names);
        Self {
            values: vec![0; cells.len()].into(),
            cells,
            dirty: false,
            published_ms: 0,
        }
    }

    /// Publishes, at most every [`PUBLISH_MS`]. Returns whether it did.
    #[inline]
    pub(crate) fn publish_if_due(&mut self, memory: &[u8], regions: &Regions, now_ms: u64) -> bool {
        let due = self.dirty && now_ms >= self.published_ms.saturating_add(PUBLISH_MS);
        if due {
            self.published_ms = now_ms;
            self.publish(memory, regions);
        }
        due
    }

    /// Adds what the guest counted since the last time.
    pub(crate) fn publish(&mut self, memory: &[u8], regions: &Regions) {
        self.dirty = false;
        let Some(counters) = memory.get(regions.counters..) else {
            return;
        };
        let counters = counters.as_chunks::<COUNTER_SIZE>().0;
        for ((cell, last), bytes) in self.cells.iter().zip(&mut self.values).zip(counters) {
            let value = u64::from_le_bytes(*bytes);
            // A counter below its last value was reset by the module.
            let more = value.checked_sub(*last).unwrap_or(value);
            *last = value;
            cell.fetch_add(more, Ordering::Relaxed);
        }
    }
}
