//! How backends take new connections: how long they take to answer, whether they refuse or stay silent.
//!
//! Invariant: purely passive. It sends nothing, and looks at SYN and RST only.

use waxwing_packet::TcpFlags;

use super::shared::SharedState;
use crate::counters::WorkerCounters;
use crate::model::Backend;
use crate::session::{Direction, Session, SessionRef, TcpState};
use crate::{Now, Snapshot, Tick};

/// A second SYN that comes sooner than this is a duplicate: a client waits one second before it retransmits
/// (RFC 6298 section 2.1).
const RETRANSMIT_TICKS: u32 = 3;

/// Records a SYN or RST of a session, which moved its state from `before` to `after`. `seen_before` is when
/// the session's previous packet was seen. Returns whether the backend has just refused the connection.
pub(crate) fn watch(
    shared: &SharedState,
    counters: &WorkerCounters,
    (at, session, seen_before): (SessionRef, &Session, Option<Tick>),
    (direction, flags): (Direction, TcpFlags),
    (before, after): (TcpState, TcpState),
    now: Now,
) -> bool {
    if direction == Direction::Forward && flags.has(TcpFlags::SYN) {
        shared.sessions.repeat_connect(at, now);
        // The previous packet was the session's first SYN, so this is its first retransmission. Of two
        // workers only one sees that.
        let is_first_retransmission = seen_before == Some(session.created)
            && now.tick().since(session.created) >= RETRANSMIT_TICKS;
        if is_first_retransmission && before.is_opening() && before.is_unanswered() {
            counters.backend(session.backend).syn_repeated.add(1);
            shared.gauges.fail(session.worker.into(), session.backend);
        }
    }
    let refused = after.is_refused() && !before.is_refused();
    if refused {
        shared.gauges.count_refused(session.backend);
        shared.gauges.fail(session.worker.into(), session.backend);
    }
    // A SYN without ACK (simultaneous open) answers nothing.
    if after.is_answered()
        && !before.is_answered()
        && flags.has(TcpFlags::ACK)
        && let Some(us) = shared.sessions.connect_us(at, now)
    {
        shared.gauges.measure_latency(session.backend, us);
    }
    refused
}

/// Whether a connection that this backend refused is to be retried at another one. The client then gets no
/// answer, sends its SYN again, and finds a connection that is over.
#[cold]
pub(crate) fn is_retried(snapshot: &Snapshot, backend: &Backend) -> bool {
    let others = || {
        let service = snapshot.service(backend.service)?;
        let mut others = service.backends.iter().filter(|id| **id != backend.id);
        others.find(|id| snapshot.backend(**id).is_some_and(Backend::takes_new))
    };
    backend.retries_refused && others().is_some()
}
