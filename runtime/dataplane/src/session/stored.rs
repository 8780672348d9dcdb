//! A session in the packed form of its line. The hot path unpacks only what it needs.
//!
//! Invariant: [`Stored::session`] reverses [`Stored::new`], within the limits that [`Session`] states for its
//! tags and worker.

use waxwing_packet::plain::{PackedTags, wire_words};
use waxwing_packet::{Address, Mac, Protocol, VlanTags};

use super::words::{high, low, pack, pack16, ports};
use super::{Session, TcpState, Tuple, WORKER_UNCOUNTED};
use crate::{BackendId, NextHop, PortId, SourceId, Tick};

/// The words of a session. Unpacking them all costs more than the lookup, so the fast path only compares
/// them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stored {
    /// Address, in the order of the wire ([`wire_words`]).
    pub(super) client: [u64; 2],
    /// Source address (8 bits), [`MOVING`] (1), [`SAMPLED`] (1), backend (22), client port (16), service port
    /// (16).
    pub(super) endpoints: u64,
    /// Version (32 bits; odd is live), source port (16), UDP or not (1), worker (7), TCP state (8).
    pub(super) state: u64,
    /// The return hop's sequence number, tag count and TPIDs (8 bits, see [`HopBits`]), port (8), MAC (48).
    pub(super) hop: u64,
    /// The return hop's tag control information, as in [`PackedTags`].
    pub(super) tags: u32,
    pub(super) created: u32,
    pub(super) seen: u32,
}

impl Stored {
    /// Packs a session that lives under this version.
    pub(super) fn new(session: &Session, version: u32) -> Self {
        debug_assert!(
            session.backend.0 <= BACKEND_BITS,
            "a backend id has 22 bits"
        );
        let far = u32::from(session.source.0) << 24 | session.backend.0 & BACKEND_BITS;
        let kind = u16::from_be_bytes([origin(session), session.tcp.bits()]);
        let (route, tags) = HopBits::of(&session.tags, 0);
        Self {
            client: wire_words(session.client),
            endpoints: pack(far, pack16(session.client_port, session.service_port)),
            state: pack(version, pack16(session.source_port, kind)),
            hop: hop_word(route, session.hop),
            tags,
            created: session.created.0,
            seen: session.seen.0,
        }
    }

    /// Unpacks all of it.
    #[must_use]
    pub fn session(&self) -> Session {
        let [client_port, service_port] = ports(low(self.endpoints));
        let [source_port, kind] = ports(low(self.state));
        let [origin, _] = kind.to_be_bytes();
        Session {
            client: self.client(),
            client_port,
            service_port,
            source: self.source(),
            source_port,
            protocol: self.protocol(),
            worker: origin & !UDP,
            backend: self.backend(),
            hop: self.hop(),
            tags: self.tags(),
            created: Tick(self.created),
            seen: self.seen(),
            tcp: self.tcp(),
        }
    }

    #[inline(always)]
    pub(super) const fn version(&self) -> u32 {
        high(self.state)
    }

    /// See [`Session::client`].
    #[inline(always)]
    #[must_use]
    pub const fn client(&self) -> Address {
        let [upper, lower] = self.client;
        Address::from_bits((u64::from_be(upper) as u128) << 64 | u64::from_be(lower) as u128)
    }

    /// See [`Session::source`].
    #[inline(always)]
    #[must_use]
    pub const fn source(&self) -> SourceId {
        let [source, ..] = self.endpoints.to_be_bytes();
        SourceId(source)
    }

    /// See [`Session::protocol`].
    #[inline(always)]
    #[must_use]
    pub const fn protocol(&self) -> Protocol {
        protocol_of(self.state)
    }

    /// See [`Session::backend`].
    #[inline(always)]
    #[must_use]
    pub const fn backend(&self) -> BackendId {
        backend_of(self.endpoints)
    }

    /// See [`Session::service_port`].
    #[inline(always)]
    #[must_use]
    pub const fn service_port(&self) -> u16 {
        let [_, port] = ports(low(self.endpoints));
        port
    }

    /// See [`Session::tcp`].
    #[inline(always)]
    #[must_use]
    pub const fn tcp(&self) -> TcpState {
        tcp_of(self.state)
    }

    /// See [`Session::seen`].
    #[inline(always)]
    #[must_use]
    pub const fn seen(&self) -> Tick {
        Tick(self.seen)
    }

    /// See [`Session::hop`].
    #[inline(always)]
    #[must_use]
    pub const fn hop(&self) -> NextHop {
        let [_, port, mac @ ..] = self.hop.to_be_bytes();
        NextHop {
            port: PortId(port),
            mac: Mac(mac),
        }
    }

    /// See [`Session::tags`].
    #[inline(always)]
    #[must_use]
    pub fn tags(&self) -> VlanTags {
        packed_tags(self.hop, self.tags).into()
    }

    /// Whether frames to the return hop carry no VLAN tags.
    #[inline(always)]
    #[must_use]
    pub const fn is_untagged(&self) -> bool {
        self.hop & HOP_TAGGED == 0
    }

