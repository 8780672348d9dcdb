//! Read-only views of the host's records, for policies.
//!
//! Invariant: a policy cannot change what the host counts; an index out of range gives `None`.

use core::net::{IpAddr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::abi::{
    BACKEND_DRAINING, BACKEND_HEALTHY, BackendRecord, ClosedRecord, END_CLOSED, END_EVICTED,
    END_IDLE, END_REFUSED, END_RESET, END_UNANSWERED, FLOW_MID_STREAM, FlowRecord, LiveRecord,
    PROTOCOL_TCP,
};
use crate::context::Context;
use crate::hash;
use crate::shared::Shared;

/// A transport protocol.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP, RFC 9293.
    Tcp,
    /// UDP, RFC 768.
    Udp,
}

/// A new flow that needs a backend.
#[derive(Clone, Copy, Debug)]
pub struct Flow<'a> {
    record: &'a FlowRecord,
    payload: &'a [u8],
}

impl<'a> Flow<'a> {
    pub(crate) const fn new(record: &'a FlowRecord, payload: &'a [u8]) -> Self {
        Self { record, payload }
    }

    /// Returns the client's address and port.
    #[must_use]
    pub fn source(&self) -> SocketAddr {
        SocketAddr::new(address(self.record.source), self.record.source_port)
    }

    /// Returns the VIP and the service's port.
    #[must_use]
    pub fn destination(&self) -> SocketAddr {
        SocketAddr::new(
            address(self.record.destination),
            self.record.destination_port,
        )
    }

    /// Returns the client's address in network order, an IPv4 address in mapped form
    /// (`::ffff:a.b.c.d`): one form for both families, ready to hash.
    #[must_use]
    pub const fn source_octets(&self) -> &'a [u8; 16] {
        &self.record.source
    }

    /// Returns the VIP in network order, in the form of [`Flow::source_octets`].
    #[must_use]
    pub const fn destination_octets(&self) -> &'a [u8; 16] {
        &self.record.destination
    }

    /// Returns the flow's protocol.
    #[must_use]
    pub const fn protocol(&self) -> Protocol {
        if self.record.protocol == PROTOCOL_TCP {
            Protocol::Tcp
        } else {
            Protocol::Udp
        }
    }

    /// Returns the flow's hash: addresses, ports and protocol under the cluster's key. It is the
    /// same on every worker and every balancer, and clients cannot predict it.
    #[must_use]
    pub const fn hash(&self) -> u64 {
        self.record.hash
    }

    /// Returns whether the packet is a TCP packet without SYN. Its connection may be older than
    /// this balancer, and only a consistent policy finds its backend again.
    #[must_use]
    pub const fn is_mid_stream(&self) -> bool {
        self.record.flags & FLOW_MID_STREAM != 0
    }

    /// Returns the start of the packet's payload, up to [`crate::Policy::PAYLOAD_BYTES`] bytes;
    /// empty if the packet has none.
    #[must_use]
    pub const fn payload(&self) -> &'a [u8] {
        self.payload
    }
}

fn address(octets: [u8; 16]) -> IpAddr {
    Ipv6Addr::from(octets).to_canonical()
}

/// The service's backends, and the time, as the host last wrote them.
#[derive(Clone, Copy, Debug)]
pub struct Backends<'a> {
    records: &'a [BackendRecord],
    /// As many as `records`.
    live: &'a [LiveRecord],
    context: &'a Context,
}

impl<'a> Backends<'a> {
    pub(crate) const fn new(
        records: &'a [BackendRecord],
        live: &'a [LiveRecord],
        context: &'a Context,
    ) -> Self {
        Self {
            records,
            live,
            context,
        }
    }

    /// A view of backends whose sessions are all active ones.
    #[cfg(test)]
    pub(crate) fn without_live(
        records: &'a [BackendRecord],
        host: &crate::abi::HostFields,
    ) -> Self {
        use alloc::boxed::Box;
        let live = alloc::vec![LiveRecord::default(); records.len()].leak();
        let header = crate::abi::Header {
            host: *host,
            ..Default::default()
        };
        let shared = Box::default();
        Self::new(
            records,
            live,
            Box::leak(Box::new(Context { header, shared })),
        )
    }

