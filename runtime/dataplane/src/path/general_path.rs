//! The general path: any packet of an established session, from its session to its egress port. It takes what
//! the fast path does not.
//!
//! Invariant: nothing here allocates, calls a policy or reads a clock. It locks only when the client's return
//! hop changed, and writes shared state only when that changed.
//!
//! What few packets need is in functions that are not inlined and get copies. So the compiler never has to
//! put the whole session together in memory.

use waxwing_packet::{Fragmentation, TcpFlags};

use super::flow::{FoundSession, tcp_flags};
use super::nat::{destination_nat, full_nat};
use super::verdict::{Stop, Undeliverable};
use super::{
    Arrived, WorkerContext, handshake, ingress, return_hop, session_check, session_sample,
    session_update,
};
use crate::egress::{EgressHop, Exit, NextHop, untagged_exit};
use crate::session::{Direction, SessionRef, Stored};
use crate::{BackendId, DropReason, FrameBuf, Now, PortId, Snapshot};

/// Rewrites a packet whose session was just looked up; returns its egress port.
#[inline(always)]
pub(crate) fn forward<F: FrameBuf>(
    context: &WorkerContext,
    snapshot: &Snapshot,
    arrived: Arrived<'_, F>,
    found: &FoundSession<'_>,
    now: Now,
) -> Result<PortId, Stop> {
    check_ingress(context, snapshot, &arrived, found)?;
    if let Some(ending) = session_check::ending(found, tcp_flags(arrived.packet), now) {
        return Err(Stop::Ending(ending));
    }
    if arrived.packet.fragment.is_some() {
        return Err(Stop::FirstFragment);
    }
    forward_checked(context, snapshot, arrived, found, now)
}

/// Whether the packet came by a port that its sender is behind.
///
/// # Errors
/// Why it is dropped.
#[inline(always)]
pub(crate) fn check_ingress<F: FrameBuf>(
    context: &WorkerContext,
    snapshot: &Snapshot,
    arrived: &Arrived<'_, F>,
    found: &FoundSession<'_>,
) -> Result<(), DropReason> {
    let ethernet = &arrived.packet.ethernet;
    if found.direction == Direction::Forward && !ethernet.source.is_station() {
        return Err(DropReason::Martian);
    }
    let from = (arrived.frame.port(), &ethernet.tags);
    let session = (&found.stored, found.direction);
    ingress::check(context, snapshot, from, session, found.backend)
}

/// Like [`forward`], for a session that is known to stand: state, next hop, exit, rewrite.
#[inline(always)]
pub(crate) fn forward_checked<F: FrameBuf>(
    context: &WorkerContext,
    snapshot: &Snapshot,
    arrived: Arrived<'_, F>,
    found: &FoundSession<'_>,
    now: Now,
) -> Result<PortId, Stop> {
    let FoundSession {
        at,
        ref stored,
        direction,
        backend,
    } = *found;
    let packet = arrived.packet;
    if !is_unchanged_by(stored, direction, tcp_flags(packet), now) {
        let bytes = arrived.frame.bytes();
        let refused = session_update::update(context, (packet, bytes), *found, now);
        if refused && handshake::is_retried(snapshot, backend) {
            return Err(DropReason::RefusedRetried.into());
        }
    }
    if context.shared.sessions.is_watched(at) {
        let packet = (packet, arrived.frame.bytes());
        session_sample::observe(context, packet, found, now);
        let stored = match direction {
            Direction::Reply if context.shared.sessions.is_hop_moving(at) => {
                return_hop::confirm(context, packet, at, *stored)
            }
            _ => *stored,
        };
        return leave(
            context,
            snapshot,
            arrived,
            &FoundSession { stored, ..*found },
        );
    }
    leave(context, snapshot, arrived, found)
}

/// Sends a packet on its way: next hop, exit, rewrite.
#[inline(always)]
fn leave<F: FrameBuf>(
    context: &WorkerContext,
    snapshot: &Snapshot,
    arrived: Arrived<'_, F>,
    found: &FoundSession<'_>,
) -> Result<PortId, Stop> {
    let FoundSession { at, ref stored, .. } = *found;
    let to = match found.direction {
        Direction::Forward => {
            follow_client(context, &arrived, at, stored);
            context.hops().to_backend(found.backend.id)?
        }
        Direction::Reply => context.hops().to_client(snapshot, stored)?,
    };
    let packet = arrived.packet;
    if packet.ethernet.tags.is_empty()
        && let Some(exit) = untagged_exit(snapshot, stored, &to)
    {
        return rewrite(context, snapshot, arrived, found, &exit);
    }
    rewrite_other(context, snapshot, arrived, *found, to)
}

