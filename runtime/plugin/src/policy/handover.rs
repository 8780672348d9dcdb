//! Hands the state of a serving instance over to its replacement, for modules that ask for it (`keep`).
//!
//! Invariant: state is handed over only if the old instance serves all services of the new one, with the
//! same build and configs. Otherwise, or if the handover fails, the new instance serves with fresh
//! state. A guest and the regions in it always change owners together.

use std::mem;
use std::sync::atomic::Ordering;

use waxwing_sdk::abi::{BackendRecord, LiveRecord};

use crate::build::engine::CallBudget;
use crate::policy::instance::{HostedService, WasmPolicy};
use crate::policy::records::write_host;

/// The most services of an instance whose state is handed over: the module is called once for each,
/// between the same two batches.
const SERVICES_MAX: usize = 32;

impl WasmPolicy {
    /// Takes the guest of an old instance, if that can serve all services of this one.
    pub(crate) fn take_over(&mut self, old: &mut Self) {
        let same = self.module.hash == old.module.hash && self.module.name == old.module.name;
        if !same || old.disabled || self.disabled || self.hosted.len() > SERVICES_MAX {
            return;
        }
        let places: Option<Vec<usize>> = self.hosted.iter().map(|new| old.place_for(new)).collect();
        let Some(places) = places else {
            return;
        };
        for (new, at) in self.hosted.iter().zip(&places) {
            if old.update_backends(*at, new, self.guest.memory()).is_none() {
                // The old instance is left partly updated; its owner drops it.
                self.module.counters.faults.fetch_add(1, Ordering::Relaxed);
                return;
            }
        }
        // Publish the old instance's counts here: from now on this instance publishes them.
        for hosted in &mut old.hosted {
            hosted.counters.publish(old.guest.memory(), &hosted.regions);
        }
        mem::swap(&mut self.guest, &mut old.guest);
        mem::swap(&mut self.functions, &mut old.functions);
        for (new, at) in self.hosted.iter_mut().zip(places) {
            let old = &mut old.hosted[at];
            mem::swap(&mut new.regions, &mut old.regions);
            mem::swap(&mut new.counters, &mut old.counters);
            new.ticked_ms = old.ticked_ms;
        }
        // The regions of the old instance's other services lie in the guest that it has given away.
        old.hosted = Box::default();
        old.disabled = true;
    }

    /// Returns the place at which this instance serves the same service with room for its backends.
    fn place_for(&self, new: &HostedService) -> Option<usize> {
        let at = self.place(new.service)?;
        let old = &self.hosted[at];
        let fits = new.available.len() <= old.regions.backends_capacity;
        (fits && old.config_json == new.config_json).then_some(at)
    }

    /// Copies a service's backend records from the new instance's memory and calls the module's
    /// `backends_changed`. Returns `None` if that fails.
    fn update_backends(&mut self, at: usize, new: &HostedService, memory: &[u8]) -> Option<()> {
        let bytes = new.available.len() * BackendRecord::SIZE;
        let records = memory.get(new.regions.backends..new.regions.backends + bytes)?;
        let regions = self.hosted[at].regions;
        let memory = self.guest.memory();
        memory
            .get_mut(regions.backends..regions.backends + bytes)?
            .copy_from_slice(records);
        // These were other backends' numbers, perhaps. They are written before the next pick or tick.
        let live = regions.live.and_then(|live| memory.get_mut(live..));
        let live = live.unwrap_or_default().iter_mut();
        live.take(new.available.len() * LiveRecord::SIZE)
            .for_each(|byte| *byte = 0);
        write_host(memory, &regions, new, self.upkeep_ms);
        let changed = self.functions.backends_changed.as_ref()?;
        let accepted = self
            .guest
            .call(changed, regions.header, CallBudget::BATCH)
            .ok()?;
        (accepted != 0).then_some(())
    }
}
