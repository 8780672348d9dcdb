//! Which client is with which backend: a set-associative table.
//!
//! Invariant: a client has at most one entry, in the set of its place; an entry that is idle for
//! the timeout is as good as free.

use waxwing_sdk::hash;

/// Entries in a set, among which the longest idle goes.
pub(crate) const WAYS: usize = 8;

pub(crate) struct Table {
    sets: Box<[[Entry; WAYS]]>,
    timeout_ms: u64,
    /// The set that the next sweep begins at.
    next: usize,
}

#[derive(Clone, Copy)]
struct Entry {
    client: u128,
    /// When its last session began.
    last_ms: u64,
    /// The backend's index; [`FREE`] if the entry is nobody's.
    backend: u32,
}

const FREE: u32 = u32::MAX;

const EMPTY: Entry = Entry {
    client: 0,
    last_ms: 0,
    backend: FREE,
};

/// How a client came to its entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Found {
    /// It had it.
    Known,
    /// It got a free one.
    InFree,
    /// It got one whose client was idle for the timeout.
    InExpired,
    /// It got the one that was idle longest.
    InEvicted,
}

impl Entry {
    fn is_live(&self, now_ms: u64, timeout_ms: u64) -> bool {
        self.backend != FREE && now_ms.saturating_sub(self.last_ms) < timeout_ms
    }
}

impl Table {
    pub(crate) fn new(clients_max: usize, timeout_ms: u64) -> Self {
        Self {
            sets: vec![[EMPTY; WAYS]; clients_max.div_ceil(WAYS)].into(),
            timeout_ms,
            next: 0,
        }
    }

    /// The client's backend, and from now on the timeout runs again. A client that is not known gets
    /// what `first` says; `None` if that is `None`.
    pub(crate) fn find(
        &mut self,
        client: u128,
        place: u64,
        now_ms: u64,
        first: impl FnOnce() -> Option<usize>,
    ) -> Option<(Found, usize)> {
        let timeout_ms = self.timeout_ms;
        let at = hash::below(place, self.sets.len() as u64);
        let set = &mut self.sets[usize::try_from(at).ok()?];
        let is_live = |entry: &Entry| entry.is_live(now_ms, timeout_ms);
        let is_own = |entry: &Entry| entry.client == client && entry.backend != FREE;
        if let Some(own) = set.iter_mut().find(|e| is_own(e) && is_live(e)) {
            own.last_ms = now_ms;
            return Some((Found::Known, own.backend as usize));
        }
        let backend = first()?;
        // Its own that expired, free ones, other expired ones, the longest idle.
        let worth = |e: &Entry| (!is_own(e), e.backend != FREE, is_live(e), e.last_ms);
        let entry = set.iter_mut().min_by_key(|entry| worth(entry))?;
        let found = match *entry {
            Entry { backend: FREE, .. } => Found::InFree,
            other if is_live(&other) => Found::InEvicted,
            _ => Found::InExpired,
        };
        *entry = Entry {
            client,
            last_ms: now_ms,
            backend: u32::try_from(backend).ok()?,
        };
        Some((found, backend))
    }

    /// Knows backends by other indices from now on; returns how many clients were released because
    /// theirs has none.
    pub(crate) fn rename(&mut self, index_now: impl Fn(usize) -> Option<usize>) -> u64 {
        let mut released = 0;
        for entry in self.sets.as_flattened_mut() {
            if entry.backend == FREE {
                continue;
            }
            let now = index_now(entry.backend as usize).and_then(|index| u32::try_from(index).ok());
            entry.backend = now.unwrap_or(FREE);
            released += u64::from(now.is_none());
        }
        released
    }

    /// Frees what expired in the next so many sets; returns how many entries that was.
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
        expired
    }
}
