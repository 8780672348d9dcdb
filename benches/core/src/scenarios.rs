//! Scenarios of one or two workers, each on a thread of its own, that share a session table.

use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

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

/// One worker beside others that share its table, as on a machine with many processors: between two of its
/// batches each of the others handles one. They all run on a second processor, in turn, so nearly every line
/// that workers share is in that one's cache when the measured worker wants it.
#[derive(Clone, Copy, Debug)]
pub struct CrowdScenario {
    /// The number of other workers.
    pub others: usize,
}

/// Batches of one worker: runs the next one, and returns the time it took.
type Batches<'a> = Box<dyn FnMut() -> Duration + 'a>;

impl CrowdScenario {
    /// Each worker opens `sessions` sessions of its own clients; the native fallback picks. Returns the
    /// measured worker's time. The testbed must have no session, room for all of them (each worker's, rounded
    /// up to full batches), and a worker more than the others.
    pub fn open(self, testbed: &Testbed, sessions: u32) -> Duration {
        let clients = sessions.next_multiple_of(FULL);
        self.run(sessions.into(), |number| {
            let first = clients * u32::try_from(number).unwrap_or(0);
            let mut new = NewSessions::at(testbed, number, Vec::new(), first);
            Box::new(move || new.turn(FULL))
        })
    }

    /// Each worker forwards `packets` requests of sessions of the same table, any of them. Returns the
    /// measured worker's time. The testbed must have a worker more than the others.
    pub fn forward(self, established: &EstablishedTestbed, packets: u64) -> Duration {
        self.run(packets, |number| {
            let mut traffic = EstablishedTraffic::new(established, number, Order::Uniform);
            Box::new(move || traffic.requests(0..established.sessions))
        })
    }

    fn run<'a>(self, packets: u64, worker: impl Fn(usize) -> Batches<'a> + Sync) -> Duration {
        let turns = packets.div_ceil(FULL.into());
        let (mine, theirs) = (Baton::default(), Baton::default());
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut others: Vec<_> = (1..=self.others).map(&worker).collect();
                for turn in 1..=turns {
                    theirs.wait_for(turn);
                    for batch in &mut others {
                        batch();
                    }
                    mine.pass(turn);
                }
            });
            let mut batch = worker(0);
            let mut turn = 0;
            time_packets(packets, FULL, || {
                turn += 1;
                theirs.pass(turn);
                mine.wait_for(turn);
                batch()
            })
        })
    }
}

/// The time that a cache line takes from one processor to the other and back: where the machine's host places
/// its processors, it is some 50 ns or several times that. The cost of what workers share is a multiple.
pub fn line_round_trip() -> Duration {
    const ROUNDS: u32 = 100_000;
    let (mine, theirs) = (Baton::default(), Baton::default());
    thread::scope(|scope| {
        scope.spawn(|| {
            for round in 1..=ROUNDS.into() {
                theirs.wait_for(round);
                mine.pass(round);
            }
        });
        // The other thread starts.
        theirs.pass(1);
        mine.wait_for(1);
        let begun = Instant::now();
        for round in 2..=ROUNDS.into() {
            theirs.pass(round);
            mine.wait_for(round);
        }
        begun.elapsed() / (ROUNDS - 1)
    })
}

/// A number on a cache line of its own that only grows: one thread passes it on, another waits for it.
#[repr(align(128))]
#[derive(Default)]
struct Baton(AtomicU64);

impl Baton {
    fn pass(&self, number: u64) {
        self.0.store(number, Ordering::Release);
    }

    fn wait_for(&self, number: u64) {
        while self.0.load(Ordering::Acquire) < number {
            std::hint::spin_loop();
        }
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
    fn each_of_a_crowd_opens_sessions_and_forwards() {
        let size = Size {
            workers: 4,
            ..Size::default()
        };
        let crowd = CrowdScenario { others: 3 };
        let testbed = Testbed::new(AddressPlan::V4, size).unwrap();
        let _ = crowd.open(&testbed, 100);
        assert_eq!(testbed.sessions(), 4 * 128);

        let established = EstablishedTestbed::new(AddressPlan::V4, size).unwrap();
        assert!(crowd.forward(&established, 100) > Duration::ZERO);
        assert!(line_round_trip() > Duration::ZERO);
    }

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
