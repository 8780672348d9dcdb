//! Runs one policy for one service, batch by batch.
//!
//! Invariant: records and picks pass through the code that they pass through in a module.

use alloc::vec::Vec;

use super::TestFlow;
use crate::abi::{
    BATCH_MAX, BackendRecord, ClosedRecord, END_CLOSED, FlowRecord, HostFields, PICK_DROP,
    PICK_FALLBACK, PICK_KEEP,
};
use crate::service::{Batch, Service};
use crate::{ConfigError, Pick, Policy};

/// A policy that serves one service, as on one worker.
pub struct Driver<P: Policy> {
    service: Service<P>,
    batch: Batch,
}

impl<P: Policy> Driver<P> {
    /// Makes the policy as the host does: reads the config and writes the backends.
    ///
    /// # Errors
    /// Returns the error of the policy, or of reading its config.
    pub fn start(config: &str, backends: &[BackendRecord], seed: u64) -> Result<Self, ConfigError> {
        let batch = Batch::new::<P>();
        let mut service = Service::new(config.as_bytes(), crate::abi::BACKENDS_MAX, &batch)?;
        service.header.host.seed = seed;
        let mut driver = Self { service, batch };
        driver.set_backends(backends)?;
        Ok(driver)
    }

    /// Writes new backend records and calls [`Policy::backends_changed`]. (The host does so with
    /// [`Policy::KEEP_STATE`]; otherwise it makes a new policy.)
    ///
    /// # Errors
    /// Returns the policy's error.
    ///
    /// # Panics
    /// Panics if there are more than [`crate::abi::BACKENDS_MAX`].
    pub fn set_backends(&mut self, backends: &[BackendRecord]) -> Result<(), ConfigError> {
        self.service.backends[..backends.len()].copy_from_slice(backends);
        let host = &mut self.service.header.host;
        host.generation += 1;
        host.backends_count = u32::try_from(backends.len()).unwrap_or(u32::MAX);
        self.service.backends_changed()
    }

    /// Returns the backend records, to read them or to set what the host measures.
    pub fn backends_mut(&mut self) -> &mut [BackendRecord] {
        let count = self.host_mut().backends_count as usize;
        &mut self.service.backends[..count]
    }

    /// Returns the header's host fields: the time and the seed.
    pub const fn host_mut(&mut self) -> &mut HostFields {
        &mut self.service.header.host
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

    /// Ends a session that lived this long and that both ends closed: lowers the backend's session
    /// count, and notifies a policy with [`Policy::WANTS_CLOSED`].
    pub fn close(&mut self, backend: usize, duration_ms: u64) {
        self.end(ClosedRecord {
            duration_ms,
            backend: u32::try_from(backend).unwrap_or(u32::MAX),
            end: END_CLOSED,
            ..ClosedRecord::default()
        });
    }

    /// Ends a session in the way that the record states; otherwise like [`Driver::close`].
    ///
    /// # Panics
    /// Panics if there is no such backend, or the policy panics.
    pub fn end(&mut self, closed: ClosedRecord) {
        let record = &mut self.service.backends[closed.backend as usize];
        record.active = record.active.saturating_sub(1);
        record.active_here = record.active_here.saturating_sub(1);
        if let Some(first) = self.batch.closed.first_mut() {
            *first = closed;
            self.service.closed(&self.batch, 1);
        }
    }

    /// Returns the policy's counters, in the order of [`Policy::COUNTERS`].
    #[must_use]
    pub const fn counters(&self) -> &[u64] {
        &self.service.counters
    }

    /// Advances the time and calls the policy's tick.
    pub fn tick(&mut self, elapsed_ms: u64) {
        self.host_mut().now_ms += elapsed_ms;
        self.service.tick();
    }
}

fn read_pick(pick: u32) -> Pick {
    match pick {
        PICK_DROP => Pick::Drop,
        PICK_FALLBACK => Pick::Fallback,
        index if index & PICK_KEEP != 0 => Pick::Keep((index & !PICK_KEEP) as usize),
        index => Pick::Backend(index as usize),
    }
}
