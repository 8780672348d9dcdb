//! What the packets of a sampled session show.
//!
//! Invariant: it changes no packet and no verdict.

use waxwing_packet::{IpPacket, TcpFlags};

use super::flow::{FoundSession, tcp_flags};
use super::{WorkerContext, return_hop};
use crate::Now;
use crate::session::{Direction, Segment};

/// Counts what a packet shows, if its session is sampled.
#[cold]
#[inline(never)]
pub(super) fn observe(
    context: &WorkerContext,
    (packet, bytes): (&IpPacket, &[u8]),
    found: &FoundSession<'_>,
    now: Now,
) {
    let FoundSession {
        at,
        direction,
        backend,
        ..
    } = *found;
    let sessions = &context.shared.sessions;
    let samples = context.shared.gauges.samples();
    if !sessions.is_sampled(at) {
        return;
    }
    if let Some((header, payload)) = return_hop::header(packet, bytes) {
        let segment = Segment {
            sequence: header.sequence(),
            acknowledgment: header.acknowledgment(),
            payload,
            packet: u32::from(packet.end.saturating_sub(packet.network)),
            is_fin: tcp_flags(packet).has(TcpFlags::FIN),
        };
        let observed = sessions.observe(at, direction, segment, now);
        samples.count((backend.service, backend.id), direction, observed);
    } else if direction == Direction::Reply
        && is_syn_ack(packet)
        && sessions.sample_connect(at)
        && let Some(us) = sessions.connect_us(at, now)
    {
        samples.count_connect(backend.service, us);
    }
}

fn is_syn_ack(packet: &IpPacket) -> bool {
    const SYN_ACK: u8 = TcpFlags::SYN | TcpFlags::ACK;
    tcp_flags(packet).0 & (SYN_ACK | TcpFlags::RST) == SYN_ACK
}
