//! What a sender is told of its packet that goes no further, and how often: RST to a segment and port
//! unreachable to a datagram that nobody takes, time exceeded and packet too big to a session's packet
//! that cannot be forwarded. And how often a ping is answered.
//!
//! Invariant: a packet is answered once at most, with one packet that goes to its own source, over
//! the port and the VLAN that it came by. Who sends under a false address can have no more of them
//! sent to it than the limits let through.
//!
//! All of it comes from the VIP, the one address that the balancer has on either side: a client knows
//! it, and a server routes to it as to its clients. But to a server that was sent to from a source
//! address, it comes from that one.

use waxwing_packet::reject::{self, IcmpError};
use waxwing_packet::{Address, IpPacket, Transport, checksum};

use crate::counters::WorkerCounters;
use crate::forward::Fate;
use crate::gather::Gather;
use crate::hit::Told;
use crate::{DropReason, FrameBuf, Now, PortId};

/// RSTs a second, of one worker. Generous, since a client that is not told waits for long: it lets
/// the connections of a server that went down be reset within seconds.
const RESETS_PER_S: u64 = 10_000;
/// RSTs at once.
const RESETS_BURST: u64 = 1000;
/// ICMP errors a second, of one worker (RFC 1812 section 4.3.2.8, RFC 4443 section 2.4 f): as many
/// as Linux sends in all.
const ERRORS_PER_S: u64 = 1000;
/// ICMP errors at once.
const ERRORS_BURST: u64 = 100;
/// Pings answered a second, of one worker: many monitors' worth, and a flood's no more.
const ECHOES_PER_S: u64 = 10_000;
/// Pings answered at once.
const ECHOES_BURST: u64 = 1000;

/// What one worker may still say.
pub(crate) struct Refusals {
    resets: Limit,
    errors: Limit,
    echoes: Limit,
}

impl Refusals {
    pub(crate) const fn new() -> Self {
        Self {
            resets: Limit::new(RESETS_PER_S, RESETS_BURST),
            errors: Limit::new(ERRORS_PER_S, ERRORS_BURST),
            echoes: Limit::new(ECHOES_PER_S, ECHOES_BURST),
        }
    }

    /// Whether one more ping may be answered now.
    pub(crate) const fn may_echo(&mut self, now: Now) -> bool {
        self.echoes.take(now)
    }

    /// Refuses a packet to a VIP, or drops it: under `mute` where its sender is not to be answered.
    /// The packet goes no further, so that it is here that its checksums are looked at, as its
    /// receiver would (RFC 1122 sections 3.2.1.2, 4.1.3.4 and 4.2.2.7).
    pub(crate) fn refuse<F: FrameBuf>(
        &mut self,
        gather: &mut Gather,
        (frame, packet): (&F, &IpPacket),
        mute: DropReason,
        now: Now,
    ) -> Fate {
        let (may, limit) = match packet.transport {
            Transport::Tcp { .. } => (reject::may_reset(packet), &mut self.resets),
            _ => (IcmpError::may_be_about(packet), &mut self.errors),
        };
        if !may {
            Fate::Drop(mute)
        } else if !limit.take(now) {
            Fate::Drop(DropReason::AnswerLimit)
        } else if checksum::are_right(gather.whole(frame), packet) {
            Fate::Refuse
        } else {
            Fate::Drop(DropReason::Malformed)
        }
    }
}

