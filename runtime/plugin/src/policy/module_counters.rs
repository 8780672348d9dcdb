//! The counters and gauges that a module defines for itself, summed over its instances.
//!
//! Invariant: workers add to them between two batches, with atomics, and never wait. So a value may be
//! some milliseconds old. An instance's gauges are in the sums as long as it lives.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use waxwing_sdk::abi::ModuleInfo;

use crate::lock::lock;
use crate::policy::regions::{COUNTER_SIZE, Regions};

/// How often a service's counters are published, at most, in milliseconds.
const PUBLISH_MS: u64 = 10;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Counter,
    Gauge,
}

/// A service's numbers by kind and name. One name may be a counter in one build, a gauge in the next.
type Cells = BTreeMap<(Kind, String), Arc<AtomicU64>>;

/// The counters and gauges of one module, over all its builds and workers.
#[derive(Default)]
pub(crate) struct ModuleCounters {
    by_service: Mutex<HashMap<Arc<str>, Cells>>,
}

/// The values of a module's own numbers for a service, by name.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ModuleValues {
    /// What all workers and builds have counted since the start.
    pub counters: BTreeMap<String, u64>,
    /// The sums over the workers' instances that serve.
    pub gauges: BTreeMap<String, u64>,
}

impl ModuleCounters {
    /// Returns every service's numbers that this build has.
    pub(crate) fn values(&self, info: &ModuleInfo) -> HashMap<Arc<str>, ModuleValues> {
        let by_service = lock(&self.by_service);
        let values = by_service.iter().map(|(service, cells)| {
            let value = |(kind, name): (Kind, &String)| {
                let cell = cells.get(&(kind, name.clone()))?;
                Some((name.clone(), cell.load(Ordering::Relaxed)))
            };
            let of =
                |kind, names: &[String]| names.iter().filter_map(|it| value((kind, it))).collect();
            let values = ModuleValues {
                counters: of(Kind::Counter, &info.counters),
                gauges: of(Kind::Gauge, &info.gauges),
            };
            (Arc::clone(service), values)
        });
        values.collect()
    }

    /// Returns a service's cells for a build. Those that only another build has are kept: that build may
    /// serve beside this one, or again.
    fn cells(&self, service: &Arc<str>, info: &ModuleInfo) -> Box<[Arc<AtomicU64>]> {
        let counters = info.counters.iter().map(|name| (Kind::Counter, name));
        let gauges = info.gauges.iter().map(|name| (Kind::Gauge, name));
        let mut keys = counters.chain(gauges).peekable();
        if keys.peek().is_none() {
            return Box::default();
        }
        let mut by_service = lock(&self.by_service);
        let cells = by_service.entry(Arc::clone(service)).or_default();
        let cell = |(kind, name): (Kind, &String)| {
            Arc::clone(cells.entry((kind, name.clone())).or_default())
        };
        keys.map(cell).collect()
    }
}

/// Publishes one instance's counters and gauges of one service: adds what changed to the sums.
pub(crate) struct CounterPublisher {
    /// Those of the counters, then those of the gauges.
    cells: Box<[Arc<AtomicU64>]>,
    counters: usize,
    /// The guest's values when they were published last.
    values: Box<[u64]>,
    /// Whether the guest has run since.
    pub(crate) dirty: bool,
    published_ms: u64,
}

impl CounterPublisher {
    pub(crate) fn new(counters: &ModuleCounters, service: &Arc<str>, info: &ModuleInfo) -> Self {
        let cells = counters.cells(service, info);
        Self {
            values: vec![0; cells.len()].into(),
            counters: info.counters.len(),
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

    /// Adds what changed in the guest since the last time.
    pub(crate) fn publish(&mut self, memory: &[u8], regions: &Regions) {
        self.dirty = false;
        let Some(values) = memory.get(regions.counters..) else {
            return;
        };
        let values = values.as_chunks::<COUNTER_SIZE>().0;
        let cells = self.cells.iter().zip(&mut self.values);
        for (at, ((cell, last), bytes)) in cells.zip(values).enumerate() {
            let value = u64::from_le_bytes(*bytes);
            let more = match value.checked_sub(*last) {
                Some(more) => more,
                // A counter below its last value was reset by the module; a gauge falls.
                None if at < self.counters => value,
                None => value.wrapping_sub(*last),
            };
            *last = value;
            cell.fetch_add(more, Ordering::Relaxed);
        }
    }
}

/// The instance's gauges end with it.
impl Drop for CounterPublisher {
    fn drop(&mut self) {
        let gauges = self.cells.iter().zip(&self.values).skip(self.counters);
        for (cell, last) in gauges {
            cell.fetch_sub(*last, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_add_up_and_gauges_are_those_of_living_instances() {
        let section = b"kind=policy\nabi=1.1\nname=x\ncounters=new\ngauges=clients\n";
        let info = ModuleInfo::parse(section).expect("a section");
        let (sums, service) = (ModuleCounters::default(), Arc::from("web"));
        let is = |new, clients| {
            let values = &sums.values(&info)[&service];
            assert_eq!(values.counters, BTreeMap::from([("new".to_owned(), new)]));
            assert_eq!(
                values.gauges,
                BTreeMap::from([("clients".to_owned(), clients)])
            );
        };
        let publish = |instance: &mut CounterPublisher, new: u64, clients: u64| {
            let memory = [new.to_le_bytes(), clients.to_le_bytes()].concat();
            instance.publish(&memory, &Regions::default());
        };
        let [mut one, mut other] = [(); 2].map(|()| CounterPublisher::new(&sums, &service, &info));
        publish(&mut one, 5, 3);
        publish(&mut other, 1, 1);
        is(6, 4);
        publish(&mut one, 6, 2);
        is(7, 3);
        // The guest of another instance, which begins anew.
        publish(&mut other, 2, 0);
        publish(&mut other, 1, 7);
        is(9, 9);
        drop(one);
        is(9, 7);
    }
}
