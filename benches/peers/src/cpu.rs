//! CPU pinning and CPU use.
//!
//! Invariant: a CPU's time is either busy or idle; time that the hypervisor stole counts as neither.

use std::fs;

use anyhow::{Context as _, Result};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// The two CPUs of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cores {
    /// Runs the generator, the clients and the servers.
    pub(crate) load: usize,
    /// Runs the contender.
    pub(crate) contender: usize,
}

impl Cores {
    /// Returns the first two CPUs that this process may use.
    pub(crate) fn find() -> Result<Self> {
        let allowed = sched_getaffinity(Pid::from_raw(0))
            .context("cannot read this process's CPU affinity")?;
        let mut cores = (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu) == Ok(true));
        let (load, contender) = (cores.next(), cores.next());
        let both = load
            .zip(contender)
            .map(|(load, contender)| Self { load, contender });
        both.context("the wire bench needs two CPUs: one for the contender, one for all else")
    }

    /// Pins this thread, and all that it starts from now on, to one CPU.
    pub(crate) fn pin_to(core: usize) -> Result<()> {
        let mut set = CpuSet::new();
        set.set(core).context("the CPU number is too large")?;
        sched_setaffinity(Pid::from_raw(0), &set)
            .with_context(|| format!("cannot pin this thread to CPU {core}"))
    }

    /// Calls `start`; processes that it spawns stay on the contender's CPU.
    pub(crate) fn as_contender<T>(self, start: impl FnOnce() -> Result<T>) -> Result<T> {
        Self::pin_to(self.contender)?;
        let started = start();
        Self::pin_to(self.load)?;
        started
    }

    /// The times of both CPUs: the load's, then the contender's.
    pub(crate) fn times(self) -> Result<[Times; 2]> {
        let stat = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
        let of = |core| {
            Times::parse(&stat, core).with_context(|| format!("/proc/stat has no CPU {core}"))
        };
        Ok([of(self.load)?, of(self.contender)?])
    }
}

/// A CPU's busy and idle time since boot, in ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Times {
    busy: u64,
    idle: u64,
}

impl Times {
    /// Parses `/proc/stat` (proc_stat(5)): user, nice, system, idle, iowait, irq, softirq, steal.
    fn parse(stat: &str, core: usize) -> Option<Self> {
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

    /// The share of the time since `earlier` that the CPU was busy, from 0 to 1.
    #[expect(
        clippy::cast_precision_loss,
        reason = "the ticks of some seconds are far below 2^52"
    )]
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
    fn softirqs_are_busy_and_stolen_time_is_not_counted() {
        let times = Times::parse(STAT, 0);
        assert_eq!(
            times,
            Some(Times {
                busy: 115,
                idle: 1005
            })
        );
        assert_eq!(Times::parse(STAT, 1), Some(Times { busy: 5, idle: 2 }));
        assert_eq!(Times::parse(STAT, 2), None);
    }

    #[test]
    fn the_busy_share_is_of_the_time_between_two_readings() {
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
