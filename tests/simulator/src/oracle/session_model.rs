//! What the oracle knows of a session, from the frames that passed alone.
//!
//! Invariant: nothing in a [`Pin`] was asked of the core but where it keeps the session, which tells
//! one session of a flow from the next.

use waxwing_dataplane::session::{Phase, SessionRef, Tuple};
use waxwing_dataplane::snapshot::TimeoutTicks;
use waxwing_dataplane::{BackendId, NextHop, Tick};
use waxwing_packet::{Address, Protocol, TcpFlags, VlanTags};

use crate::oracle::Map;

const FIN: u8 = TcpFlags::FIN;
const SYN: u8 = TcpFlags::SYN;
const RST: u8 = TcpFlags::RST;
const ACK: u8 = TcpFlags::ACK;

/// A SYN that opens a connection.
pub(crate) const fn is_opening(flags: u8) -> bool {
    flags & (SYN | ACK | RST | FIN) == SYN
}

/// A server's SYN, with or without ACK: of a connection that both ends have closed it is none.
pub(crate) const fn is_servers_syn(flags: u8) -> bool {
    flags & (SYN | RST) == SYN
}

/// What a middlebox may conclude of a connection, told a second time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shadow {
    /// It began with a SYN.
    began: bool,
    server_syn: bool,
    pub(crate) server_spoke: bool,
    agreed: bool,
    fins: [bool; 2],
    reset: bool,
}

impl Shadow {
    pub(crate) fn first(flags: u8) -> Self {
        let mut shadow = Self {
            began: is_opening(flags),
            server_syn: false,
            server_spoke: false,
            agreed: false,
            fins: [false; 2],
            reset: false,
        };
        shadow.client_says(flags);
        shadow
    }

    pub(crate) fn client_says(&mut self, flags: u8) {
        self.reset = flags & RST != 0;
        if !self.reset {
            self.agreed |= self.server_syn && flags & ACK != 0;
            self.fins[0] |= flags & FIN != 0;
        }
    }

    pub(crate) fn server_says(&mut self, flags: u8) {
        self.server_spoke = true;
        self.reset = flags & RST != 0;
        if !self.reset {
            self.server_syn |= flags & SYN != 0;
            self.agreed |= !self.began;
            self.fins[1] |= flags & FIN != 0;
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        if self.reset || self.fins == [true; 2] {
            Phase::Closing
        } else if self.agreed {
            Phase::Established
        } else {
            Phase::HalfOpen
        }
    }

    /// Whether both ends agreed on a connection that they have not both closed, whatever an RST said.
    pub(crate) fn is_open(&self) -> bool {
        self.agreed && self.fins != [true; 2]
    }

    /// Whether nothing but the client's SYN was seen.
    pub(crate) fn has_nothing(&self) -> bool {
        self.began && !self.server_spoke
    }
}

/// The way to a client.
pub(crate) type Route = (NextHop, VlanTags);

/// The ways that fragments without ports came by, from one address to another. They lead the way to a
/// client as well, once it is known whose they are.
#[derive(Default)]
pub(crate) struct Strays(Map<(Address, Address), Vec<Route>>);

impl Strays {
    pub(crate) fn add(&mut self, ends: (Address, Address), route: Route) {
        let routes = self.0.entry(ends).or_default();
        if !routes.contains(&route) {
            routes.push(route);
        }
    }

    /// Whether one may have led the way to the client of this flow.
    pub(crate) fn has(&self, tuple: &Tuple, route: Route) -> bool {
        let routes = self.0.get(&(tuple.source, tuple.destination));
        routes.is_some_and(|routes| routes.contains(&route))
    }
}

/// A session, as its packets show it.
#[derive(Clone, Debug)]
pub(crate) struct Pin {
    pub(crate) backend: BackendId,
    /// The client's address and port as the backend sees them.
    pub(crate) source: (Address, u16),
    pub(crate) shadow: Shadow,
    pub(crate) seen: Tick,
    /// Where the core keeps it; not known before the end of its first turn.
    pub(crate) at: Option<SessionRef>,
    /// The way to its client, and those that its packets of this turn came by.
    pub(crate) route: Route,
    pub(crate) routes: Vec<Route>,
    /// The turn that it was touched in last, and whether it was established, or but for an RST, before
    /// that.
    pub(crate) turn: u64,
    pub(crate) was_strong: bool,
    pub(crate) was_open: bool,
    /// Sessions that had been evicted in all when this one was last there for sure.
    pub(crate) evictions: u64,
    /// A packet of this turn may have ended it.
    pub(crate) may_end: bool,
    /// It took an older one's place in this turn, and perhaps only at a later frame.
    pub(crate) unsure: bool,
    /// Its state is not known any more: a packet that may or may not have counted was dropped.
    pub(crate) blurred: bool,
}

impl Pin {
    pub(crate) fn is_strong(&self) -> bool {
        self.shadow.phase() == Phase::Established
    }

    /// Whether it was established before this turn, and still is after what was seen of it.
    pub(crate) fn stayed_strong(&self) -> bool {
        self.was_strong && self.is_strong()
    }

    /// Whether it was open before this turn, and still is after what was seen of it.
    pub(crate) fn stayed_open(&self) -> bool {
        self.was_open && self.shadow.is_open()
    }

    /// Whether it may neither be evicted nor be ended by a client's packet.
    pub(crate) fn is_protected(&self) -> bool {
        self.stayed_strong() && !self.may_end && !self.blurred
    }

    pub(crate) fn is_expired(
        &self,
        timeouts: &TimeoutTicks,
        protocol: Protocol,
        now: Tick,
    ) -> bool {
        let timeout = match (protocol, self.shadow.phase()) {
            (Protocol::Udp, _) => timeouts.udp,
            (Protocol::Tcp, Phase::HalfOpen) => timeouts.tcp_half_open,
            (Protocol::Tcp, Phase::Established) => timeouts.tcp_established,
            (Protocol::Tcp, Phase::Closing) => timeouts.tcp_closing,
        };
        now.0.saturating_sub(self.seen.0) > timeout
    }
}
