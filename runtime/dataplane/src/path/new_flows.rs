//! New flows: from a policy's picks to sessions (see [`super::session_open`]).
//!
//! Invariant: a pick is not trusted. It becomes a session only if it names a backend of the service that
//! takes new sessions, or that keeps a connection it already serves. Otherwise the native fallback chooses.

use waxwing_packet::{IpPacket, Protocol, TcpFlags, Transport};

use super::flow::{find, tcp_flags, tuple_of};
use super::service_share::ServiceShare;
use super::session_open::{FirstPacket, open_session};
use super::{Arrived, Batch, PacketSet, Verdict, WorkerContext, fast_path};
use crate::counters::WorkerCounters;
use crate::fallback::rendezvous;
use crate::model::{Backend, MidStream, NoBackend, Service};
use crate::policy::{PAYLOAD_MAX, PickContext};
use crate::session::{Direction, FlowHash, Key, Tuple};
use crate::{
    BATCH, DropReason, Epoch, FrameBuf, NewFlow, NextHop, Now, Pick, ServiceId, Snapshot,
    SourceLimit, SourceRates,
};

/// The first packet of a new flow of the batch; its [`NewFlow`] is at the same index.
#[derive(Clone, Copy)]
struct Opener {
    /// Index into the batch.
    frame: usize,
    hash: FlowHash,
}

impl Opener {
    fn is_same_flow(
        &self,
        packets: &[Option<IpPacket>],
        packet: &IpPacket,
        hash: FlowHash,
    ) -> bool {
        let tuple = || packets[self.frame].as_ref().and_then(tuple_of);
        self.hash == hash && tuple() == tuple_of(packet)
    }
}

/// Buffers for one batch's new flows, and the key of the hash that policies see.
pub(crate) struct NewFlows {
    cluster_key: Key,
    flows: Vec<NewFlow>,
    openers: Vec<Opener>,
    seen: HashFilter,
    picks: Vec<Pick>,
}

/// A small Bloom filter of flow hashes, so that the new flows of a batch are not compared each with each.
#[derive(Clone, Copy, Default)]
struct HashFilter([u64; 4]);

impl HashFilter {
    /// Inserts a hash. `false` if it was certainly not inserted before.
    fn insert(&mut self, hash: FlowHash) -> bool {
        let [.., word, bit] = hash.bits().to_be_bytes();
        let (word, bit) = (&mut self.0[usize::from(word % 4)], 1 << (bit % 64));
        let before = *word;
        *word |= bit;
        before & bit != 0
    }
}

impl NewFlows {
    pub(crate) fn new(cluster_key: [u64; 4]) -> Self {
        Self {
            cluster_key: Key::new(cluster_key),
            flows: Vec::with_capacity(BATCH),
            openers: Vec::with_capacity(BATCH),
            seen: HashFilter::default(),
            picks: Vec::with_capacity(BATCH),
        }
    }

