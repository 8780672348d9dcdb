//! Counters and gauges: what happened, per worker, service and backend.
//!
//! Invariant: a worker's counters are written by that worker alone (plain load and store, no bus
//! lock) and read by anyone. Gauges are shared and written only when a session begins, is answered
//! or ends.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

pub use crate::histogram::Distribution;
use crate::histogram::Histogram;
use crate::prefetch::prefetch;
use crate::session::WORKER_UNCOUNTED;
#[cfg(doc)]
use crate::snapshot::{NoBackend, SessionsFate};
use crate::source_nat::SOURCES_MAX;
use crate::{BackendId, SourceId};

macro_rules! drop_reasons {
    ($($(#[$doc:meta])* $name:ident = $label:literal,)*) => {
        /// Why a frame was dropped. Each has a counter of its own; the label is its name in
        /// `status`, in metrics and in logs.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
        #[repr(u8)]
        pub enum DropReason { $($(#[$doc])* $name,)* }

        impl DropReason {
            /// Every reason, in the order of their counters.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The name in `status`, metrics and logs.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)* }
            }
        }
    };
}

drop_reasons! {
    /// Not a well-formed frame: a length or offset lies outside of it.
    Malformed = "malformed",
    /// A header or protocol that a VIP does not serve (another protocol, an ICMP message that is not answered).
    Unsupported = "unsupported",
    /// A source address that no packet may have (RFC 1812 section 5.3.7).
    Martian = "martian",
    /// A fragment to a VIP that no session can be of (ICMP, another protocol), or whose session has
    /// ended since its datagram's first fragment passed.
    Fragment = "fragment",
    /// A first fragment without the whole of its headers, or another that lies in them (RFC 1858,
    /// RFC 3128, RFC 7112).
    TinyFragment = "tiny_fragment",
    /// A fragment that overlaps or contradicts another, and all others of its datagram (RFC 5722).
    FragmentOverlap = "fragment_overlap",
    /// A fragment of the very place of another.
    FragmentDuplicate = "fragment_duplicate",
    /// A fragment that waited in vain for its datagram's first one.
    FragmentTimeout = "fragment_timeout",
    /// A fragment that there was no room for: too many datagrams, too many that wait, or too many of
    /// one datagram.
    FragmentLimit = "fragment_limit",
    /// An ICMP error to a VIP about a packet of no session.
    IcmpNoSession = "icmp_no_session",
    /// A packet to a VIP, but to no service of it.
    NoService = "no_service",
    /// A TCP packet of no session and without SYN, where the service says to drop those.
    MidStream = "mid_stream",
    /// The service has no backend that takes new sessions.
    NoBackend = "no_backend",
    /// A packet of a session whose backend is down, and which nothing may be answered to.
    BackendDown = "backend_down",
    /// What it was to be answered with, RST, an ICMP error or an echo, is limited in its rate.
    AnswerLimit = "answer_limit",
    /// A backend's RST to a SYN, kept from the client: its next SYN goes to another backend.
    RefusedRetried = "refused_retried",
    /// The policy said to drop it.
    Policy = "policy",
    /// The session table is full and nothing in it may be evicted.
    SessionTableFull = "session_table_full",
    /// Another session to the same backend endpoint has the client's address and port.
    TupleClash = "tuple_clash",
    /// The client is the server that was picked, or the service is one of source NAT for all, and there
    /// is no source address of its family.
    NoSourceAddress = "no_source_address",
    /// Every source port that was tried is taken towards the backend, by sessions that stay.
    SourcePorts = "source_ports",
    /// The next hop towards the backend has no known MAC address (resolution was triggered).
    NeighborUnresolved = "neighbor_unresolved",
    /// The kernel's routes have none to the client, or refuse it (`return_path = "route"`).
    NoRoute = "no_route",
    /// TTL or hop limit ran out here, and nobody may be told.
    HopLimit = "hop_limit",
    /// The packet is larger than the egress port's MTU, and nobody may be told; or it is one of IPv4
    /// that may be cut to pieces, but has options, or would make too many.
    TooBig = "too_big",
    /// No headroom for a longer link header.
    NoHeadroom = "no_headroom",
    /// The pool has no frame for a piece of a packet that was too big.
    NoFrame = "no_frame",
    /// The egress port's transmit ring is full.
    TransmitRingFull = "transmit_ring_full",
    /// The egress port has no queue on this worker.
    PortMissing = "port_missing",
    /// The kernel did not take a frame handed back to it.
    KernelPathFull = "kernel_path_full",
}

/// A counter that one thread writes and any thread reads.
#[derive(Default, Debug)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds, from the one thread that writes it.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(
            self.0.load(Ordering::Relaxed).wrapping_add(n),
            Ordering::Relaxed,
        );
    }

    /// The value.
    #[inline]
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Packets and bytes that passed.
#[derive(Default, Debug)]
pub struct Traffic {
    /// Frames.
    pub packets: Counter,
    /// Their bytes, link headers included.
    pub bytes: Counter,
}

/// What one worker counts of one backend; a service's numbers are the sums over its backends.
#[derive(Default, Debug)]
#[repr(align(64))]
pub struct BackendCounters {
    /// Client to backend.
    pub forward: Traffic,
    /// Backend to client.
    pub reply: Traffic,
    /// Sessions made.
    pub sessions: Counter,
    /// Sessions whose SYN the backend answered with RST, before any SYN-ACK.
    pub refused: Counter,
    /// Sessions whose client sent its SYN again before anything came from the backend, each once.
    pub syn_repeated: Counter,
    /// Sessions whose time was up, or whose backend was found down, before anything came from it.
    pub unanswered: Counter,
}

/// What one worker counts.
#[derive(Debug)]
pub struct WorkerCounters {
    /// Received frames.
    pub received: Traffic,
    /// Transmitted frames.
    pub transmitted: Traffic,
    /// Frames handed back to the kernel.
    pub to_kernel: Counter,
    /// Frames that were none of ours and went on by the bridge's other port; they count as transmitted.
    pub bridged: Counter,
    /// Fragments that were copied to wait for their datagram's first one, and so ended as frames.
    pub held: Counter,
    /// Those of them that wait no more: each ends once more, as any frame does.
    pub released: Counter,
    /// ARP, NDP and ping requests answered.
    pub answered: Counter,
    /// ICMP errors about a session's packets, passed on.
    pub errors_passed: Counter,
    /// Packets of sessions that went no further here, and whose senders were told by an ICMP error:
    /// the hop limit ran out.
    pub told_hop_limit: Counter,
    /// Likewise: too big for the egress port's MTU.
    pub told_too_big: Counter,
    /// Packets too big for the egress port's MTU that were sent in pieces, each packet once.
    pub cut: Counter,
    /// Those pieces, and such of packets whose rest was dropped; all of them count as transmitted.
    pub pieces: Counter,
    /// Packets to clients that went to the last hop because the kernel's route cannot be gone: its
    /// gateway does not answer, or it leaves by no port.
    pub by_last_hop: Counter,
    /// Announcements (gratuitous ARP, unsolicited neighbour advertisement) sent.
    pub announced: Counter,
    /// Batches that were not empty.
    pub batches: Counter,
    /// Sessions ended by time.
    pub expired: Counter,
    /// Sessions ended to make room.
    pub evicted: Counter,
    /// Sessions reset because their backend was down ([`SessionsFate::Reset`]).
    pub reset: Counter,
    /// Sessions ended because their backend was down, for another to take the flow over.
    pub repicked: Counter,
    /// Packets of new flows that no backend took, answered with RST or port unreachable
    /// ([`NoBackend::Reject`]).
    pub rejected: Counter,
    /// Flows that the native fallback chose for because the policy failed.
    pub fallback: Counter,
    /// Epochs taken up.
    pub epochs: Counter,
    batch_times: Histogram,
    drops: Box<[Counter]>,
    backends: Box<[BackendCounters]>,
}

impl WorkerCounters {
    /// Counters for backends with an id below `backends_max`.
    #[must_use]
    pub fn new(backends_max: usize) -> Self {
        Self {
            received: Traffic::default(),
            transmitted: Traffic::default(),
            to_kernel: Counter::default(),
            bridged: Counter::default(),
            held: Counter::default(),
            released: Counter::default(),
            answered: Counter::default(),
            errors_passed: Counter::default(),
            told_hop_limit: Counter::default(),
            told_too_big: Counter::default(),
            cut: Counter::default(),
            pieces: Counter::default(),
            by_last_hop: Counter::default(),
            announced: Counter::default(),
            batches: Counter::default(),
            expired: Counter::default(),
            evicted: Counter::default(),
            reset: Counter::default(),
            repicked: Counter::default(),
            rejected: Counter::default(),
            fallback: Counter::default(),
            epochs: Counter::default(),
            batch_times: Histogram::default(),
            drops: DropReason::ALL.iter().map(|_| Counter::default()).collect(),
            backends: (0..backends_max)
                .map(|_| BackendCounters::default())
                .collect(),
        }
    }

    /// The counter of a reason.
    #[inline]
    #[must_use]
    pub fn dropped(&self, reason: DropReason) -> &Counter {
        &self.drops[reason as usize]
    }

    /// How long the batches took that were not empty: all of the turn, with its background work.
    #[must_use]
    pub fn batch_times(&self) -> Distribution {
        self.batch_times.read()
    }

    /// Counts a batch that took this many microseconds, from the one thread that writes here.
    pub(crate) fn count_batch_time(&self, us: u64) {
        self.batch_times.count(us);
    }

    /// The counters of a backend.
    #[inline]
    #[must_use]
    pub fn backend(&self, id: BackendId) -> &BackendCounters {
        &self.backends[id.index()]
    }

    /// Has the counters of a backend fetched into the cache.
    #[inline(always)]
    pub(crate) fn prefetch_backend(&self, id: BackendId) {
        if let Some(counters) = self.backends.get(id.index()) {
            prefetch(counters);
        }
    }
}

/// How many free numbers a backend has for its policy.
pub const SIGNALS: usize = 4;

/// Live numbers per backend, shared by all workers: what policies look at.
///
/// Sessions are counted by the workers, the connect latency is measured by them, and the control
/// side writes rates and signals. All are read without a lock, each as it is at that moment.
#[derive(Debug)]
pub struct Gauges {
    backends: Box<[BackendGauges]>,
    /// Sessions by the worker that made them: a row of all backends for each, as far as sessions
    /// tell workers apart.
    here: Box<[AtomicU32]>,
    /// Sessions by their source address.
    sources: Box<[AtomicU32]>,
}

#[derive(Default, Debug)]
#[repr(align(32))]
struct BackendGauges {
    active: AtomicU32,
    sessions_per_s: AtomicU32,
    latency_us: AtomicU32,
    failures_ppm: AtomicU32,
    signals: [AtomicU32; SIGNALS],
}

/// The weight of one measurement in the moving average of the latency, as in RFC 6298's smoothed
/// round-trip time.
const LATENCY_GAIN: u32 = 8;

impl Gauges {
    /// Gauges for backends with an id below `backends_max`, and this many workers.
    #[must_use]
    pub fn new(backends_max: usize, workers: usize) -> Self {
        let rows = workers.min(WORKER_UNCOUNTED.into());
        Self {
            backends: (0..backends_max)
                .map(|_| BackendGauges::default())
                .collect(),
            here: (0..backends_max * rows)
                .map(|_| AtomicU32::new(0))
                .collect(),
            sources: (0..=SOURCES_MAX).map(|_| AtomicU32::new(0)).collect(),
        }
    }

    /// The sessions that have this source address now.
    #[must_use]
    pub fn active_from(&self, source: SourceId) -> u32 {
        self.sources[source.index()].load(Ordering::Relaxed)
    }

    /// A worker made a session with this source address, if it is not the client's own.
    #[inline]
    pub fn begin_source(&self, source: SourceId) {
        if !source.is_client() {
            self.sources[source.index()].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Such a session has ended.
    #[inline]
    pub fn end_source(&self, source: SourceId) {
        if !source.is_client() {
            self.sources[source.index()].fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// The backend's sessions now.
    #[inline]
    #[must_use]
    pub fn active(&self, backend: BackendId) -> u32 {
        self.of(backend).active.load(Ordering::Relaxed)
    }

    /// Those of the backend's sessions that this worker made; 0 from worker [`WORKER_UNCOUNTED`] on.
    #[inline]
    #[must_use]
    pub fn active_here(&self, worker: usize, backend: BackendId) -> u32 {
        self.here(worker, backend)
            .map_or(0, |here| here.load(Ordering::Relaxed))
    }

    /// A worker made a session.
    #[inline]
    pub fn begin(&self, worker: usize, backend: BackendId) {
        self.of(backend).active.fetch_add(1, Ordering::Relaxed);
        if let Some(here) = self.here(worker, backend) {
            here.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A session that this worker made has ended, at whichever worker's hand.
    #[inline]
    pub fn end(&self, worker: usize, backend: BackendId) {
        self.of(backend).active.fetch_sub(1, Ordering::Relaxed);
        if let Some(here) = self.here(worker, backend) {
            here.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Moving average of the time from SYN to SYN-ACK, in microseconds; 0 if not measured.
    #[inline]
    #[must_use]
    pub fn latency_us(&self, backend: BackendId) -> u32 {
        self.of(backend).latency_us.load(Ordering::Relaxed)
    }

    /// Takes a measurement of the latency into the average. Of two workers that do so at once,
    /// one may be lost.
    #[inline]
    pub fn measure_latency(&self, backend: BackendId, sample_us: u32) {
        let average = &self.of(backend).latency_us;
        let sample = sample_us.max(1);
        let next = match average.load(Ordering::Relaxed) {
            0 => sample,
            old => old - old / LATENCY_GAIN + sample / LATENCY_GAIN,
        };
        average.store(next.max(1), Ordering::Relaxed);
    }

    /// New sessions a second; see [`Gauges::set_rates`].
    #[inline]
    #[must_use]
    pub fn sessions_per_s(&self, backend: BackendId) -> u32 {
        self.of(backend).sessions_per_s.load(Ordering::Relaxed)
    }

    /// Of a million new sessions, how many failed; see [`Gauges::set_rates`].
    #[inline]
    #[must_use]
    pub fn failures_ppm(&self, backend: BackendId) -> u32 {
        self.of(backend).failures_ppm.load(Ordering::Relaxed)
    }

    /// What the control side works out of the counters now and then: new sessions a second, and
    /// of a million of them how many were refused or left unanswered.
    pub fn set_rates(&self, backend: BackendId, sessions_per_s: u32, failures_ppm: u32) {
        let gauges = self.of(backend);
        gauges
            .sessions_per_s
            .store(sessions_per_s, Ordering::Relaxed);
        gauges.failures_ppm.store(failures_ppm, Ordering::Relaxed);
    }

    /// The free numbers.
    #[inline]
    #[must_use]
    pub fn signals(&self, backend: BackendId) -> [u32; SIGNALS] {
        let signals = &self.of(backend).signals;
        std::array::from_fn(|at| signals[at].load(Ordering::Relaxed))
    }

    /// Sets one of the free numbers.
    ///
    /// # Panics
    /// If `at` is not below [`SIGNALS`].
    pub fn set_signal(&self, backend: BackendId, at: usize, value: u32) {
        self.of(backend).signals[at].store(value, Ordering::Relaxed);
    }

    /// Forgets what was measured and set, when an id is given to another backend; its sessions have
    /// all ended by then.
    pub fn forget(&self, backend: BackendId) {
        let gauges = self.of(backend);
        let others = [
            &gauges.sessions_per_s,
            &gauges.latency_us,
            &gauges.failures_ppm,
        ];
        for gauge in others.into_iter().chain(&gauges.signals) {
            gauge.store(0, Ordering::Relaxed);
        }
    }

    #[inline]
    fn of(&self, backend: BackendId) -> &BackendGauges {
        &self.backends[backend.index()]
    }

    #[inline]
    fn here(&self, worker: usize, backend: BackendId) -> Option<&AtomicU32> {
        self.here
            .get(worker * self.backends.len() + backend.index())
    }
}
