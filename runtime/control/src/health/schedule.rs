//! When each check is due.
//!
//! Invariant: it knows no clock and does no I/O. A check is due once at a time: while it runs it is
//! not due, and where it takes longer than its interval the next one follows it at once.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::plan::CheckKey;
use crate::config::Pace;

#[cfg(test)]
mod tests;

/// How far apart the first checks of new backends are, at most: many at once would all be due
/// together ever after.
const SPREAD: Duration = Duration::from_millis(1);

/// What is done now and then.
pub(crate) trait Timed {
    /// What it is known by.
    fn key(&self) -> CheckKey;
    /// How often.
    fn pace(&self) -> Pace;
    /// How much an interval varies, in percent of it.
    fn jitter(&self) -> u32;
}

/// A check that is to run.
pub(crate) struct Due<T> {
    pub(crate) id: u64,
    pub(crate) job: Arc<T>,
    /// Since when.
    pub(crate) at: Duration,
}

/// All checks, and when each is due.
pub(crate) struct Schedule<T> {
    entries: HashMap<u64, Entry<T>>,
    ids: HashMap<CheckKey, u64>,
    /// May hold what is not due any more; `Entry::due` says what is.
    heap: BinaryHeap<Reverse<(Duration, u64)>>,
    next_id: u64,
    random: u64,
}

struct Entry<T> {
    job: Arc<T>,
    /// `None` while it runs.
    due: Option<Duration>,
    /// When it was due last.
    was_due: Duration,
}

impl<T: Timed> Schedule<T> {
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

    /// Takes up other jobs. What was there before keeps its time, if that is within its interval; new
    /// ones follow one another at a small distance, within an interval of theirs.
    pub(crate) fn adopt(&mut self, jobs: &[Arc<T>], now: Duration) {
        let mut ids = HashMap::with_capacity(jobs.len());
        let fresh: Vec<&Arc<T>> = jobs.iter().filter(|job| !self.keep(job, now)).collect();
        let count = u32::try_from(fresh.len()).unwrap_or(u32::MAX).max(1);
        for (nth, job) in (0..count).zip(fresh) {
            let room = (SPREAD * count).min(job.pace().interval);
            let at = now + room.mul_f64(f64::from(nth) / f64::from(count));
            let id = self.ids.get(&job.key()).copied().unwrap_or_else(|| {
                self.next_id += 1;
                self.next_id
            });
            self.ids.insert(job.key(), id);
            let entry = Entry {
                job: Arc::clone(job),
                due: None,
                was_due: at,
            };
            self.entries.insert(id, entry);
            self.set(id, at);
        }
        for job in jobs {
            ids.extend(self.ids.remove_entry(&job.key()));
        }
        for (_, gone) in std::mem::replace(&mut self.ids, ids) {
            self.entries.remove(&gone);
        }
    }

    /// Gives a job its earlier one's place and time; whether there was one whose time suits it.
    fn keep(&mut self, job: &Arc<T>, now: Duration) -> bool {
        let entry = self
            .ids
            .get(&job.key())
            .and_then(|id| self.entries.get_mut(id));
        let Some(entry) = entry else {
            return false;
        };
        entry.job = Arc::clone(job);
        let longest = job
            .pace()
            .interval
            .mul_f64(1.0 + f64::from(job.jitter()) / 100.0);
        entry.due.is_none_or(|due| due <= now + longest)
    }

    /// When the next one is due.
    pub(crate) fn next_due(&mut self) -> Option<Duration> {
        loop {
            let Reverse((at, id)) = *self.heap.peek()?;
            if self.entries.get(&id).is_some_and(|it| it.due == Some(at)) {
                return Some(at);
            }
            self.heap.pop();
        }
    }

    /// The next one, if it is due; it runs from now on.
    pub(crate) fn take_due(&mut self, now: Duration) -> Option<Due<T>> {
        self.next_due().filter(|at| *at <= now)?;
        let Reverse((_, id)) = self.heap.pop()?;
        let entry = self.entries.get_mut(&id)?;
        entry.due = None;
        let (job, at) = (Arc::clone(&entry.job), entry.was_due);
        Some(Due { id, job, at })
    }

    /// One that is due cannot run now: it is due again then.
    pub(crate) fn postpone(&mut self, id: u64, until: Duration) {
        self.set(id, until);
    }

    /// A check has ended; `soon` where the next result matters more than usual.
    pub(crate) fn done(&mut self, id: u64, soon: bool, now: Duration) {
        let Some(entry) = self.entries.get(&id) else {
            return;
        };
        let (pace, jitter) = (entry.job.pace(), entry.job.jitter());
        let interval = if soon {
            pace.fast_interval
        } else {
            pace.interval
        };
        let at = entry.was_due + interval.mul_f64(1.0 + self.deviation(jitter));
        let at = at.max(now);
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.was_due = at;
        }
        self.set(id, at);
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
