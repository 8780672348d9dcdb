//! Whether a session still stands when a packet of it arrives: by its timeout, its TCP state and its
//! backend's health.
//!
//! Invariant: a session that does not stand ends before its packet is handled. The packet is then one of a
//! new flow, or is rejected.

use waxwing_packet::{Protocol, TcpFlags};

use super::flow::{FoundSession, tcp_flags, tuple_of};
use super::session_close::RemovalCause;
use super::verdict::Ending;
use super::{Arrived, Verdict, WorkerContext, no_session};
use crate::model::{Backend, SessionAction};
use crate::session::{Direction, Session, SessionRef, Stored, is_opening};
use crate::{DropReason, FrameBuf, Now, Snapshot, Tick};

/// Why the session ends before this packet; `None` if it stands.
#[inline(always)]
pub(crate) fn ending(found: &FoundSession<'_>, flags: TcpFlags, now: Now) -> Option<Ending> {
    let FoundSession {
        stored,
        direction,
        backend,
        ..
    } = found;
    // A session seen in this tick cannot have timed out.
    if stored.tcp().is_killed() {
        Some(ending_of_killed(*stored, *direction))
    } else if stored.seen() != now.tick() && is_expired(*stored, backend, now) {
        Some(Ending::Over)
    } else if *direction == Direction::Reply {
        stored
            .tcp()
            .is_reused_by_server(flags)
            .then_some(Ending::Over)
    } else if is_opening(flags) {
        ending_at_syn(backend, *stored, flags, now)
    } else if backend.sessions == SessionAction::Keep {
        None
    } else {
        ending_at_loss(backend, *stored)
    }
}

/// At the next packet of a session that the operator has ended: its sender is told, but a client's datagram
/// finds another backend.
#[cold]
fn ending_of_killed(stored: Stored, direction: Direction) -> Ending {
    match (stored.protocol(), direction) {
        (Protocol::Udp, Direction::Forward) => Ending::Repick,
        _ => Ending::Reset,
    }
}

#[inline(never)]
fn is_expired(stored: Stored, backend: &Backend, now: Now) -> bool {
    stored.session().is_expired(&backend.timeouts, now.tick())
}

/// How long a connection is silent before a SYN counts as a new one, in ticks: less than the second after
/// which a client repeats its SYN.
const SILENT_TICKS: u32 = 5;

/// At the client's SYN. It may reuse the tuple of a connection that is over (RFC 9293 section 3.6.1). If the
/// backend's sessions do not stay (it is down, or drained for too long), the flow moves to another backend.
/// If they stay although the backend is down, only a connection that was never answered, or was reset, moves.
/// If they stay although it was removed, a silent one moves too: a removed server is mostly gone, and would
/// never tell the client that it has no such connection (RFC 5961 section 4).
#[inline(never)]
fn ending_at_syn(backend: &Backend, stored: Stored, flags: TcpFlags, now: Now) -> Option<Ending> {
    let tcp = stored.tcp();
    let unanswered = tcp.is_opening() && tcp.is_unanswered();
    let has_nothing_to_lose = unanswered || tcp.is_reset();
    let is_silent = now.tick().since(stored.seen()) >= SILENT_TICKS;
    if tcp.may_reuse(flags) {
        Some(Ending::Over)
    } else if backend.sessions != SessionAction::Keep
        || (!backend.healthy && has_nothing_to_lose)
        || (backend.is_removed() && (has_nothing_to_lose || is_silent))
    {
        Some(Ending::Repick)
    } else {
        None
    }
}

/// How long a session of a removed backend waits for its client's packet once it has to end, in ticks. The
/// packet is answered by an RST; without one, the session ends silently and frees the backend's id.
const LEFT_TICKS: u32 = 100;

/// Whether the sweep removes a session that no packet ends.
pub(crate) fn is_over(session: &Session, backend: &Backend, tick: Tick) -> bool {
    let ends = backend.is_removed() && backend.sessions != SessionAction::Keep;
    session.is_expired(&backend.timeouts, tick) || (ends && tick.since(session.seen) > LEFT_TICKS)
}

/// At a client's packet that is not a SYN, when the backend's sessions do not stay. A connection that both
/// ends have closed is left to its timeout.
#[cold]
fn ending_at_loss(backend: &Backend, stored: Stored) -> Option<Ending> {
    match backend.sessions {
        _ if stored.tcp().is_closed() => None,
        SessionAction::Keep => None,
        SessionAction::Reset => Some(Ending::Reset),
        SessionAction::Repick => Some(Ending::Repick),
    }
}

/// Ends a session; returns the verdict on the packet that found it so.
#[cold]
pub(crate) fn end<F: FrameBuf>(
    context: &mut WorkerContext,
    ending: Ending,
    snapshot: &Snapshot,
    arrived: Arrived<'_, F>,
    (at, session, direction): (SessionRef, Session, Direction),
    now: Now,
) -> Verdict {
    match ending {
        Ending::Over => {
            if context.close_session(snapshot, at, RemovalCause::Over, now) {
                context.counters.expired.add(1);
            }
            as_new_flow(context, snapshot, arrived, now)
        }
        Ending::Repick => {
            if context.close_session(snapshot, at, RemovalCause::BackendDown, now) {
                context.counters.repicked.add(1);
            }
            as_new_flow(context, snapshot, arrived, now)
        }
        Ending::Reset => {
            let verdict = verdict_at_reset(context, &arrived, (at, session, direction), now);
            // If the RST cannot be sent now (rate limit), a TCP session stays for the client's next packet,
            // which would otherwise belong to an unknown connection. A datagram simply finds another backend.
            let stays = matches!(verdict, Verdict::Drop(_)) && session.protocol == Protocol::Tcp;
            if !stays && context.close_session(snapshot, at, RemovalCause::BackendDown, now) {
                context.counters.reset.add(1);
            }
            verdict
        }
    }
}

fn as_new_flow<F: FrameBuf>(
    context: &mut WorkerContext,
    snapshot: &Snapshot,
    arrived: Arrived<'_, F>,
    now: Now,
) -> Verdict {
    match tuple_of(arrived.packet) {
        Some(tuple) => {
            let hash = context.shared.sessions.hash(&tuple);
            no_session::verdict(context, snapshot, arrived, hash, now)
        }
        None => Verdict::PassToKernel,
    }
}

/// The verdict on the packet whose session is reset. An RST is never answered; it goes on to the other end,
/// which has no other way to learn that the connection ended: its backend may be draining.
fn verdict_at_reset<F: FrameBuf>(
    context: &mut WorkerContext,
    arrived: &Arrived<'_, F>,
    (at, session, direction): (SessionRef, Session, Direction),
    now: Now,
) -> Verdict {
    if tcp_flags(arrived.packet).has(TcpFlags::RST) {
        return Verdict::Session(at, session, direction);
    }
    let WorkerContext {
        reject, linearizer, ..
    } = context;
    reject.check(linearizer, arrived, DropReason::BackendDown, now)
}
