//! New flows: to a policy's pick, and on to a session (see `opening`).
//!
//! Invariant: a pick is trusted in nothing. It becomes a session only where it names a backend of
//! the service that takes new sessions, or one that is to keep a connection; else the native
//! fallback chooses.

use waxwing_packet::{IpPacket, Protocol, TcpFlags, Transport};

use crate::counters::WorkerCounters;
use crate::fallback::rendezvous;
use crate::flow::{find, tcp_flags, tuple_of};
use crate::forward::{Batch, Fate};
use crate::opening::{Arrived, open_session};
use crate::parts::Parts;
use crate::policy::{PAYLOAD_MAX, PickContext};
use crate::session::{FlowHash, Key, Tuple};
use crate::snapshot::{Backend, MidStream, NoBackend, Service};
use crate::{BATCH, DropReason, Epoch, FrameBuf, NewFlow, NextHop, Now, Pick, ServiceId, Snapshot};

/// A new flow of the batch, beside its [`NewFlow`].
#[derive(Clone, Copy)]
struct Arrival {
    frame: usize,
    packet: IpPacket,
    hash: FlowHash,
}

impl Arrival {
    fn is_of(&self, packet: &IpPacket, hash: FlowHash) -> bool {
        self.hash == hash && tuple_of(&self.packet) == tuple_of(packet)
    }
}

/// Room for one batch's new flows, and the cluster-wide hash.
pub(crate) struct Misses {
    cluster: Key,
    flows: Vec<NewFlow>,
    arrivals: Vec<Arrival>,
    /// Of their hashes.
    seen: Marks,
    picks: Vec<Pick>,
}

/// Which hashes may be among some: so that a batch of new flows is not compared each with each.
#[derive(Clone, Copy, Default)]
struct Marks([u64; 4]);

impl Marks {
    /// Marks a hash. Whether it may have been marked before.
    fn insert(&mut self, hash: FlowHash) -> bool {
        let [.., word, bit] = hash.bits().to_be_bytes();
        let (word, bit) = (&mut self.0[usize::from(word % 4)], 1 << (bit % 64));
        let before = *word;
        *word |= bit;
        before & bit != 0
    }
}

impl Misses {
    pub(crate) fn new(cluster_key: [u64; 4]) -> Self {
        Self {
            cluster: Key::new(cluster_key),
            flows: Vec::with_capacity(BATCH),
            arrivals: Vec::with_capacity(BATCH),
            seen: Marks::default(),
            picks: Vec::with_capacity(BATCH),
        }
    }

