//! Runs one policy for one service, batch by batch.
//!
//! Invariant: records and picks pass through the code that they pass through in a module.

use alloc::string::String;
use alloc::vec::Vec;
use core::cell::Cell;

use super::TestFlow;
use crate::abi::{
    BATCH_MAX, BackendRecord, ClosedRecord, END_CLOSED, END_REFUSED, END_RESET, END_UNANSWERED,
    FlowRecord, HostFields, LiveRecord, PICK_DROP, PICK_FALLBACK, PICK_KEEP,
};
use crate::service::{Batch, Service};
use crate::{ConfigError, Pick, Policy};

/// A policy that serves one service, as on one worker.
///
/// It counts sessions as the host does: a picked one is half-open, until [`Driver::open`]; an ended one
/// is closing, until [`Driver::forget`].
pub struct Driver<P: Policy> {
    config: String,
    service: Service<P>,
    batch: Batch,
}

impl<P: Policy> Driver<P> {
    /// Makes the policy as the host does: reads the config and writes the backends.
    ///
    /// # Errors
    /// Returns the error of the policy, or of reading its config.
    pub fn start(config: &str, backends: &[BackendRecord], seed: u64) -> Result<Self, ConfigError> {
        Self::start_on((0, 1), config, backends, seed)
    }

    /// As [`Driver::start`], on one worker of some: its number, and the number of workers. [`share`] passes
    /// on what they add to shared cells.
    ///
    /// # Errors
    /// As [`Driver::start`].
    pub fn start_on(
        (worker, workers): (u16, u16),
        config: &str,
        backends: &[BackendRecord],
        seed: u64,
    ) -> Result<Self, ConfigError> {
        let mut driver = Self::configured((worker, workers), config, backends, seed)?;
        driver.service.backends_changed()?;
        Ok(driver)
    }

    /// Starts with what an earlier policy saved, as after a new build, another config or a restart.
    ///
    /// # Errors
    /// Returns the error of [`Policy::restore`], or of reading the config.
    pub fn restore(
        config: &str,
        backends: &[BackendRecord],
        seed: u64,
        saved: &[u8],
    ) -> Result<Self, ConfigError> {
        let mut driver = Self::configured((0, 1), config, backends, seed)?;
        driver.service.restore(saved)?;
        Ok(driver)
    }

    /// Returns what the policy saves.
    #[must_use]
    pub fn save(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.service.save(&mut out);
        out
    }

    fn configured(
        (worker, workers): (u16, u16),
        config: &str,
        backends: &[BackendRecord],
        seed: u64,
    ) -> Result<Self, ConfigError> {
        let batch = Batch::new::<P>();
        let mut service = Service::new(config.as_bytes(), crate::abi::BACKENDS_MAX, &batch)?;
        let host = &mut service.context.header.host;
        (host.seed, host.worker, host.workers) = (seed, worker, workers);
        let config = config.into();
        let mut driver = Self {
            config,
            service,
            batch,
        };
        driver.write_backends(backends);
        Ok(driver)
    }

    /// Changes the backends, as the host does: writes the records and calls
    /// [`Policy::backends_changed`]. If that fails, a new policy replaces this one; its counters start
    /// at 0. A backend that stays, by its id, keeps its sessions.
    ///
    /// # Errors
    /// Returns the error of [`Policy::new`]. This policy serves on, with the backends of before.
    ///
    /// # Panics
    /// Panics if there are more than [`crate::abi::BACKENDS_MAX`].
    pub fn set_backends(&mut self, backends: &[BackendRecord]) -> Result<(), ConfigError> {
        // As the host does, before it asks the serving policy.
        let host = *self.host_mut();
        let place = (host.worker, host.workers);
        let mut new = Self::start_on(place, &self.config, backends, host.seed)?;
        self.write_backends(backends);
        if self.service.backends_changed().is_err() {
            new.service.context.header.host = self.service.context.header.host;
            new.service.backends.clone_from(&self.service.backends);
            new.service.live.clone_from(&self.service.live);
            new.service
                .context
                .shared
                .clone_from(&self.service.context.shared);
            *self = new;
        }
        Ok(())
    }

