//! Workers on threads of their own, on one table.

use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use crate::established::{Established, Hits, of_packets};
use crate::opening::Opening;
use crate::order::Order;
use crate::world::World;

/// A whole batch.
const FULL: u32 = 64;
const _: () = assert!(FULL as usize == waxwing_dataplane::BATCH);

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
        together(self.turns.len(), |number, start| {
            let turn = self.turns[number];
            let mut hits = Hits::new(established, number, Order::Uniform);
            start.wait();
            let mut turns = 0;
            let time = of_packets(packets, FULL, || {
                turns += 1;
                turn(&mut hits, established.sessions, turns)
            });
            hits.end();
            time
        })
    }
}

/// One or two workers that open sessions, for which the native fallback chooses.
#[derive(Clone, Copy, Debug)]
pub struct Openers {
    /// What a bench calls them.
    pub name: &'static str,
    workers: usize,
}

impl Openers {
    /// One.
    pub const ONE: Self = Self {
        name: "one_opening",
        workers: 1,
    };

    /// Two, each with clients of its own. What this takes above [`Openers::ONE`] is the price of what
    /// both write: the locks of tuples, the index, the pool of free slots, the counts of sessions.
    pub const TWO: Self = Self {
        name: "two_opening",
        workers: 2,
    };

    /// Both.
    pub const ALL: [Self; 2] = [Self::ONE, Self::TWO];

    /// The mean time that a worker takes for so many new sessions, each of them as many at once; in a
    /// world that has none, and room for all of them (of each worker: in whole batches).
    ///
    /// # Panics
    /// A client got no session.
    #[must_use]
    pub fn run(&self, world: &World, sessions: u32) -> Duration {
        let clients = sessions.next_multiple_of(FULL);
        together(self.workers, |number, start| {
            let first = clients * u32::try_from(number).unwrap_or(0);
            let mut opening = Opening::at(world, number, Vec::new(), first);
            start.wait();
            let time = of_packets(sessions.into(), FULL, || opening.turn(FULL));
            opening.end();
            time
        })
    }
}

/// The mean time of so many workers' work, on threads of their own; each waits for the start when it is
/// ready.
fn together(workers: usize, work: impl Fn(usize, &Barrier) -> Duration + Sync) -> Duration {
    let start = Barrier::new(workers);
    let (start, work) = (&start, &work);
    let times: Duration = thread::scope(|scope| {
        let threads: Vec<_> = (0..workers)
            .map(|number| scope.spawn(move || work(number, start)))
            .collect();
        let join = |thread: thread::ScopedJoinHandle<'_, _>| thread.join().expect("no panic");
        threads.into_iter().map(join).sum()
    });
    times / u32::try_from(workers).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

    use super::*;
    use crate::plan::Plan;
    use crate::world::Size;

    #[test]
    fn each_of_two_workers_opens_the_sessions_of_clients_of_its_own() {
        for (team, sessions) in [(Openers::ONE, 128), (Openers::TWO, 256)] {
            let size = Size {
                workers: 2,
                ..Size::default()
            };
            let world = World::new(Plan::V4, size).unwrap();
            let _ = team.run(&world, 100);
            assert_eq!(world.sessions(), sessions, "{}", team.name);
        }
    }
}
