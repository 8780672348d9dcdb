//! Views of the host's records, for policies to read.
//!
//! Invariant: what the host counts and names is only read here; an index out of range is `None`.

use core::net::{IpAddr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::abi::{
    BACKEND_DRAINING, BACKEND_HEALTHY, BackendRecord, ClosedRecord, END_CLOSED, END_EVICTED,
    END_IDLE, END_REFUSED, END_RESET, END_UNANSWERED, FLOW_MID_STREAM, FlowRecord, HostFields,
    PROTOCOL_TCP,
};
use crate::hash;

/// A transport protocol.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// A new flow that wants a backend.
#[derive(Clone, Copy, Debug)]
pub struct Flow<'a> {
    record: &'a FlowRecord,
    payload: &'a [u8],
}

impl<'a> Flow<'a> {
    pub(crate) const fn new(record: &'a FlowRecord, payload: &'a [u8]) -> Self {
        Self { record, payload }
    }

    /// The client's address and port.
    #[must_use]
    pub fn source(&self) -> SocketAddr {
        SocketAddr::new(address(self.record.source), self.record.source_port)
    }

    /// The VIP and the service's port.
    #[must_use]
    pub fn destination(&self) -> SocketAddr {
        SocketAddr::new(
            address(self.record.destination),
            self.record.destination_port,
        )
    }

    /// The client's address in network order, an IPv4 address in its mapped form
    /// (`::ffff:a.b.c.d`): one form for both families, ready to hash.
    #[must_use]
    pub const fn source_octets(&self) -> &'a [u8; 16] {
        &self.record.source
    }

    /// The VIP in network order, in the form of [`Flow::source_octets`].
    #[must_use]
    pub const fn destination_octets(&self) -> &'a [u8; 16] {
        &self.record.destination
    }

    /// TCP or UDP.
    #[must_use]
    pub const fn protocol(&self) -> Protocol {
        if self.record.protocol == PROTOCOL_TCP {
            Protocol::Tcp
        } else {
            Protocol::Udp
        }
    }

    /// A hash of addresses, ports and protocol under the cluster's key: the same on every
    /// worker and every balancer, and not to be guessed by clients.
    #[must_use]
    pub const fn hash(&self) -> u64 {
        self.record.hash
    }

    /// Whether this is TCP in the middle of a connection (no SYN): one that may be older than
    /// this balancer, and whose backend only a consistent policy finds again.
    #[must_use]
    pub const fn is_mid_stream(&self) -> bool {
        self.record.flags & FLOW_MID_STREAM != 0
    }

    /// The start of the packet's payload: up to [`crate::Policy::PAYLOAD`] bytes, none if the
    /// packet has none.
    #[must_use]
    pub const fn payload(&self) -> &'a [u8] {
        self.payload
    }
}

fn address(octets: [u8; 16]) -> IpAddr {
    Ipv6Addr::from(octets).to_canonical()
}

/// The service's backends as the host last wrote them, and the time it did.
#[derive(Clone, Copy, Debug)]
pub struct Backends<'a> {
    records: &'a [BackendRecord],
    host: &'a HostFields,
}

impl<'a> Backends<'a> {
    pub(crate) const fn new(records: &'a [BackendRecord], host: &'a HostFields) -> Self {
        Self { records, host }
    }

    /// How many backends there are, available or not.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The backend at an index.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<Backend<'a>> {
        self.records
            .get(index)
            .map(|record| Backend { record, index })
    }

    /// Every backend, by index.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Backend<'a>> + use<'a> {
        self.records
            .iter()
            .enumerate()
            .map(|(index, record)| Backend { record, index })
    }

    /// The backends whose health checks pass, or that have none, by index; draining ones too.
    pub fn healthy(&self) -> impl Iterator<Item = Backend<'a>> + use<'a> {
        self.iter().filter(Backend::is_healthy)
    }

    /// The backends that take new sessions, by index.
    pub fn available(&self) -> impl Iterator<Item = Backend<'a>> + use<'a> {
        self.iter().filter(Backend::is_available)
    }

    /// The available backend that a hash belongs to, each in proportion to its weight: weighted
    /// rendezvous hashing. Workers and balancers agree on it, and a backend that goes moves only
    /// the hashes that it had. Looks at every backend: about 10 ns each.
    #[must_use]
    pub fn by_hash(&self, hash: u64) -> Option<Backend<'a>> {
        self.available()
            .map(|backend| {
                let weight = f64::from(backend.weight());
                (hash::score(backend.key() ^ hash, weight), backend)
            })
            .max_by(|(a, _), (b, _)| a.total_cmp(b))
            .map(|(_, backend)| backend)
    }

    /// The available backend that a random number falls on, each in proportion to its weight. Looks
    /// at every backend; [`choice::Weighted`](crate::choice::Weighted) is quicker where there are
    /// many.
    #[must_use]
    pub fn weighted(&self, random: u64) -> Option<Backend<'a>> {
        let total = self.available().map(|b| u64::from(b.weight())).sum();
        let mut point = hash::below(random, total);
        self.available().find(|backend| {
            let weight = u64::from(backend.weight());
            let found = point < weight;
            point = point.saturating_sub(weight);
            found
        })
    }

    /// Monotonic time in milliseconds, from an arbitrary start, read once a batch.
    #[must_use]
    pub const fn now_ms(&self) -> u64 {
        self.host.now_ms
    }

    /// A random number of this worker and service, the same as long as the policy lives.
    #[must_use]
    pub const fn seed(&self) -> u64 {
        self.host.seed
    }

    /// Counts up with every change of the services or backends.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.host.generation
    }
}

