//! A connection's TCP state, as a middlebox sees it from the flags.
//!
//! Invariant: no single packet ends a session, and none makes it established: that takes packets of both
//! ends, and a client who sees the server's. A forged RST only shortens the timeout until either end sends
//! again.
//!
//! Sequence numbers are not tracked beyond the handshake (see [`super::handshakes`]). Flags are trusted as
//! far as RFC 6146 section 3.5.2 does, with the timers of RFC 5382 REQ-5 and the handling of RST of RFC 7857
//! section 2.

use waxwing_packet::{Protocol, TcpFlags};

/// A packet's direction.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Direction {
    /// Client to backend.
    Forward,
    /// Backend to client.
    Reply,
}

/// A connection's phase. It decides the timeout, whether the session may be evicted, and how
/// [`crate::Gauges`] counts it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Phase {
    /// Before the client's ACK of the server's sequence number. UDP: before the backend's first datagram.
    HalfOpen,
    /// Open, or closed by one side only. UDP: answered.
    Established,
    /// Closed by both sides, or reset.
    Closing,
}

/// The flags seen of a connection. Their bits are in [`super::SessionRecord`]s of other versions too: a bit
/// keeps its meaning.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct TcpState(u8);

/// The server has sent its SYN, with or without ACK.
const SERVER_SYN: u8 = 1;
/// UDP, which has no SYN: traffic passed both ways for a while.
const STREAM: u8 = SERVER_SYN;
/// The first packet seen was not a SYN: the connection is older than the session.
const MID_STREAM: u8 = 1 << 1;
/// Both ends have acknowledged the connection, with proof (see [`TcpState::after`]).
const ESTABLISHED: u8 = 1 << 2;
/// The client has sent its FIN.
const CLIENT_FIN: u8 = 1 << 3;
/// The server has sent its FIN.
const SERVER_FIN: u8 = 1 << 4;
/// The last packet of either end was an RST.
const RESET: u8 = 1 << 5;
/// Both ends have sent their FIN, or either an RST. Unlike [`Phase::Closing`] it stays when a packet after an
/// RST revives the connection: a session's end is reported once.
const ENDED: u8 = 1 << 6;
/// The server has sent an RST.
const SERVER_RST: u8 = 1 << 7;

impl TcpState {
    /// The state after the client's packet that opens the session.
    ///
    /// A connection picked up mid-stream counts as half-open until the server sends anything but RST or SYN.
    /// So a flood of bare ACKs gains no more than a flood of SYNs.
    #[inline]
    #[must_use]
    pub const fn first(flags: TcpFlags) -> Self {
        let start = if is_opening(flags) { 0 } else { MID_STREAM };
        Self(start).after(Direction::Forward, flags, false)
    }

    /// The state after the server's packet that opens the session ([`crate::Service::adopts_replies`]): no
    /// client's packet was seen, so the connection is older than the session.
    #[inline]
    #[must_use]
    pub const fn adopted(flags: TcpFlags) -> Self {
        Self(MID_STREAM).after(Direction::Reply, flags, false)
    }

    /// The state after a further packet that proves all it can. If this changes nothing, the packet does
    /// not.
    #[inline]
    #[must_use]
    pub const fn on_packet(self, direction: Direction, flags: TcpFlags) -> Self {
        self.after(direction, flags, true)
    }

    /// The state after a further packet. `proven` is whether it proves that the client sees what the server
    /// sends: the client's packet by acknowledging the server's sequence number, the server's by carrying
    /// data, which a server sends only to a client that did. Without that, a forged SYN and a forged ACK
    /// would open a connection that no flood's end ends.
    #[inline]
    #[must_use]
    pub const fn after(self, direction: Direction, flags: TcpFlags, proven: bool) -> Self {
        if flags.has(TcpFlags::RST) {
            return match direction {
                Direction::Forward => Self(self.0 | RESET | ENDED),
                Direction::Reply => Self(self.0 | RESET | SERVER_RST | ENDED),
            };
        }
        // Any other packet revives a connection that a forged or stale RST seemed to end.
        let mut seen = self.0 & !RESET;
        match direction {
            Direction::Forward => {
                if proven && seen & SERVER_SYN != 0 && flags.has(TcpFlags::ACK) {
                    seen |= ESTABLISHED;
                }
                if flags.has(TcpFlags::FIN) {
                    seen |= CLIENT_FIN;
                    if seen & SERVER_FIN != 0 {
                        seen |= ENDED;
                    }
                }
            }
            Direction::Reply => {
                if flags.has(TcpFlags::SYN) {
                    seen |= SERVER_SYN;
                    if seen & ESTABLISHED == 0 {
                        // It answers a SYN, so this is a new connection, with all that it has to prove.
                        seen &= !MID_STREAM;
                    }
                } else if seen & MID_STREAM != 0 || (proven && seen & SERVER_SYN != 0) {
                    seen |= ESTABLISHED;
                }
                if flags.has(TcpFlags::FIN) {
                    seen |= SERVER_FIN;
                    if seen & CLIENT_FIN != 0 {
                        seen |= ENDED;
                    }
                }
            }
        }
        Self(seen)
    }

