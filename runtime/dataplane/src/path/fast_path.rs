//! The fast path: a plain packet of an established session in which it changes nothing, on to a next hop that
//! is known. Three passes over a batch, each a loop without calls: [`classify`], [`find_lanes`],
//! [`FastPath::run`]; then [`send`]. Every other packet takes the general path (`general_path.rs`), which
//! decides it anew.
//!
//! Invariant: a packet that takes the fast path ends as it would by the general path: the same frame,
//! counters and session. Nothing of a frame is written before all is known. Nothing here allocates, locks,
//! calls a policy or reads a clock; shared state is written once per session and tick.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use waxwing_packet::Protocol;
use waxwing_packet::plain::{self, Headers, Kind, MacWords, PackedTags, PlainTranslation};

use super::{Batch, PacketSet, Slot, WorkerContext};
use crate::counters::BackendCounters;
use crate::egress::is_resolved;
use crate::model::{BackendPath, Egress, Side, TimeoutTicks};
use crate::session::{Direction, Glimpse, LastSeen, Line, Reader};
use crate::{FrameBuf, FrameIo, Now, PortId, Snapshot, Tick};

/// Pass 1: reads the headers, hashes each flow and prefetches its index bucket. Returns those
/// that are no plain packets.
#[inline(never)]
pub(crate) fn classify<F: FrameBuf>(
    context: &WorkerContext,
    batch: &mut Batch,
    frames: &[F],
) -> PacketSet {
    let mut exceptions = PacketSet::default();
    let mut bytes = 0;
    let reader = context.shared.sessions.reader();
    for (at, (frame, slot)) in frames.iter().zip(&mut *batch.slots).enumerate() {
        let (head, rest) = (frame.bytes(), frame.rest_len());
        bytes += (head.len() + rest) as u64;
        match plain::read(head, &reader) {
            Some((plain, place)) if rest == 0 => slot.set(plain, place, 0),
            _ => {
                let is_tagged = rest == 0 && plain::is_tagged(head);
                if !is_tagged || !classify_tagged(&reader, slot, head) {
                    *slot = Slot::default();
                    exceptions.insert(at);
                }
            }
        }
    }
    context.counters.received.packets.add(frames.len() as u64);
    context.counters.received.bytes.add(bytes);
    exceptions
}

/// Pass 1 for a packet behind VLAN tags. `false` if it is none.
#[inline(never)]
fn classify_tagged(reader: &Reader<'_>, slot: &mut Slot, head: &[u8]) -> bool {
    let found = plain::read_tagged(head, reader);
    if let Some((plain, place, tags_len)) = found {
        slot.set(plain, place, tags_len);
    }
    found.is_some()
}

/// Pass 2: reads the index and prefetches the session lines.
#[inline(never)]
pub(crate) fn find_lanes(context: &WorkerContext, batch: &mut Batch) {
    let reader = context.shared.sessions.reader();
    let count = batch.len();
    for slot in &mut batch.slots[..count] {
        slot.lane = reader.first(slot.place());
    }
}

/// With many backends: prefetches what pass 3 reads of them.
#[inline(never)]
pub(crate) fn prefetch_backends(context: &WorkerContext, batch: &Batch, snapshot: &Snapshot) {
    let lines = context.shared.sessions.reader().lines();
    for slot in &batch.slots[..batch.len()] {
        if let Some(line) = lines.get(slot.lane.slot() as usize) {
            let backend = line.backend();
            snapshot.prefetch_backend(backend);
            context.shared.next_hops.prefetch(backend);
            context.counters.prefetch_backend(backend);
        }
    }
}

/// What pass 3 decides by.
#[derive(Clone, Copy)]
pub(crate) struct FastPath<'a> {
    lines: &'a [Line],
    paths: &'a [BackendPath],
    hops: &'a [AtomicU64],
    counters: &'a [BackendCounters],
    egresses: &'a [Egress; 256],
    now: Tick,
    /// A return hop with one of these bits is not used here, without VLAN tags and with: it has tags, or
    /// replies follow the kernel's routes.
    refused_hops: [u64; 2],
    /// Whether some policy wants the sessions' bytes.
    counts_bytes: bool,
    context: &'a WorkerContext,
    snapshot: &'a Snapshot,
}

