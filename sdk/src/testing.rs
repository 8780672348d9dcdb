//! Runs a policy natively, through the records and the code that it runs through as a module.
//!
//! Invariant: nothing here is random but by a seed that the test passes, so a failure repeats.
//! (See the [crate's example](crate).)

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr};

use crate::abi::{
    BACKEND_DRAINING, BACKEND_HEALTHY, BATCH_MAX, BackendRecord, ClosedRecord, END_CLOSED,
    FlowRecord, HostFields, PICK_DROP, PICK_FALLBACK, PROTOCOL_TCP,
};
use crate::service::{Batch, Service};
use crate::{Pick, Policy, hash};

/// A flow to ask a policy about.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TestFlow {
    /// The flow; `payload_len` is set from the payload.
    pub record: FlowRecord,
    /// The start of its payload.
    pub payload: Vec<u8>,
}

/// TCP flows from random clients and ports to one VIP, without payload; the same for the same
/// seed, without end.
pub fn flows(seed: u64) -> impl Iterator<Item = TestFlow> {
    (0_u64..).map(move |n| {
        let random = hash::mix(seed ^ hash::mix(n)).to_le_bytes();
        let [a, b, c, port_low, port_high, ..] = random;
        TestFlow {
            record: FlowRecord {
                source: mapped(Ipv4Addr::new(10, a, b, c)),
                destination: mapped(Ipv4Addr::new(203, 0, 113, 10)),
                hash: hash::bytes(&random),
                source_port: u16::from_le_bytes([port_low, port_high]) | 1024,
                destination_port: 80,
                protocol: PROTOCOL_TCP,
                family: 4,
                ..FlowRecord::default()
            },
            payload: Vec::new(),
        }
    })
}

impl TestFlow {
    /// The same flow from another address.
    #[must_use]
    pub fn from_address(mut self, address: IpAddr) -> Self {
        (self.record.source, self.record.family) = match address {
            IpAddr::V4(v4) => (mapped(v4), 4),
            IpAddr::V6(v6) => (v6.octets(), 6),
        };
        self
    }

    /// The same flow with a payload.
    #[must_use]
    pub fn with_payload(mut self, payload: &[u8]) -> Self {
        self.payload = payload.into();
        self
    }
}

fn mapped(address: Ipv4Addr) -> [u8; 16] {
    address.to_ipv6_mapped().octets()
}

/// A healthy backend with this id and weight; weight 0 drains.
#[must_use]
pub fn backend(id: u32, weight: u32) -> BackendRecord {
    let draining = if weight == 0 { BACKEND_DRAINING } else { 0 };
    BackendRecord {
        key: hash::mix(u64::from(id)),
        id,
        flags: BACKEND_HEALTHY | draining,
        weight,
        health_weight: 100,
        ..BackendRecord::default()
    }
}

/// Healthy backends with these weights, ids from 0 on.
#[must_use]
pub fn backends(weights: &[u32]) -> Vec<BackendRecord> {
    (0..)
        .zip(weights)
        .map(|(id, weight)| backend(id, *weight))
        .collect()
}

/// A policy at work for one service, as one worker has it.
pub struct Driver<P: Policy> {
    service: Service<P>,
    batch: Batch,
}

impl<P: Policy> Driver<P> {
    /// Makes the policy as the host does: reads the config, writes the backends.
    ///
    /// # Errors
    /// What the policy, or the reading of its config, says to the operator.
    pub fn start(config: &str, backends: &[BackendRecord], seed: u64) -> Result<Self, String> {
        let batch = Batch::new::<P>();
        let mut service = Service::new(config.as_bytes(), crate::abi::BACKENDS_MAX, &batch)?;
        service.header.host.seed = seed;
        let mut driver = Self { service, batch };
        driver.set_backends(backends)?;
        Ok(driver)
    }

    /// Writes the backends anew and tells the policy.
    ///
    /// # Errors
    /// What the policy says to the operator.
    ///
    /// # Panics
    /// If there are more than [`crate::abi::BACKENDS_MAX`].
    pub fn set_backends(&mut self, backends: &[BackendRecord]) -> Result<(), String> {
        self.service.backends[..backends.len()].copy_from_slice(backends);
        let host = &mut self.service.header.host;
        host.generation += 1;
        host.backends_count = u32::try_from(backends.len()).unwrap_or(u32::MAX);
        self.service.backends_changed()
    }

    /// The backend records, for a test to read, or to set what the host measures.
    pub fn backends_mut(&mut self) -> &mut [BackendRecord] {
        let count = self.host().backends_count as usize;
        &mut self.service.backends[..count]
    }

    /// The host's fields of the header: the time, the seed.
    pub const fn host(&mut self) -> &mut HostFields {
        &mut self.service.header.host
    }