    #[inline]
    #[must_use]
    pub const fn phase(self) -> Phase {
        if self.is_reset() || self.is_closed() {
            Phase::Closing
        } else if self.0 & ESTABLISHED != 0 {
            Phase::Established
        } else {
            Phase::HalfOpen
        }
    }

    /// Whether the client has shown that it sees what the server sends: no flood of forged sources can. UDP,
    /// which proves nothing, counts once traffic passed both ways for a while, as in Linux's connection
    /// tracking. Sessions that are not assured give way to new ones.
    #[inline]
    #[must_use]
    pub const fn is_assured(self, protocol: Protocol) -> bool {
        match protocol {
            Protocol::Tcp => self.0 & ESTABLISHED != 0,
            Protocol::Udp => self.0 & STREAM != 0,
        }
    }

    /// A UDP session's state once traffic has passed both ways for a while.
    #[inline]
    #[must_use]
    pub const fn streaming(self) -> Self {
        if self.0 & ESTABLISHED == 0 {
            return self;
        }
        Self(self.0 | STREAM)
    }

    /// Whether the session began with the client's SYN rather than mid-stream.
    #[inline]
    #[must_use]
    pub const fn is_opening(self) -> bool {
        self.0 & MID_STREAM == 0
    }

    /// Whether the server has sent its SYN. An RST from the server before that is a refusal.
    #[inline]
    #[must_use]
    pub const fn is_answered(self) -> bool {
        self.0 & (SERVER_SYN | ESTABLISHED) != 0
    }

    /// Whether the server has answered the client's SYN with an RST, and not with a SYN since.
    #[inline]
    #[must_use]
    pub const fn is_refused(self) -> bool {
        self.0 & SERVER_RST != 0 && self.is_opening() && !self.is_answered()
    }

    /// Whether the server has sent no SYN, FIN or RST, and on a connection picked up mid-stream nothing at
    /// all. A challenge ACK (RFC 5961 section 4) answers another connection.
    #[inline]
    #[must_use]
    pub const fn is_unanswered(self) -> bool {
        self.0 & (SERVER_SYN | ESTABLISHED | SERVER_FIN | SERVER_RST) == 0
    }

    /// Whether the connection has ended, by both FINs or an RST, even if a packet has revived it since.
    #[inline]
    #[must_use]
    pub const fn has_ended(self) -> bool {
        self.0 & ENDED != 0
    }

    /// Whether both ends have sent their FIN.
    #[inline]
    #[must_use]
    pub const fn is_closed(self) -> bool {
        const BOTH: u8 = CLIENT_FIN | SERVER_FIN;
        self.0 & BOTH == BOTH
    }

    /// Whether the last packet was an RST.
    #[inline]
    #[must_use]
    pub const fn is_reset(self) -> bool {
        self.0 & RESET != 0
    }

    /// The state once the operator has ended the session: as after an RST that neither end has sent. The next
    /// packet of either end finds it so. A connection that has ended stays as it is.
    #[must_use]
    pub const fn killed(self) -> Self {
        match self.has_ended() {
            true => self,
            false => Self(self.0 | RESET),
        }
    }

    /// Whether the operator has ended the session. (An RST sets both bits.)
    #[inline]
    #[must_use]
    pub const fn is_killed(self) -> bool {
        self.0 & (RESET | ENDED) == RESET
    }

    /// Whether a client's packet with these flags opens a new connection because this one is over (RFC 9293
    /// section 3.6.1: a SYN may reuse a connection in TIME-WAIT).
    ///
    /// A connection that only an RST seems to have ended is not over: an attacker who forged the RST could
    /// forge a SYN too, and so move the connection. Such a SYN goes to the server of the session.
    #[inline]
    #[must_use]
    pub const fn may_reuse(self, flags: TcpFlags) -> bool {
        is_opening(flags) && (self.is_closed() || (self.is_reset() && self.is_refused()))
    }

    /// Whether a server's packet with these flags belongs to a new connection that bypasses the service: both
    /// ends have closed this one, and the client has since connected to the server's own address from the
    /// same port, by a router that is not this one. (Here that connection would have got another port.)
    #[inline]
    #[must_use]
    pub const fn is_reused_by_server(self, flags: TcpFlags) -> bool {
        flags.has(TcpFlags::SYN) && !flags.has(TcpFlags::RST) && self.is_closed()
    }

    #[inline]
    pub(super) const fn from_bits(bits: u8) -> Self {
        Self(bits)
    }

    #[inline]
    pub(super) const fn bits(self) -> u8 {
        self.0
    }
}

impl std::fmt::Debug for TcpState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}({:08b})", self.phase(), self.0)
    }
}

/// Whether these are the flags of a SYN that opens a connection.
#[inline]
pub(crate) const fn is_opening(flags: TcpFlags) -> bool {
    flags.0 & (TcpFlags::SYN | TcpFlags::ACK | TcpFlags::RST | TcpFlags::FIN) == TcpFlags::SYN
}
