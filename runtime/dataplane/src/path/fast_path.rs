//! The fast path: a plain packet of an established session in which it changes nothing, or that has just
//! opened it ([`forward_openers`]), on to a next hop that is known; with up to two VLAN tags. Three passes
//! over a batch, each a loop without calls: [`classify`], [`find_lanes`], [`FastPath::run`]; then [`send`].
//! Every other packet takes the general path (`general_path.rs`), which decides it anew.
//!
//! Invariant: a packet that takes the fast path ends as it would by the general path: the same frame,
//! counters and session. Nothing of a frame is written before all is known. Nothing here allocates, locks,
//! calls a policy or reads a clock; shared state is written once per session and tick.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use waxwing_packet::Protocol;
use waxwing_packet::plain::{self, Headers, Kind, MacWords, PackedTags, Plain, PlainTranslation};

use super::{Batch, PacketSet, Slot, Verdict, WorkerContext};
use crate::counters::BackendCounters;
use crate::egress::is_resolved;
use crate::model::{BackendPath, Egress, Side, TimeoutTicks};
use crate::session::{Direction, Glimpse, LastSeen, Line};
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
        if rest > 0 {
            exceptions.insert(at);
        } else if let Some((plain, place)) = plain::read(head, &reader) {
            slot.set(plain, place);
        } else if let Some((plain, place)) = plain::read_tagged(head, &reader) {
            slot.set(plain, place);
        } else {
            exceptions.insert(at);
        }
    }
    for at in exceptions.iter() {
        batch.slots[at] = Slot::default();
    }
    context.counters.received.packets.add(frames.len() as u64);
    context.counters.received.bytes.add(bytes);
    exceptions
}

/// Pass 2: reads the index and prefetches the session lines.
#[inline(always)]
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
}

impl<'a> FastPath<'a> {
    /// `None` unless the tables of next hops and counters have all of the snapshot's backends.
    #[inline(always)]
    fn new(context: &'a WorkerContext, snapshot: &'a Snapshot, now: Now) -> Option<Self> {
        let paths = &snapshot.paths;
        Some(Self {
            lines: context.shared.sessions.reader().lines(),
            paths,
            // Equally long, so that one check serves all three.
            hops: context.shared.next_hops.words().get(..paths.len())?,
            counters: context.counters.backends().get(..paths.len())?,
            egresses: &snapshot.egresses,
            now: now.tick(),
            refused_hops: if context.routes.table().is_some() {
                [u64::MAX; 2]
            } else {
                [Glimpse::HOP_TAGGED, 0]
            },
        })
    }