/// Whether the packet changes nothing in its session, as nearly all do not. The session's cache line then
/// stays shared between the cores that read it.
#[inline(always)]
fn is_unchanged_by(stored: &Stored, direction: Direction, flags: TcpFlags, now: Now) -> bool {
    stored.seen() == now.tick()
        && !flags.has_any(TcpFlags::SYN | TcpFlags::RST)
        && stored.tcp().on_packet(direction, flags) == stored.tcp()
}

/// Follows the client to another hop.
#[inline(always)]
fn follow_client<F: FrameBuf>(
    context: &WorkerContext,
    arrived: &Arrived<'_, F>,
    at: SessionRef,
    stored: &Stored,
) {
    let ethernet = &arrived.packet.ethernet;
    let hop = NextHop {
        port: arrived.frame.port(),
        mac: ethernet.source,
    };
    if hop != stored.hop() || ethernet.tags != stored.tags() {
        let packet = (arrived.packet, arrived.frame.bytes());
        return_hop::follow(context, packet, (at, stored), (hop, ethernet.tags));
    }
}

/// Rewrites a packet that has or gets VLAN tags, or that leaves by a bridge port or by the kernel.
#[inline(never)]
fn rewrite_other<F: FrameBuf>(
    context: &WorkerContext,
    snapshot: &Snapshot,
    arrived: Arrived<'_, F>,
    found: FoundSession<'_>,
    to: EgressHop,
) -> Result<PortId, Stop> {
    if to.hop.port == PortId::KERNEL {
        return rewrite_for_kernel(context, snapshot, arrived, &found);
    }
    let ingress = (arrived.frame.port(), &arrived.packet.ethernet);
    let exit = Exit::of(snapshot, ingress, (&found.stored, found.direction), &to)?;
    rewrite(context, snapshot, arrived, &found, &exit)
}

/// Rewrites a reply whose client's hop is not known yet, and leaves the rest to the kernel: the hop limit,
/// the MTU and the way.
#[cold]
fn rewrite_for_kernel<F: FrameBuf>(
    context: &WorkerContext,
    snapshot: &Snapshot,
    Arrived { frame, packet }: Arrived<'_, F>,
    found: &FoundSession<'_>,
) -> Result<PortId, Stop> {
    let nat = full_nat(found.stored, found.backend, snapshot, found.direction);
    nat.apply(frame.bytes_mut(), packet);
    let len = frame.frame_len() as u64;
    count(context, found.backend.id, found.direction, len);
    if context.closed.is_wanted_by(found.backend) {
        context.shared.sessions.add_bytes(found.at, len);
    }
    Err(Stop::ToKernel)
}

/// Rewrites a packet for its exit.
#[inline(always)]
fn rewrite<F: FrameBuf>(
    context: &WorkerContext,
    snapshot: &Snapshot,
    Arrived { frame, packet }: Arrived<'_, F>,
    found: &FoundSession<'_>,
    exit: &Exit<'_>,
) -> Result<PortId, Stop> {
    let FoundSession {
        at,
        ref stored,
        direction,
        backend,
    } = *found;
    if exit.routed && packet.hop_limit <= 1 {
        return Err(Stop::Undeliverable(Undeliverable::HopLimit));
    }
    // Also in transparent mode: without an error the sender would wait forever.
    let too_big = packet.end - packet.network > exit.egress.mtu;
    if too_big && !Fragmentation::is_allowed(frame.bytes(), packet) {
        return Err(Stop::Undeliverable(Undeliverable::TooBig(exit.egress.mtu)));
    }
    let full;
    let mut changes = if let Some(changes) = destination_nat(stored, backend, direction) {
        changes
    } else {
        full = full_nat(*stored, backend, snapshot, direction);
        full.changes()
    };
    changes.link = exit.next.as_ref().map(|next| (&exit.egress.mac, next));
    changes.decrement_hop_limit = exit.routed;
    changes.apply(frame.bytes_mut(), packet);
    exit.retag(frame, &packet.ethernet)?;
    let len = frame.frame_len() as u64;
    count(context, backend.id, direction, len);
    if context.closed.is_wanted_by(backend) {
        context.shared.sessions.add_bytes(at, len);
    }
    if too_big {
        return Err(Stop::Fragment(exit.egress.wire, exit.egress.mtu));
    }
    Ok(exit.egress.wire)
}

#[inline(always)]
fn count(context: &WorkerContext, backend: BackendId, direction: Direction, len: u64) {
    let counters = context.counters.backend(backend);
    let traffic = match direction {
        Direction::Forward => &counters.forward,
        Direction::Reply => &counters.reply,
    };
    traffic.packets.add(1);
    traffic.bytes.add(len);
}
