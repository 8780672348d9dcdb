//! Workers on threads of their own, on one table.

use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use waxwing_dataplane::BATCH;

use crate::established::{Established, Hits, of_packets};
use crate::order::Order;

/// What each of one or two workers does.
#[derive(Clone, Copy, Debug)]
pub struct Team {
    /// What a bench calls it.
    pub name: &'static str,
    /// By worker: a turn, given all sessions and the turn's number.
    turns: &'static [Turn],
}

type Turn = fn(&mut Hits<'_>, u32, u64) -> Duration;

impl Team {
    /// One worker has the requests of all sessions.
    pub const ONE: Self = Self {
        name: "one",
        turns: &[|hits, sessions, _| hits.requests(0..sessions)],
    };

    /// Two workers have the requests of half of them each. What this takes above [`Team::ONE`] is
    /// the price of one table.
    pub const TWO_APART: Self = Self {
        name: "two_apart",
        turns: &[
            |hits, sessions, _| hits.requests(0..sessions / 2),
            |hits, sessions, _| hits.requests(sessions / 2..sessions),
        ],
    };

    /// One worker has the requests and the replies.
    pub const ONE_BOTH_WAYS: Self = Self {
        name: "one_both_ways",
        turns: &[|hits, sessions, turn| match turn % 2 {
            0 => hits.requests(0..sessions),
            _ => hits.replies(0..sessions),
        }],
    };

    /// One worker has the requests, the other the replies. What this takes above
    /// [`Team::ONE_BOTH_WAYS`] is the price of a session that is seen from both.
    pub const TWO_BOTH_WAYS: Self = Self {
        name: "two_both_ways",
        turns: &[
            |hits, sessions, _| hits.requests(0..sessions),
            |hits, sessions, _| hits.replies(0..sessions),
        ],
    };

    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::ONE,
        Self::TWO_APART,
        Self::ONE_BOTH_WAYS,
        Self::TWO_BOTH_WAYS,
    ];

    /// The mean time that a worker takes for so many packets, each of them as many at once.
    ///
    /// # Panics
    /// A packet was not forwarded.
    #[must_use]
    pub fn run(&self, established: &Established, packets: u64) -> Duration {
        let barrier = Barrier::new(self.turns.len());
        let batch = u32::try_from(BATCH).unwrap_or(1);
        let work = |number: usize, turn: Turn| {
            let mut hits = Hits::new(established, number, Order::Uniform);
            barrier.wait();
            let mut turns = 0;
            let time = of_packets(packets, batch, || {
                turns += 1;
                turn(&mut hits, established.sessions, turns)
            });
            hits.end();
            time
        };
        let times: Duration = thread::scope(|scope| {
            let workers: Vec<_> = (0..)
                .zip(self.turns)
                .map(|(number, turn)| {
                    let work = &work;
                    scope.spawn(move || work(number, *turn))
                })
                .collect();
            let join = |worker: thread::ScopedJoinHandle<'_, _>| worker.join().expect("no panic");
            workers.into_iter().map(join).sum()
        });
        times / u32::try_from(self.turns.len()).unwrap_or(1)
    }
}
