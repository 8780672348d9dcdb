//! How backends take new connections: how long they take to answer, or that they refuse.
//!
//! Invariant: all of it is seen in passing. No packet is sent, and none but SYN and RST is looked at.

use waxwing_packet::TcpFlags;

use crate::counters::WorkerCounters;
use crate::forward::Shared;
use crate::session::{Direction, SessionRef, TcpState};
use crate::{BackendId, Now};

/// A SYN or an RST of a session, which changed its state from `before` to `after` or left it.
pub(crate) fn watch(
    shared: &Shared,
    counters: &WorkerCounters,
    at: SessionRef,
    backend: BackendId,
    (direction, flags): (Direction, TcpFlags),
    (before, after): (TcpState, TcpState),
    now: Now,
) {
    if direction == Direction::Forward && flags.has(TcpFlags::SYN) {
        shared.sessions.repeat_connect(at, now);
    }
    if after.is_refused() && !before.is_refused() {
        counters.backend(backend).refused.add(1);
    }
    // Of a simultaneous open's SYN, which has no ACK, nobody knows what it answers.
    if after.is_answered()
        && !before.is_answered()
        && flags.has(TcpFlags::ACK)
        && let Some(us) = shared.sessions.connect_us(at, now)
    {
        shared.gauges.measure_latency(backend, us);
    }
}
