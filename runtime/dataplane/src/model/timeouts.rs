//! Idle timeouts of sessions (RFC 5382 REQ-5, RFC 4787 REQ-5).

use std::time::Duration;

use crate::time::ticks_of;

/// How long a session may be idle, by protocol and phase.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timeouts {
    /// TCP, from the first SYN to the client's ACK of the SYN-ACK.
    pub tcp_half_open: Duration,
    /// TCP, established, or closed by one side only.
    pub tcp_established: Duration,
    /// TCP, closed by both sides or reset.
    pub tcp_closing: Duration,
    /// UDP, with traffic both ways for two seconds.
    pub udp: Duration,
    /// UDP, before that.
    pub udp_unassured: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            tcp_half_open: Duration::from_secs(240),
            tcp_established: Duration::from_secs(7440),
            tcp_closing: Duration::from_secs(240),
            udp: Duration::from_secs(120),
            udp_unassured: Duration::from_secs(30),
        }
    }
}

/// [`Timeouts`] in ticks, as the hot path reads them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TimeoutTicks {
    pub tcp_half_open: u32,
    pub tcp_established: u32,
    pub tcp_closing: u32,
    pub udp: u32,
    pub udp_unassured: u32,
}

impl From<Timeouts> for TimeoutTicks {
    fn from(timeouts: Timeouts) -> Self {
        Self {
            tcp_half_open: ticks_of(timeouts.tcp_half_open),
            tcp_established: ticks_of(timeouts.tcp_established),
            tcp_closing: ticks_of(timeouts.tcp_closing),
            udp: ticks_of(timeouts.udp),
            udp_unassured: ticks_of(timeouts.udp_unassured),
        }
    }
}
