//! One session in one cache line, read without a lock.
//!
//! Invariant: the fields of a live line are what one insert wrote, but for the last-seen tick, the
//! TCP bits and the route, each of which changes as a whole. See the invariants of [`super`].

use waxwing_packet::{Address, Mac, Protocol, VlanTag, VlanTags};

use super::sync::{AtomicU32, AtomicU64, Ordering, fence};
use super::{Session, SessionRef, TcpState, WORKER_UNCOUNTED};
use crate::{BackendId, NextHop, PortId, SourceId, Tick};

/// The line. Fields that are written together share a word.
#[repr(align(64))]
#[derive(Default)]
pub(super) struct Line {
    /// Address, upper and lower half.
    client: [AtomicU64; 2],
    /// Source address (8 bits), backend (24), client port (16), source port (16).
    endpoints: AtomicU64,
    /// Version (32 bits; odd is live), service port (16), UDP or not (1), worker (7), TCP state (8).
    state: AtomicU64,
    /// The route's sequence number, tag count and TPIDs (8 bits, see [`RouteBits`]), port (8),
    /// MAC (48).
    hop: AtomicU64,
    /// The route's tag control information, outer (16 bits) and inner (16). The lowest bit of the
    /// sequence number says which of the two is valid; the other is where the next route's go.
    tags: [AtomicU32; 2],
    created: AtomicU32,
    seen: AtomicU32,
    /// Where the index words are: the forward and the reply flow's.
    positions: [AtomicU32; 2],
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Line>() == 64);

impl Line {
    /// The session and its version, or `None` where the line is free or was changing hands.
    #[inline]
    pub(super) fn read(&self) -> Option<(u32, Session)> {
        loop {
            let state = self.state.load(Ordering::Acquire);
            if !is_live(state) {
                return None;
            }
            let hop = self.hop.load(Ordering::Acquire);
            let session = self.decode(state, hop);
            // Whoever wrote a value read above had changed the version, or the route, before
            // (release fence): then one of the loads below sees it.
            fence(Ordering::Acquire);
            if high(self.state.load(Ordering::Relaxed)) != high(state) {
                return None;
            }
            // A new route is the one change that spans two words; take it as a whole. The loop
            // turns once more only where another thread got something done.
            if self.hop.load(Ordering::Relaxed) == hop {
                return Some((high(state), session));
            }
        }
    }

    #[inline]
    fn decode(&self, state: u64, hop: u64) -> Session {
        let word = |word: &AtomicU64| word.load(Ordering::Relaxed);
        let tick = |tick: &AtomicU32| Tick(tick.load(Ordering::Relaxed));
        let endpoints = word(&self.endpoints);
        let [source, ..] = endpoints.to_be_bytes();
        let [client_port, source_port] = ports(low(endpoints));
        let [service_port, kind] = ports(low(state));
        let [origin, tcp] = kind.to_be_bytes();
        let [route, port, mac @ ..] = hop.to_be_bytes();
        let tags = self.tags[RouteBits(route).half()].load(Ordering::Relaxed);
        Session {
            client: Address::from_bits(
                u128::from(word(&self.client[0])) << 64 | u128::from(word(&self.client[1])),
            ),
            client_port,
            service_port,
            source: SourceId(source),
            source_port,
            protocol: if origin & UDP == UDP {
                Protocol::Udp
            } else {
                Protocol::Tcp
            },
            worker: origin & !UDP,
            backend: BackendId(high(endpoints) & BACKEND_BITS),
            hop: NextHop {
                port: PortId(port),
                mac: Mac(mac),
            },
            tags: RouteBits(route).tags(ports(tags)),
            created: tick(&self.created),
            seen: tick(&self.seen),
            tcp: TcpState::from_bits(tcp),
        }
    }

