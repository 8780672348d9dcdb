//! Maps clients to backends: a set-associative table.
//!
//! Invariant: a client has at most one entry, in its set. An entry that is idle for the timeout
//! counts as free.

use waxwing_sdk::abi::STATE_MAX;
use waxwing_sdk::hash;

/// Entries of a set. The longest idle one is evicted.
pub(crate) const SET_ENTRIES: usize = 8;

pub(crate) struct Table {
    sets: Box<[[Entry; SET_ENTRIES]]>,
    timeout_ms: u64,
    /// The clients that have entries.
    clients: u64,
    /// The set at which the next sweep starts.
    next: usize,
}

#[derive(Clone, Copy)]
struct Entry {
    client: u128,
    /// Start of its last session.
    last_ms: u64,
    /// Index of the backend; [`FREE`] for a free entry.
    backend: u32,
}

/// The bytes of a saved entry.
const SAVED_BYTES: usize = 28;

const FREE: u32 = u32::MAX;

const EMPTY: Entry = Entry {
    client: 0,
    last_ms: 0,
    backend: FREE,
};

/// How a client got its entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Lookup {
    /// The client had an entry.
    Hit,
    /// The client took a free entry.
    NewInFree,
    /// The client took an expired entry.
    NewInExpired,
    /// The client took the longest idle entry.
    NewInEvicted,
}

impl Entry {
    fn is_live(&self, now_ms: u64, timeout_ms: u64) -> bool {
        self.backend != FREE && now_ms.saturating_sub(self.last_ms) < timeout_ms
    }
}

impl Table {
    pub(crate) fn new(clients_max: usize, timeout_ms: u64) -> Self {
        Self {
            sets: vec![[EMPTY; SET_ENTRIES]; clients_max.div_ceil(SET_ENTRIES)].into(),
            timeout_ms,
            clients: 0,
            next: 0,
        }
    }

    /// Returns the client's backend and restarts its timeout. A client without an entry gets one
    /// with the backend that `choose` returns; `None` if it returns `None`.
    pub(crate) fn find_or_insert(
        &mut self,
        client: u128,
        place: u64,
        now_ms: u64,
        choose: impl FnOnce() -> Option<usize>,
    ) -> Option<(Lookup, usize)> {
        let timeout_ms = self.timeout_ms;
        let at = hash::below(place, self.sets.len() as u64);
        let set = &mut self.sets[usize::try_from(at).ok()?];
        let is_live = |entry: &Entry| entry.is_live(now_ms, timeout_ms);
        let is_own = |entry: &Entry| entry.client == client && entry.backend != FREE;
        if let Some(own) = set.iter_mut().find(|e| is_own(e) && is_live(e)) {
            own.last_ms = now_ms;
            return Some((Lookup::Hit, own.backend as usize));
        }
        let backend = choose()?;
        // In this order: the client's own expired entry, free ones, other expired ones, the longest
        // idle one.
        let eviction_rank = |e: &Entry| (!is_own(e), e.backend != FREE, is_live(e), e.last_ms);
        let entry = set.iter_mut().min_by_key(|entry| eviction_rank(entry))?;
        let lookup = match *entry {
            Entry { backend: FREE, .. } => Lookup::NewInFree,
            other if is_live(&other) => Lookup::NewInEvicted,
            _ => Lookup::NewInExpired,
        };
        *entry = Entry {
            client,
            last_ms: now_ms,
            backend: u32::try_from(backend).ok()?,
        };
        self.clients += u64::from(lookup == Lookup::NewInFree);
        Some((lookup, backend))
    }

    /// Returns how many clients have entries.
    pub(crate) const fn clients(&self) -> u64 {
        self.clients
    }

    /// Appends the clients, as many as the host keeps: each with its last session's start and its backend's
    /// index.
    pub(crate) fn save(&self, out: &mut Vec<u8>, now_ms: u64) {
        let most = STATE_MAX.saturating_sub(out.len()) / SAVED_BYTES;
        let entries = self.sets.as_flattened().iter();
        let live = entries.filter(|entry| entry.is_live(now_ms, self.timeout_ms));
        for entry in live.take(most) {
            out.extend(entry.client.to_le_bytes());
            out.extend(entry.last_ms.to_le_bytes());
            out.extend(entry.backend.to_le_bytes());
        }
    }

    /// Updates the indices of the backends. Returns how many clients were released because their
    /// backend is gone.
    pub(crate) fn reindex(&mut self, index_now: impl Fn(usize) -> Option<usize>) -> u64 {
        let mut released = 0;
        for entry in self.sets.as_flattened_mut() {
            if entry.backend == FREE {
                continue;
            }
            let now = index_now(entry.backend as usize).and_then(|index| u32::try_from(index).ok());
            entry.backend = now.unwrap_or(FREE);
            released += u64::from(now.is_none());
        }
        self.clients -= released;
        released
    }

    /// Frees the expired entries of the next `sets` sets. Returns how many were freed.
    pub(crate) fn sweep(&mut self, sets: usize, now_ms: u64) -> u64 {
        let mut expired = 0;
        for _ in 0..sets.min(self.sets.len()) {
            for entry in &mut self.sets[self.next] {
                if entry.backend != FREE && !entry.is_live(now_ms, self.timeout_ms) {
                    entry.backend = FREE;
                    expired += 1;
                }
            }
            self.next = (self.next + 1) % self.sets.len();
        }
        self.clients -= expired;
        expired
    }
}