impl<'a> FastPath<'a> {
    #[inline(always)]
    pub(crate) fn new(context: &'a WorkerContext, snapshot: &'a Snapshot, now: Now) -> Self {
        Self {
            lines: context.shared.sessions.reader().lines(),
            paths: &snapshot.paths,
            hops: context.shared.next_hops.words(),
            counters: context.counters.backends(),
            egresses: &snapshot.egresses,
            now: now.tick(),
            refused_hops: if context.routes.table().is_some() {
                [u64::MAX; 2]
            } else {
                [Glimpse::HOP_TAGGED, 0]
            },
            counts_bytes: context.closed.are_wanted(),
            context,
            snapshot,
        }
    }

    /// Pass 3: compares each packet with its session and rewrites it, from number `start` of the batch up to
    /// the first that takes the general path. Returns that one's number, or the batch's length. Without
    /// `TAGGED` it stops also at a packet that has or gets VLAN tags.
    #[inline(never)]
    pub(crate) fn run<F: FrameBuf, const TAGGED: bool>(
        &self,
        frames: &mut [F],
        batch: &mut Batch,
        start: usize,
    ) -> usize {
        // Equally long, so that one check serves all three.
        let backends = self.paths.len();
        let (hops, counters) = (self.hops.get(..backends), self.counters.get(..backends));
        let (Some(hops), Some(counters)) = (hops, counters) else {
            return start;
        };
        let path = Self {
            hops,
            counters,
            ..*self
        };
        let frames = &mut frames[start..];
        let rest = start..batch.len();
        let slots = &batch.slots[rest.clone()];
        let ports = &mut batch.ports[rest.clone()];
        let lens = &mut batch.lens[rest];
        let packets = frames.iter_mut().zip(slots).zip(ports).zip(lens);
        let mut at = start;
        for (((frame, slot), port), frame_len) in packets {
            let Some((egress, len)) = path.forward::<F, TAGGED>(frame, slot) else {
                break;
            };
            *port = egress;
            *frame_len = len;
            at += 1;
        }
        if self.counts_bytes {
            self.count_bytes(batch, start..at);
        }
        at
    }

    /// Adds the packets' lengths to their sessions' bytes, where a backend's policy wants them.
    #[inline(never)]
    fn count_bytes(&self, batch: &Batch, packets: Range<usize>) {
        for at in packets {
            let lane = batch.slots[at].lane;
            if let Some(session) = self.lines.get(lane.slot() as usize).and_then(Line::glimpse)
                && let Some(backend) = self.snapshot.backend(session.backend())
                && self.context.closed.is_wanted_by(backend)
            {
                let (sessions, len) = (&self.context.shared.sessions, batch.lens[at]);
                sessions.add_bytes(session.at(lane), len.into());
            }
        }
    }

    /// Rewrites a packet; returns its egress port and the frame's length. `None`, with the frame unchanged,
    /// if it takes the general path.
    #[inline(always)]
    fn forward<F: FrameBuf, const TAGGED: bool>(
        &self,
        frame: &mut F,
        slot: &Slot,
    ) -> Option<(PortId, u32)> {
        let line = self.lines.get(slot.lane.slot() as usize)?;
        if !TAGGED && slot.tags_len != 0 {
            return None;
        }
        match (slot.kind, slot.lane.is_reply()) {
            (Kind::V4Tcp, false) => {
                self.forward_as::<F, false, false, false, TAGGED>(frame, slot, line)
            }
            (Kind::V4Tcp, true) => {
                self.forward_as::<F, false, false, true, TAGGED>(frame, slot, line)
            }
            (Kind::V4Udp, false) => {
                self.forward_as::<F, false, true, false, TAGGED>(frame, slot, line)
            }
            (Kind::V4Udp, true) => {
                self.forward_as::<F, false, true, true, TAGGED>(frame, slot, line)
            }
            (Kind::V6Tcp, false) => {
                self.forward_as::<F, true, false, false, TAGGED>(frame, slot, line)
            }
            (Kind::V6Tcp, true) => {
                self.forward_as::<F, true, false, true, TAGGED>(frame, slot, line)
            }
            (Kind::V6Udp, false) => {
                self.forward_as::<F, true, true, false, TAGGED>(frame, slot, line)
            }
            (Kind::V6Udp, true) => {
                self.forward_as::<F, true, true, true, TAGGED>(frame, slot, line)
            }
        }
    }