/// A server of the service.
#[derive(Clone, Copy, Debug)]
pub struct Backend<'a> {
    record: &'a BackendRecord,
    index: usize,
}

impl Backend<'_> {
    /// Its place in [`Backends`], until the next change of backends.
    #[must_use]
    pub const fn index(&self) -> usize {
        self.index
    }

    /// A hash of its address and port under the cluster's key: the same on every worker and
    /// every balancer, and after a restart.
    #[must_use]
    pub const fn key(&self) -> u64 {
        self.record.key
    }

    /// Its number on this balancer, kept over every change of the config.
    #[must_use]
    pub const fn id(&self) -> u32 {
        self.record.id
    }

    /// Its share of new sessions, relative to the others', by the config and by its health; 0 takes
    /// none.
    #[must_use]
    pub const fn weight(&self) -> u32 {
        self.record.weight
    }

    /// Whether its health checks pass, or there are none.
    #[must_use]
    pub const fn is_healthy(&self) -> bool {
        self.record.flags & BACKEND_HEALTHY != 0
    }

    /// Whether it takes new sessions: healthy, not draining, with a weight.
    #[must_use]
    pub const fn is_available(&self) -> bool {
        self.is_healthy() && self.record.flags & BACKEND_DRAINING == 0 && self.weight() > 0
    }

    /// Sessions on it now, over all workers of this balancer as of the batch's start, and the
    /// picks that this policy made since.
    #[must_use]
    pub const fn active(&self) -> u32 {
        self.record.active
    }

    /// Those of its sessions that this worker made; each worker has a policy of its own.
    #[must_use]
    pub const fn active_here(&self) -> u32 {
        self.record.active_here
    }

    /// New sessions a second, over all workers: a moving average over some seconds.
    #[must_use]
    pub const fn sessions_per_s(&self) -> u32 {
        self.record.sessions_per_s
    }

    /// Moving average of the time from a client's SYN to the backend's SYN-ACK, as the balancer
    /// sees them pass, in microseconds; `None` if not measured (yet, or UDP).
    #[must_use]
    pub const fn latency_us(&self) -> Option<u32> {
        match self.record.latency_us {
            0 => None,
            latency => Some(latency),
        }
    }

    /// Of a million new sessions, how many it refused or left unanswered: a moving average over
    /// some seconds.
    #[must_use]
    pub const fn failures_ppm(&self) -> u32 {
        self.record.failures_ppm
    }

    /// What its health check makes of its weight, in percent; [`Backend::weight`] has it in it.
    #[must_use]
    pub const fn health_weight(&self) -> u16 {
        self.record.health_weight
    }

    /// The operator's tag (a zone, a version); 0 if none.
    #[must_use]
    pub const fn tag(&self) -> u32 {
        self.record.tag
    }

    /// Four free numbers, set by health checks or from outside; 0 until then.
    #[must_use]
    pub const fn signals(&self) -> [u32; 4] {
        self.record.signals
    }
}

/// A session that ended.
#[derive(Clone, Copy, Debug)]
pub struct Closed<'a> {
    record: &'a ClosedRecord,
}

impl<'a> Closed<'a> {
    pub(crate) const fn new(record: &'a ClosedRecord) -> Self {
        Self { record }
    }

    /// Its backend's index in [`Backends`].
    #[must_use]
    pub const fn backend(&self) -> usize {
        self.record.backend as usize
    }

    /// How long it lived, in milliseconds.
    #[must_use]
    pub const fn duration_ms(&self) -> u64 {
        self.record.duration_ms
    }

    /// Bytes of its frames, both ways.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.record.bytes
    }

    /// How it ended; `None` for an end that this version of the SDK does not know.
    #[must_use]
    pub const fn end(&self) -> Option<End> {
        Some(match self.record.end {
            END_CLOSED => End::Closed,
            END_RESET => End::Reset,
            END_IDLE => End::Idle,
            END_UNANSWERED => End::Unanswered,
            END_REFUSED => End::Refused,
            END_EVICTED => End::Evicted,
            _ => return None,
        })
    }
}

/// How a session ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum End {
    /// Both ends closed the connection (FIN).
    Closed,
    /// One end reset the connection (RST).
    Reset,
    /// Nothing came for as long as the service's timeout.
    Idle,
    /// The backend never answered.
    Unanswered,
    /// The backend answered the connection's SYN with RST.
    Refused,
    /// It made room for another in a full session table.
    Evicted,
}