    fn write_backends(&mut self, backends: &[BackendRecord]) {
        let live = self.live_mut().to_vec();
        let before: Vec<_> = self.backends_mut().iter().copied().zip(live).collect();
        self.service.backends[..backends.len()].copy_from_slice(backends);
        let Service {
            backends: records,
            live,
            ..
        } = &mut self.service;
        for (record, live) in records.iter_mut().zip(live).take(backends.len()) {
            let same = before.iter().find(|(before, _)| before.id == record.id);
            *live = same.map_or_else(LiveRecord::default, |(_, live)| *live);
            if let Some((before, _)) = same {
                record.active = before.active;
                record.active_here = before.active_here;
            }
        }
        let host = &mut self.service.context.header.host;
        host.generation += 1;
        host.backends_count = u32::try_from(backends.len()).unwrap_or(u32::MAX);
    }

    /// Returns the backend records, to read them or to set what the host measures.
    pub fn backends_mut(&mut self) -> &mut [BackendRecord] {
        let count = self.host_mut().backends_count as usize;
        &mut self.service.backends[..count]
    }

    /// Returns the live records, at the indices of the backend records.
    pub fn live_mut(&mut self) -> &mut [LiveRecord] {
        let count = self.host_mut().backends_count as usize;
        &mut self.service.live[..count]
    }

    /// Returns each backend's active and half-open sessions.
    #[must_use]
    pub fn loads(&self) -> Vec<u32> {
        let count = self.service.context.header.host.backends_count as usize;
        let Service { backends, live, .. } = &self.service;
        let records = backends.iter().zip(live).take(count);
        records
            .map(|(backend, live)| backend.active + live.half_open)
            .collect()
    }

    /// Returns the header's host fields: the time and the seed.
    pub const fn host_mut(&mut self) -> &mut HostFields {
        &mut self.service.context.header.host
    }

    /// Picks for one batch of flows.
    ///
    /// # Panics
    /// Panics if there are more flows than [`BATCH_MAX`], or the policy panics.
    pub fn pick(&mut self, flows: &[TestFlow]) -> Vec<Pick> {
        let mut picks = Vec::new();
        self.pick_into(flows, &mut picks);
        picks
    }

    /// Picks into a list that the caller reuses, for benches.
    ///
    /// # Panics
    /// As [`Driver::pick`].
    pub fn pick_into(&mut self, flows: &[TestFlow], picks: &mut Vec<Pick>) {
        for (at, flow) in flows.iter().enumerate() {
            let prefix = &flow.payload[..flow.payload.len().min(P::PAYLOAD_BYTES)];
            self.batch.payload[at * P::PAYLOAD_BYTES..][..prefix.len()].copy_from_slice(prefix);
            let payload_len = u32::try_from(prefix.len()).unwrap_or(u32::MAX);
            self.batch.flows[at] = FlowRecord {
                payload_len,
                ..flow.record
            };
        }
        let n = self.service.pick(&mut self.batch, flows.len());
        picks.clear();
        picks.extend(self.batch.picks[..n].iter().map(|pick| read_pick(*pick)));
        for pick in picks {
            if let Pick::Backend(at) | Pick::Keep(at) = pick {
                self.service.live[*at].sessions += 1;
            }
        }
    }

    /// Picks for any number of flows, in full batches.
    ///
    /// # Panics
    /// Panics if the policy panics.
    pub fn pick_all(&mut self, flows: impl IntoIterator<Item = TestFlow>) -> Vec<Pick> {
        let flows: Vec<_> = flows.into_iter().collect();
        flows
            .chunks(BATCH_MAX)
            .flat_map(|batch| self.pick(batch))
            .collect()
    }

