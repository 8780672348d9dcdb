//! What outlives the instances of a module: the counters of its services, and some recent flows.
//!
//! Invariant: workers write here between two batches or where nobody else holds the lock; they
//! never wait. So a count may be some milliseconds old, and a flow may be missing.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use waxwing_dataplane::{NewFlow, ServiceId};

use crate::library::lock;
use crate::regions::{COUNTER_SIZE, Regions};

/// The most recent flows that are kept of a module.
const FLOWS_MAX: usize = 1024;

/// How often a service's counters are published, at most, in milliseconds.
const PUBLISH_MS: u64 = 10;

/// A service's counters by name.
type Cells = BTreeMap<String, Arc<AtomicU64>>;

/// One module's, over all its builds and workers.
#[derive(Default)]
pub(crate) struct Records {
    /// By service, then by the counter's name.
    counters: Mutex<HashMap<Arc<str>, Cells>>,
    recent: Mutex<VecDeque<(ServiceId, NewFlow)>>,
    /// When flows were last kept; read by all workers, written once a millisecond.
    noted_ms: AtomicU64,
}

impl Records {
    /// Keeps some of the flows that were just decided: one batch a millisecond.
    #[inline]
    pub(crate) fn note(&self, service: ServiceId, flows: &[NewFlow], now_ms: u64) {
        if self.noted_ms.load(Ordering::Relaxed) == now_ms {
            return;
        }
        let Ok(mut recent) = self.recent.try_lock() else {
            return;
        };
        self.noted_ms.store(now_ms, Ordering::Relaxed);
        if recent.capacity() == 0 {
            return;
        }
        for flow in flows {
            if recent.len() == FLOWS_MAX {
                recent.pop_front();
            }
            recent.push_back((service, *flow));
        }
    }

    /// Makes the room that [`Records::note`] fills.
    pub(crate) fn make_room(&self) {
        let mut recent = lock(&self.recent);
        if recent.capacity() == 0 {
            recent.reserve_exact(FLOWS_MAX);
        }
    }

    /// The flows of a service that were kept, the oldest first.
    pub(crate) fn recent(&self, service: ServiceId) -> Vec<NewFlow> {
        let recent = lock(&self.recent);
        let of_service = recent.iter().filter(|(of, _)| *of == service);
        of_service.map(|(_, flow)| *flow).collect()
    }

    /// Every service's counters of these names.
    pub(crate) fn counters(&self, names: &[String]) -> HashMap<Arc<str>, BTreeMap<String, u64>> {
        let values = |cells: &Cells| {
            let cells = cells.iter().filter(|(name, _)| names.contains(name));
            let value = |(name, cell): (&String, &Arc<AtomicU64>)| {
                (name.clone(), cell.load(Ordering::Relaxed))
            };
            cells.map(value).collect()
        };
        let counters = lock(&self.counters);
        counters
            .iter()
            .map(|(service, cells)| (Arc::clone(service), values(cells)))
            .collect()
    }

    /// A service's counters of these names. Another build's stay: it may serve beside this one, or
    /// again.
    fn cells(&self, service: &Arc<str>, names: &[String]) -> Box<[Arc<AtomicU64>]> {
        if names.is_empty() {
            return Box::default();
        }
        let mut counters = lock(&self.counters);
        let cells = counters.entry(Arc::clone(service)).or_default();
        names
            .iter()
            .map(|name| Arc::clone(cells.entry(name.clone()).or_default()))
            .collect()
    }
}

/// One instance's counters of one service, on their way to where they are added up.
pub(crate) struct Published {
    cells: Box<[Arc<AtomicU64>]>,
    /// The guest's values when they were last added.
    values: Box<[u64]>,
    /// Whether the guest has run since.
    pub(crate) dirty: bool,
    published_ms: u64,
}

impl Published {
    pub(crate) fn new(records: &Records, service: &Arc<str>, names: &[String]) -> Self {
        let cells = records.cells(service, names);
        Self {
            values: vec![0; cells.len()].into(),
            cells,
            dirty: false,
            published_ms: 0,
        }
    }

    /// Adds what was counted since the last time, if that is a while ago.
    #[inline]
    pub(crate) fn publish_if_due(&mut self, memory: &[u8], regions: &Regions, now_ms: u64) {
        if self.dirty && now_ms >= self.published_ms.saturating_add(PUBLISH_MS) {
            self.published_ms = now_ms;
            self.publish(memory, regions);
        }
    }

    /// Adds what was counted since the last time.
    pub(crate) fn publish(&mut self, memory: &[u8], regions: &Regions) {
        self.dirty = false;
        let Some(counters) = memory.get(regions.counters..) else {
            return;
        };
        let counters = counters.as_chunks::<COUNTER_SIZE>().0;
        for ((cell, last), bytes) in self.cells.iter().zip(&mut self.values).zip(counters) {
            let value = u64::from_le_bytes(*bytes);
            // A counter that was set back starts again.
            let more = value.checked_sub(*last).unwrap_or(value);
            *last = value;
            cell.fetch_add(more, Ordering::Relaxed);
        }
    }
}
