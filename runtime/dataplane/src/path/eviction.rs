//! Which session gives way to a new one: in a full table, in a service that has its share of it, and among
//! those that hold a pool's source ports.
//!
//! Invariant: an assured session that neither closed nor was reset never does.

use waxwing_packet::Protocol;

use super::WorkerContext;
use super::session_close::RemovalCause;
use crate::session::{Evictable, Phase, Session};
use crate::{DropReason, ServiceId, Snapshot, Tick};

/// How many slots of a full table are searched for a session to evict.
const EVICTION_WINDOW: usize = 128;
/// The most slots that are searched for a session of one service: some ten microseconds.
const SHARE_WINDOW_MAX: usize = 1024;
/// How long a connection that an RST seems to have ended may show that it lives, before it can be evicted:
/// ten seconds, as in Linux's connection tracking.
const RESET_TICKS: u32 = 100;
/// How long a reply to a datagram may be under way.
const REPLY_TICKS: u32 = 100;
/// How long a datagram's session is quiet after a reply, before that counts as the whole of it.
const QUIET_TICKS: u32 = 2;
/// How long a handshake may take before its source port counts as a flood's: its client has repeated its SYN
/// once by then (RFC 6298 section 2.1).
const HANDSHAKE_TICKS: u32 = 20;

/// Whether a session may be evicted, and in which order.
fn evictable(snapshot: &Snapshot, session: &Session, now: Tick) -> Evictable {
    // A backend that this epoch does not know belongs to the next one.
    let Some(backend) = snapshot.backend(session.backend) else {
        return Evictable::Never;
    };
    if session.is_expired(&backend.timeouts, now) {
        return Evictable::Unassured;
    }
    match session.tcp.phase() {
        _ if !session.is_assured() => Evictable::Unassured,
        Phase::Closing if session.tcp.is_closed() => Evictable::Closing,
        Phase::Closing if now.since(session.seen) >= RESET_TICKS => Evictable::Closing,
        Phase::Closing | Phase::HalfOpen | Phase::Established => Evictable::Never,
    }
}

/// The order in which the sessions that hold a pool's ports are evicted, highest first; `None` for never. As
/// in a full table, sessions that are not assured go first, the oldest of them; then the longest closed one.
/// (All candidates are compared here, so an exchange that may still be under way can be spared to the last.
/// The ports of closed sessions are held out of caution only.)
///
/// A late segment meets other sequence numbers at the next client. A late datagram does not, and shows it
/// another client's reply: so the longest silent one goes first, and one that has its reply goes a little
/// before one that waits for it.
pub(super) fn eviction_rank(
    snapshot: &Snapshot,
    session: &Session,
    now: Tick,
) -> Option<(u8, u32)> {
    let idle = now.since(session.seen);
    let (may_go_on, order) = match (session.protocol, session.tcp.phase()) {
        (Protocol::Tcp, phase) => {
            let age = now.since(session.created);
            // A server that remembers another connection from this port answers the SYN by a challenge ACK,
            // and forgets that one at the client's RST (RFC 5961 section 4). Then the client repeats its SYN.
            let waits = phase == Phase::HalfOpen || session.tcp.is_unanswered();
            (age < HANDSHAKE_TICKS && waits, age)
        }
        (Protocol::Udp, Phase::HalfOpen) => (idle < REPLY_TICKS, idle),
        (Protocol::Udp, _) => (idle < QUIET_TICKS, idle + QUIET_TICKS),
    };
    match evictable(snapshot, session, now) {
        Evictable::Unassured if may_go_on => Some((0, order)),
        Evictable::Unassured => Some((2, order)),
        Evictable::Closing => Some((1, idle)),
        Evictable::Never => None,
    }
}

/// Evicts any session from a full table.
pub(super) fn evict_any(
    snapshot: &Snapshot,
    context: &mut WorkerContext,
    now: Tick,
) -> Result<(), DropReason> {
    let classify = |session: &Session| evictable(snapshot, session, now);
    if evict(snapshot, context, EVICTION_WINDOW, classify, now) {
        Ok(())
    } else {
        Err(DropReason::SessionTableFull)
    }
}

/// Evicts a session of a service that has its share of the table. The smaller the share, the longer the
/// search.
pub(super) fn evict_of(
    service: ServiceId,
    share: u32,
    snapshot: &Snapshot,
    context: &mut WorkerContext,
    now: Tick,
) -> Result<(), DropReason> {
    let classify = |session: &Session| match snapshot.backend(session.backend) {
        Some(backend) if backend.service == service => evictable(snapshot, session, now),
        _ => Evictable::Never,
    };
    let parts = context.shared.sessions.capacity() / (share as usize).max(1);
    let window = (EVICTION_WINDOW * parts.max(1)).min(SHARE_WINDOW_MAX);
    if evict(snapshot, context, window, classify, now) {
        Ok(())
    } else {
        Err(DropReason::ServiceFull)
    }
}

fn evict(
    snapshot: &Snapshot,
    context: &mut WorkerContext,
    window: usize,
    classify: impl Fn(&Session) -> Evictable,
    now: Tick,
) -> bool {
    let sessions = &context.shared.sessions;
    let Some(evicted) = sessions.evict(&mut context.slots, window, classify, now) else {
        return false;
    };
    context
        .closed
        .record_removal(snapshot, &evicted, RemovalCause::Evicted, now);
    context.counters.evicted.add(1);
    true
}
