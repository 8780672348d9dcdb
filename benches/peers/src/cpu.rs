//! What the processors were busy with.
//!
//! Invariant: a processor's time is either busy or idle; what the hypervisor took from it is neither.

use std::fs;

use anyhow::{Context as _, Result};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// The two processors of a run: everybody else's, and the contender's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cores {
    /// The generator's, the clients' and the servers'.
    pub(crate) load: usize,
    /// The contender's.
    pub(crate) contender: usize,
}

impl Cores {
    /// The first two that this process may use.
    pub(crate) fn find() -> Result<Self> {
        let allowed = sched_getaffinity(Pid::from_raw(0)).context("no list of processors")?;
        let mut cores = (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu) == Ok(true));
        let (load, contender) = (cores.next(), cores.next());
        let both = load
            .zip(contender)
            .map(|(load, contender)| Self { load, contender });
        both.context("the wire bench needs two processors: one for the contender alone")
    }

    /// Keeps this thread, and what it starts from now on, on one processor.
    pub(crate) fn stay_on(core: usize) -> Result<()> {
        let mut set = CpuSet::new();
        set.set(core).context("a processor's number")?;
        sched_setaffinity(Pid::from_raw(0), &set)
            .with_context(|| format!("cannot stay on CPU {core}"))
    }

    /// Does something whose children stay on the contender's processor.
    pub(crate) fn as_contender<T>(self, start: impl FnOnce() -> Result<T>) -> Result<T> {
        Self::stay_on(self.contender)?;
        let started = start();
        Self::stay_on(self.load)?;
        started
    }

    /// The times of both, load first.
    pub(crate) fn times(self) -> Result<[Times; 2]> {
        let stat = fs::read_to_string("/proc/stat").context("no /proc/stat")?;
        let of = |core| Times::read(&stat, core).with_context(|| format!("no times of CPU {core}"));
        Ok([of(self.load)?, of(self.contender)?])
    }
}

/// What a processor has done since the system's start, in ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Times {
    busy: u64,
    idle: u64,
}

impl Times {
    /// From `/proc/stat` (proc_stat(5)): user, nice, system, idle, iowait, irq, softirq, steal.
    fn read(stat: &str, core: usize) -> Option<Self> {
        let name = format!("cpu{core} ");
        let line = stat.lines().find_map(|line| line.strip_prefix(&name))?;
        let ticks: Vec<u64> = line
            .split_whitespace()
            .map_while(|word| word.parse().ok())
            .collect();
        let [user, nice, system, idle, iowait, irq, softirq, ..] = *ticks else {
            return None;
        };
        Some(Self {
            busy: user + nice + system + irq + softirq,
            idle: idle + iowait,
        })
    }

    /// The share of the time since an earlier look that it was busy, from 0 to 1.
    #[expect(clippy::cast_precision_loss, reason = "ticks of seconds")]
    pub(crate) fn busy_since(self, earlier: Self) -> f64 {
        let busy = self.busy.saturating_sub(earlier.busy);
        let idle = self.idle.saturating_sub(earlier.idle);
        busy as f64 / (busy + idle).max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "cpu  9 9 9 9 9 9 9 9 9 9\n\
                        cpu0 100 1 10 1000 5 0 4 77 0 0\n\
                        cpu1 1 1 1 1 1 1 1 1 0 0\n\
                        cpu10 7 7 7 7 7 7 7 7 0 0\n\
                        intr 1 2 3\n";

    #[test]
    fn softirqs_are_busy_and_stolen_time_is_nobodys() {
        let times = Times::read(STAT, 0);
        assert_eq!(
            times,
            Some(Times {
                busy: 115,
                idle: 1005
            })
        );
        assert_eq!(Times::read(STAT, 1), Some(Times { busy: 5, idle: 2 }));
        assert_eq!(Times::read(STAT, 2), None);
    }

    #[test]
    fn the_share_is_of_the_time_between_two_looks() {
        let (then, now) = (
            Times {
                busy: 100,
                idle: 100,
            },
            Times {
                busy: 175,
                idle: 125,
            },
        );
        assert!((now.busy_since(then) - 0.75).abs() < 1e-9);
        assert!(now.busy_since(now).abs() < 1e-9);
    }
}
