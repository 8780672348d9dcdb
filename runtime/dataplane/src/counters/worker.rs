//! What one worker counts, in all and by backend.

use super::histogram::{Distribution, Histogram};
use super::{Counter, DropReason, Traffic};
#[cfg(doc)]
use crate::model::{NoBackend, SessionAction};
use crate::prefetch::prefetch;
use crate::{BackendId, ServiceId};

/// One worker's counters of one backend. A service's numbers are the sums over its backends.
#[derive(Default, Debug)]
#[repr(align(64))]
pub struct BackendCounters {
    /// Client to backend.
    pub forward: Traffic,
    /// Backend to client.
    pub reply: Traffic,
    /// Sessions whose client retransmitted its SYN before the backend sent anything; each counts once.
    pub syn_repeated: Counter,
    /// ICMP errors from the backends' side that this backend's host or port is unreachable, about packets of
    /// its UDP sessions and of TCP connections that it has not answered.
    pub unreachable: Counter,
}

/// One worker's counters.
#[derive(Debug)]
pub struct WorkerCounters {
    pub received: Traffic,
    pub transmitted: Traffic,
    /// Frames passed to the kernel.
    pub to_kernel: Counter,
    /// Frames that were not ours and left by the bridge's other port. They count as transmitted too.
    pub bridged: Counter,
    /// Fragments copied to wait for their datagram's first. Their frames end there.
    pub held: Counter,
    /// Held fragments that no longer wait. Each ends again as a frame does.
    pub released: Counter,
    /// Responses to ARP, NDP and echo requests.
    pub responded: Counter,
    /// ICMP errors about sessions' packets, forwarded.
    pub icmp_errors_forwarded: Counter,
    /// Time exceeded errors sent about sessions' packets.
    pub time_exceeded_sent: Counter,
    /// Packet too big errors sent about sessions' packets.
    pub too_big_sent: Counter,
    /// Packets larger than the egress MTU that left in fragments; each counts once.
    pub packets_fragmented: Counter,
    /// Those fragments, including those of packets whose rest was dropped. They count as transmitted too.
    pub fragments_sent: Counter,
    /// Packets to clients that went to the last hop because the kernel's route is unusable: its gateway does
    /// not answer, or it leaves through no attached port.
    pub last_hop_fallbacks: Counter,
    /// Gratuitous ARP and unsolicited neighbour advertisements sent.
    pub announced: Counter,
    /// Non-empty batches.
    pub batches: Counter,
    /// Sessions opened.
    pub opened: Counter,
    /// Sessions that became assured: their client sees what the server sends.
    pub assured: Counter,
    /// Sessions that timed out, or were over when their tuple was reused.
    pub expired: Counter,
    /// Sessions evicted.
    pub evicted: Counter,
    /// Sessions reset because their backend was down ([`SessionAction::Reset`]).
    pub reset: Counter,
    /// Sessions ended because their backend was down, and picked anew.
    pub repicked: Counter,
    /// Packets of new flows answered with an RST or port unreachable ([`NoBackend::Reject`]).
    pub rejected: Counter,
    /// Packets to unserved ports of VIPs, answered with an RST or port unreachable.
    pub unserved_rejected: Counter,
    /// New flows for which the native fallback chose.
    pub fallback: Counter,
    pub epochs: Counter,
    batch_times: Histogram,
    drops: Box<[Counter]>,
    /// By service and reason.
    service_drops: Box<[Counter]>,
    backends: Box<[BackendCounters]>,
}

impl WorkerCounters {
    /// For backend ids below `backends_max`.
    #[must_use]
    pub fn new(backends_max: usize) -> Self {
        Self {
            received: Traffic::default(),
            transmitted: Traffic::default(),
            to_kernel: Counter::default(),
            bridged: Counter::default(),
            held: Counter::default(),
            released: Counter::default(),
            responded: Counter::default(),
            icmp_errors_forwarded: Counter::default(),
            time_exceeded_sent: Counter::default(),
            too_big_sent: Counter::default(),
            packets_fragmented: Counter::default(),
            fragments_sent: Counter::default(),
            last_hop_fallbacks: Counter::default(),
            announced: Counter::default(),
            batches: Counter::default(),
            opened: Counter::default(),
            assured: Counter::default(),
            expired: Counter::default(),
            evicted: Counter::default(),
            reset: Counter::default(),
            repicked: Counter::default(),
            rejected: Counter::default(),
            unserved_rejected: Counter::default(),
            fallback: Counter::default(),
            epochs: Counter::default(),
            batch_times: Histogram::default(),
            drops: DropReason::ALL.iter().map(|_| Counter::default()).collect(),
            service_drops: Box::default(),
            backends: (0..backends_max)
                .map(|_| BackendCounters::default())
                .collect(),
        }
    }

    /// Counts drops by service, too, for service ids below `services_max`.
    #[must_use]
    pub fn with_services(mut self, services_max: usize) -> Self {
        let counters = services_max * DropReason::ALL.len();
        self.service_drops = (0..counters).map(|_| Counter::default()).collect();
        self
    }

    /// The frames of a service that were dropped for a reason, as far as the service was known then: its new
    /// flows, and packets of its sessions. They count in [`WorkerCounters::dropped`] too.
    #[must_use]
    pub fn dropped_of(&self, service: ServiceId, reason: DropReason) -> u64 {
        let counter = self.service_drops.get(drop_index(service, reason));
        counter.map_or(0, Counter::get)
    }

    /// Counts a drop of [`WorkerCounters::dropped_of`].
    #[cold]
    pub(crate) fn count_drop_of(&self, service: ServiceId, reason: DropReason) {
        if let Some(counter) = self.service_drops.get(drop_index(service, reason)) {
            counter.add(1);
        }
    }

    #[inline]
    #[must_use]
    pub fn dropped(&self, reason: DropReason) -> &Counter {
        &self.drops[reason as usize]
    }

    /// The duration of turns with a batch, background work included.
    #[must_use]
    pub fn batch_times(&self) -> Distribution {
        self.batch_times.read()
    }

    pub(crate) fn count_batch_time(&self, us: u64) {
        self.batch_times.count(us);
    }

    #[inline]
    #[must_use]
    pub fn backend(&self, id: BackendId) -> &BackendCounters {
        &self.backends[id.index()]
    }

    /// All backends' counters, by id.
    #[inline(always)]
    pub(crate) fn backends(&self) -> &[BackendCounters] {
        &self.backends
    }

    #[inline(always)]
    pub(crate) fn prefetch_backend(&self, id: BackendId) {
        if let Some(counters) = self.backends.get(id.index()) {
            prefetch(counters);
        }
    }
}

const fn drop_index(service: ServiceId, reason: DropReason) -> usize {
    service.index() * DropReason::ALL.len() + reason as usize
}
