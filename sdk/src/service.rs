//! A service within a module: its header, its backend records and its policy.
//!
//! Invariant: all data between records and a policy passes through here, in native tests and in
//! Wasm. The host writes the records between calls; a policy's answer is checked here before it
//! becomes a pick.

use alloc::boxed::Box;
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::Cell;

use crate::abi::{
    ABI_MAJOR, ABI_MINOR, BACKENDS_MAX, BATCH_MAX, BackendRecord, ClosedRecord, FlowRecord, Header,
    LiveRecord, PICK_DROP, PICK_FALLBACK, PICK_KEEP,
};
use crate::aligned::Aligned;
use crate::config;
use crate::context::Context;
use crate::{Backends, ClosedSession, ConfigError, Flow, Pick, Policy};

/// The memory regions of a batch. All services of a module share one, because each call of the host
/// is about one service.
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
            payload: Aligned::new(0, BATCH_MAX * P::PAYLOAD_BYTES),
            closed: vec![ClosedRecord::default(); if P::WANTS_CLOSED { BATCH_MAX } else { 0 }]
                .into(),
        }
    }
}

/// A service. The header is the first field, so the service has the header's address.
#[repr(C)]
pub(crate) struct Service<P: Policy> {
    pub(crate) context: Context,
    pub(crate) backends: Box<[BackendRecord]>,
    /// As many as `backends`.
    pub(crate) live: Box<[LiveRecord]>,
    /// The policy's counters, then its gauges, which the host reads.
    pub(crate) counters: Box<[u64]>,
    state: State<P>,
}

enum State<P: Policy> {
    /// Configured, before the host wrote the first backend records.
    Configured(P::Config),
    Running(P),
    Refused,
}

impl<P: Policy> Service<P> {
    /// Reads the config and allocates the backend records.
    pub(crate) fn new(
        config: &[u8],
        backends_max: usize,
        batch: &Batch,
    ) -> Result<Self, ConfigError> {
        if backends_max > BACKENDS_MAX {
            return Err(format!(
                "{backends_max} backends; a service may have at most {BACKENDS_MAX}"
            )
            .into());
        }
        let config = config::read("policy_config", config)?;
        let backends: Box<[_]> = vec![BackendRecord::default(); backends_max].into();
        let live: Box<[_]> = vec![LiveRecord::default(); backends_max].into();
        let counters: Box<[_]> = vec![0; P::COUNTERS.len() + P::GAUGES.len()].into();
        let shared: Box<[_]> = vec![Cell::new(0); 2 * P::SHARED].into();
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
            payload_stride: as_u32(P::PAYLOAD_BYTES),
            closed_address: address(&batch.closed),
            closed_capacity: as_u32(batch.closed.len()),
            counters_address: address(&counters),
            counters_count: as_u32(counters.len()),
            live_address: address(&live),
            shared_address: address(&shared),
            ..Header::default()
        };
        Ok(Self {
            context: Context { header, shared },
            backends,
            live,
            counters,
            state: State::Configured(config),
        })
    }

    /// Handles new backend records: creates the policy the first time, and notifies it afterwards. After
    /// an error the service has no policy; a new service replaces it.
    pub(crate) fn backends_changed(&mut self) -> Result<(), ConfigError> {
        let backends = view(&self.context, &self.backends, &self.live);
        self.state = match core::mem::replace(&mut self.state, State::Refused) {
            State::Configured(config) => State::Running(P::new(config, &backends)?),
            State::Running(mut policy) => {
                policy.backends_changed(&backends)?;
                State::Running(policy)
            }
            State::Refused => {
                return Err("the policy refused earlier backends of this service".into());
            }
        };
        Ok(())
    }

    /// As the first [`Self::backends_changed`], with what an earlier policy of the service saved.
    pub(crate) fn restore(&mut self, saved: &[u8]) -> Result<(), ConfigError> {
        let backends = view(&self.context, &self.backends, &self.live);
        self.state = match core::mem::replace(&mut self.state, State::Refused) {
            State::Configured(config) => State::Running(P::restore(config, &backends, saved)?),
            State::Running(_) | State::Refused => {
                return Err("a state is restored before anything else".into());
            }
        };
        Ok(())
    }

    /// Appends what the policy saves.
    pub(crate) fn save(&self, out: &mut Vec<u8>) {
        if let State::Running(policy) = &self.state {
            policy.save(&view(&self.context, &self.backends, &self.live), out);
        }
    }

    /// Picks for the first `n` flows of the batch. Returns the number of picks.
    pub(crate) fn pick(&mut self, batch: &mut Batch, n: usize) -> usize {
        let n = n.min(batch.flows.len());
        let State::Running(policy) = &mut self.state else {
            batch.picks[..n].fill(PICK_FALLBACK);
            return n;
        };
        let (picks, payload) = (&mut *batch.picks, &*batch.payload);
        for (at, (record, pick)) in batch.flows.iter().zip(picks).take(n).enumerate() {
            let start = at * P::PAYLOAD_BYTES;
            let len = P::PAYLOAD_BYTES.min(record.payload_len as usize);
            let flow = Flow::new(record, &payload[start..start + len]);
            let backends = view(&self.context, &self.backends, &self.live);
            *pick = match policy.pick(&flow, &backends) {
                Pick::Backend(index) => {
                    count_pick(&mut self.live, backends_count(&self.context), index)
                }
                Pick::Keep(index) => {
                    count_pick(&mut self.live, backends_count(&self.context), index) | PICK_KEEP
                }
                Pick::Drop => PICK_DROP,
                Pick::Fallback => PICK_FALLBACK,
            };
        }
        policy.counters(&mut self.counters);
        n
    }

    /// Passes the first `n` closed sessions to the policy.
    pub(crate) fn closed(&mut self, batch: &Batch, n: usize) {
        if let State::Running(policy) = &mut self.state {
            let backends = view(&self.context, &self.backends, &self.live);
            for record in batch.closed.iter().take(n) {
                policy.closed(&ClosedSession::new(record), &backends);
            }
            policy.counters(&mut self.counters);
        }
    }

    /// Passes a tick to the policy.
    pub(crate) fn tick(&mut self) {
        if let State::Running(policy) = &mut self.state {
            policy.tick(&view(&self.context, &self.backends, &self.live));
            policy.counters(&mut self.counters);
        }
    }
}

/// Counts the new session on its backend, so that later picks of the batch see it. Returns the
/// index.
#[inline]
fn count_pick(live: &mut [LiveRecord], count: usize, index: usize) -> u32 {
    let Some(record) = live.get_mut(index).filter(|_| index < count) else {
        panic!("the policy picked backend {index} of {count}");
    };
    // Cannot overflow: sessions take memory. Wrapping saves the check.
    record.half_open = record.half_open.wrapping_add(1);
    record.half_open_here = record.half_open_here.wrapping_add(1);
    as_u32(index)
}

fn view<'a>(
    context: &'a Context,
    records: &'a [BackendRecord],
    live: &'a [LiveRecord],
) -> Backends<'a> {
    let count = backends_count(context).min(records.len());
    Backends::new(&records[..count], &live[..count], context)
}

const fn backends_count(context: &Context) -> usize {
    context.header.host.backends_count as usize
}

/// Returns a region's address for the host; 0 for an empty region and in a native build.
fn address<T>(region: &[T]) -> u32 {
    if cfg!(target_arch = "wasm32") && !region.is_empty() {
        as_u32(region.as_ptr().addr())
    } else {
        0
    }
}

/// Converts a size. Every size in a module fits, because its memory has 32-bit addresses.
pub(crate) fn as_u32(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}
