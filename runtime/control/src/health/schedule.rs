//! When each check is due.
//!
//! Invariant: it knows no clock and does no I/O. A check is due once at a time: while it runs it is
//! not due, and where it takes longer than its interval the next one follows it at once.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::plan::{CheckKey, Job};

/// How far apart the first checks of new backends are, at most: many at once would all be due
/// together ever after.
const SPREAD: Duration = Duration::from_millis(1);

/// A check that is to run.
pub(crate) struct Due {
    pub(crate) id: u64,
    pub(crate) job: Arc<Job>,
    pub(crate) at: Duration,
}

/// All checks, and when each is due.
pub(crate) struct Schedule {
    entries: HashMap<u64, Entry>,
    ids: HashMap<CheckKey, u64>,
    /// May hold what is not due any more; `Entry::due` says what is.
    heap: BinaryHeap<Reverse<(Duration, u64)>>,
    next_id: u64,
    random: u64,
}

struct Entry {
    job: Arc<Job>,
    /// `None` while it runs.
    due: Option<Duration>,
    /// When it was due last.
    was_due: Duration,
}

impl Schedule {
    /// Nothing is due; `seed` is for jitter.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            entries: HashMap::new(),
            ids: HashMap::new(),
            heap: BinaryHeap::new(),
            next_id: 0,
            random: seed | 1,
        }
    }

    /// Takes up other jobs. What was there before keeps its time, and new ones follow one another at
    /// a small distance, within an interval of theirs.
    pub(crate) fn adopt(&mut self, jobs: &[Arc<Job>], now: Duration) {
        let mut ids = HashMap::with_capacity(jobs.len());
        let is_new = |job: &&Arc<Job>| !self.ids.contains_key(&job.key);
        let new = jobs.iter().filter(is_new).count();
        let mut nth = 0;
        for job in jobs {
            let id = match self.ids.remove(&job.key) {
                Some(id) => id,
                None => self.next_id + 1,
            };
            ids.insert(job.key, id);
            if let Some(entry) = self.entries.get_mut(&id) {
                entry.job = Arc::clone(job);
                continue;
            }
            self.next_id = id;
            let room = SPREAD * u32::try_from(new).unwrap_or(u32::MAX);
            let room = room.min(job.pace.interval);
            let at = now
                + room.mul_f64(f64::from(nth) / f64::from(u32::try_from(new).unwrap_or(1).max(1)));
            nth += 1;
            self.entries.insert(
                id,
                Entry {
                    job: Arc::clone(job),
                    due: None,
                    was_due: at,
                },
            );
            self.set(id, at);
        }
        for (_, gone) in std::mem::replace(&mut self.ids, ids) {
            self.entries.remove(&gone);
        }
    }

    /// When the next one is due.
    pub(crate) fn next_due(&mut self) -> Option<Duration> {
        loop {
            let Reverse((at, id)) = *self.heap.peek()?;
            if self
                .entries
                .get(&id)
                .is_some_and(|entry| entry.due == Some(at))
            {
                return Some(at);
            }
            self.heap.pop();
        }
    }

    /// The next one, if it is due; it runs from now on.
    pub(crate) fn take_due(&mut self, now: Duration) -> Option<Due> {
        let at = self.next_due().filter(|at| *at <= now)?;
        let Reverse((_, id)) = self.heap.pop()?;
        let entry = self.entries.get_mut(&id)?;
        entry.due = None;
        entry.was_due = at;
        let job = Arc::clone(&entry.job);
        Some(Due { id, job, at })
    }

    /// A check has ended; `soon` where the next result matters more than usual.
    pub(crate) fn done(&mut self, id: u64, soon: bool, now: Duration) {
        let Some(entry) = self.entries.get(&id) else {
            return;
        };
        let pace = entry.job.pace;
        let interval = if soon {
            pace.fast_interval
        } else {
            pace.interval
        };
        let (was_due, jitter) = (entry.was_due, entry.job.jitter);
        let at = was_due + interval.mul_f64(1.0 + self.deviation(jitter));
        self.set(id, at.max(now));
    }

    /// Of an interval, between minus and plus so many percent.
    fn deviation(&mut self, percent: u32) -> f64 {
        // Xorshift (Marsaglia, 2003): any spread will do.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let [.., high, low] = self.random.to_be_bytes();
        let unit = f64::from(u16::from_be_bytes([high, low])) / f64::from(u16::MAX);
        f64::from(percent) / 100.0 * (2.0 * unit - 1.0)
    }

    fn set(&mut self, id: u64, at: Duration) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.due = Some(at);
            self.heap.push(Reverse((at, id)));
        }
    }
}
