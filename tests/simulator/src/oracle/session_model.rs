//! The oracle's model of a session, derived from its frames alone.
//!
//! Invariant: a [`SessionModel`] takes nothing from the core except the session's place in the table, which
//! distinguishes consecutive sessions of a flow.

use waxwing_dataplane::model::TimeoutTicks;
use waxwing_dataplane::session::{Phase, SessionRef, Tuple};
use waxwing_dataplane::{BackendId, Tick};
use waxwing_packet::{Address, Protocol, TcpFlags};

use super::routes::{Route, may_move};
use crate::view::View;

const FIN: u8 = TcpFlags::FIN;
const SYN: u8 = TcpFlags::SYN;
const RST: u8 = TcpFlags::RST;
const ACK: u8 = TcpFlags::ACK;

/// Whether a client's segment opens a connection.
pub(crate) const fn is_client_syn(flags: u8) -> bool {
    flags & (SYN | ACK | RST | FIN) == SYN
}

/// Whether a server's segment is a SYN, with or without ACK. In a connection that both ends closed, it
/// belongs to a new one.
pub(super) const fn is_server_syn(flags: u8) -> bool {
    flags & (SYN | RST) == SYN
}

/// How much of what a server sent a client may acknowledge at first, with the SYN.
const ACKNOWLEDGED_MAX: u32 = 1 << 16;
/// How many ticks traffic passes both ways until a UDP session is assured.
const STREAM_TICKS: u32 = 20;
/// How many ticks a TCP session lasts that was reset or closed before it was assured.
const UNASSURED_CLOSING_TICKS: u32 = 100;

/// A second implementation of what a middlebox may conclude about a TCP connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct TcpModel {
    /// Whether the first packet was a SYN.
    started_with_syn: bool,
    server_syn: bool,
    server_answered: bool,
    /// The server's initial sequence number.
    server_initial: u32,
    /// Whether both ends agreed on the connection: the client acknowledged the server's sequence number, the
    /// server sent data, or it answered a connection that was picked up mid-stream.
    is_agreed: bool,
    /// UDP: whether traffic passed both ways for two seconds.
    is_stream: bool,
    /// FINs of client and server.
    fins: [bool; 2],
    reset: bool,
}

impl TcpModel {
    pub(super) fn first(flags: u8) -> Self {
        Self {
            started_with_syn: is_client_syn(flags),
            server_syn: false,
            server_answered: false,
            server_initial: 0,
            is_agreed: false,
            is_stream: false,
            fins: [flags & (FIN | RST) == FIN, false],
            reset: flags & RST != 0,
        }
    }

    /// Before the server's packet that opens a session.
    pub(super) const fn adopted() -> Self {
        Self {
            started_with_syn: false,
            server_syn: false,
            server_answered: false,
            server_initial: 0,
            is_agreed: false,
            is_stream: false,
            fins: [false; 2],
            reset: false,
        }
    }

    pub(super) fn client_sent(&mut self, packet: &View) {
        let flags = packet.flags;
        self.reset = flags & RST != 0;
        if !self.reset {
            let ahead = packet.acknowledgment.wrapping_sub(self.server_initial);
            self.is_agreed |=
                self.server_syn && flags & ACK != 0 && (1..=ACKNOWLEDGED_MAX).contains(&ahead);
            self.fins[0] |= flags & FIN != 0;
        }
    }

    pub(super) fn server_sent(&mut self, packet: &View) {
        let flags = packet.flags;
        self.server_answered = true;
        self.reset = flags & RST != 0;
        if !self.reset {
            let has_data = packet.end > packet.payload;
            if is_server_syn(flags) {
                self.server_syn = true;
                if !self.is_agreed {
                    self.started_with_syn = true;
                    self.server_initial = packet.sequence;
                }
            } else {
                self.is_agreed |= !self.started_with_syn || (self.server_syn && has_data);
            }
            self.fins[1] |= flags & FIN != 0;
        }
    }

    /// Whether the client is known to see what the server sends.
    pub(super) fn is_assured(&self, protocol: Protocol) -> bool {
        match protocol {
            Protocol::Tcp => self.is_agreed,
            Protocol::Udp => self.is_stream,
        }
    }

    pub(super) fn phase(&self) -> Phase {
        if self.reset || self.fins == [true; 2] {
            Phase::Closing
        } else if self.is_agreed {
            Phase::Established
        } else {
            Phase::HalfOpen
        }
    }

    /// Whether both ends agreed on a connection and did not both close it; RSTs are ignored.
    pub(super) fn is_open(&self) -> bool {
        self.is_agreed && self.fins != [true; 2]
    }

    /// Whether only the client's SYN was seen.
    pub(super) fn has_only_syn(&self) -> bool {
        self.started_with_syn && !self.server_answered
    }
}