    /// Pass 3: compares each packet with its session and rewrites it, from number `start` of the batch up to
    /// the first that takes the general path. Returns that one's number, or the batch's length. Without
    /// `TAGGED` it stops also at a packet that has or gets VLAN tags.
    #[inline(never)]
    pub(crate) fn run<F: FrameBuf, const TAGGED: bool>(
        (context, snapshot): (&WorkerContext, &Snapshot),
        frames: &mut [F],
        batch: &mut Batch,
        start: usize,
        now: Now,
    ) -> usize {
        let Some(path) = FastPath::new(context, snapshot, now) else {
            return start;
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
        if context.closed.are_wanted() {
            count_bytes(context, snapshot, batch, start..at);
        }
        at
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
        match (slot.kind::<TAGGED>()?, slot.lane.is_reply()) {
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
        let tags = if TAGGED {
            slot.tags()
        } else {
            PackedTags::default()
        };
        let bytes = bytes.get_mut(..tags.len() + const { Headers::<V6, UDP>::LEN })?;
        let mac = plain::source_mac(bytes)?;
        let headers = Headers::<V6, UDP>::of(bytes, tags.len())?;
        let (session, hop_tags) = if TAGGED {
            line.glimpse_with_tags()?
        } else {
            (line.glimpse()?, PackedTags::default())
        };
        let backend = session.backend();
        let path = self.paths.get(backend.index())?;
        let side = if REPLY {
            &path.to_client
        } else {
            &path.to_backend
        };
        let mut differences = differences::<V6, UDP, REPLY>(&headers, &session, side);
        if !REPLY {
            let last_hop = LastHop {
                port: ingress,
                mac,
                tags,
            };
            differences |= last_hop.differences(&session, hop_tags);
        }
        if path.kind != Some(const { kind(V6, UDP) }) || differences != 0 {
            return None;
        }

        let hop = if REPLY {
            self.is_from_backend::<TAGGED>(path, (ingress, tags))?;
            self.hop_to_client::<TAGGED>(&session)?
        } else {
            self.hop_to_backend(&session)?
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
            let (len, words) = if REPLY {
                (hop_tags.len(), hop_tags.words())
            } else {
                (egress.tags.len(), egress.tag_words)
            };
            let (lens, to) = ([tags.len(), len], &side.translation);
            frame_len = rewrite_tagged::<F, V6, UDP, REPLY>(frame, lens, (macs, words), to)?;
        } else {
            headers.rewrite::<REPLY>(&side.translation);
            plain::write_macs(bytes, macs);
        }
        count::<REPLY>(counters, frame_len);
        Some((PortId(egress.wire), frame_len as u32))
    }

    /// The backend's next hop; `None` if it is unresolved.
    #[inline(always)]
    fn hop_to_backend(&self, session: &Glimpse) -> Option<u64> {
        let hop = self.hops.get(session.backend().index())?;
        let hop = hop.load(Ordering::Relaxed);
        is_resolved(hop).then_some(hop)
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
    /// 0 if it is the session's return hop, which has these tags.
    #[inline(always)]
    const fn differences(self, session: &Glimpse, hop_tags: PackedTags) -> u64 {
        let PortId(port) = self.port;
        let word = (self.tags.kind as u64) << 56 | (port as u64) << 48 | self.mac;
        (session.hop() ^ word) | (self.tags.tci ^ hop_tags.tci) as u64
    }
}

/// Rewrites a packet with VLAN tags of `old_len` bytes that leaves with others; returns the frame's length.
/// `None`, with the frame unchanged, if it has no room for them.
#[inline(always)]
fn rewrite_tagged<F: FrameBuf, const V6: bool, const UDP: bool, const REPLY: bool>(
    frame: &mut F,
    [old_len, len]: [usize; 2],
    (macs, tags): (MacWords, [u8; 8]),
    to: &PlainTranslation,
) -> Option<usize> {
    // The headers stay where they are: only the frame's start moves.
    if !frame.move_start(old_len as isize - len as isize) {
        return None;
    }
    let bytes = frame.bytes_mut();
    let mut headers = Headers::<V6, UDP>::of(bytes, len)?;
    headers.write_tags(tags);
    headers.rewrite::<REPLY>(to);
    plain::write_macs(bytes, macs);
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

/// Adds the packets' lengths to their sessions' bytes, where a backend's policy wants them.
#[inline(never)]
fn count_bytes(context: &WorkerContext, snapshot: &Snapshot, batch: &Batch, packets: Range<usize>) {
    let sessions = &context.shared.sessions;
    let reader = sessions.reader();
    for at in packets {
        let lane = batch.slots[at].lane;
        if let Some(session) = reader.glimpse(lane)
            && let Some(backend) = snapshot.backend(session.backend())
            && context.closed.is_wanted_by(backend)
        {
            sessions.add_bytes(session.at(lane), batch.lens[at].into());
        }
    }
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

/// Rewrites packets that have just opened their sessions, as far as they are plain but for their flags: these
/// are in the sessions' state already. The others keep their verdicts.
pub(super) fn forward_openers<F: FrameBuf>(
    context: &WorkerContext,
    snapshot: &Snapshot,
    batch: &mut Batch,
    openers: PacketSet,
    frames: &mut [F],
    now: Now,
) {
    let Some(path) = FastPath::new(context, snapshot, now) else {
        return;
    };
    for at in openers.iter() {
        let frame = &mut frames[at];
        if let (Verdict::Session(session, ..), Some(packet)) =
            (&batch.verdicts[at], &batch.packets[at])
            && frame.rest_len() == 0
            && let Some(plain) = Plain::of(packet)
        {
            let slot = &mut batch.slots[at];
            slot.set(plain, slot.place());
            slot.lane = session.lane(Direction::Forward);
            if let Some((egress, len)) = path.forward::<F, true>(frame, slot) {
                (batch.ports[at], batch.lens[at]) = (egress, len);
                batch.verdicts[at] = Verdict::Forward(egress);
                if context.closed.are_wanted() {
                    count_bytes(context, snapshot, batch, at..at + 1);
                }
            }
        }
    }
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