    /// Returns the number of backends, available or not.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.records.len()
    }

    /// Returns whether there are no backends.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Returns the backend at an index; `None` if there is none.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<Backend<'a>> {
        let (record, live) = (self.records.get(index)?, self.live.get(index)?);
        Some(Backend {
            record,
            live,
            index,
        })
    }

    /// Returns all backends, by index.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Backend<'a>> + use<'a> {
        let records = self.records.iter().zip(self.live);
        records.enumerate().map(|(index, (record, live))| Backend {
            record,
            live,
            index,
        })
    }

    /// Returns the backends whose health checks pass, or that have none, by index. Draining ones
    /// are included.
    pub fn healthy(&self) -> impl Iterator<Item = Backend<'a>> + use<'a> {
        self.iter().filter(Backend::is_healthy)
    }

    /// Returns the backends that take new sessions, by index.
    pub fn available(&self) -> impl Iterator<Item = Backend<'a>> + use<'a> {
        self.iter().filter(Backend::is_available)
    }

    /// Returns the available backend for a hash, in proportion to the weights, by weighted
    /// rendezvous hashing; `None` if none is available.
    ///
    /// Workers and balancers agree. When a backend goes, only its own hashes move. Scores every
    /// backend, in about 10 nanoseconds each; [`group::Group`](crate::group::Group) scores few of
    /// many.
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

    /// Returns the available backend that a random number selects, in proportion to the weights;
    /// `None` if none is available. Examines every backend;
    /// [`choice::WeightedRandom`](crate::choice::WeightedRandom) is faster for many.
    #[must_use]
    pub fn by_weight(&self, random: u64) -> Option<Backend<'a>> {
        let total = self.available().map(|b| u64::from(b.weight())).sum();
        let mut point = hash::below(random, total);
        self.available().find(|backend| {
            let weight = u64::from(backend.weight());
            let found = point < weight;
            point = point.saturating_sub(weight);
            found
        })
    }

    /// Returns the monotonic time in milliseconds, from an arbitrary start, read once per batch.
    #[must_use]
    pub const fn now_ms(&self) -> u64 {
        self.context.header.host.now_ms
    }

    /// Returns a random number of this worker and service, constant over the policy's life.
    #[must_use]
    pub const fn seed(&self) -> u64 {
        self.context.header.host.seed
    }

    /// Returns the number of the worker that this policy serves, from 0.
    #[must_use]
    pub const fn worker(&self) -> u16 {
        self.context.header.host.worker
    }

    /// Returns the number of workers of the balancer, at least 1.
    #[must_use]
    pub const fn workers(&self) -> u16 {
        match self.context.header.host.workers {
            0 => 1,
            workers => workers,
        }
    }

    /// Returns the cells that all workers add to and read; as many as
    /// [`Policy::SHARED`](crate::Policy::SHARED).
    #[must_use]
    pub fn shared(&self) -> Shared<'a> {
        Shared::new(&self.context.shared)
    }

    /// Returns a number that increases with every change of services or backends.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.context.header.host.generation
    }
}

/// A backend of the service.
#[derive(Clone, Copy, Debug)]
pub struct Backend<'a> {
    record: &'a BackendRecord,
    live: &'a LiveRecord,
    index: usize,
}

