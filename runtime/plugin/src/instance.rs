//! A module at work: one instance per worker, serving every service that names the module.
//!
//! Invariant: a call on the packet's way allocates nothing unless it fails; nothing that the
//! guest wrote is used before it is checked; after a failure the instance is never called
//! again.
//!
//! What a bad answer costs: an index outside of the backend list, or a wrong count, is a broken
//! module, and the whole batch goes to the native fallback with [`PolicyFault::BadAnswer`]. A
//! backend that takes no new sessions (weight 0, or down) is an answer that a simple policy gives
//! who never looked at weights: that flow alone goes to the fallback, and is counted.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use waxwing_dataplane::policy::{Closed, PickContext};
use waxwing_dataplane::{NewFlow, Pick, Policy, PolicyFault, ServiceId};
use waxwing_packet::{Address, Family};
use waxwing_sdk::abi::{
    BackendRecord, ClosedRecord, FLOW_MID_STREAM, FlowRecord, HostFields, PICK_DROP, PICK_FALLBACK,
};

use crate::engine::Budget;
use crate::guest::{Failure, Functions, Guest};
use crate::module::CompiledModule;
use crate::regions::Regions;

/// Up to so many backends the live numbers are written before every call, else once a
/// millisecond.
const REFRESH_ALWAYS_MAX: usize = 64;

/// How often `waxwing_tick` is called, at most.
const TICK_MS: u64 = 100;

/// A failed call, for whoever owns the instances.
#[derive(Clone, Debug)]
pub struct FaultReport {
    /// The module.
    pub module: Arc<CompiledModule>,
    /// The worker whose instance it was; that instance is disabled until it is replaced.
    pub worker: u32,
    /// The service that was served.
    pub service: Arc<str>,
    /// What kind of failure.
    pub fault: PolicyFault,
    /// What happened, the module's own words included.
    pub text: String,
}

/// Where failures are told. Called on the worker's thread: it must not block.
pub(crate) type FaultSink = Arc<dyn Fn(FaultReport) + Send + Sync>;

/// A service within an instance.
pub(crate) struct Hosted {
    pub(crate) name: Arc<str>,
    pub(crate) regions: Regions,
    /// Which backends take new sessions.
    pub(crate) available: Box<[bool]>,
    pub(crate) generation: u64,
    pub(crate) seed: u64,
    pub(crate) refreshed_ms: u64,
    pub(crate) ticked_ms: u64,
}

/// A worker's instance of a module. Implements the core's [`Policy`].
pub(crate) struct WasmPolicy {
    pub(crate) module: Arc<CompiledModule>,
    pub(crate) worker: u32,
    pub(crate) guest: Guest,
    pub(crate) functions: Functions,
    pub(crate) hosted: Box<[Hosted]>,
    /// Index into `hosted` by service id; `u32::MAX` where the service is another module's.
    pub(crate) by_service: Box<[u32]>,
    pub(crate) disabled: bool,
    pub(crate) faults: FaultSink,
}

impl Policy for WasmPolicy {
    fn payload_len(&self) -> usize {
        self.module.payload_len()
    }

    fn pick(
        &mut self,
        service: ServiceId,
        context: PickContext<'_>,
        flows: &[NewFlow],
        picks: &mut [Pick],
    ) -> Result<(), PolicyFault> {
        let Some(at) = self.place(service) else {
            return Err(PolicyFault::Disabled);
        };
        self.try_pick(at, context, flows, picks)
            .map_err(|failure| self.fail(at, failure))
    }

    fn closed(&mut self, service: ServiceId, events: &[Closed]) {
        let Some(at) = self.place(service) else {
            return;
        };
        if let Err(failure) = self.try_closed(at, events) {
            self.fail(at, failure);
        }
    }
}