    /// Decides every miss of one service in the batch.
    pub(crate) fn open<F: FrameBuf>(
        &mut self,
        id: ServiceId,
        epoch: &mut Epoch,
        parts: &mut Parts<'_>,
        (frames, batch): (&[F], Batch<'_>),
        now: Now,
    ) {
        let Epoch {
            snapshot, policies, ..
        } = epoch;
        let Batch { packets, fates } = batch;
        let Some(service) = snapshot.service(id) else {
            return give_all(fates, id, DropReason::NoService);
        };
        let policy = policies
            .get_mut(service.policy)
            .filter(|_| !service.backends.is_empty());
        let payload_len = policy.as_ref().map_or(0, |policy| policy.payload_len());
        self.gather(service, payload_len, frames, (packets, fates));

        self.picks.clear();
        self.picks.resize(self.flows.len(), Pick::Fallback);
        let context = PickContext {
            now,
            backends: &service.backends,
            gauges: &parts.shared.gauges,
        };
        let answered = policy.is_some_and(|policy| {
            policy
                .pick(id, context, &self.flows, &mut self.picks)
                .is_ok()
        });
        if !answered {
            self.picks.fill(Pick::Fallback);
        }

        for ((arrival, flow), pick) in self.arrivals.iter().zip(&self.flows).zip(&self.picks) {
            let arrived = Arrived {
                packet: &arrival.packet,
                hash: arrival.hash,
                hop: NextHop {
                    port: frames[arrival.frame].port(),
                    mac: arrival.packet.ethernet.source,
                },
            };
            fates[arrival.frame] = choose(snapshot, service, *pick, flow, parts.counters)
                .and_then(|backend| {
                    open_session(snapshot, (service, backend), &arrived, parts, now)
                })
                .unwrap_or_else(Fate::Drop);
            if let Fate::Drop(DropReason::NoBackend) = fates[arrival.frame]
                && service.no_backend == NoBackend::Reject
            {
                let frame = &frames[arrival.frame];
                fates[arrival.frame] = reject(frame, &arrival.packet, parts, now);
            }
        }
        let batch = Batch { packets, fates };
        second_frames(snapshot, parts, &self.arrivals, (frames, batch), now);
    }

    /// Collects the service's new flows; a second frame of the same flow waits for the first.
    fn gather<F: FrameBuf>(
        &mut self,
        service: &Service,
        payload_len: usize,
        frames: &[F],
        (packets, fates): (&[Option<IpPacket>], &mut [Fate]),
    ) {
        self.flows.clear();
        self.arrivals.clear();
        self.seen = Marks::default();
        for (at, fate) in fates.iter_mut().enumerate() {
            let (Fate::Miss(hash, id), Some(packet)) = (*fate, packets[at]) else {
                continue;
            };
            let Some(tuple) = tuple_of(&packet).filter(|_| id == service.id) else {
                continue;
            };
            let mut firsts = self.arrivals.iter();
            if self.seen.insert(hash) && firsts.any(|first| first.is_of(&packet, hash)) {
                continue;
            }
            let flags = tcp_flags(&packet);
            let mid_stream = tuple.protocol == Protocol::Tcp
                && (!flags.has(TcpFlags::SYN) || flags.has(TcpFlags::ACK));
            if mid_stream && (flags.has(TcpFlags::RST) || service.mid_stream == MidStream::Drop) {
                *fate = Fate::Drop(DropReason::MidStream);
                continue;
            }
            let bytes = frames[at].bytes();
            let payload = &bytes[payload_range(&packet, bytes.len())];
            self.arrivals.push(Arrival {
                frame: at,
                packet,
                hash,
            });
            let prefix = &payload[..payload.len().min(payload_len.min(PAYLOAD_MAX))];
            self.flows.push(new_flow(
                &tuple,
                self.cluster.hash(&tuple).bits(),
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

/// Where a packet's transport payload lies in its frame, as far as its first buffer goes: what policies
/// see is much shorter than that.
fn payload_range(packet: &IpPacket, head_len: usize) -> std::ops::Range<usize> {
    let start = match packet.transport {
        Transport::Tcp { payload, .. } => payload,
        Transport::Udp { .. } => packet.transport_start + 8,
        Transport::Icmp { .. } | Transport::Other(_) => packet.end,
    };
    let end = usize::from(packet.end).min(head_len);
    usize::from(start).min(end)..end
}

/// From a pick to a backend that takes new sessions.
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

/// Tells the client of a new flow that there is no backend for it.
#[cold]
fn reject<F: FrameBuf>(frame: &F, packet: &IpPacket, parts: &mut Parts<'_>, now: Now) -> Fate {
    let Parts {
        refusals, gather, ..
    } = parts;
    let fate = refusals.refuse(gather, (frame, packet), DropReason::NoBackend, now);
    if let Fate::Refuse = fate {
        parts.counters.rejected.add(1);
    }
    fate
}

/// Further frames of flows whose first frame has just been decided: they share its fate.
fn second_frames<F: FrameBuf>(
    snapshot: &Snapshot,
    parts: &mut Parts<'_>,
    firsts: &[Arrival],
    (frames, Batch { packets, fates }): (&[F], Batch<'_>),
    now: Now,
) {
    for at in 0..fates.len() {
        let (Fate::Miss(hash, _), Some(packet)) = (fates[at], packets[at]) else {
            continue;
        };
        let first = firsts.iter().find(|first| first.is_of(&packet, hash));
        let Some(first) = first.map(|first| fates[first.frame]) else {
            continue;
        };
        let found = tuple_of(&packet)
            .and_then(|tuple| find(&parts.shared.sessions, snapshot, &tuple, hash));
        fates[at] = match (first, found) {
            // That the first one was damaged says nothing of this one.
            (Fate::Refuse | Fate::Drop(DropReason::Malformed), _) => {
                reject(&frames[at], &packet, parts, now)
            }
            (Fate::Drop(reason), _) => Fate::Drop(reason),
            (_, Some(found)) => Fate::Session(found.at, found.stored.session(), found.direction),
            // The first one's session has ended already, at another worker's hand.
            (_, None) => Fate::Drop(DropReason::SessionTableFull),
        };
    }
}

fn give_all(fates: &mut [Fate], id: ServiceId, reason: DropReason) {
    for fate in fates {
        if matches!(fate, Fate::Miss(_, service) if *service == id) {
            *fate = Fate::Drop(reason);
        }
    }
}
