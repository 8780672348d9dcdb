//! The records that the host writes into guest memory.
//!
//! Invariant: regions lie within memory, and memory never shrinks. If that were violated, nothing would be
//! written there.

use std::mem::offset_of;

use waxwing_dataplane::counters::SessionCounts;
use waxwing_dataplane::policy::{Closed, End, PickContext};
use waxwing_dataplane::{BackendId, Gauges, NewFlow};
use waxwing_packet::{Address, Family};
use waxwing_sdk::abi::{
    BackendRecord, ClosedRecord, END_CLOSED, END_EVICTED, END_IDLE, END_REFUSED, END_RESET,
    END_UNANSWERED, FLOW_MID_STREAM, FlowRecord, HostFields, LiveRecord,
};

use crate::policy::hosted::HostedService;
use crate::policy::regions::Regions;

/// Writes the host's fields of the header.
#[inline]
pub(crate) fn write_host(
    memory: &mut [u8],
    regions: &Regions,
    hosted: &HostedService,
    now_ms: u64,
) {
    let fields = HostFields {
        now_ms,
        ..hosted.host_fields
    };
    let host = memory
        .get_mut(regions.host..)
        .and_then(<[u8]>::first_chunk_mut);
    if let Some(host) = host {
        *host = fields.to_le_bytes();
    }
}

/// Writes the live numbers into the backend records (the fields between weight and tag, and the signals)
/// and into the live records.
pub(crate) fn write_live(
    memory: &mut [u8],
    regions: &Regions,
    hosted: &HostedService,
    worker: usize,
    context: PickContext<'_>,
) {
    const START: usize = offset_of!(BackendRecord, active);
    const SIGNALS: usize = offset_of!(BackendRecord, signals);
    let gauges = context.gauges;
    let backends = context.backends.iter().zip(&hosted.available);
    if let Some(records) = memory.get_mut(regions.backends..) {
        let records = records.as_chunks_mut::<{ BackendRecord::SIZE }>().0;
        for (record, (backend, _)) in records.iter_mut().zip(backends.clone()) {
            let (all, here) = counts(gauges, worker, *backend);
            // Without live records a module cannot see half-open sessions, which are load too.
            let active = |counts: SessionCounts| match regions.live {
                Some(_) => counts.active,
                None => counts.load(),
            };
            let numbers = [
                active(all),
                active(here),
                gauges.sessions_per_s(*backend),
                gauges.latency_us(*backend),
                gauges.failure_rate(*backend).ppm,
            ];
            write_words(&mut record[START..], numbers);
            write_words(&mut record[SIGNALS..], gauges.signals(*backend));
        }
    }
    let live = regions.live.and_then(|live| memory.get_mut(live..));
    let records = live.unwrap_or_default();
    let records = records.as_chunks_mut::<{ LiveRecord::SIZE }>().0;
    for (record, (backend, _)) in records.iter_mut().zip(backends) {
        *record = live_record(gauges, worker, *backend).to_le_bytes();
    }
}

#[inline]
fn live_record(gauges: &Gauges, worker: usize, backend: BackendId) -> LiveRecord {
    let (all, here) = counts(gauges, worker, backend);
    let refusals = gauges.refused(backend);
    LiveRecord {
        half_open: all.half_open,
        half_open_here: here.half_open,
        closing: all.closing,
        closing_here: here.closing,
        sessions: gauges.opened(backend),
        failures: refusals + gauges.unanswered(backend),
        refusals,
        failure_samples: gauges.failure_rate(backend).samples,
        reserved: [0; 5],
    }
}

/// The backend's sessions, and those of them that this worker created.
#[inline]
fn counts(gauges: &Gauges, worker: usize, backend: BackendId) -> (SessionCounts, SessionCounts) {
    let here = gauges.sessions_here(worker, backend);
    (gauges.sessions(backend), here)
}

#[inline]
fn write_words<const N: usize>(bytes: &mut [u8], words: [u32; N]) {
    for (bytes, word) in bytes.as_chunks_mut().0.iter_mut().zip(words) {
        *bytes = word.to_le_bytes();
    }
}

/// Writes the flows and their payload prefixes. Returns `None` if they do not fit.
#[inline]
pub(crate) fn write_flows(memory: &mut [u8], regions: &Regions, flows: &[NewFlow]) -> Option<()> {
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

pub(crate) fn closed_record(closed: &Closed) -> ClosedRecord {
    ClosedRecord {
        duration_ms: closed.duration_ms,
        bytes: closed.bytes,
        backend: closed.backend,
        end: match closed.end {
            End::Closed => END_CLOSED,
            End::Reset => END_RESET,
            End::Idle => END_IDLE,
            End::Unanswered => END_UNANSWERED,
            End::Refused => END_REFUSED,
            End::Evicted => END_EVICTED,
        },
        reserved: 0,
    }
}

#[inline]
fn family(address: Address) -> u8 {
    match address.family() {
        Family::V4 => 4,
        Family::V6 => 6,
    }
}
