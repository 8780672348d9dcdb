//! Counts of a module's picks and of their sessions' failures, by service and worker: a canary's are compared
//! with those of the build that serves on the other workers at the same time.
//!
//! Invariant: a worker only adds to its own counts, between two batches, and never waits. A count may be read
//! while its worker adds to it.

use std::array;
use std::collections::BTreeMap;
use std::ops::{AddAssign, Sub};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use waxwing_dataplane::{BackendId, Gauges, NewFlow, Pick};
use waxwing_packet::Address;

use crate::lock::lock;

/// Into how many parts clients are divided by their address, and backends by their id.
pub(crate) const CLIENT_PARTS: usize = 16;
pub(crate) const BACKEND_PARTS: usize = 64;

/// Counts of one service.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Outcomes<T = u64> {
    pub(crate) drops: T,
    /// Flows that the native fallback decided, because the module said so or picked a backend that takes no
    /// new sessions.
    pub(crate) fallbacks: T,
    /// Sessions that were refused, or whose SYN was not answered.
    pub(crate) failures: T,
    /// Flows by their client.
    pub(crate) clients: [T; CLIENT_PARTS],
    /// Picks of a backend, by the backend.
    pub(crate) picks: [T; BACKEND_PARTS],
}

impl Default for Outcomes {
    fn default() -> Self {
        Self {
            drops: 0,
            fallbacks: 0,
            failures: 0,
            clients: [0; CLIENT_PARTS],
            picks: [0; BACKEND_PARTS],
        }
    }
}

impl Default for Outcomes<AtomicU64> {
    fn default() -> Self {
        Self {
            drops: AtomicU64::new(0),
            fallbacks: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            clients: array::from_fn(|_| AtomicU64::new(0)),
            picks: array::from_fn(|_| AtomicU64::new(0)),
        }
    }
}

impl Outcomes {
    pub(crate) fn flows(&self) -> u64 {
        self.clients.iter().sum()
    }

    /// Returns the picks of a backend, and how many of them are of the one that is picked most.
    pub(crate) fn busiest(&self) -> (u64, u64) {
        let most = self.picks.iter().max().copied().unwrap_or_default();
        (most, self.picks.iter().sum())
    }
}

impl AddAssign for Outcomes {
    fn add_assign(&mut self, more: Self) {
        self.drops += more.drops;
        self.fallbacks += more.fallbacks;
        self.failures += more.failures;
        self.clients = array::from_fn(|at| self.clients[at] + more.clients[at]);
        self.picks = array::from_fn(|at| self.picks[at] + more.picks[at]);
    }
}

impl Sub for Outcomes {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            drops: self.drops.saturating_sub(before.drops),
            fallbacks: self.fallbacks.saturating_sub(before.fallbacks),
            failures: self.failures.saturating_sub(before.failures),
            clients: array::from_fn(|at| self.clients[at].saturating_sub(before.clients[at])),
            picks: array::from_fn(|at| self.picks[at].saturating_sub(before.picks[at])),
        }
    }
}

/// One worker's counts of one service.
pub(crate) type OutcomeCounter = Outcomes<AtomicU64>;

impl OutcomeCounter {
    /// Counts the picks for a batch of flows.
    #[inline]
    pub(crate) fn count(&self, flows: &[NewFlow], picks: &[Pick], backends: &[BackendId]) {
        for (flow, pick) in flows.iter().zip(picks) {
            add_one(&self.clients[part_of(flow.source)]);
            match pick {
                Pick::Drop => add_one(&self.drops),
                Pick::Fallback => add_one(&self.fallbacks),
                Pick::Backend(index) | Pick::Keep(index) => {
                    if let Some(backend) = backends.get(*index as usize) {
                        add_one(&self.picks[backend.index() % BACKEND_PARTS]);
                    }
                }
            }
        }
    }

    /// Copies how many of the worker's sessions have failed.
    pub(crate) fn copy_failures(
        &self,
        gauges: &Gauges,
        worker: usize,
        backends: impl Iterator<Item = BackendId>,
    ) {
        let failed = backends.map(|backend| u64::from(gauges.failed_here(worker, backend)));
        self.failures.store(failed.sum(), Ordering::Relaxed);
    }

    fn read(&self) -> Outcomes {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Outcomes {
            drops: read(&self.drops),
            fallbacks: read(&self.fallbacks),
            failures: read(&self.failures),
            clients: array::from_fn(|at| read(&self.clients[at])),
            picks: array::from_fn(|at| read(&self.picks[at])),
        }
    }
}

/// Adds without a locked instruction: a count has one writer.
#[inline]
fn add_one(count: &AtomicU64) {
    count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

/// Returns the part of the clients that an address belongs to.
#[inline]
fn part_of(client: Address) -> usize {
    let octets = client.octets();
    let (high, low) = octets.split_at(8);
    let word = |bytes: &[u8]| {
        bytes
            .iter()
            .fold(0_u64, |word, byte| word << 8 | u64::from(*byte))
    };
    let mixed = (word(high) ^ word(low)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    usize::try_from(mixed >> 32).unwrap_or_default() % CLIENT_PARTS
}

/// The counts of the canary's worker, and of all others together.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Sides {
    pub(crate) canary: Outcomes,
    pub(crate) others: Outcomes,
}

impl Sub for Sides {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            canary: self.canary - before.canary,
            others: self.others - before.others,
        }
    }
}

/// The counts of one module, over all its builds.
#[derive(Default)]
pub(crate) struct ModuleOutcomes {
    counters: Mutex<Counters>,
}

/// By service and worker.
type Counters = BTreeMap<(Arc<str>, u32), Arc<OutcomeCounter>>;

impl ModuleOutcomes {
    /// Returns a worker's counts of a service.
    pub(crate) fn counter(&self, service: &Arc<str>, worker: u32) -> Arc<OutcomeCounter> {
        let mut counters = lock(&self.counters);
        let counter = counters.entry((Arc::clone(service), worker)).or_default();
        Arc::clone(counter)
    }

    /// Returns the counts by service.
    pub(crate) fn sides(&self) -> BTreeMap<Arc<str>, Sides> {
        let mut sides: BTreeMap<Arc<str>, Sides> = BTreeMap::new();
        for ((service, worker), counter) in &*lock(&self.counters) {
            let sides = sides.entry(Arc::clone(service)).or_default();
            let side = match worker {
                0 => &mut sides.canary,
                _ => &mut sides.others,
            };
            *side += counter.read();
        }
        sides
    }
}
