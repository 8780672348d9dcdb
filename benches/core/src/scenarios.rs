//! Scenarios of one or two workers, each on a thread of its own, that share a session table.

use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use crate::established::{EstablishedTestbed, EstablishedTraffic, time_packets};
use crate::new_sessions::NewSessions;
use crate::order::Order;
use crate::testbed::Testbed;

/// The frames of a full batch.
const FULL: u32 = 64;
const _: () = assert!(FULL as usize == waxwing_dataplane::BATCH);

/// Traffic of established sessions at one or two workers.
#[derive(Clone, Copy, Debug)]
pub struct EstablishedScenario {
    /// The name in benchmarks.
    pub name: &'static str,
    /// By worker: runs a turn, given the number of sessions and of the turn.
    turns: &'static [Turn],
}

type Turn = fn(&mut EstablishedTraffic<'_>, u32, u64) -> Duration;

impl EstablishedScenario {
    /// One worker forwards the requests of all sessions.
    pub const ONE: Self = Self {
        name: "one",
        turns: &[|traffic, sessions, _| traffic.requests(0..sessions)],
    };

    /// Two workers forward the requests of half of the sessions each. The time beyond
    /// [`EstablishedScenario::ONE`] is the cost of sharing a table.
    pub const TWO_APART: Self = Self {
        name: "two_apart",
        turns: &[
            |traffic, sessions, _| traffic.requests(0..sessions / 2),
            |traffic, sessions, _| traffic.requests(sessions / 2..sessions),
        ],
    };

    /// One worker forwards requests and replies.
    pub const ONE_BOTH_WAYS: Self = Self {
        name: "one_both_ways",
        turns: &[|traffic, sessions, turn| match turn % 2 {
            0 => traffic.requests(0..sessions),
            _ => traffic.replies(0..sessions),
        }],
    };

    /// One worker forwards requests, the other replies. The time beyond
    /// [`EstablishedScenario::ONE_BOTH_WAYS`] is the cost of sessions that both workers use.
    pub const TWO_BOTH_WAYS: Self = Self {
        name: "two_both_ways",
        turns: &[
            |traffic, sessions, _| traffic.requests(0..sessions),
            |traffic, sessions, _| traffic.replies(0..sessions),
        ],
    };

    /// All scenarios.
    pub const ALL: [Self; 4] = [
        Self::ONE,
        Self::TWO_APART,
        Self::ONE_BOTH_WAYS,
        Self::TWO_BOTH_WAYS,
    ];

    /// Forwards `packets` packets at each worker, all workers at once. Returns the workers' mean time.
    pub fn run(&self, established: &EstablishedTestbed, packets: u64) -> Duration {
        mean_time(self.turns.len(), |number, start| {
            let turn = self.turns[number];
            let mut traffic = EstablishedTraffic::new(established, number, Order::Uniform);
            start.wait();
            let mut turns = 0;
            let time = time_packets(packets, FULL, || {
                turns += 1;
                turn(&mut traffic, established.sessions, turns)
            });
            traffic.end();
            time
        })
    }
}

/// One or two workers that open sessions; the native fallback picks the backends.
#[derive(Clone, Copy, Debug)]
pub struct OpenScenario {
    /// The name in benchmarks.
    pub name: &'static str,
    workers: usize,
}

impl OpenScenario {
    /// One worker.
    pub const ONE: Self = Self {
        name: "one_opening",
        workers: 1,
    };

    /// Two workers, each with clients of its own. The time beyond [`OpenScenario::ONE`] is the cost of state
    /// that both write: the locks of tuples, the index, the pool of free slots, the session counts.
    pub const TWO: Self = Self {
        name: "two_opening",
        workers: 2,
    };

    /// All scenarios.
    pub const ALL: [Self; 2] = [Self::ONE, Self::TWO];

    /// Opens `sessions` sessions at each worker, all workers at once. Returns the workers' mean time. The
    /// testbed must have no session and room for all of them (each worker's, rounded up to full batches).
    pub fn run(&self, testbed: &Testbed, sessions: u32) -> Duration {
        let clients = sessions.next_multiple_of(FULL);
        mean_time(self.workers, |number, start| {
            let first = clients * u32::try_from(number).unwrap_or(0);
            let mut new = NewSessions::at(testbed, number, Vec::new(), first);
            start.wait();
            let time = time_packets(sessions.into(), FULL, || new.turn(FULL));
            new.end();
            time
        })
    }
}

/// Runs `work` for each worker on a thread of its own; each waits at the barrier until all are ready.
/// Returns the mean of the times that `work` returns.
fn mean_time(workers: usize, work: impl Fn(usize, &Barrier) -> Duration + Sync) -> Duration {
    let start = Barrier::new(workers);
    let (start, work) = (&start, &work);
    let times: Duration = thread::scope(|scope| {
        let threads: Vec<_> = (0..workers)
            .map(|number| scope.spawn(move || work(number, start)))
            .collect();
        let join = |thread: thread::ScopedJoinHandle<'_, _>| {
            thread.join().expect("a worker's thread panicked")
        };
        threads.into_iter().map(join).sum()
    });
    times / u32::try_from(workers).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

    use super::*;
    use crate::addresses::AddressPlan;
    use crate::testbed::Size;

    #[test]
    fn two_workers_open_sessions_of_different_clients() {
        for (scenario, sessions) in [(OpenScenario::ONE, 128), (OpenScenario::TWO, 256)] {
            let size = Size {
                workers: 2,
                ..Size::default()
            };
            let testbed = Testbed::new(AddressPlan::V4, size).unwrap();
            let _ = scenario.run(&testbed, 100);
            assert_eq!(testbed.sessions(), sessions, "{}", scenario.name);
        }
    }
}