    #[inline(always)]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "takes the port; a buffer is shorter than 4 GiB"
    )]
    fn forward_as<
        F: FrameBuf,
        const V6: bool,
        const UDP: bool,
        const REPLY: bool,
        const TAGGED: bool,
    >(
        &self,
        frame: &mut F,
        slot: &Slot,
        line: &Line,
    ) -> Option<(PortId, u32)> {
        let ingress = frame.port();
        let bytes = frame.bytes_mut();
        let mut frame_len = bytes.len();
        let (tags, mac) = if TAGGED {
            (
                PackedTags::of(bytes, slot.tags_len)?,
                plain::source_mac(bytes)?,
            )
        } else {
            (PackedTags::default(), 0)
        };
        let headers = Headers::<V6, UDP>::of(bytes.get_mut(tags.len()..)?)?;
        let session = line.glimpse()?;
        let backend = session.backend();
        let path = self.paths.get(backend.index())?;
        let side = if REPLY {
            &path.to_client
        } else {
            &path.to_backend
        };
        if path.kind != Some(const { kind(V6, UDP) })
            || differences::<V6, UDP, REPLY>(&headers, &session, side) != 0
        {
            return None;
        }

        let hop = if REPLY {
            self.is_from_backend::<TAGGED>(path, (ingress, tags))?;
            self.hop_to_client::<TAGGED>(&session)?
        } else {
            let mac = if TAGGED { mac } else { headers.source_mac() };
            let last_hop = LastHop {
                port: ingress,
                mac,
                tags,
            };
            self.hop_to_backend(&session, line, last_hop)?
        };
        let egress = &self.egresses[usize::from((hop >> 48) as u8)];
        let counters = self.counters.get(backend.index())?;
        if slot.len > egress.mtu(TAGGED) || headers.hop_limit() <= 1 {
            return None;
        }
        if session.seen != self.now && !touch(path, line, session.last_seen(), self.now) {
            return None;
        }

        let macs = egress.mac.to(hop);
        if TAGGED {
            let new = if REPLY {
                line.tags(&session)?
            } else {
                egress.tags
            };
            let (tags, to) = ([tags, new], &side.translation);
            frame_len = rewrite_tagged::<F, V6, UDP, REPLY>(frame, tags, macs, to)?;
        } else {
            headers.rewrite::<REPLY>(macs, &side.translation);
        }
        count::<REPLY>(counters, frame_len);
        Some((PortId(egress.wire), frame_len as u32))
    }

    /// The backend's next hop. `None` if it is unresolved, or if the client's return hop changed.
    #[inline(always)]
    fn hop_to_backend(&self, session: &Glimpse, line: &Line, last_hop: LastHop) -> Option<u64> {
        let hop = self.hops.get(session.backend().index())?;
        let hop = hop.load(Ordering::Relaxed);
        let is_last_hop = session.hop() == last_hop.word()
            && (last_hop.tags.is_empty() || line.tags(session)? == last_hop.tags);
        (is_last_hop && is_resolved(hop)).then_some(hop)
    }

    /// `Some` if a reply comes from the port and VLAN of its backend's next hop. (The general path knows
    /// the backend's other ports.)
    #[inline(always)]
    fn is_from_backend<const TAGGED: bool>(
        &self,
        path: &BackendPath,
        (PortId(ingress), tags): (PortId, PackedTags),
    ) -> Option<()> {
        let port = path.reply_port.load(Ordering::Relaxed);
        let is_from = if TAGGED && !tags.is_empty() {
            let expected = &self.egresses[usize::from(port)];
            expected.wire == ingress && expected.tags.is_same_vlan(tags)
        } else {
            port == ingress
        };
        is_from.then_some(())
    }

    /// The session's return hop. `None` if it is tagged, or if the kernel's routes decide.
    #[inline(always)]
    fn hop_to_client<const TAGGED: bool>(&self, session: &Glimpse) -> Option<u64> {
        let refused = self.refused_hops[usize::from(TAGGED)];
        (session.hop & refused == 0).then(|| session.hop())
    }
}