/// A session as its packets show it.
#[derive(Clone, Debug)]
pub(super) struct SessionModel {
    pub(super) backend: BackendId,
    /// The client's address and port as seen by the backend.
    pub(super) source: (Address, u16),
    pub(super) tcp: TcpModel,
    pub(super) protocol: Protocol,
    /// The tick of the first packet.
    pub(super) created: Tick,
    /// The tick of the last packet.
    pub(super) seen: Tick,
    /// Its place in the core's table; unknown until the end of its first turn.
    pub(super) at: Option<SessionRef>,
    /// The route to its client.
    pub(super) route: Route,
    /// The routes that the client's packets of this turn arrived by.
    pub(super) routes: Vec<Route>,
    /// Routes that packets of an established TCP session came by: its server may confirm them later.
    pub(super) candidates: Vec<Route>,
    /// The last turn with a packet of it.
    pub(super) turn: u64,
    /// Whether it was established and assured before that turn.
    pub(super) was_established: bool,
    /// Whether it was open before that turn, RSTs ignored.
    pub(super) was_open: bool,
    /// The total number of evictions when this session was last known to exist.
    pub(super) evictions: u64,
    /// Whether a packet of this turn may have ended it.
    pub(super) may_end: bool,
    /// Whether it replaced an older session in this turn, possibly only at a later frame.
    pub(super) replaced_this_turn: bool,
    /// Whether its state is unknown, because a dropped packet may or may not have counted.
    pub(super) uncertain: bool,
}

impl SessionModel {
    /// Whether it is established and assured.
    pub(super) fn is_established(&self) -> bool {
        self.tcp.phase() == Phase::Established && self.tcp.is_assured(self.protocol)
    }

    /// Whether its client may send by this route: surely (`Some(true)`), surely not, or depending on the
    /// order of this turn's packets.
    pub(super) fn may_come(&self, route: &Route) -> Option<bool> {
        let mut known = std::iter::once(&self.route).chain(&self.routes);
        let may = |from: &Route| may_move(from, route);
        // A session that may have ended may also have been opened anew from there.
        let is_new = self.at.is_none() || self.may_end || self.uncertain;
        match (known.clone().all(may), known.any(may) || is_new) {
            (true, _) => Some(true),
            (false, true) => None,
            (false, false) => Some(false),
        }
    }

    /// Notes the route of a client's packet. `is_forged`: its numbers are outside every window.
    pub(super) fn came_by(&mut self, route: Route, is_forged: bool) {
        if !self.is_protected() || self.protocol == Protocol::Udp {
            self.routes.push(route);
        }
        if !is_forged && !self.candidates.contains(&route) {
            self.candidates.push(route);
        }
    }

    /// Whether replies may go by this route.
    pub(super) fn is_route(&self, route: &Route) -> bool {
        *route == self.route || self.routes.contains(route) || self.candidates.contains(route)
    }

    /// Notes that a packet passed.
    pub(super) fn is_seen(&mut self, now: Tick) {
        self.seen = self.seen.max(now);
        let age = now.0.saturating_sub(self.created.0);
        self.tcp.is_stream |=
            self.protocol == Protocol::Udp && self.tcp.is_agreed && age >= STREAM_TICKS;
    }

    /// Whether it was established before this turn and still is.
    pub(super) fn stayed_established(&self) -> bool {
        self.was_established && self.is_established()
    }

    /// Whether it was open before this turn and still is.
    pub(super) fn stayed_open(&self) -> bool {
        self.was_open && self.tcp.is_open()
    }

    /// Whether neither eviction nor a client's packet may end it.
    pub(super) fn is_protected(&self) -> bool {
        self.stayed_established() && !self.may_end && !self.uncertain
    }

    pub(super) fn is_expired(&self, timeouts: &TimeoutTicks, now: Tick) -> bool {
        let is_assured = self.tcp.is_assured(self.protocol);
        let timeout = match (self.protocol, self.tcp.phase()) {
            (Protocol::Udp, _) if is_assured => timeouts.udp,
            (Protocol::Udp, _) => timeouts.udp_unassured,
            (Protocol::Tcp, Phase::HalfOpen) => timeouts.tcp_half_open,
            (Protocol::Tcp, Phase::Established) => timeouts.tcp_established,
            (Protocol::Tcp, Phase::Closing) if is_assured => timeouts.tcp_closing,
            (Protocol::Tcp, Phase::Closing) => timeouts.tcp_closing.min(UNASSURED_CLOSING_TICKS),
        };
        now.0.saturating_sub(self.seen.0) > timeout
    }
}

/// Notes that a frame of the session is checked.
pub(super) fn touch(model: &mut SessionModel, turn: u64, tuple: Tuple, touched: &mut Vec<Tuple>) {
    if model.turn != turn {
        model.turn = turn;
        model.was_established = model.is_established();
        model.was_open = model.tcp.is_open();
        touched.push(tuple);
    }
}
