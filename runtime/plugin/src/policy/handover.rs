//! A module that keeps what it remembers: the instance that serves goes on in the place of a new one.
//!
//! Invariant: it goes on only where it serves all that the new one is to serve, by the same build and
//! configs; else, and where it fails, the new one serves, which was set up for all of it. Either way
//! the two parts are whole: a guest and the regions in it change hands together.

use std::mem;
use std::sync::atomic::Ordering;

use waxwing_sdk::abi::BackendRecord;

use crate::engine::Budget;
use crate::instance::{Hosted, WasmPolicy, write_host};

/// The most services of an instance that goes on: each is told between the same two batches.
const SERVICES_MAX: usize = 32;

impl WasmPolicy {
    /// Goes on with an old instance's guest, if that can serve what this one is to serve.
    pub(crate) fn take_over(&mut self, old: &mut Self) {
        let same = self.module.hash == old.module.hash && self.module.name == old.module.name;
        if !same || old.disabled || self.disabled || self.hosted.len() > SERVICES_MAX {
            return;
        }
        let places: Option<Vec<usize>> = self.hosted.iter().map(|new| old.heir_of(new)).collect();
        let Some(places) = places else {
            return;
        };
        for (new, at) in self.hosted.iter().zip(&places) {
            if old.tell(*at, new, self.guest.memory()).is_none() {
                // It stays as it is, half told, and is dropped so.
                self.module.counters.faults.fetch_add(1, Ordering::Relaxed);
                return;
            }
        }
        // What the old one counted so far is added up, and what it still counts is this one's.
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
        // The other services' regions lie in the guest that is not its own any more.
        old.hosted = Box::default();
        old.disabled = true;
    }

    /// Where this instance serves the same service with room for its backends.
    fn heir_of(&self, new: &Hosted) -> Option<usize> {
        let at = self.place(new.service)?;
        let old = &self.hosted[at];
        let fits = new.available.len() <= old.regions.backends_capacity;
        (fits && old.config_json == new.config_json).then_some(at)
    }

    /// Writes a service's backends, as the new instance has them, and tells the module.
    fn tell(&mut self, at: usize, new: &Hosted, records: &[u8]) -> Option<()> {
        let bytes = new.available.len() * BackendRecord::SIZE;
        let from = records.get(new.regions.backends..new.regions.backends + bytes)?;
        let regions = self.hosted[at].regions;
        let memory = self.guest.memory();
        memory
            .get_mut(regions.backends..regions.backends + bytes)?
            .copy_from_slice(from);
        write_host(memory, &regions, new, self.upkeep_ms);
        let changed = self.functions.backends_changed.as_ref()?;
        let taken = self.guest.call(changed, regions.header, Budget::BATCH);
        (taken.ok()? != 0).then_some(())
    }
}
