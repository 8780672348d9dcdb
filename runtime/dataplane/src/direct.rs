//! Direct flows: what clients send to a backend's own address and port, past every VIP.
//!
//! The kernel forwards them. But a server tells connections apart by the 5-tuple alone, so a direct flow and
//! a session of the same client, port and server must not look alike to it. The newcomer gets another source
//! port, as in the kernel's own NAT: a session avoids the ports noted here (`path/session_open.rs`), and a
//! direct flow that meets a session is translated (`path/direct.rs`).
//!
//! # Invariants
//! 1. **Bounds.** Memory is allocated at start; a lookup reads one bucket under its lock. Packets of sessions
//!    never come here.
//! 2. **Translations last.** An untranslated flow that is forgotten works on, though a later session may take
//!    its port. So when a bucket is full the longest idle of these is replaced, and a translated flow only
//!    after its timeout.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use waxwing_packet::{Protocol, TcpFlags};

use crate::Tick;
use crate::locks::lock;
use crate::model::TimeoutTicks;
use crate::session::{FlowHash, Tuple, is_opening};

/// Entries in a bucket.
const WAYS: usize = 8;

/// The direct flows that passed lately, for all workers. The keys are the tuples of the servers' packets,
/// with their hashes in the session table.
pub struct DirectFlows {
    buckets: Box<[Mutex<[Option<Entry>; WAYS]>]>,
    /// Whether any flow was ever noted.
    used: AtomicBool,
}

/// Which packets find an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Role {
    /// Both ends' packets: the server sees the client's own port.
    Kept,
    /// The client's packets, by the tuple of an untranslated reply. The port is what the server sees.
    ToServer,
    /// The server's packets. The port is the client's own.
    ToClient,
}

impl Role {
    /// The role of the packets in the other direction.
    pub(crate) const fn opposite(self) -> Self {
        match self {
            Self::Kept => Self::Kept,
            Self::ToServer => Self::ToClient,
            Self::ToClient => Self::ToServer,
        }
    }
}

#[derive(Clone, Copy)]
struct Entry {
    reply: Tuple,
    role: Role,
    /// The client's port after translation.
    port: u16,
    /// Whether a FIN or RST came since the last SYN.
    has_ended: bool,
    timeout_ticks: u32,
    seen: Tick,
}

/// What a packet says about its flow's lifetime.
#[derive(Clone, Copy)]
pub(crate) struct Sighting {
    pub(crate) flags: TcpFlags,
    /// Those of the server's service.
    pub(crate) timeouts: TimeoutTicks,
    pub(crate) now: Tick,
}

impl Entry {
    fn new(reply: Tuple, role: Role, port: u16, sighting: &Sighting) -> Self {
        let mut entry = Self {
            reply,
            role,
            port,
            has_ended: false,
            timeout_ticks: 0,
            seen: sighting.now,
        };
        entry.see(sighting);
        entry
    }

    fn is_live(&self, now: Tick) -> bool {
        now.since(self.seen) <= self.timeout_ticks
    }

    fn is_found_by(&self, reply: &Tuple, role: Role, now: Tick) -> bool {
        self.role == role && self.reply == *reply && self.is_live(now)
    }

    fn see(&mut self, sighting: &Sighting) {
        let Sighting {
            flags,
            timeouts,
            now,
        } = *sighting;
        let opens = is_opening(flags);
        self.has_ended =
            !opens && (self.has_ended || flags.has(TcpFlags::FIN) || flags.has(TcpFlags::RST));
        self.timeout_ticks = match self.reply.protocol {
            Protocol::Udp => timeouts.udp,
            Protocol::Tcp if self.has_ended => timeouts.tcp_closing,
            Protocol::Tcp if opens => timeouts.tcp_half_open,
            Protocol::Tcp => timeouts.tcp_established,
        };
        self.seen = now;
    }
}

impl DirectFlows {
    /// Room for at least this many flows, of 64 bytes each.
    #[must_use]
    pub fn new(flows: usize) -> Self {
        let buckets = flows.div_ceil(WAYS).next_power_of_two();
        Self {
            buckets: (0..buckets).map(|_| Mutex::new([None; WAYS])).collect(),
            used: AtomicBool::new(false),
        }
    }

    fn bucket(&self, hash: FlowHash) -> &Mutex<[Option<Entry>; WAYS]> {
        let mask = self.buckets.len() as u64 - 1;
        // The mask keeps it in range.
        &self.buckets[usize::try_from(hash.bits() & mask).unwrap_or(0)]
    }

    /// Whether any flow was ever noted.
    #[inline]
    pub(crate) fn is_used(&self) -> bool {
        self.used.load(Ordering::Relaxed)
    }

    /// Whether the server's packets of this tuple belong to a direct flow.
    #[cold]
    pub(crate) fn has(&self, reply: &Tuple, hash: FlowHash, now: Tick) -> bool {
        self.peek(reply, hash, Role::ToClient, now).is_some()
    }

    /// Like [`Self::port`], for a packet that does not keep the flow alive.
    pub(crate) fn peek(&self, reply: &Tuple, hash: FlowHash, role: Role, now: Tick) -> Option<u16> {
        let bucket = lock(self.bucket(hash));
        let with = |role| {
            let mut entries = bucket.iter().flatten();
            entries.find(|entry| entry.is_found_by(reply, role, now))
        };
        let entry = with(role).or_else(|| with(Role::Kept))?;
        Some(entry.port)
    }

    /// The port after translation of a packet with this role, which is not [`Role::Kept`]; `None` if its flow
    /// is not noted. A translation counts before a kept port: while it lives, the server's late packets on a
    /// session that is gone may be noted under the client's own port too.
    pub(crate) fn port(
        &self,
        reply: &Tuple,
        hash: FlowHash,
        role: Role,
        sighting: &Sighting,
    ) -> Option<u16> {
        let mut bucket = lock(self.bucket(hash));
        for role in [role, Role::Kept] {
            let mut entries = bucket.iter_mut().flatten();
            if let Some(entry) = entries.find(|entry| entry.is_found_by(reply, role, sighting.now))
            {
                entry.see(sighting);
                return Some(entry.port);
            }
        }
        None
    }

    /// Notes a flow, or one direction of a translated one. `false` if there is no room.
    pub(crate) fn note(
        &self,
        reply: &Tuple,
        hash: FlowHash,
        (role, port): (Role, u16),
        sighting: &Sighting,
    ) -> bool {
        let entry = Entry::new(*reply, role, port, sighting);
        self.used.store(true, Ordering::Relaxed);
        let mut bucket = lock(self.bucket(hash));
        let is_same = |other: &Entry| other.reply == entry.reply && other.role == entry.role;
        if let Some(other) = bucket.iter_mut().flatten().find(|other| is_same(other)) {
            *other = entry;
            return true;
        }
        let ranked = bucket
            .iter_mut()
            .filter_map(|slot| Some((replacement_rank(slot.as_ref(), entry.seen)?, slot)));
        let Some((_, slot)) = ranked.max_by_key(|(rank, _)| *rank) else {
            return false;
        };
        *slot = Some(entry);
        true
    }
}

/// The order of replacement, highest first; `None` for never.
fn replacement_rank(entry: Option<&Entry>, now: Tick) -> Option<u32> {
    match entry {
        Some(entry) if !entry.is_live(now) => Some(u32::MAX),
        Some(entry) if entry.role == Role::Kept => Some(now.since(entry.seen)),
        Some(_) => None,
        None => Some(u32::MAX),
    }
}