    /// Decides all new flows of one service in the batch, with one call of its policy.
    pub(crate) fn open<F: FrameBuf>(
        &mut self,
        id: ServiceId,
        epoch: &mut Epoch,
        context: &mut WorkerContext,
        batch: &mut Batch,
        frames: &mut [F],
        now: Now,
    ) {
        let Epoch {
            snapshot, policies, ..
        } = epoch;
        let Some(service) = snapshot.service(id) else {
            return drop_all(batch, (id, DropReason::NoService), &context.counters);
        };
        let policy = policies
            .get_mut(service.policy)
            .filter(|_| !service.backends.is_empty());
        let payload_len = policy.as_ref().map_or(0, |policy| policy.payload_len());
        let limit = snapshot.source_limit();
        let rates = limit.map(|limit| (limit, &*context.shared.source_rates, now));
        self.collect(
            (service, payload_len),
            rates,
            frames,
            batch,
            &context.counters,
        );

        self.picks.clear();
        self.picks.resize(self.flows.len(), Pick::Fallback);
        let pick_context = PickContext {
            now,
            backends: &service.backends,
            gauges: &context.shared.gauges,
        };
        let picked = policy.is_some_and(|policy| {
            policy
                .pick(id, pick_context, &self.flows, &mut self.picks)
                .is_ok()
        });
        if !picked {
            self.picks.fill(Pick::Fallback);
        }

        let mut share = ServiceShare::new(service, &context.shared.gauges);
        let mut opened_new = PacketSet::default();
        for ((opener, flow), pick) in self.openers.iter().zip(&self.flows).zip(&self.picks) {
            let frame = &mut frames[opener.frame];
            let Some(packet) = &batch.packets[opener.frame] else {
                continue;
            };
            let first = FirstPacket {
                packet,
                hash: opener.hash,
                hop: NextHop {
                    port: frame.port(),
                    mac: packet.ethernet.source,
                },
            };
            let opened =
                choose(snapshot, service, *pick, flow, &context.counters).and_then(|backend| {
                    share.take(snapshot, service, context, now.tick())?;
                    open_session(snapshot, (service, backend), &first, context, now)
                });
            batch.verdicts[opener.frame] = match opened {
                Ok(opened) => {
                    if opened.is_new {
                        opened_new.insert(opener.frame);
                    }
                    Verdict::Session(opened.at, opened.session, Direction::Forward)
                }
                Err(DropReason::NoBackend) if service.no_backend == NoBackend::Reject => {
                    reject(context, &Arrived { frame, packet }, now)
                }
                Err(reason) => drop_of(id, reason, &context.counters),
            };
        }
        fast_path::forward_openers(context, snapshot, batch, opened_new, frames, now);
        decide_further_packets(snapshot, context, &self.openers, batch, frames, now);
    }

    /// Collects the service's new flows. A second packet of a flow waits for the verdict on the first.
    fn collect<F: FrameBuf>(
        &mut self,
        (service, payload_len): (&Service, usize),
        rates: Option<(&SourceLimit, &SourceRates, Now)>,
        frames: &[F],
        batch: &mut Batch,
        counters: &WorkerCounters,
    ) {
        self.flows.clear();
        self.openers.clear();
        self.seen = HashFilter::default();
        for (at, verdict) in batch.verdicts.iter_mut().enumerate() {
            let Verdict::NewFlow(hash, id) = *verdict else {
                continue;
            };
            let packets = &*batch.packets;
            let Some(packet) = &packets[at] else {
                continue;
            };
            let Some(tuple) = tuple_of(packet).filter(|_| id == service.id) else {
                continue;
            };
            let mut earlier = self.openers.iter();
            if self.seen.insert(hash)
                && earlier.any(|first| first.is_same_flow(packets, packet, hash))
            {
                continue;
            }
            let flags = tcp_flags(packet);
            let mid_stream = tuple.protocol == Protocol::Tcp
                && (!flags.has(TcpFlags::SYN) || flags.has(TcpFlags::ACK));
            if mid_stream && (flags.has(TcpFlags::RST) || service.mid_stream == MidStream::Drop) {
                *verdict = drop_of(id, DropReason::MidStream, counters);
                continue;
            }
            if rates.is_some_and(|(limit, rates, now)| !rates.admit(limit, tuple.source, now)) {
                *verdict = drop_of(id, DropReason::SourceLimit, counters);
                continue;
            }
            let bytes = frames[at].bytes();
            let payload = &bytes[payload_range(packet, bytes.len())];
            self.openers.push(Opener { frame: at, hash });
            let prefix = &payload[..payload.len().min(payload_len.min(PAYLOAD_MAX))];
            self.flows.push(new_flow(
                &tuple,
                self.cluster_key.hash(&tuple).bits(),
                mid_stream,
                prefix,
            ));
        }
    }
}

fn new_flow(tuple: &Tuple, hash: u64, mid_stream: bool, prefix: &[u8]) -> NewFlow {
    let mut payload = [0; PAYLOAD_MAX];
    payload[..prefix.len()].copy_from_slice(prefix);
    NewFlow {
        source: tuple.source,
        source_port: tuple.source_port,
        destination: tuple.destination,
        destination_port: tuple.destination_port,
        protocol: tuple.protocol,
        hash,
        mid_stream,
        payload_len: u8::try_from(prefix.len()).unwrap_or(u8::MAX),
        payload,
    }
}

