//! When a client's packet moves its session's return hop.
//!
//! Invariant: an established TCP session's moves only once the server has confirmed it (see
//! [`crate::session::HopMove`]), so forged packets do not move it. The packets pass meanwhile.

use waxwing_packet::{IpPacket, Protocol, TcpFlags, Transport, VlanTags, tcp};

use super::WorkerContext;
use crate::NextHop;
use crate::session::{HopMove, SessionRef, Stored};

/// Replies return to the hop that the client's packets come from: when its gateway fails over to another MAC
/// address or port, the return path moves. UDP and handshakes move at once.
#[cold]
#[inline(never)]
pub(super) fn follow(
    context: &WorkerContext,
    (packet, bytes): (&IpPacket, &[u8]),
    (at, stored): (SessionRef, &Stored),
    (hop, tags): (NextHop, VlanTags),
) {
    let sessions = &context.shared.sessions;
    let protocol = stored.protocol();
    if protocol == Protocol::Udp || !stored.tcp().is_assured(protocol) {
        sessions.set_hop(at, hop, tags);
    } else if let Some((header, _)) = header(packet, bytes) {
        sessions.ask_hop_move(
            at,
            HopMove {
                hop,
                tags,
                sequence: header.sequence(),
                acknowledgment: header.acknowledgment(),
            },
        );
    }
}

/// Compares a server's packet with the client's that came from a new hop. Returns the session as it is then.
#[cold]
#[inline(never)]
pub(super) fn confirm(
    context: &WorkerContext,
    (packet, bytes): (&IpPacket, &[u8]),
    at: SessionRef,
    stored: Stored,
) -> Stored {
    let sessions = &context.shared.sessions;
    let Some((header, payload_len)) = header(packet, bytes) else {
        return stored;
    };
    let end = header.sequence().wrapping_add(payload_len);
    sessions.judge_hop_move(at, end, header.acknowledgment());
    sessions.stored(at).unwrap_or(stored)
}

/// The header and payload length of a segment with ACK and without SYN and RST, which says what its sender
/// has and has sent.
pub(super) fn header<'b>(packet: &IpPacket, bytes: &'b [u8]) -> Option<(tcp::Header<'b>, u32)> {
    let Transport::Tcp { flags, payload, .. } = packet.transport else {
        return None;
    };
    if !flags.has(TcpFlags::ACK) || flags.has_any(TcpFlags::SYN | TcpFlags::RST) {
        return None;
    }
    let header = tcp::Header::from_prefix(bytes.get(usize::from(packet.transport_start)..)?)?;
    Some((header, u32::from(packet.end.saturating_sub(payload))))
}
