//! Tells a serving instance of changed backends, so that its state goes on, for modules that ask for it
//! (`keep`). The new instance, which was made beforehand, serves if that is not possible.
//!
//! Invariant: an instance goes on only if it serves all services of the new one, with the same build and
//! configs. A guest and the regions in it always change owners together.

use std::mem;

use waxwing_dataplane::policy::{PickContext, TickContext};
use waxwing_sdk::abi::BackendRecord;

use crate::build::engine::CallBudget;
use crate::policy::guest::CallFailure;
use crate::policy::hosted::HostedService;
use crate::policy::instance::WasmPolicy;
use crate::policy::records::{write_host, write_live};

/// The most services whose backends change at once in an instance that goes on: the module is called once
/// for each, between the same two batches.
const CHANGED_MAX: usize = 32;

/// Why an instance does not go on.
enum Ended {
    /// The module asks for the new instance.
    Refused,
    Failed(CallFailure),
}

impl WasmPolicy {
    /// Takes the guest of an old instance, if that can serve all services of this one.
    pub(crate) fn take_over(&mut self, old: &mut Self, context: TickContext<'_>) {
        let same = self.module.hash == old.module.hash && self.module.name == old.module.name;
        if !same || old.disabled || self.disabled {
            return;
        }
        let places: Option<Vec<usize>> = self.hosted.iter().map(|new| old.place_for(new)).collect();
        let Some(places) = places else {
            return;
        };
        let both = || self.hosted.iter().zip(&places);
        let changed = both().filter(|(new, at)| new.backends != old.hosted[**at].backends);
        let changed: Vec<(&HostedService, usize)> = changed.map(|(new, at)| (new, *at)).collect();
        if changed.len() > CHANGED_MAX {
            return;
        }
        for (new, at) in changed {
            match old.tell(at, new, self.guest.memory(), context) {
                Ok(()) => {}
                // The old instance is left partly updated; its owner drops it.
                Err(Ended::Refused) => return,
                Err(Ended::Failed(failure)) => return old.report(at, failure, true),
            }
        }
        // Publish the old instance's counts here: from now on this instance publishes them.
        old.publish_counters();
        mem::swap(&mut self.guest, &mut old.guest);
        mem::swap(&mut self.functions, &mut old.functions);
        for (new, at) in self.hosted.iter_mut().zip(places) {
            let old = &mut old.hosted[at];
            mem::swap(&mut new.regions, &mut old.regions);
            mem::swap(&mut new.counters, &mut old.counters);
            mem::swap(&mut new.shared, &mut old.shared);
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
        let fits = new.backends.len() <= old.regions.backends_capacity;
        (fits && old.config_json == new.config_json).then_some(at)
    }

    /// Writes a service's backend records, which the new instance's memory has, and calls the module's
    /// `backends_changed` if it has one.
    fn tell(
        &mut self,
        at: usize,
        new: &HostedService,
        memory: &[u8],
        context: TickContext<'_>,
    ) -> Result<(), Ended> {
        let regions = self.hosted[at].regions;
        let bytes = new.backends.len() * BackendRecord::SIZE;
        let records = memory.get(new.regions.backends..new.regions.backends + bytes);
        let memory = self.guest.memory();
        let place = memory.get_mut(regions.backends..regions.backends + bytes);
        // Both lie within memory, which never shrinks.
        let (Some(records), Some(place)) = (records, place) else {
            return Err(Ended::Refused);
        };
        place.copy_from_slice(records);
        write_host(memory, &regions, new, context.now.millis());
        if let Some(service) = context.snapshot.service(new.service) {
            let context = PickContext {
                now: context.now,
                backends: &service.backends,
                gauges: context.gauges,
            };
            write_live(memory, &regions, new, self.worker as usize, context);
        }
        let Some(changed) = self.functions.backends_changed.as_ref() else {
            return Ok(());
        };
        let goes_on = self.guest.call(changed, regions.header, CallBudget::BATCH);
        match goes_on.map_err(Ended::Failed)? {
            0 => Err(Ended::Refused),
            _ => Ok(()),
        }
    }
}