/// Where a packet came from.
#[derive(Clone, Copy)]
struct LastHop {
    port: PortId,
    mac: u64,
    tags: PackedTags,
}

impl LastHop {
    /// As a session has its return hop.
    #[inline(always)]
    const fn word(self) -> u64 {
        let PortId(port) = self.port;
        (self.tags.kind as u64) << 56 | (port as u64) << 48 | self.mac
    }
}

/// Rewrites a packet that leaves with other VLAN tags; returns the frame's length. `None`, with the frame
/// unchanged, if it has no room for them.
#[inline(always)]
fn rewrite_tagged<F: FrameBuf, const V6: bool, const UDP: bool, const REPLY: bool>(
    frame: &mut F,
    [old, new]: [PackedTags; 2],
    macs: MacWords,
    to: &PlainTranslation,
) -> Option<usize> {
    let by = old.len() as isize - new.len() as isize;
    if by != 0 && !frame.move_start(by) {
        return None;
    }
    // The headers are where they were: only the frame's start moved.
    let bytes = frame.bytes_mut();
    Headers::<V6, UDP>::of(bytes.get_mut(new.len()..)?)?.rewrite::<REPLY>(macs, to);
    plain::write_link(bytes, macs, new);
    Some(bytes.len())
}

const fn kind(v6: bool, udp: bool) -> Kind {
    match (v6, udp) {
        (false, false) => Kind::V4Tcp,
        (false, true) => Kind::V4Udp,
        (true, false) => Kind::V6Tcp,
        (true, true) => Kind::V6Udp,
    }
}

/// 0 if the packet is the session's and changes nothing in it: all differences, for one branch.
#[inline(always)]
fn differences<const V6: bool, const UDP: bool, const REPLY: bool>(
    headers: &Headers<'_, V6, UDP>,
    session: &Glimpse,
    side: &Side,
) -> u64 {
    let protocol = const { [Protocol::Tcp, Protocol::Udp][UDP as usize] };
    let direction = const { [Direction::Forward, Direction::Reply][REPLY as usize] };
    let (addresses, ports) = if REPLY {
        let from = headers.compare_address::<true>(side.far);
        let to = headers.compare_address::<false>(session.client);
        let ports = u32::from(side.port) << 16 | u32::from(session.source_port());
        (from | to, ports)
    } else {
        let from = headers.compare_address::<true>(session.client);
        let to = headers.compare_address::<false>(side.far);
        (from | to, session.request_ports())
    };
    addresses
        | u64::from(headers.ports() ^ ports)
        | session.source_nat()
        | u64::from(session.change(direction, protocol))
}

#[inline(always)]
fn count<const REPLY: bool>(counters: &BackendCounters, len: usize) {
    let traffic = if REPLY {
        &counters.reply
    } else {
        &counters.forward
    };
    traffic.packets.add(1);
    traffic.bytes.add(len as u64);
}

/// Notes that the session was seen in this tick, unless another worker's clock is ahead. `false` if it has
/// expired, or is not assured yet: time alone may then change its state.
#[inline(never)]
fn touch(path: &BackendPath, line: &Line, last_seen: LastSeen, now: Tick) -> bool {
    let expires = |timeouts: &TimeoutTicks| last_seen.is_expired(timeouts, now);
    if !last_seen.is_assured() || path.timeouts.as_ref().is_none_or(expires) {
        return false;
    }
    if last_seen.tick < now {
        line.touch(now);
    }
    true
}

/// Pass 4, if all packets of a batch are rewritten: sends them.
#[inline(never)]
pub(crate) fn send<I: FrameIo>(
    context: &WorkerContext,
    io: &mut I,
    batch: &Batch,
    frames: &mut Vec<I::Frame>,
) {
    let count = batch.len();
    let (ports, lens) = (&batch.ports[..count], &batch.lens[..count]);
    let mut packets = count as u64;
    let mut bytes = u64::from(lens.iter().sum::<u32>());
    io.send_batch(frames, ports, |at, reason| {
        packets -= 1;
        bytes -= u64::from(lens[at]);
        context.counters.dropped(reason).add(1);
    });
    context.counters.transmitted.packets.add(packets);
    context.counters.transmitted.bytes.add(bytes);
}