    /// Fills a free line that the caller owns, and makes it live. The version it lives under.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the lower half of the address is meant"
    )]
    pub(super) fn publish(&self, session: &Session, positions: [u32; 2]) -> u32 {
        let version = high(self.state.load(Ordering::Relaxed)).wrapping_add(1);
        // The version turned free before; no field is written before that is seen.
        fence(Ordering::Release);
        let client = session.client.bits();
        self.client[0].store((client >> 64) as u64, Ordering::Relaxed);
        self.client[1].store(client as u64, Ordering::Relaxed);
        let client_ports = pack16(session.client_port, session.source_port);
        debug_assert!(
            session.backend.0 <= BACKEND_BITS,
            "a backend's id has 24 bits"
        );
        let far = u32::from(session.source.0) << 24 | session.backend.0 & BACKEND_BITS;
        self.endpoints
            .store(pack(far, client_ports), Ordering::Relaxed);
        let (route, tags) = RouteBits::of(&session.tags, 0);
        self.tags[route.half()].store(tags, Ordering::Relaxed);
        self.hop
            .store(hop_word(route, session.hop), Ordering::Relaxed);
        self.created.store(session.created.0, Ordering::Relaxed);
        self.seen.store(session.seen.0, Ordering::Relaxed);
        self.positions[0].store(positions[0], Ordering::Relaxed);
        self.positions[1].store(positions[1], Ordering::Relaxed);
        let kind = u16::from_be_bytes([origin(session), session.tcp.bits()]);
        let state = pack(version, pack16(session.service_port, kind));
        self.state.store(state, Ordering::Release);
        version
    }

    /// Turns a live line free, if it still has this version and, where one is given, this TCP
    /// state. The one caller that succeeds owns the slot, and gets the session and the positions
    /// of its index words.
    pub(super) fn claim(&self, version: u32, tcp: Option<TcpState>) -> Option<(Session, [u32; 2])> {
        let mut state = self.state.load(Ordering::Acquire);
        loop {
            let expected = tcp.is_none_or(|tcp| tcp == tcp_of(state));
            if high(state) != version || !is_live(state) || !expected {
                return None;
            }
            let free = pack(version.wrapping_add(1), 0);
            match self
                .state
                .compare_exchange_weak(state, free, Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(_) => break,
                Err(now) => state = now,
            }
        }
        // The line is the caller's own now; nobody else writes a route or a position to it.
        let session = self.decode(state, self.hop.load(Ordering::Relaxed));
        Some((
            session,
            [0, 1].map(|i| self.positions[i].load(Ordering::Relaxed)),
        ))
    }

    /// Whether the line still has this version.
    #[inline]
    pub(super) fn is(&self, at: SessionRef) -> bool {
        high(self.state.load(Ordering::Acquire)) == at.version
    }

    /// Moves the last-seen tick forward. Never back: workers read their clocks apart, and a stale
    /// caller must not age a newer session. Where it was before.
    #[inline]
    pub(super) fn touch(&self, now: Tick) -> Tick {
        Tick(self.seen.fetch_max(now.0, Ordering::Relaxed))
    }

    /// Replaces the route. The caller holds the slot's lock and knows that the line is live.
    pub(super) fn set_hop(&self, hop: NextHop, tags: &VlanTags) {
        let [before, ..] = self.hop.load(Ordering::Relaxed).to_be_bytes();
        let (route, tags) = RouteBits::of(tags, RouteBits(before).sequence() + 1);
        // The tags go to the half that the present route does not use. It may be the one before
        // it that a slow reader still reads; the fence lets it see that its route is gone.
        fence(Ordering::Release);
        self.tags[route.half()].store(tags, Ordering::Relaxed);
        self.hop.store(hop_word(route, hop), Ordering::Release);
    }

    /// Changes the TCP state, if the line has this version. Before and after.
    #[inline]
    pub(super) fn update_tcp(
        &self,
        version: u32,
        f: impl Fn(TcpState) -> TcpState,
    ) -> Option<(TcpState, TcpState)> {
        let mut state = self.state.load(Ordering::Relaxed);
        loop {
            if high(state) != version || !is_live(state) {
                return None;
            }
            let before = tcp_of(state);
            let after = f(before);
            if after == before {
                return Some((before, after));
            }
            // Relaxed is enough: it publishes nothing else, and being a read-modify-write it
            // hands on what the insert's release store published.
            match self.state.compare_exchange_weak(
                state,
                state & !0xff | u64::from(after.bits()),
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Some((before, after)),
                Err(now) => state = now,
            }
        }
    }
}

/// How a route stands in the first byte of its word, from the lowest bit: sequence number (4
/// bits), tag count (2), whether the outer and the inner TPID is 0x88a8 (1 each).
///
/// A sequence number of four bits tells routes apart for a reader that is overtaken by fewer than
/// 16 changes within one read, or by routes that differ in MAC or port.
#[derive(Clone, Copy)]
struct RouteBits(u8);

/// The TPIDs of a customer's and a service provider's tag (IEEE 802.1Q section 9.5).
const TPIDS: [u16; 2] = [0x8100, 0x88a8];

impl RouteBits {
    fn of(tags: &VlanTags, sequence: u8) -> (Self, u32) {
        let [outer, inner] = tags.tags;
        let bits = sequence & 15
            | tags.count.min(2) << 4
            | u8::from(outer.tpid == TPIDS[1]) << 6
            | u8::from(inner.tpid == TPIDS[1]) << 7;
        (Self(bits), pack16(outer.tci, inner.tci))
    }

    #[inline]
    const fn sequence(self) -> u8 {
        self.0 & 15
    }

    #[inline]
    const fn half(self) -> usize {
        (self.0 & 1) as usize
    }

    #[inline]
    fn tags(self, [outer, inner]: [u16; 2]) -> VlanTags {
        let count = self.0 >> 4 & 3;
        let tag = |at: u8, tci: u16| {
            let tpid = TPIDS[usize::from(self.0 >> (6 + at) & 1)];
            if at < count {
                VlanTag { tpid, tci }
            } else {
                VlanTag::default()
            }
        };
        VlanTags {
            count,
            tags: [tag(0, outer), tag(1, inner)],
        }
    }
}

/// What of a backend's id a line holds; the config allows for far fewer backends.
const BACKEND_BITS: u32 = 0x00ff_ffff;

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

fn hop_word(route: RouteBits, hop: NextHop) -> u64 {
    let [a, b, c, d, e, f] = hop.mac.0;
    u64::from_be_bytes([route.0, hop.port.0, a, b, c, d, e, f])
}

#[inline]
const fn is_live(state: u64) -> bool {
    high(state) & 1 == 1
}

#[inline]
const fn tcp_of(state: u64) -> TcpState {
    let [.., tcp] = state.to_be_bytes();
    TcpState::from_bits(tcp)
}

/// Upper 32 bits.
#[inline]
pub(super) const fn high(word: u64) -> u32 {
    (word >> 32) as u32
}

/// Lower 32 bits.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "the lower half is meant")]
pub(super) const fn low(word: u64) -> u32 {
    word as u32
}

/// Two halves in one word.
#[inline]
pub(super) const fn pack(high: u32, low: u32) -> u64 {
    (high as u64) << 32 | low as u64
}

#[inline]
const fn pack16(high: u16, low: u16) -> u32 {
    (high as u32) << 16 | low as u32
}

#[inline]
const fn ports(word: u32) -> [u16; 2] {
    let [a, b, c, d] = word.to_be_bytes();
    [u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])]
}
