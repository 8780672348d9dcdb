//! Counters and gauges: what happened, per worker, service and backend.
//!
//! Invariant: a worker's counters are written by that worker alone (plain load and store, no bus
//! lock) and read by anyone. Gauges are shared and written only when a session begins or ends.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::BackendId;

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
    /// A fragment of a packet to a VIP.
    Fragment = "fragment",
    /// A packet to a VIP, but to no service of it.
    NoService = "no_service",
    /// A TCP packet of no session and without SYN, where the service says to drop those.
    MidStream = "mid_stream",
    /// The service has no backend that takes new sessions.
    NoBackend = "no_backend",
    /// The policy said to drop it.
    Policy = "policy",
    /// The session table is full and nothing in it may be evicted.
    SessionTableFull = "session_table_full",
    /// Another session to the same backend endpoint has the client's address and port.
    TupleClash = "tuple_clash",
    /// The next hop towards the backend has no known MAC address (resolution was triggered).
    NeighborUnresolved = "neighbor_unresolved",
    /// TTL or hop limit ran out here.
    HopLimit = "hop_limit",
    /// The frame is larger than the egress port's MTU.
    TooBig = "too_big",
    /// No headroom for a longer link header.
    NoHeadroom = "no_headroom",
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
    /// SYNs answered with RST before any SYN-ACK.
    pub refused: Counter,
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
    /// ARP, NDP and ping requests answered.
    pub answered: Counter,
    /// Announcements (gratuitous ARP, unsolicited neighbour advertisement) sent.
    pub announced: Counter,
    /// Batches that were not empty.
    pub batches: Counter,
    /// Sessions ended by time.
    pub expired: Counter,
    /// Sessions ended to make room.
    pub evicted: Counter,
    /// Flows that the native fallback chose for because the policy failed.
    pub fallback: Counter,
    /// Epochs taken up.
    pub epochs: Counter,
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
            answered: Counter::default(),
            announced: Counter::default(),
            batches: Counter::default(),
            expired: Counter::default(),
            evicted: Counter::default(),
            fallback: Counter::default(),
            epochs: Counter::default(),
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

    /// The counters of a backend.
    #[inline]
    #[must_use]
    pub fn backend(&self, id: BackendId) -> &BackendCounters {
        &self.backends[id.index()]
    }
}

/// Live numbers per backend, shared by all workers.
#[derive(Debug)]
pub struct Gauges {
    active: Box<[AtomicU32]>,
}

impl Gauges {
    /// Gauges for backends with an id below `backends_max`.
    #[must_use]
    pub fn new(backends_max: usize) -> Self {
        Self {
            active: (0..backends_max).map(|_| AtomicU32::new(0)).collect(),
        }
    }

    /// The backend's sessions now.
    #[inline]
    #[must_use]
    pub fn active(&self, backend: BackendId) -> u32 {
        self.active[backend.index()].load(Ordering::Relaxed)
    }

    /// A session began.
    #[inline]
    pub fn begin(&self, backend: BackendId) {
        self.active[backend.index()].fetch_add(1, Ordering::Relaxed);
    }

    /// A session ended.
    #[inline]
    pub fn end(&self, backend: BackendId) {
        self.active[backend.index()].fetch_sub(1, Ordering::Relaxed);
    }
}
