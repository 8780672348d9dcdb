//! A packet that changes its session: the last-seen time, the TCP state, and whether the session is assured.
//!
//! Invariant: nothing that a sender of forged packets can send, without seeing an answer, makes a session
//! assured before it has lasted for two seconds; a TCP session not even then.

use waxwing_packet::{IpPacket, Protocol, TcpFlags, Transport, tcp};

use super::flow::{FoundSession, tcp_flags};
use super::{WorkerContext, handshake};
use crate::Now;
use crate::session::{Direction, Session, SessionRef, SessionTable};

/// How long UDP passes both ways before its session is assured, in ticks: two seconds, as in Linux's
/// connection tracking.
const STREAM_TICKS: u32 = 20;

/// Updates the session's last-seen time and TCP state. Reads the state anew: an earlier packet of the batch
/// or another worker may have changed it since the lookup. Returns whether the backend has just refused the
/// connection.
#[inline(never)]
pub(super) fn update(
    context: &WorkerContext,
    (packet, bytes): (&IpPacket, &[u8]),
    found: FoundSession<'_>,
    now: Now,
) -> bool {
    let FoundSession { at, direction, .. } = found;
    let sessions = &context.shared.sessions;
    let session = found.stored.session();
    let seen_before = if session.seen == now.tick() {
        Some(session.seen)
    } else {
        sessions.touch(at, now.tick())
    };
    let flags = tcp_flags(packet);
    let proven = is_proof(sessions, (at, &session), (packet, bytes), direction);
    let streams =
        session.protocol == Protocol::Udp && now.tick().since(session.created) >= STREAM_TICKS;
    let updated = sessions.update_tcp(at, |state| {
        let after = state.after(direction, flags, proven);
        if streams { after.streaming() } else { after }
    });
    let Some((before, after)) = updated else {
        return false;
    };
    if before != after {
        if after.is_assured(session.protocol) && !before.is_assured(session.protocol) {
            context.counters.assured.add(1);
        }
        let states = [before, after];
        context
            .closed
            .record_change(found.backend, (at, &session), states, now.tick());
    }
    if flags.has(TcpFlags::SYN) || flags.has(TcpFlags::RST) {
        return handshake::watch(
            &context.shared,
            &context.counters,
            (at, &session, seen_before),
            (direction, flags),
            (before, after),
            now,
        );
    }
    false
}

/// Whether a packet of a TCP session that is not assured proves that the client sees what the server sends
/// (see [`crate::session::TcpState::after`]). Keeps the server's sequence number for the client's ACK.
fn is_proof(
    sessions: &SessionTable,
    (at, session): (SessionRef, &Session),
    (packet, bytes): (&IpPacket, &[u8]),
    direction: Direction,
) -> bool {
    let Transport::Tcp { flags, payload, .. } = packet.transport else {
        return false;
    };
    if session.is_assured() || flags.has(TcpFlags::RST) {
        return false;
    }
    let segment = bytes.get(usize::from(packet.transport_start)..);
    let Some(header) = segment.and_then(tcp::Header::from_prefix) else {
        return false;
    };
    match direction {
        Direction::Forward => {
            flags.has(TcpFlags::ACK) && sessions.is_acknowledged(at, header.acknowledgment())
        }
        Direction::Reply if flags.has(TcpFlags::SYN) => {
            sessions.expect_acknowledgment(at, header.sequence());
            false
        }
        Direction::Reply => packet.end > payload,
    }
}
