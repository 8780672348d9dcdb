//! What the sender of a packet that goes no further is sent, and how often: an RST or port unreachable if
//! nobody takes the packet, time exceeded or packet too big if it cannot be forwarded. Also limits echo
//! replies.
//!
//! Invariant: a packet gets one answer at most, sent to its own source, over its ingress port and VLAN. The
//! rate limits bound what a spoofed source can be made to receive.
//!
//! Answers come from the VIP, the one address of the balancer that a client knows and that a server routes to
//! as it does to clients. A server that sent to a source NAT address gets them from that address.

use waxwing_packet::reject::{self as packet_reject, IcmpError};
use waxwing_packet::{Address, IpPacket, Transport, checksum};

use super::flow::is_martian;
use super::linearize::Linearizer;
use super::rate_limit::RateLimiter;
use super::verdict::Undeliverable;
use super::{Arrived, Verdict};
use crate::counters::WorkerCounters;
use crate::{DropReason, FrameBuf, Now, PortId, Snapshot};

/// RSTs per second and worker. Generous, because a client without an RST waits long: it lets all
/// connections of a failed server be reset within seconds.
const RESETS_PER_S: u64 = 10_000;
const RESETS_BURST: u64 = 1000;
/// ICMP errors per second and worker (RFC 1812 section 4.3.2.8, RFC 4443 section 2.4 f): as many as Linux
/// sends in all.
const ERRORS_PER_S: u64 = 1000;
const ERRORS_BURST: u64 = 100;
/// Echo replies per second and worker: enough for many monitors, no more for a flood.
const ECHOES_PER_S: u64 = 10_000;
const ECHOES_BURST: u64 = 1000;
/// Answers per second and worker to packets to unserved ports of VIPs, which anybody may send. Apart from the
/// others, so that a port scan takes none of theirs.
const UNSERVED_PER_S: u64 = 1000;
const UNSERVED_BURST: u64 = 100;

/// One worker's rate limits.
pub(crate) struct RejectLimits {
    resets: RateLimiter,
    errors: RateLimiter,
    echoes: RateLimiter,
    unserved: RateLimiter,
}

impl RejectLimits {
    pub(crate) const fn new() -> Self {
        Self {
            resets: RateLimiter::new(RESETS_PER_S, RESETS_BURST),
            errors: RateLimiter::new(ERRORS_PER_S, ERRORS_BURST),
            echoes: RateLimiter::new(ECHOES_PER_S, ECHOES_BURST),
            unserved: RateLimiter::new(UNSERVED_PER_S, UNSERVED_BURST),
        }
    }

    /// The verdict on an echo request to a VIP, or on its first fragment.
    pub(crate) fn echo(&mut self, snapshot: &Snapshot, packet: &IpPacket, now: Now) -> Verdict {
        if is_martian(snapshot, packet) {
            Verdict::Drop(DropReason::Martian)
        } else if self.echoes.take(now) {
            Verdict::Echo
        } else {
            Verdict::Drop(DropReason::AnswerLimit)
        }
    }

    /// The verdict on a packet to be rejected: [`Verdict::Reject`], or a drop (`silent` if its sender must
    /// not be answered). The packet ends here, so its checksums are verified here, as its receiver would (RFC
    /// 1122 sections 3.2.1.2, 4.1.3.4 and 4.2.2.7).
    pub(crate) fn check<F: FrameBuf>(
        &mut self,
        linearizer: &mut Linearizer,
        arrived: &Arrived<'_, F>,
        silent: DropReason,
        now: Now,
    ) -> Verdict {
        let packet = arrived.packet;
        let (may_answer, limit) = match packet.transport {
            Transport::Tcp { .. } => (packet_reject::may_reset(packet), &mut self.resets),
            _ => (IcmpError::may_be_about(packet), &mut self.errors),
        };
        let limit = if silent == DropReason::NoService {
            &mut self.unserved
        } else {
            limit
        };
        if !may_answer {
            Verdict::Drop(silent)
        } else if !limit.take(now) {
            Verdict::Drop(DropReason::AnswerLimit)
        } else if checksum::are_correct(linearizer.whole(arrived.frame), packet) {
            Verdict::Reject(silent)
        } else {
            Verdict::Drop(DropReason::Malformed)
        }
    }

    /// Turns a session's packet that cannot be forwarded into an ICMP error from this address; returns the
    /// port it leaves by, which is the ingress port (RFC 1812 sections 5.3.1 and 4.3.3.1, RFC 1191 section 4,
    /// RFC 4443 sections 3.2 and 3.3).
    ///
    /// # Errors
    /// Why the packet is dropped instead: no error may be sent about it, the rate limit, or a bad checksum.
    #[cold]
    pub(crate) fn send_icmp_error<F: FrameBuf>(
        &mut self,
        why: Undeliverable,
        from: Address,
        counters: &WorkerCounters,
        linearizer: &mut Linearizer,
        Arrived { frame, packet }: Arrived<'_, F>,
        now: Now,
    ) -> Result<PortId, DropReason> {
        let (silent, error, counter) = match why {
            Undeliverable::HopLimit => (
                DropReason::HopLimit,
                Some(IcmpError::time_exceeded(packet.family)),
                &counters.time_exceeded_sent,
            ),
            Undeliverable::TooBig(mtu) => (
                DropReason::TooBig,
                IcmpError::too_big(frame.bytes(), packet, mtu),
                &counters.too_big_sent,
            ),
        };
        let (Some(error), true) = (error, IcmpError::may_be_about(packet)) else {
            return Err(silent);
        };
        if !self.errors.take(now) {
            return Err(DropReason::AnswerLimit);
        }
        if !checksum::are_correct(linearizer.whole(frame), packet) {
            return Err(DropReason::Malformed);
        }
        write_error(frame, packet, error, from)?;
        counter.add(1);
        Ok(frame.port())
    }
}

/// Turns a frame into the RST or port unreachable that rejects it.
#[cold]
pub(crate) fn write<F: FrameBuf>(frame: &mut F, packet: &IpPacket) -> Result<(), DropReason> {
    if let Transport::Tcp { .. } = packet.transport {
        let written = packet_reject::reset(frame.bytes_mut(), packet);
        return match written {
            Some(len) if frame.set_len(len) => Ok(()),
            _ => Err(DropReason::Malformed),
        };
    }
    let error = IcmpError::port_unreachable(packet.family);
    write_error(frame, packet, error, packet.destination)
}

/// Turns a frame into an ICMP error about it.
fn write_error<F: FrameBuf>(
    frame: &mut F,
    packet: &IpPacket,
    error: IcmpError,
    source: Address,
) -> Result<(), DropReason> {
    let room = IcmpError::headers_len(packet.family).cast_signed();
    if !(frame.set_len(IcmpError::quote_end(packet)) && frame.move_start(-room)) {
        return Err(DropReason::NoHeadroom);
    }
    if error.write(frame.bytes_mut(), packet, source) {
        Ok(())
    } else {
        Err(DropReason::Malformed)
    }
}