impl WasmPolicy {
    /// The service's place, unless the instance is disabled or the service is not its own.
    #[inline]
    fn place(&self, service: ServiceId) -> Option<usize> {
        let at = self
            .by_service
            .get(service.index())
            .map_or(u32::MAX, |at| *at) as usize;
        (!self.disabled && at < self.hosted.len()).then_some(at)
    }

    fn try_pick(
        &mut self,
        at: usize,
        context: PickContext<'_>,
        flows: &[NewFlow],
        picks: &mut [Pick],
    ) -> Result<(), Failure> {
        let hosted = &mut self.hosted[at];
        let regions = hosted.regions;
        let now_ms = context.now.millis();
        let count = i32::try_from(flows.len()).unwrap_or(i32::MAX);
        let memory = self.guest.memory();
        write_host(memory, hosted, now_ms);
        if hosted.available.len() <= REFRESH_ALWAYS_MAX || hosted.refreshed_ms != now_ms {
            hosted.refreshed_ms = now_ms;
            write_live(memory, hosted, context);
        }
        write_flows(memory, &regions, flows).ok_or_else(|| bad("a batch over its size"))?;
        self.tick(at, now_ms)?;
        let answered =
            self.guest
                .call(&self.functions.pick, (regions.header, count), Budget::BATCH)?;
        if answered != count {
            return Err(bad(&format!(
                "waxwing_pick answered {answered} for {count} flows"
            )));
        }
        self.read_picks(at, picks)
    }

