//! When each check is due.
//!
//! Invariant: no clock and no I/O. A running check is not due. If a check takes longer than its
//! interval, it is due again as soon as it ends.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::rules::CheckKey;
use crate::config::CheckTiming;

#[cfg(test)]
mod tests;

/// Maximum gap between the first checks of new backends. Without gaps, all of them would be due at
/// the same time ever after.
const SPREAD: Duration = Duration::from_millis(1);

pub(crate) trait ScheduledJob {
    fn key(&self) -> CheckKey;
    fn timing(&self) -> CheckTiming;
    /// How much an interval varies, in percent.
    fn jitter(&self) -> u32;
}

/// A check that is due.
pub(crate) struct Due<T> {
    pub(crate) id: u64,
    pub(crate) job: Arc<T>,
    /// When it became due.
    pub(crate) at: Duration,
}

/// All checks, and when each is due.
pub(crate) struct Schedule<T> {
    entries: HashMap<u64, Entry<T>>,
    ids: HashMap<CheckKey, u64>,
    /// May hold outdated times; `Entry::due` is right.
    heap: BinaryHeap<Reverse<(Duration, u64)>>,
    next_id: u64,
    random: u64,
}

struct Entry<T> {
    job: Arc<T>,
    /// `None` while it runs.
    due: Option<Duration>,
    /// When it was last due.
    was_due: Duration,
}

impl<T: ScheduledJob> Schedule<T> {
    /// Creates an empty schedule; `seed` is for jitter.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            entries: HashMap::new(),
            ids: HashMap::new(),
            heap: BinaryHeap::new(),
            next_id: 0,
            random: seed | 1,
        }
    }

    /// Replaces the jobs. Known ones keep their time, if it is within their interval; new ones are
    /// due one after another, within their interval.
    pub(crate) fn adopt(&mut self, jobs: &[Arc<T>], now: Duration) {
        let mut ids = HashMap::with_capacity(jobs.len());
        let fresh: Vec<&Arc<T>> = jobs.iter().filter(|job| !self.keep(job, now)).collect();
        let count = u32::try_from(fresh.len()).unwrap_or(u32::MAX).max(1);
        for (nth, job) in (0..count).zip(fresh) {
            let room = (SPREAD * count).min(job.timing().interval);
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

    /// Replaces a known job. Returns whether it is known and its time is within its interval.
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
            .timing()
            .interval
            .mul_f64(1.0 + f64::from(job.jitter()) / 100.0);
        entry.due.is_none_or(|due| due <= now + longest)
    }

    /// Returns when the next check is due.
    pub(crate) fn next_due(&mut self) -> Option<Duration> {
        loop {
            let Reverse((at, id)) = *self.heap.peek()?;
            if self.entries.get(&id).is_some_and(|it| it.due == Some(at)) {
                return Some(at);
            }
            self.heap.pop();
        }
    }

    /// Returns the next check if it is due. It counts as running from then on.
    pub(crate) fn take_due(&mut self, now: Duration) -> Option<Due<T>> {
        self.next_due().filter(|at| *at <= now)?;
        let Reverse((_, id)) = self.heap.pop()?;
        let entry = self.entries.get_mut(&id)?;
        entry.due = None;
        let (job, at) = (Arc::clone(&entry.job), entry.was_due);
        Some(Due { id, job, at })
    }

    /// Makes a check that was taken but cannot run now due again at `until`.
    pub(crate) fn postpone(&mut self, id: u64, until: Duration) {
        self.set(id, until);
    }

    /// Schedules the next run of a check that ended, after its `fast_interval` if `soon`.
    pub(crate) fn done(&mut self, id: u64, soon: bool, now: Duration) {
        let Some(entry) = self.entries.get(&id) else {
            return;
        };
        let (timing, jitter) = (entry.job.timing(), entry.job.jitter());
        let interval = if soon {
            timing.fast_interval
        } else {
            timing.interval
        };
        let at = entry.was_due + interval.mul_f64(1.0 + self.deviation(jitter));
        let at = at.max(now);
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.was_due = at;
        }
        self.set(id, at);
    }

    /// Returns a random fraction between minus and plus `percent` percent.
    fn deviation(&mut self, percent: u32) -> f64 {
        // Xorshift (Marsaglia, 2003); the quality does not matter here.
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
