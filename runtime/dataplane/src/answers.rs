//! How backends take new connections: how long they take to answer, that they refuse, or that they
//! let their clients wait.
//!
//! Invariant: all of it is seen in passing. No packet is sent, and none but SYN and RST is looked at.

use waxwing_packet::TcpFlags;

use crate::counters::WorkerCounters;
use crate::forward::Shared;
use crate::session::{Direction, Session, SessionRef, TcpState};
use crate::{Backend, Now, Snapshot, Tick};

/// A client waits longer than this for an answer to its SYN: what comes sooner is a duplicate. (A second
/// at first, by RFC 6298 section 2.1.)
const AGAIN_TICKS: u32 = 3;

/// A SYN or an RST of a session, which changed its state from `before` to `after` or left it; and
/// when a packet of the session was seen last before. Says whether the backend has just refused the
/// connection.
pub(crate) fn watch(
    shared: &Shared,
    counters: &WorkerCounters,
    (at, session, seen_before): (SessionRef, &Session, Option<Tick>),
    (direction, flags): (Direction, TcpFlags),
    (before, after): (TcpState, TcpState),
    now: Now,
) -> bool {
    if direction == Direction::Forward && flags.has(TcpFlags::SYN) {
        shared.sessions.repeat_connect(at, now);
        // The first again, since what was seen last is what the session was made for. Of two workers
        // one alone finds that.
        let first_again = seen_before == Some(session.created)
            && now.tick().since(session.created) >= AGAIN_TICKS;
        if first_again && before.is_opening() && before.is_unanswered() {
            counters.backend(session.backend).syn_repeated.add(1);
        }
    }
    let refused = after.is_refused() && !before.is_refused();
    if refused {
        counters.backend(session.backend).refused.add(1);
    }
    // Of a simultaneous open's SYN, which has no ACK, nobody knows what it answers.
    if after.is_answered()
        && !before.is_answered()
        && flags.has(TcpFlags::ACK)
        && let Some(us) = shared.sessions.connect_us(at, now)
    {
        shared.gauges.measure_latency(session.backend, us);
    }
    refused
}

/// Whether the client of a connection that a backend has refused is to try another: if there is one.
/// Its SYN comes again, for nobody has answered it, and finds a connection that is over.
#[cold]
pub(crate) fn is_retried(snapshot: &Snapshot, backend: &Backend) -> bool {
    let others = || {
        let service = snapshot.service(backend.service)?;
        let mut others = service.backends.iter().filter(|id| **id != backend.id);
        others.find(|id| snapshot.backend(**id).is_some_and(Backend::takes_new))
    };
    backend.retries_refused && others().is_some()
}
