//! What one worker counts, in all and by backend.

use super::histogram::{Distribution, Histogram};
use super::{Counter, DropReason, Traffic};
use crate::BackendId;
#[cfg(doc)]
use crate::model::{NoBackend, SessionAction};
use crate::prefetch::prefetch;

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
    pub responded: Counter,
    /// ICMP errors about a session's packets, passed on.
    pub icmp_errors_forwarded: Counter,
    /// Packets of sessions that went no further here, and whose senders were told by an ICMP error:
    /// the hop limit ran out.
    pub time_exceeded_sent: Counter,
    /// Likewise: too big for the egress port's MTU.
    pub too_big_sent: Counter,
    /// Packets too big for the egress port's MTU that were sent in pieces, each packet once.
    pub packets_fragmented: Counter,
    /// Those pieces, and such of packets whose rest was dropped; all of them count as transmitted.
    pub fragments_sent: Counter,
    /// Packets to clients that went to the last hop because the kernel's route cannot be gone: its
    /// gateway does not answer, or it leaves by no port.
    pub last_hop_fallbacks: Counter,
    /// Announcements (gratuitous ARP, unsolicited neighbour advertisement) sent.
    pub announced: Counter,
    /// Batches that were not empty.
    pub batches: Counter,
    /// Sessions ended by time.
    pub expired: Counter,
    /// Sessions ended to make room.
    pub evicted: Counter,
    /// Sessions reset because their backend was down ([`SessionAction::Reset`]).
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
            responded: Counter::default(),
            icmp_errors_forwarded: Counter::default(),
            time_exceeded_sent: Counter::default(),
            too_big_sent: Counter::default(),
            packets_fragmented: Counter::default(),
            fragments_sent: Counter::default(),
            last_hop_fallbacks: Counter::default(),
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
