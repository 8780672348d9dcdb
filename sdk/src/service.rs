//! A service within a module: its header, its backend records and its policy.
//!
//! Invariant: this is the one way from records to a policy and back, on the host machine in
//! tests as in Wasm. The records are the host's to write between calls; what a policy returns is
//! checked here before it becomes a pick.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;

use crate::abi::{
    ABI_MAJOR, ABI_MINOR, BACKENDS_MAX, BATCH_MAX, BackendRecord, ClosedRecord, FlowRecord, Header,
    PICK_DROP, PICK_FALLBACK, PICK_KEEP,
};
use crate::aligned::Aligned;
use crate::config;
use crate::{Backends, Closed, Flow, Pick, Policy};

/// The regions of a batch. One serves all services of a module, since the host calls about one
/// service at a time.
pub(crate) struct Batch {
    pub(crate) flows: Box<[FlowRecord]>,
    pub(crate) picks: Aligned<u32>,
    pub(crate) payload: Aligned<u8>,
    pub(crate) closed: Box<[ClosedRecord]>,
}

impl Batch {
    pub(crate) fn new<P: Policy>() -> Self {
        Self {
            flows: vec![FlowRecord::default(); BATCH_MAX].into(),
            picks: Aligned::new(PICK_FALLBACK, BATCH_MAX),
            payload: Aligned::new(0, BATCH_MAX * P::PAYLOAD),
            closed: vec![ClosedRecord::default(); if P::CLOSED { BATCH_MAX } else { 0 }].into(),
        }
    }
}

/// A service. The header comes first, so that its address is the service's too.
#[repr(C)]
pub(crate) struct Service<P: Policy> {
    pub(crate) header: Header,
    pub(crate) backends: Box<[BackendRecord]>,
    /// The module's own counters, for the host to read.
    pub(crate) counters: Box<[u64]>,
    state: State<P>,
}

enum State<P: Policy> {
    /// The config is read; the backends are not there yet.
    Configured(P::Config),
    Running(P),
    Refused,
}

impl<P: Policy> Service<P> {
    /// Reads the config and makes room for the backends.
    pub(crate) fn new(config: &[u8], backends_max: usize, batch: &Batch) -> Result<Self, String> {
        if backends_max > BACKENDS_MAX {
            return Err(format!(
                "{backends_max} backends; a service has at most {BACKENDS_MAX}"
            ));
        }
        let config = config::read("policy_config", config)?;
        let backends: Box<[_]> = vec![BackendRecord::default(); backends_max].into();
        let counters: Box<[_]> = vec![0; P::COUNTERS.len()].into();
        let header = Header {
            abi_major: ABI_MAJOR,
            abi_minor: ABI_MINOR,
            size: as_u32(Header::SIZE),
            backends_address: address(&backends),
            backends_capacity: as_u32(backends.len()),
            flows_address: address(&batch.flows),
            flows_capacity: as_u32(batch.flows.len()),
            picks_address: address(&batch.picks),
            payload_address: address(&batch.payload),
            payload_stride: as_u32(P::PAYLOAD),
            closed_address: address(&batch.closed),
            closed_capacity: as_u32(batch.closed.len()),
            counters_address: address(&counters),
            counters_count: as_u32(counters.len()),
            ..Header::default()
        };
        Ok(Self {
            header,
            backends,
            counters,
            state: State::Configured(config),
        })
    }

    /// The host has written the backends: the first time the policy is made, then it is told.
    pub(crate) fn backends_changed(&mut self) -> Result<(), String> {
        let backends = view(&self.header, &self.backends);
        self.state = match core::mem::replace(&mut self.state, State::Refused) {
            State::Configured(config) => State::Running(P::new(config, &backends)?),
            State::Running(mut policy) => {
                policy.backends_changed(&backends)?;
                State::Running(policy)
            }
            State::Refused => return Err("the policy has refused its backends before".to_string()),
        };
        Ok(())
    }

    /// Asks the policy about the first `n` flows.
    pub(crate) fn pick(&mut self, batch: &mut Batch, n: usize) -> usize {
        let n = n.min(batch.flows.len());
        let State::Running(policy) = &mut self.state else {
            batch.picks[..n].fill(PICK_FALLBACK);
            return n;
        };
        let (picks, payload) = (&mut *batch.picks, &*batch.payload);
        for (at, (record, pick)) in batch.flows.iter().zip(picks).take(n).enumerate() {
            let start = at * P::PAYLOAD;
            let len = P::PAYLOAD.min(record.payload_len as usize);
            let flow = Flow::new(record, &payload[start..start + len]);
            let backends = view(&self.header, &self.backends);
            *pick = match policy.pick(&flow, &backends) {
                Pick::Backend(index) => {
                    take(&mut self.backends, backends_count(&self.header), index)
                }
                Pick::Keep(index) => {
                    take(&mut self.backends, backends_count(&self.header), index) | PICK_KEEP
                }
                Pick::Drop => PICK_DROP,
                Pick::Fallback => PICK_FALLBACK,
            };
        }
        policy.counters(&mut self.counters);
        n
    }

    /// Tells the policy of the first `n` closed sessions.
    pub(crate) fn closed(&mut self, batch: &Batch, n: usize) {
        if let State::Running(policy) = &mut self.state {
            let backends = view(&self.header, &self.backends);
            for record in batch.closed.iter().take(n) {
                policy.closed(&Closed::new(record), &backends);
            }
            policy.counters(&mut self.counters);
        }
    }

    /// Lets the policy tidy up.
    pub(crate) fn tick(&mut self) {
        if let State::Running(policy) = &mut self.state {
            policy.tick(&view(&self.header, &self.backends));
            policy.counters(&mut self.counters);
        }
    }
}

/// Counts the new session on its backend, so that the picks of one batch see one another.
#[inline]
fn take(records: &mut [BackendRecord], count: usize, index: usize) -> u32 {
    let Some(record) = records.get_mut(index).filter(|_| index < count) else {
        panic!("the policy picked backend {index} of {count}");
    };
    // Neither comes near its end: sessions take memory.
    record.active = record.active.wrapping_add(1);
    record.active_here = record.active_here.wrapping_add(1);
    as_u32(index)
}

fn view<'a>(header: &'a Header, records: &'a [BackendRecord]) -> Backends<'a> {
    let count = backends_count(header).min(records.len());
    Backends::new(&records[..count], &header.host)
}

const fn backends_count(header: &Header) -> usize {
    header.host.backends_count as usize
}

/// Where the host finds a region; 0 for an empty one, and where there is no host.
fn address<T>(region: &[T]) -> u32 {
    if cfg!(target_arch = "wasm32") && !region.is_empty() {
        as_u32(region.as_ptr().addr())
    } else {
        0
    }
}

/// Every size in a module fits: its memory has 32-bit addresses.
pub(crate) fn as_u32(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}