impl Backend<'_> {
    /// Returns the backend's index in [`Backends`], which holds until the next change of backends.
    #[must_use]
    pub const fn index(&self) -> usize {
        self.index
    }

    /// Returns a hash of the backend's address and port under the cluster's key: the same on every
    /// worker and every balancer, and after a restart.
    #[must_use]
    pub const fn key(&self) -> u64 {
        self.record.key
    }

    /// Returns the backend's number on this balancer, which survives config changes. Use it to
    /// carry state over.
    #[must_use]
    pub const fn id(&self) -> u32 {
        self.record.id
    }

    /// Returns the backend's share of new sessions, relative to the other backends, from the config
    /// and the health checks; 0 takes none.
    #[must_use]
    pub const fn weight(&self) -> u32 {
        self.record.weight
    }

    /// Returns whether the health checks pass, or there are none.
    #[must_use]
    pub const fn is_healthy(&self) -> bool {
        self.record.flags & BACKEND_HEALTHY != 0
    }

    /// Returns whether the backend takes new sessions: it is healthy, not draining, and has a
    /// weight.
    #[must_use]
    pub const fn is_available(&self) -> bool {
        self.is_healthy() && self.record.flags & BACKEND_DRAINING == 0 && self.weight() > 0
    }

    /// Returns the sessions that the backend has to serve, [`Backend::active`] and
    /// [`Backend::half_open`] ones: balance by this. A backend that does not answer has half-open
    /// sessions only.
    #[must_use]
    pub const fn load(&self) -> u32 {
        self.record.active.saturating_add(self.live.half_open)
    }

    /// Returns those sessions of [`Backend::load`] that this worker created.
    #[must_use]
    pub const fn load_here(&self) -> u32 {
        let half_open = self.live.half_open_here;
        self.record.active_here.saturating_add(half_open)
    }

    /// Returns the backend's open sessions: those of all workers of this balancer at the start of the
    /// batch.
    #[must_use]
    pub const fn active(&self) -> u32 {
        self.record.active
    }

    /// Returns the backend's open sessions that this worker created.
    #[must_use]
    pub const fn active_here(&self) -> u32 {
        self.record.active_here
    }

    /// Returns the sessions whose handshake is not complete (UDP: that the backend has not answered):
    /// those of all workers of this balancer at the start of the batch, and this policy's picks since
    /// then.
    #[must_use]
    pub const fn half_open(&self) -> u32 {
        self.live.half_open
    }

    /// Returns the half-open sessions that this worker created.
    #[must_use]
    pub const fn half_open_here(&self) -> u32 {
        self.live.half_open_here
    }

    /// Returns the sessions of all workers that have ended and still hold their ports. They cost the
    /// backend nothing.
    #[must_use]
    pub const fn closing(&self) -> u32 {
        self.live.closing
    }

    /// Returns the closing sessions that this worker created.
    #[must_use]
    pub const fn closing_here(&self) -> u32 {
        self.live.closing_here
    }

    /// Returns the number of sessions since the backend was added, over all workers.
    #[must_use]
    pub const fn sessions_total(&self) -> u64 {
        self.live.sessions
    }

    /// Returns how many of [`Backend::sessions_total`] the backend refused or did not answer.
    #[must_use]
    pub const fn failures_total(&self) -> u64 {
        self.live.failures
    }

    /// Returns how many of [`Backend::sessions_total`] the backend refused (RST to the SYN).
    #[must_use]
    pub const fn refusals_total(&self) -> u64 {
        self.live.refusals
    }

    /// Returns new sessions per second over all workers, a moving average over some seconds.
    #[must_use]
    pub const fn sessions_per_s(&self) -> u32 {
        self.record.sessions_per_s
    }

    /// Returns the time from a client's SYN to the backend's SYN-ACK at the balancer, in
    /// microseconds, a moving average; `None` if not measured (yet, or UDP).
    #[must_use]
    pub const fn latency_us(&self) -> Option<u32> {
        match self.record.latency_us {
            0 => None,
            latency => Some(latency),
        }
    }

    /// Returns how many of a million new sessions the backend refused or did not answer, a moving
    /// average over some seconds that falls while no session comes.
    #[must_use]
    pub const fn failures_ppm(&self) -> u32 {
        self.record.failures_ppm
    }

    /// Returns the number of sessions that [`Backend::failures_ppm`] rests on, older ones weighted
    /// less. A rate of few sessions says little.
    #[must_use]
    pub const fn failure_samples(&self) -> u32 {
        self.live.failure_samples
    }

    /// Returns the health check's factor on the weight, in percent. [`Backend::weight`] already
    /// includes it.
    #[must_use]
    pub const fn health_weight(&self) -> u16 {
        self.record.health_weight
    }

    /// Returns the operator's tag, such as a zone or a version; 0 if none.
    #[must_use]
    pub const fn tag(&self) -> u32 {
        self.record.tag
    }

    /// Returns four free numbers, set by health checks or from outside; 0 until then.
    #[must_use]
    pub const fn signals(&self) -> [u32; 4] {
        self.record.signals
    }
}

/// A session that ended: by both FINs, an RST, its timeout or its eviction.
#[derive(Clone, Copy, Debug)]
pub struct ClosedSession<'a> {
    record: &'a ClosedRecord,
}

impl<'a> ClosedSession<'a> {
    pub(crate) const fn new(record: &'a ClosedRecord) -> Self {
        Self { record }
    }

    /// Returns the index of its backend in [`Backends`].
    #[must_use]
    pub const fn backend(&self) -> usize {
        self.record.backend as usize
    }

    /// Returns its lifetime in milliseconds, in steps of 100: until its end, which for an idle session is
    /// its timeout.
    #[must_use]
    pub const fn duration_ms(&self) -> u64 {
        self.record.duration_ms
    }

    /// Returns the bytes of its frames until its end, in both directions.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.record.bytes
    }

    /// Returns how it ended; `None` for an end that this version of the SDK does not know.
    #[must_use]
    pub const fn end(&self) -> Option<SessionEnd> {
        Some(match self.record.end {
            END_CLOSED => SessionEnd::Closed,
            END_RESET => SessionEnd::Reset,
            END_IDLE => SessionEnd::Idle,
            END_UNANSWERED => SessionEnd::Unanswered,
            END_REFUSED => SessionEnd::Refused,
            END_EVICTED => SessionEnd::Evicted,
            _ => return None,
        })
    }
}

/// How a session ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum SessionEnd {
    /// Both ends closed the connection (FIN).
    Closed,
    /// One end reset the connection (RST).
    Reset,
    /// No packet came within the service's timeout.
    Idle,
    /// The backend never answered.
    Unanswered,
    /// The backend answered the SYN with RST.
    Refused,
    /// Evicted from a full session table.
    Evicted,
}