    fn read_picks(&mut self, at: usize, picks: &mut [Pick]) -> Result<(), Failure> {
        let hosted = &self.hosted[at];
        let start = hosted.regions.picks;
        let memory = self.guest.memory();
        let bytes = memory
            .get(start..start + picks.len() * 4)
            .ok_or_else(|| bad("a batch over its size"))?;
        let mut unavailable = 0_u64;
        for (pick, bytes) in picks.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *pick = match u32::from_le_bytes(*bytes) {
                PICK_DROP => Pick::Drop,
                PICK_FALLBACK => Pick::Fallback,
                index => match hosted.available.get(index as usize) {
                    Some(true) => Pick::Backend(index),
                    Some(false) => {
                        unavailable += 1;
                        Pick::Fallback
                    }
                    None => return Err(out_of_range(index, hosted.available.len())),
                },
            };
        }
        if unavailable > 0 {
            self.module
                .counters
                .unavailable_picks
                .fetch_add(unavailable, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Calls `waxwing_tick` when it is due.
    #[inline]
    fn tick(&mut self, at: usize, now_ms: u64) -> Result<(), Failure> {
        let Some(tick) = &self.functions.tick else {
            return Ok(());
        };
        let hosted = &mut self.hosted[at];
        if now_ms < hosted.ticked_ms.saturating_add(TICK_MS) {
            return Ok(());
        }
        hosted.ticked_ms = now_ms;
        self.guest.call(tick, hosted.regions.header, Budget::BATCH)
    }

    fn try_closed(&mut self, at: usize, events: &[Closed]) -> Result<(), Failure> {
        let Some(closed) = &self.functions.closed else {
            return Ok(());
        };
        let regions = self.hosted[at].regions;
        if regions.closed_capacity == 0 {
            return Ok(());
        }
        for events in events.chunks(regions.closed_capacity) {
            let count = i32::try_from(events.len()).unwrap_or(i32::MAX);
            let records = self
                .guest
                .memory()
                .get_mut(regions.closed..)
                .ok_or_else(|| bad("a batch over its size"))?
                .as_chunks_mut::<{ ClosedRecord::SIZE }>()
                .0;
            for (record, event) in records.iter_mut().zip(events) {
                let Closed {
                    backend,
                    duration_ms,
                } = *event;
                *record = ClosedRecord {
                    duration_ms,
                    backend,
                    reserved: 0,
                }
                .to_le_bytes();
            }
            self.guest
                .call(closed, (regions.header, count), Budget::BATCH)?;
        }
        Ok(())
    }

    /// Disables the instance and tells of it.
    #[cold]
    fn fail(&mut self, at: usize, failure: Failure) -> PolicyFault {
        self.disabled = true;
        self.module.counters.faults.fetch_add(1, Ordering::Relaxed);
        (self.faults)(FaultReport {
            module: Arc::clone(&self.module),
            worker: self.worker,
            service: Arc::clone(&self.hosted[at].name),
            fault: failure.fault,
            text: failure.text,
        });
        failure.fault
    }
}

#[cold]
fn bad(text: &str) -> Failure {
    Failure {
        fault: PolicyFault::BadAnswer,
        text: text.into(),
    }
}

#[cold]
fn out_of_range(index: u32, count: usize) -> Failure {
    bad(&format!("waxwing_pick chose backend {index} of {count}"))
}

/// Writes the host's part of the header. Regions lie in memory, and memory never shrinks; should
/// that ever be wrong, nothing is written.
#[inline]
pub(crate) fn write_host(memory: &mut [u8], hosted: &Hosted, now_ms: u64) {
    let fields = HostFields {
        generation: hosted.generation,
        now_ms,
        seed: hosted.seed,
        backends_count: u32::try_from(hosted.available.len()).unwrap_or(u32::MAX),
        reserved: 0,
    };
    let host = memory
        .get_mut(hosted.regions.host..)
        .and_then(<[u8]>::first_chunk_mut);
    if let Some(host) = host {
        *host = fields.to_le_bytes();
    }
}

/// Writes the live numbers into the backend records.
fn write_live(memory: &mut [u8], hosted: &Hosted, context: PickContext<'_>) {
    const ACTIVE: usize = std::mem::offset_of!(BackendRecord, active);
    let Some(records) = memory.get_mut(hosted.regions.backends..) else {
        return;
    };
    let records = records.as_chunks_mut::<{ BackendRecord::SIZE }>().0;
    for ((record, backend), _) in records
        .iter_mut()
        .zip(context.backends)
        .zip(&hosted.available)
    {
        let active = context.gauges.active(*backend);
        record[ACTIVE..ACTIVE + 4].copy_from_slice(&active.to_le_bytes());
    }
}

/// Writes the flows and their payload prefixes; `None` if they do not fit.
#[inline]
fn write_flows(memory: &mut [u8], regions: &Regions, flows: &[NewFlow]) -> Option<()> {
    let end = regions.flows + flows.len() * FlowRecord::SIZE;
    let records = memory
        .get_mut(regions.flows..end)?
        .as_chunks_mut::<{ FlowRecord::SIZE }>()
        .0;
    for (record, flow) in records.iter_mut().zip(flows) {
        *record = flow_record(flow, regions.payload_stride).to_le_bytes();
    }
    let stride = regions.payload_stride;
    if stride > 0 {
        let end = regions.payload + flows.len() * stride;
        let prefixes = memory
            .get_mut(regions.payload..end)?
            .chunks_exact_mut(stride);
        for (prefix, flow) in prefixes.zip(flows) {
            prefix.copy_from_slice(&flow.payload[..stride]);
        }
    }
    Some(())
}

#[inline]
fn flow_record(flow: &NewFlow, stride: usize) -> FlowRecord {
    FlowRecord {
        source: flow.source.octets(),
        destination: flow.destination.octets(),
        hash: flow.hash,
        source_port: flow.source_port,
        destination_port: flow.destination_port,
        protocol: flow.protocol as u8,
        family: family(flow.destination),
        flags: if flow.mid_stream { FLOW_MID_STREAM } else { 0 },
        payload_len: u32::from(flow.payload_len).min(u32::try_from(stride).unwrap_or(0)),
        reserved: [0; 3],
    }
}

#[inline]
fn family(address: Address) -> u8 {
    match address.family() {
        Family::V4 => 4,
        Family::V6 => 6,
    }
}