    /// Whether the tuple has the client's address and port, and the service port.
    #[inline(always)]
    #[must_use]
    pub fn is_client_of(&self, tuple: &Tuple) -> bool {
        let [client_port, _] = ports(low(self.endpoints));
        self.client() == tuple.source
            && client_port == tuple.source_port
            && self.service_port() == tuple.destination_port
            && self.protocol() == tuple.protocol
    }

    /// The client's port as the backend sees it.
    #[inline(always)]
    #[must_use]
    pub const fn source_port(&self) -> u16 {
        let [port, _] = ports(low(self.state));
        port
    }

    /// Whether the backend sees the client's own address and port.
    #[inline(always)]
    #[must_use]
    pub const fn is_client_kept(&self) -> bool {
        let [client_port, _] = ports(low(self.endpoints));
        client_port == self.source_port() && self.source().is_client()
    }
}

impl From<&Session> for Stored {
    fn from(session: &Session) -> Self {
        Self::new(session, 0)
    }
}

/// The VLAN tags of a return hop, by its word and their tag control information.
#[inline(always)]
pub(super) const fn packed_tags(hop: u64, tci: u32) -> PackedTags {
    let [route, ..] = hop.to_be_bytes();
    PackedTags {
        kind: route & !15,
        tci,
    }
}

/// Which of a line's two tag words belongs to this return hop.
#[inline(always)]
pub(super) const fn tags_at(hop: u64) -> usize {
    let [route, ..] = hop.to_be_bytes();
    (route & 1) as usize
}

/// The words of the return hop that replaces the one in word `before`.
pub(super) fn next_hop_words(before: u64, hop: NextHop, tags: &VlanTags) -> (u64, u32) {
    let [before, ..] = before.to_be_bytes();
    let (route, tags) = HopBits::of(tags, HopBits(before).sequence() + 1);
    (hop_word(route, hop), tags)
}

/// The first byte of a return hop's word: sequence number (the lower 4 bits), and the kind of its VLAN tags
/// ([`PackedTags`]).
///
/// Four bits of sequence number suffice unless a reader is overtaken by 16 changes within one read, back to
/// the same MAC and port.
#[derive(Clone, Copy)]
struct HopBits(u8);

impl HopBits {
    /// The bits of the sequence number.
    const SEQUENCE: u64 = 15;

    fn of(tags: &VlanTags, sequence: u8) -> (Self, u32) {
        let PackedTags { kind, tci } = tags.into();
        (Self(sequence & 15 | kind), tci)
    }

    #[inline]
    const fn sequence(self) -> u8 {
        self.0 & 15
    }
}

/// The bits of a backend id in a line.
const BACKEND_BITS: u32 = 0x003f_ffff;
/// In the endpoints: a move of the return hop waits for the server. The fast path takes it for a part of the
/// backend's id, finds no such backend and leaves the packet to the general path.
pub(super) const MOVING: u64 = 1 << 55;
/// Like [`MOVING`]: the session is sampled.
pub(super) const SAMPLED: u64 = 1 << 54;

/// Marks the origin of a UDP session; the bits below it are the worker's number.
const UDP: u8 = 1 << 7;
const _: () = assert!(WORKER_UNCOUNTED == UDP - 1);

/// A session's protocol and worker.
const fn origin(session: &Session) -> u8 {
    let worker = if session.worker < WORKER_UNCOUNTED {
        session.worker
    } else {
        WORKER_UNCOUNTED
    };
    match session.protocol {
        Protocol::Udp => UDP | worker,
        Protocol::Tcp => worker,
    }
}

fn hop_word(route: HopBits, hop: NextHop) -> u64 {
    let [a, b, c, d, e, f] = hop.mac.0;
    u64::from_be_bytes([route.0, hop.port.0, a, b, c, d, e, f])
}

/// The backend's id, above all others if the general path is to see the session's packets.
#[inline(always)]
pub(super) const fn steady_backend_of(endpoints: u64) -> BackendId {
    BackendId(high(endpoints) & 0x00ff_ffff)
}

#[inline(always)]
pub(super) const fn backend_of(endpoints: u64) -> BackendId {
    BackendId(high(endpoints) & BACKEND_BITS)
}

#[inline(always)]
pub(super) const fn protocol_of(state: u64) -> Protocol {
    let [.., origin, _] = state.to_be_bytes();
    if origin & UDP == UDP {
        Protocol::Udp
    } else {
        Protocol::Tcp
    }
}

/// The bits of a return hop's tag count.
pub(super) const HOP_TAGGED: u64 = 3 << 60;

/// A return hop's word without its sequence number.
#[inline(always)]
pub(super) const fn hop_without_sequence(hop: u64) -> u64 {
    hop & !(HopBits::SEQUENCE << 56)
}

#[inline(always)]
pub(super) const fn is_live(state: u64) -> bool {
    high(state) & 1 == 1
}

#[inline(always)]
pub(super) const fn tcp_of(state: u64) -> TcpState {
    let [.., tcp] = state.to_be_bytes();
    TcpState::from_bits(tcp)
}
