//! Whether a session still stands when a packet of it comes: by its time, and its backend's health.
//!
//! Invariant: a session that stands costs no more than a look at its time and at its backend's
//! word on sessions. One that does not ends before its packet is handled, which is then one of a
//! new flow, or is refused.

use waxwing_packet::{IpPacket, Protocol, TcpFlags};

use crate::ended::Cause;
use crate::flow::{Found, tcp_flags, tuple_of};
use crate::forward::{Fate, classify_miss};
use crate::parts::Parts;
use crate::session::{Direction, Session, SessionRef, Stored, is_opening};
use crate::snapshot::{Backend, SessionsFate};
use crate::{DropReason, FrameBuf, Now, Snapshot};

/// Why a session does not stand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ending {
    /// Its time is up, or its connection is over and a SYN of either end reuses the tuple.
    Over,
    /// Its backend is down, and the packet is to find another.
    Repick,
    /// Its backend is down, and the client is to hear of that.
    Reset,
}

/// Whether a session has ended before a packet of it; `None` where it stands.
#[inline(always)]
pub(crate) fn ending(found: &Found<'_>, flags: TcpFlags, now: Now) -> Option<Ending> {
    let Found {
        stored,
        direction,
        backend,
        ..
    } = found;
    // A busy session's timeout need not be looked up.
    if stored.seen() != now.tick() && is_over(*stored, backend, now) {
        Some(Ending::Over)
    } else if *direction == Direction::Reply {
        stored.tcp().is_succeeded(flags).then_some(Ending::Over)
    } else if is_opening(flags) {
        ending_at_syn(backend, *stored, flags)
    } else if backend.sessions == SessionsFate::Keep {
        None
    } else {
        ending_at_loss(backend, *stored)
    }
}

#[inline(never)]
fn is_over(stored: Stored, backend: &Backend, now: Now) -> bool {
    stored.session().is_expired(&backend.timeouts, now.tick())
}

/// The client's SYN. It may reuse the tuple of a connection that is over (RFC 9293 section 3.6.1).
/// And where the backend is down it may as well ask another: the client has nothing of this one
/// that it could lose, or was told so, unless this one is to come back to it.
#[inline(never)]
fn ending_at_syn(backend: &Backend, stored: Stored, flags: TcpFlags) -> Option<Ending> {
    let tcp = stored.tcp();
    let unanswered = tcp.is_opening() && tcp.is_unanswered();
    let has_nothing = unanswered || tcp.is_reset();
    if tcp.may_reuse(flags) {
        Some(Ending::Over)
    } else if backend.sessions != SessionsFate::Keep || (!backend.healthy && has_nothing) {
        Some(Ending::Repick)
    } else {
        None
    }
}

/// Another packet of the client, to a backend whose sessions do not stay. A connection that both
/// ends have closed has nothing left to lose, and ends by its time.
#[cold]
fn ending_at_loss(backend: &Backend, stored: Stored) -> Option<Ending> {
    match backend.sessions {
        _ if stored.tcp().is_closed() => None,
        SessionsFate::Keep => None,
        SessionsFate::Reset => Some(Ending::Reset),
        SessionsFate::Repick => Some(Ending::Repick),
    }
}

/// Ends a session, and says what becomes of the packet that met its end.
#[cold]
pub(crate) fn end<F: FrameBuf>(
    ending: Ending,
    snapshot: &Snapshot,
    parts: &mut Parts<'_>,
    (frame, packet): (&F, &IpPacket),
    (at, session): (SessionRef, Session),
    now: Now,
) -> Fate {
    match ending {
        Ending::Over => {
            if parts.remove(snapshot, at, Cause::Over, now) {
                parts.counters.expired.add(1);
            }
            anew(snapshot, packet, parts)
        }
        Ending::Repick => {
            if parts.remove(snapshot, at, Cause::Down, now) {
                parts.counters.repicked.add(1);
            }
            anew(snapshot, packet, parts)
        }
        Ending::Reset => {
            let fate = fate_at_reset(parts, frame, packet, (at, session), now);
            // A connection whose client could not be told now stays for its next try, which else
            // would be one of an unknown connection. The next datagram simply finds another backend.
            let stays = matches!(fate, Fate::Drop(_)) && session.protocol == Protocol::Tcp;
            if !stays && parts.remove(snapshot, at, Cause::Down, now) {
                parts.counters.reset.add(1);
            }
            fate
        }
    }
}

/// What becomes of a packet whose session has ended: it is one of a new flow.
fn anew(snapshot: &Snapshot, packet: &IpPacket, parts: &Parts<'_>) -> Fate {
    match tuple_of(packet) {
        Some(tuple) => classify_miss(snapshot, packet, parts.shared.sessions.hash(&tuple)),
        None => Fate::Kernel,
    }
}

/// What becomes of the packet at which its session is reset. An RST is not answered; it goes on to
/// the backend, which may be alive and drain, and has no other word of the connection's end.
fn fate_at_reset<F: FrameBuf>(
    parts: &mut Parts<'_>,
    frame: &F,
    packet: &IpPacket,
    (at, session): (SessionRef, Session),
    now: Now,
) -> Fate {
    if tcp_flags(packet).has(TcpFlags::RST) {
        Fate::Session(at, session, Direction::Forward)
    } else {
        let Parts {
            refusals, gather, ..
        } = parts;
        refusals.refuse(gather, (frame, packet), DropReason::BackendDown, now)
    }
}