impl Refusals {
    /// Tells the sender of a session's packet why it goes no further, from this address, and says which
    /// port that leaves by: the one that the packet came by (RFC 1812 sections 5.3.1 and 4.3.3.1, RFC
    /// 1191 section 4, RFC 4443 sections 3.2 and 3.3).
    #[cold]
    pub(crate) fn tell<F: FrameBuf>(
        &mut self,
        told: Told,
        from: Address,
        counters: &WorkerCounters,
        gather: &mut Gather,
        (frame, packet): (&mut F, &IpPacket),
        now: Now,
    ) -> Result<PortId, DropReason> {
        let (mute, error, counter) = match told {
            Told::HopLimit => (
                DropReason::HopLimit,
                Some(IcmpError::time_exceeded(packet.family)),
                &counters.told_hop_limit,
            ),
            Told::TooBig(mtu) => (
                DropReason::TooBig,
                IcmpError::too_big(frame.bytes(), packet, mtu),
                &counters.told_too_big,
            ),
        };
        let (Some(error), true) = (error, IcmpError::may_be_about(packet)) else {
            return Err(mute);
        };
        if !self.errors.take(now) {
            return Err(DropReason::AnswerLimit);
        }
        if !checksum::are_right(gather.whole(frame), packet) {
            return Err(DropReason::Malformed);
        }
        write_error(frame, packet, error, from)?;
        counter.add(1);
        Ok(frame.port())
    }
}

/// Turns a frame into the answer that refuses it.
#[cold]
pub(crate) fn write<F: FrameBuf>(frame: &mut F, packet: &IpPacket) -> Result<(), DropReason> {
    if let Transport::Tcp { .. } = packet.transport {
        let written = reject::reset(frame.bytes_mut(), packet);
        return match written {
            Some(len) if frame.set_len(len) => Ok(()),
            _ => Err(DropReason::Malformed),
        };
    }
    let error = IcmpError::port_unreachable(packet.family);
    write_error(frame, packet, error, packet.destination)
}

/// Turns a frame into an error about it, from this address.
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

/// A rate with a burst: a token bucket, kept as the time from which on it is full (the generic cell
/// rate algorithm, ITU-T I.371).
struct Limit {
    interval_us: u64,
    /// How far ahead of the clock `full_at_us` may lie for one more.
    ahead_us_max: u64,
    full_at_us: u64,
}

impl Limit {
    const fn new(per_s: u64, burst: u64) -> Self {
        let interval_us = 1_000_000 / per_s;
        Self {
            interval_us,
            ahead_us_max: (burst - 1) * interval_us,
            full_at_us: 0,
        }
    }

    /// Whether there may be one more.
    const fn take(&mut self, now: Now) -> bool {
        let now_us = now.micros();
        let ahead_us = self.full_at_us.saturating_sub(now_us);
        let may = ahead_us <= self.ahead_us_max;
        if may {
            self.full_at_us = now_us + ahead_us + self.interval_us;
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// How many are let through at once, at this many microseconds.
    fn at_once(limit: &mut Limit, us: u64) -> u64 {
        let now = Now::from_start(Duration::from_micros(us));
        (0..10_000).take_while(|_| limit.take(now)).count() as u64
    }

    #[test]
    fn a_burst_is_let_through_and_then_the_rate() {
        let mut limit = Limit::new(1000, 100);
        for (us, let_through) in [
            (0, 100),
            (999, 0),
            (1000, 1),
            (1001, 0),
            (11_000, 10),
            (111_000, 100),
            (10_000_000, 100),
            // A clock that stands still, or is behind, lets nothing more through.
            (10_000_000, 0),
            (9_000_000, 0),
            (10_001_500, 1),
            (10_002_000, 1),
        ] {
            assert_eq!(at_once(&mut limit, us), let_through, "at {us} us");
        }
    }

    #[test]
    fn over_a_second_no_more_pass_than_rate_and_burst() {
        for (per_s, burst) in [
            (ERRORS_PER_S, ERRORS_BURST),
            (RESETS_PER_S, RESETS_BURST),
            (ECHOES_PER_S, ECHOES_BURST),
        ] {
            let mut limit = Limit::new(per_s, burst);
            let passed: u64 = (0..1_000_000)
                .step_by(37)
                .map(|us| at_once(&mut limit, us))
                .sum();
            let most = per_s + burst;
            assert!((most - 2..=most).contains(&passed), "{passed} of {most}");
        }
    }
}
