//! How a packet ended, by what was counted meanwhile.
//!
//! Invariant: right only for one packet at a time, by a worker's own counters.

use std::array;

use crate::DropReason;
use crate::counters::WorkerCounters;

/// How a packet ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    Forwarded,
    /// In fragments.
    Fragmented,
    /// Its sender gets an RST or port unreachable.
    Rejected,
    /// Its sender is told that it is too big.
    TooBig,
    /// Its sender is told that its hop limit is used up.
    TimeExceeded,
    /// An ARP or NDP request or a ping, answered.
    Answered,
    /// A fragment that waits for its datagram's first one.
    Held,
    /// The bridge passes it on.
    Bridged,
    ToKernel,
    Dropped(DropReason),
}

impl Fate {
    /// Its name in the API and in captures; [`DropReason::label`] says why a packet was dropped.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Forwarded => "forwarded",
            Self::Fragmented => "fragmented",
            Self::Rejected => "rejected",
            Self::TooBig => "too_big",
            Self::TimeExceeded => "time_exceeded",
            Self::Answered => "answered",
            Self::Held => "held",
            Self::Bridged => "bridged",
            Self::ToKernel => "to_kernel",
            Self::Dropped(_) => "dropped",
        }
    }
}

/// The counters before a packet.
pub(crate) struct Marks {
    counts: [u64; ENDS.len()],
    drops: [u64; DropReason::ALL.len()],
}

type Count = fn(&WorkerCounters) -> u64;

/// What tells an end, in this order: the first that rose.
const ENDS: [(Fate, Count); 8] = [
    (Fate::ToKernel, |it| it.to_kernel.get()),
    (Fate::TooBig, |it| it.too_big_sent.get()),
    (Fate::TimeExceeded, |it| it.time_exceeded_sent.get()),
    (Fate::Rejected, |it| {
        it.rejected.get() + it.unserved_rejected.get() + it.reset.get()
    }),
    (Fate::Answered, |it| it.responded.get()),
    (Fate::Bridged, |it| it.bridged.get()),
    (Fate::Fragmented, |it| it.packets_fragmented.get()),
    (Fate::Held, |it| it.held.get()),
];

impl Marks {
    /// Those of counters that nothing has counted yet.
    pub(crate) const ZERO: Self = Self {
        counts: [0; ENDS.len()],
        drops: [0; DropReason::ALL.len()],
    };

    pub(crate) fn of(counters: &WorkerCounters) -> Self {
        Self {
            counts: ENDS.map(|(_, count)| count(counters)),
            drops: array::from_fn(|at| counters.dropped(DropReason::ALL[at]).get()),
        }
    }

    /// How the packet that was processed since then ended.
    pub(crate) fn fate(&self, counters: &WorkerCounters) -> Fate {
        let now = Self::of(counters);
        let mut drops = DropReason::ALL
            .iter()
            .zip(now.drops.iter().zip(&self.drops));
        if let Some((reason, _)) = drops.find(|(_, (now, before))| now > before) {
            return Fate::Dropped(*reason);
        }
        let mut ends = ENDS.iter().zip(now.counts.iter().zip(&self.counts));
        let end = ends.find(|(_, (now, before))| now > before);
        end.map_or(Fate::Forwarded, |((fate, _), _)| *fate)
    }
}