    /// Asks the policy about one batch of flows.
    ///
    /// # Panics
    /// If there are more flows than [`BATCH_MAX`], or the policy panics.
    pub fn pick(&mut self, flows: &[TestFlow]) -> Vec<Pick> {
        for (at, flow) in flows.iter().enumerate() {
            let prefix = &flow.payload[..flow.payload.len().min(P::PAYLOAD)];
            self.batch.payload[at * P::PAYLOAD..][..prefix.len()].copy_from_slice(prefix);
            let payload_len = u32::try_from(prefix.len()).unwrap_or(u32::MAX);
            self.batch.flows[at] = FlowRecord {
                payload_len,
                ..flow.record
            };
        }
        let n = self.service.pick(&mut self.batch, flows.len());
        self.batch.picks[..n]
            .iter()
            .map(|pick| read_pick(*pick))
            .collect()
    }

    /// Asks the policy about flows without end, in full batches.
    ///
    /// # Panics
    /// If the policy panics.
    pub fn pick_all(&mut self, flows: impl IntoIterator<Item = TestFlow>) -> Vec<Pick> {
        let flows: Vec<_> = flows.into_iter().collect();
        flows
            .chunks(BATCH_MAX)
            .flat_map(|batch| self.pick(batch))
            .collect()
    }

    /// Ends a session that lived so long and was closed by both ends: the backend has one less, and
    /// the policy is told if it wants to be.
    pub fn close(&mut self, backend: usize, duration_ms: u64) {
        self.end(ClosedRecord {
            duration_ms,
            backend: u32::try_from(backend).unwrap_or(u32::MAX),
            end: END_CLOSED,
            ..ClosedRecord::default()
        });
    }

    /// Ends a session in any way, as [`Driver::close`] does in one.
    ///
    /// # Panics
    /// If there is no such backend, or the policy panics.
    pub fn end(&mut self, closed: ClosedRecord) {
        let record = &mut self.service.backends[closed.backend as usize];
        record.active = record.active.saturating_sub(1);
        record.active_here = record.active_here.saturating_sub(1);
        if let Some(first) = self.batch.closed.first_mut() {
            *first = closed;
            self.service.closed(&self.batch, 1);
        }
    }

    /// The policy's own counters, in the order of [`Policy::COUNTERS`].
    #[must_use]
    pub const fn counters(&self) -> &[u64] {
        &self.service.counters
    }

    /// Lets time pass, and the policy tidy up.
    pub fn tick(&mut self, elapsed_ms: u64) {
        self.host().now_ms += elapsed_ms;
        self.service.tick();
    }
}

fn read_pick(pick: u32) -> Pick {
    match pick {
        PICK_DROP => Pick::Drop,
        PICK_FALLBACK => Pick::Fallback,
        index => Pick::Backend(index as usize),
    }
}

/// How many of the picks each of `n` backends got.
#[must_use]
pub fn counts(picks: &[Pick], n: usize) -> Vec<usize> {
    let mut counts = vec![0; n];
    for pick in picks {
        if let Pick::Backend(index) = pick {
            counts[*index] += 1;
        }
    }
    counts
}

/// How far the backend that got most is over its share by weight: 0.02 is 2 % over.
#[must_use]
#[expect(
    clippy::cast_precision_loss,
    reason = "counts of a test are far below 2^52"
)]
pub fn overload(counts: &[usize], weights: &[u32]) -> f64 {
    let total = counts.iter().sum::<usize>() as f64;
    let weight = weights.iter().copied().map(f64::from).sum::<f64>();
    counts
        .iter()
        .zip(weights)
        .filter(|(_, share)| **share > 0)
        .map(|(count, share)| *count as f64 / (total * f64::from(*share) / weight) - 1.0)
        .fold(0.0, f64::max)
}

/// The part of the flows that changed its backend, by the backends' ids, though its first one
/// is still there: what a consistent policy keeps small. `before` and `after` are picks for the
/// same flows among these backends.
///
/// # Panics
/// If the two differ in length.
#[must_use]
#[expect(
    clippy::cast_precision_loss,
    reason = "counts of a test are far below 2^52"
)]
pub fn disruption(before: (&[Pick], &[BackendRecord]), after: (&[Pick], &[BackendRecord])) -> f64 {
    assert_eq!(before.0.len(), after.0.len(), "picks for the same flows");
    let id = |pick: &Pick, backends: &[BackendRecord]| match pick {
        Pick::Backend(index) => Some(backends[*index].id),
        Pick::Drop | Pick::Fallback => None,
    };
    let stays = |old: u32| {
        after
            .1
            .iter()
            .any(|backend| backend.id == old && backend.weight > 0)
    };
    let moved = before.0.iter().zip(after.0).filter(|(old, new)| {
        let (old, new) = (id(old, before.1), id(new, after.1));
        old.is_some_and(stays) && old != new
    });
    moved.count() as f64 / before.0.len().max(1) as f64
}