/// The range of a packet's transport payload in its frame's first buffer. (Policies see far less than a
/// buffer.)
fn payload_range(packet: &IpPacket, head_len: usize) -> std::ops::Range<usize> {
    let start = match packet.transport {
        Transport::Tcp { payload, .. } => payload,
        Transport::Udp { .. } => packet.transport_start + 8,
        Transport::Icmp { .. } | Transport::Other(_) => packet.end,
    };
    let end = usize::from(packet.end).min(head_len);
    usize::from(start).min(end)..end
}

/// The backend for a pick: the picked one if it may have the flow, otherwise the fallback's choice.
fn choose<'a>(
    snapshot: &'a Snapshot,
    service: &Service,
    pick: Pick,
    flow: &NewFlow,
    counters: &WorkerCounters,
) -> Result<&'a Backend, DropReason> {
    let is = |id, what: fn(&Backend) -> bool| snapshot.backend(id).is_some_and(what);
    let picked = match pick {
        Pick::Drop => return Err(DropReason::Policy),
        Pick::Backend(place) => service
            .backends
            .get(place as usize)
            .copied()
            .filter(|id| is(*id, Backend::takes_new)),
        Pick::Keep(place) => service
            .backends
            .get(place as usize)
            .copied()
            .filter(|id| is(*id, Backend::keeps_sessions)),
        Pick::Fallback => None,
    };
    picked
        .or_else(|| {
            let chosen = rendezvous(flow.hash, &service.backends, snapshot)?;
            counters.fallback.add(1);
            Some(chosen)
        })
        .and_then(|id| snapshot.backend(id))
        .ok_or(DropReason::NoBackend)
}

/// Tells the client of a new flow that no backend takes it.
#[cold]
fn reject<F: FrameBuf>(context: &mut WorkerContext, arrived: &Arrived<'_, F>, now: Now) -> Verdict {
    let WorkerContext {
        reject,
        linearizer,
        counters,
        ..
    } = context;
    let verdict = reject.check(linearizer, arrived, DropReason::NoBackend, now);
    if let Verdict::Reject(_) = verdict {
        counters.rejected.add(1);
    }
    verdict
}

/// Gives further packets of the flows that were just decided the verdict of their first packet.
fn decide_further_packets<F: FrameBuf>(
    snapshot: &Snapshot,
    context: &mut WorkerContext,
    openers: &[Opener],
    batch: &mut Batch,
    frames: &mut [F],
    now: Now,
) {
    for (at, frame) in frames.iter_mut().enumerate() {
        let (Verdict::NewFlow(hash, id), Some(packet)) = (batch.verdicts[at], &batch.packets[at])
        else {
            continue;
        };
        let first = openers
            .iter()
            .find(|first| first.is_same_flow(&batch.packets, packet, hash));
        let Some(first) = first.map(|first| batch.verdicts[first.frame]) else {
            continue;
        };
        let found = tuple_of(packet)
            .and_then(|tuple| find(&context.shared.sessions, snapshot, &tuple, hash));
        batch.verdicts[at] = match (first, found) {
            // A damaged first packet says nothing about this one.
            (Verdict::Reject(_) | Verdict::Drop(DropReason::Malformed), _) => {
                reject(context, &Arrived { frame, packet }, now)
            }
            (Verdict::Drop(reason), _) => drop_of(id, reason, &context.counters),
            (_, Some(found)) => Verdict::Session(found.at, found.stored.session(), found.direction),
            // Another worker has already evicted the first packet's session.
            (_, None) => drop_of(id, DropReason::SessionTableFull, &context.counters),
        };
    }
}

/// The verdict to drop a packet of a service's new flow, counted for the service.
fn drop_of(service: ServiceId, reason: DropReason, counters: &WorkerCounters) -> Verdict {
    counters.count_drop_of(service, reason);
    Verdict::Drop(reason)
}

fn drop_all(batch: &mut Batch, (id, reason): (ServiceId, DropReason), counters: &WorkerCounters) {
    for verdict in &mut batch.verdicts {
        if matches!(verdict, Verdict::NewFlow(_, service) if *service == id) {
            *verdict = drop_of(id, reason, counters);
        }
    }
}