    /// Completes the handshake of a half-open session.
    ///
    /// # Panics
    /// Panics if the backend has none.
    pub fn open(&mut self, backend: usize) {
        let live = &mut self.service.live[backend];
        take(&mut live.half_open, &mut live.half_open_here);
        let record = &mut self.service.backends[backend];
        record.active += 1;
        record.active_here += 1;
    }

    /// Ends a session that lived this long and that both ends closed, and notifies a policy with
    /// [`Policy::WANTS_CLOSED`].
    ///
    /// # Panics
    /// As [`Driver::end`].
    pub fn close(&mut self, backend: usize, duration_ms: u64) {
        self.end(ClosedRecord {
            duration_ms,
            backend: u32::try_from(backend).unwrap_or(u32::MAX),
            end: END_CLOSED,
            ..ClosedRecord::default()
        });
    }

    /// Ends a session in the way that the record states, an open one if there is one and its end is
    /// none of a half-open one. Notifies a policy with [`Policy::WANTS_CLOSED`].
    ///
    /// # Panics
    /// Panics if the backend has no session, or the policy panics.
    pub fn end(&mut self, closed: ClosedRecord) {
        let record = &mut self.service.backends[closed.backend as usize];
        let live = &mut self.service.live[closed.backend as usize];
        let has_failed = matches!(closed.end, END_REFUSED | END_UNANSWERED);
        if record.active > 0 && !has_failed {
            take(&mut record.active, &mut record.active_here);
        } else {
            take(&mut live.half_open, &mut live.half_open_here);
        }
        if matches!(closed.end, END_CLOSED | END_RESET | END_REFUSED) {
            live.closing += 1;
            live.closing_here += 1;
        }
        live.failures += u64::from(has_failed);
        live.refusals += u64::from(closed.end == END_REFUSED);
        if let Some(first) = self.batch.closed.first_mut() {
            *first = closed;
            self.service.closed(&self.batch, 1);
        }
    }

    /// Removes a closing session.
    ///
    /// # Panics
    /// Panics if the backend has none.
    pub fn forget(&mut self, backend: usize) {
        let live = &mut self.service.live[backend];
        take(&mut live.closing, &mut live.closing_here);
    }

    /// Returns the policy's counters, then its gauges, in the order of [`Policy::COUNTERS`] and
    /// [`Policy::GAUGES`].
    #[must_use]
    pub const fn counters(&self) -> &[u64] {
        &self.service.counters
    }

    /// Adds what the policy added to its shared cells to the totals, and shows it the totals.
    pub(crate) fn share_with(&mut self, totals: &mut [u64]) {
        let (known, added) = self.service.context.shared.split_at(P::SHARED);
        for ((total, known), added) in totals.iter_mut().zip(known).zip(added) {
            *total = total.wrapping_add(added.take());
            known.set(*total);
        }
    }

    /// Advances the time and calls the policy's tick.
    pub fn tick(&mut self, elapsed_ms: u64) {
        self.host_mut().now_ms += elapsed_ms;
        self.service.tick();
    }
}

/// Passes on what the workers' policies added to their shared cells, as the host does every 10 milliseconds.
pub fn share<P: Policy>(workers: &mut [Driver<P>]) {
    let Some(first) = workers.first() else {
        return;
    };
    let known = &first.service.context.shared[..P::SHARED];
    let mut totals: Vec<u64> = known.iter().map(Cell::get).collect();
    // All are added up first, and then told.
    for _ in 0..2 {
        workers
            .iter_mut()
            .for_each(|worker| worker.share_with(&mut totals));
    }
}

fn take(all: &mut u32, here: &mut u32) {
    assert!(*all > 0, "the backend has no such session");
    *all -= 1;
    *here = here.saturating_sub(1);
}

fn read_pick(pick: u32) -> Pick {
    match pick {
        PICK_DROP => Pick::Drop,
        PICK_FALLBACK => Pick::Fallback,
        index if index & PICK_KEEP != 0 => Pick::Keep((index & !PICK_KEEP) as usize),
        index => Pick::Backend(index as usize),
    }
}
