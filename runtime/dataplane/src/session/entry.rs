//! A session as plain values, and references to one.

use waxwing_packet::{Address, Protocol, VlanTags};

use super::{Direction, Lane, Phase, TcpState};
use crate::egress::NextHop;
use crate::model::TimeoutTicks;
use crate::{BackendId, SourceId, Tick};

/// The largest value of [`Session::worker`]. It stands for this worker and all with a higher number: their
/// sessions are counted in total, but not by worker.
pub const WORKER_UNCOUNTED: u8 = 127;

/// How long a connection may be idle that was reset or closed before it was assured: ten seconds, as in
/// Linux's connection tracking. It has no late segments to wait for.
const UNASSURED_CLOSING_TICKS: u32 = 100;

/// One session, as plain values.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Session {
    pub client: Address,
    pub client_port: u16,
    /// The port the client used on the VIP.
    pub service_port: u16,
    /// The client's address as the backend sees it: its own unless source NAT applies.
    pub source: SourceId,
    /// The client's port as the backend sees it: the client's own unless translated.
    pub source_port: u16,
    pub protocol: Protocol,
    /// The worker that created it, at most [`WORKER_UNCOUNTED`].
    pub worker: u8,
    /// The backend it is pinned to: an id below 2^24.
    pub backend: BackendId,
    /// The return hop: where the client's last packet came from.
    pub hop: NextHop,
    /// The VLAN tags towards the return hop: up to two, with TPID 0x8100 or 0x88a8 (any other TPID is stored
    /// as 0x8100).
    pub tags: VlanTags,
    pub created: Tick,
    /// When its last packet of either direction was seen.
    pub seen: Tick,
    /// The state of the connection. For UDP, which has no flags: whether the backend has answered.
    pub tcp: TcpState,
}

impl Session {
    /// The idle timeout in ticks.
    #[inline]
    #[must_use]
    pub const fn timeout_ticks(&self, timeouts: &TimeoutTicks) -> u32 {
        timeout_ticks(self.protocol, self.tcp, timeouts)
    }

    /// See [`TcpState::is_assured`].
    #[inline]
    #[must_use]
    pub const fn is_assured(&self) -> bool {
        self.tcp.is_assured(self.protocol)
    }

    /// Whether it was idle for longer than its timeout. Ticks are truncated, so only a difference of one tick
    /// more than the timeout proves that the whole timeout has passed.
    #[inline]
    #[must_use]
    pub const fn is_expired(&self, timeouts: &TimeoutTicks, now: Tick) -> bool {
        now.since(self.seen) > self.timeout_ticks(timeouts)
    }
}

/// See [`Session::timeout_ticks`].
pub(super) const fn timeout_ticks(
    protocol: Protocol,
    tcp: TcpState,
    timeouts: &TimeoutTicks,
) -> u32 {
    match (protocol, tcp.phase()) {
        (Protocol::Udp, _) if tcp.is_assured(protocol) => timeouts.udp,
        (Protocol::Udp, _) => timeouts.udp_unassured,
        (Protocol::Tcp, Phase::HalfOpen) => timeouts.tcp_half_open,
        (Protocol::Tcp, Phase::Established) => timeouts.tcp_established,
        (Protocol::Tcp, Phase::Closing) if tcp.is_assured(protocol) => timeouts.tcp_closing,
        (Protocol::Tcp, Phase::Closing) if timeouts.tcp_closing > UNASSURED_CLOSING_TICKS => {
            UNASSURED_CLOSING_TICKS
        }
        (Protocol::Tcp, Phase::Closing) => timeouts.tcp_closing,
    }
}

/// A session after its removal from the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Removed {
    /// Its last state.
    pub session: Session,
    /// The sum of [`super::SessionTable::add_bytes`].
    pub bytes: u64,
}

/// A slot that may hold the session of a hash, according to the index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Candidate(pub(super) u32);

/// A reference to a session. The session may have ended since: every operation checks that the slot still
/// holds the same session, and otherwise does nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct SessionRef {
    pub(super) slot: u32,
    pub(super) version: u32,
}

impl SessionRef {
    /// The index's entry for a flow of the session.
    #[inline]
    pub(crate) const fn lane(self, direction: Direction) -> Lane {
        Lane::new(self.slot, direction)
    }
}
