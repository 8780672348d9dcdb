//! How backends take new connections: how long they take to answer, that they refuse, or that they
//! let their clients wait.
//!
//! Invariant: all of it is seen in passing. No packet is sent, and none but SYN and RST is looked at.

use waxwing_packet::TcpFlags;

use crate::counters::WorkerCounters;
use crate::forward::Shared;
use crate::session::{Direction, Session, SessionRef, TcpState};
use crate::{Now, Tick};

/// A SYN or an RST of a session, which changed its state from `before` to `after` or left it; and
/// when a packet of the session was seen last before.
pub(crate) fn watch(
    shared: &Shared,
    counters: &WorkerCounters,
    (at, session, seen_before): (SessionRef, &Session, Option<Tick>),
    (direction, flags): (Direction, TcpFlags),
    (before, after): (TcpState, TcpState),
    now: Now,
) {
    if direction == Direction::Forward && flags.has(TcpFlags::SYN) {
        shared.sessions.repeat_connect(at, now);
        // The first again, since what was seen last is what the session was made for. Of two workers
        // one alone finds that.
        let first_again = seen_before == Some(session.created) && now.tick() > session.created;
        if first_again && before.is_opening() && before.is_unanswered() {
            counters.backend(session.backend).syn_repeated.add(1);
        }
    }
    if after.is_refused() && !before.is_refused() {
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
}
