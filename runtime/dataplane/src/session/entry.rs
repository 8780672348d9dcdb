//! A session as plain values, and references to one.

use waxwing_packet::{Address, Protocol, VlanTags};

use super::{Phase, TcpState};
use crate::egress::NextHop;
use crate::model::TimeoutTicks;
use crate::{BackendId, SourceId, Tick};

/// The number that stands for every worker from this one on in [`Session::worker`]: such workers'
/// sessions are counted in all, but not by worker.
pub const WORKER_UNCOUNTED: u8 = 127;

/// One session, as plain values.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Session {
    /// The client's address.
    pub client: Address,
    /// The client's port.
    pub client_port: u16,
    /// The port that the client used on the VIP.
    pub service_port: u16,
    /// The client's address as the backend sees it: the client's own unless source NAT has given it
    /// another.
    pub source: SourceId,
    /// The client's port as the backend sees it: the client's own unless translated.
    pub source_port: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The number of the worker that made it, at most [`WORKER_UNCOUNTED`].
    pub worker: u8,
    /// The backend that it is pinned to: an id below 2^24.
    pub backend: BackendId,
    /// The way back to the client: the next hop its last packet came from.
    pub hop: NextHop,
    /// The way back to the client: its VLAN tags. Up to two, with TPID 0x8100 or 0x88a8 (any other
    /// TPID is kept as 0x8100).
    pub tags: VlanTags,
    /// When it was made.
    pub created: Tick,
    /// When its last packet was seen, of either direction.
    pub seen: Tick,
    /// What was seen of the connection. Of UDP, which is without flags: whether the backend has
    /// answered.
    pub tcp: TcpState,
}

impl Session {
    /// How long the session may be idle, in ticks.
    #[inline]
    #[must_use]
    pub const fn timeout_ticks(&self, timeouts: &TimeoutTicks) -> u32 {
        match (self.protocol, self.tcp.phase()) {
            (Protocol::Udp, _) => timeouts.udp,
            (Protocol::Tcp, Phase::HalfOpen) => timeouts.tcp_half_open,
            (Protocol::Tcp, Phase::Established) => timeouts.tcp_established,
            (Protocol::Tcp, Phase::Closing) => timeouts.tcp_closing,
        }
    }

    /// Whether it has been idle for longer than it may. Ticks cut time off, so a difference of one
    /// tick more than the timeout is what proves that the whole timeout has passed.
    #[inline]
    #[must_use]
    pub const fn is_expired(&self, timeouts: &TimeoutTicks, now: Tick) -> bool {
        now.since(self.seen) > self.timeout_ticks(timeouts)
    }
}

/// A session that was removed from the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Removed {
    /// As it was at its end.
    pub session: Session,
    /// What [`SessionTable::add_bytes`] added up.
    pub bytes: u64,
}

/// Where a session may be, by what the index says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Candidate(pub(super) u32);

/// Where a session was found. It may have ended since: every operation checks that it is still
/// the same session, and does nothing where it is not.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct SessionRef {
    pub(super) slot: u32,
    pub(super) version: u32,
}
