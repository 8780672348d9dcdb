//! What the fast path reads of a session.
//!
//! Invariant: a [`Glimpse`] is of one session, and of one moment in its life.

use waxwing_packet::{Protocol, TcpFlags};

use super::entry::timeout_ticks;
use super::index::Lane;
use super::stored::{HOP_TAGGED, hop_without_sequence, protocol_of, steady_backend_of, tcp_of};
use super::words::{high, low};
use super::{Direction, SessionRef, TcpState};
use crate::model::TimeoutTicks;
use crate::{BackendId, Tick};

/// The words of a session that the fast path compares; see [`super::Stored`].
#[derive(Clone, Copy)]
pub struct Glimpse {
    /// The client's address, in the order of the wire.
    pub client: [u64; 2],
    pub(super) endpoints: u64,
    pub(super) state: u64,
    pub(crate) hop: u64,
    pub(crate) seen: Tick,
}

impl Glimpse {
    /// A return hop has one of these bits if frames to it carry VLAN tags.
    pub(crate) const HOP_TAGGED: u64 = HOP_TAGGED;

    /// The session's backend; an id above all others if a move of its return hop waits, or it is sampled.
    #[inline(always)]
    #[must_use]
    pub const fn backend(&self) -> BackendId {
        steady_backend_of(self.endpoints)
    }

    /// The client's port (upper half) and the service's: the ports of a request.
    #[inline(always)]
    #[must_use]
    pub const fn request_ports(&self) -> u32 {
        low(self.endpoints)
    }

    /// The client's port as the backend sees it.
    #[inline(always)]
    #[must_use]
    pub const fn source_port(&self) -> u16 {
        (low(self.state) >> 16) as u16
    }

    /// 0 if the backend sees the client's own address and port.
    #[inline(always)]
    pub(crate) const fn source_nat(&self) -> u64 {
        self.endpoints >> 56 | ((self.endpoints ^ self.state) & 0xffff_0000)
    }

    /// The session, which the index has at this entry.
    pub(crate) const fn at(&self, lane: Lane) -> SessionRef {
        SessionRef {
            slot: lane.slot(),
            version: high(self.state),
        }
    }

    #[inline(always)]
    pub(crate) const fn last_seen(&self) -> LastSeen {
        LastSeen {
            state: self.state,
            tick: self.seen,
        }
    }

    /// 0 if a packet without SYN, FIN and RST does not change the session's TCP state.
    #[inline(always)]
    pub(crate) const fn change(&self, direction: Direction, protocol: Protocol) -> u8 {
        let changes = match (direction, protocol) {
            (Direction::Forward, Protocol::Tcp) => &CHANGES[0],
            (Direction::Reply, Protocol::Tcp) => &CHANGES[1],
            (Direction::Forward, Protocol::Udp) => &CHANGES[2],
            (Direction::Reply, Protocol::Udp) => &CHANGES[3],
        };
        changes[tcp_of(self.state).bits() as usize]
    }

    /// The return hop: port and MAC in the lower 56 bits, above them the kind of its VLAN tags.
    #[inline(always)]
    #[must_use]
    pub const fn hop(&self) -> u64 {
        hop_without_sequence(self.hop)
    }
}

/// When a session was seen, with what its timeout depends on.
#[derive(Clone, Copy)]
pub(crate) struct LastSeen {
    state: u64,
    pub(crate) tick: Tick,
}

impl LastSeen {
    /// See [`super::Session::is_expired`].
    pub(crate) const fn is_expired(self, timeouts: &TimeoutTicks, now: Tick) -> bool {
        let timeout = timeout_ticks(protocol_of(self.state), tcp_of(self.state), timeouts);
        now.since(self.tick) > timeout
    }

    /// See [`super::TcpState::is_assured`].
    pub(crate) const fn is_assured(self) -> bool {
        tcp_of(self.state).is_assured(protocol_of(self.state))
    }
}

/// For each TCP state, 1 if such a packet changes it: by direction, for TCP (with ACK or without) and UDP.
static CHANGES: [[u8; 256]; 4] = [
    changes(Direction::Forward, &[TcpFlags(0), TcpFlags(TcpFlags::ACK)]),
    changes(Direction::Reply, &[TcpFlags(0), TcpFlags(TcpFlags::ACK)]),
    changes(Direction::Forward, &[TcpFlags(0)]),
    changes(Direction::Reply, &[TcpFlags(0)]),
];

const fn changes(direction: Direction, flags: &[TcpFlags]) -> [u8; 256] {
    let mut changes = [0; 256];
    let mut state = 0_u8;
    loop {
        let mut at = 0;
        while at < flags.len() {
            let after = TcpState::from_bits(state).on_packet(direction, flags[at]);
            if after.bits() != state {
                changes[state as usize] = 1;
            }
            at += 1;
        }
        if state == u8::MAX {
            return changes;
        }
        state += 1;
    }
}
