//! Established sessions, and their packets at one worker.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use waxwing_dataplane::BATCH;
use waxwing_dataplane::session::TableError;

use crate::frames::Frames;
use crate::lane::Lane;
use crate::order::{Order, Random};
use crate::plan::Plan;
use crate::world::{Size, World};

/// A world whose table is full of established sessions: those of the clients from 0 on.
pub struct Established {
    /// Where they are.
    pub world: World,
    /// How many there are.
    pub sessions: u32,
    /// The backend of each client.
    backends: Vec<u16>,
    /// By worker: where its draws have got to. The next [`Hits`] go on from there, or each run of a
    /// large table would meet the same few sessions of it again.
    draws: Vec<Mutex<Random>>,
}

impl Established {
    /// As many as the table takes.
    ///
    /// # Errors
    /// As [`World::new`].
    pub fn new(plan: Plan, size: Size) -> Result<Self, TableError> {
        let world = World::new(plan, size)?;
        let draws = (0..size.workers).map(|worker| Mutex::new(Random::new(7 + worker as u64)));
        Ok(Self {
            backends: world.open(size.sessions_max),
            world,
            sessions: size.sessions_max,
            draws: draws.collect(),
        })
    }

    fn draws(&self, worker: usize) -> MutexGuard<'_, Random> {
        // What is poisoned is of a bench that has failed, and numbers all the same.
        self.draws[worker]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// One worker's packets of established sessions, in full batches.
pub struct Hits<'a> {
    established: &'a Established,
    lane: Lane<'a>,
    frames: Frames,
    worker: usize,
    random: Random,
    order: Order,
    put: u64,
}

impl<'a> Hits<'a> {
    /// At the worker of this number, from clients in this order, where the worker's last ones ended.
    ///
    /// # Panics
    /// There is no worker of this number.
    #[must_use]
    pub fn new(established: &'a Established, worker: usize, order: Order) -> Self {
        Self {
            established,
            lane: Lane::new(&established.world, worker, Vec::new()),
            frames: established.world.frames(),
            worker,
            random: established.draws(worker).clone(),
            order,
            put: 0,
        }
    }

    /// The time of a batch of requests from clients within `clients`.
    pub fn requests(&mut self, clients: Range<u32>) -> Duration {
        for _ in 0..BATCH {
            let client = self.draw(&clients);
            self.lane.put_request(self.frames.later(client));
        }
        self.turn()
    }

    /// The time of a batch of replies to them.
    pub fn replies(&mut self, clients: Range<u32>) -> Duration {
        for _ in 0..BATCH {
            let client = self.draw(&clients);
            let backend = self.established.backends[client as usize].into();
            self.lane.put_reply(self.frames.reply(backend, client));
        }
        self.turn()
    }

    fn draw(&mut self, clients: &Range<u32>) -> u32 {
        let count = clients.end - clients.start;
        clients.start + self.order.draw(&mut self.random, count)
    }

    fn turn(&mut self) -> Duration {
        self.put += BATCH as u64;
        self.lane.turn()
    }

    /// Ends it; the worker's next ones go on with the draws.
    ///
    /// # Panics
    /// A packet was not forwarded, or opened a session: what was measured were no hits.
    pub fn end(self) {
        let sessions = self.established.sessions as usize;
        assert_eq!(self.lane.sent(), self.put, "each packet is forwarded");
        assert_eq!(
            self.established.world.sessions(),
            sessions,
            "none opens a session"
        );
        *self.established.draws(self.worker) = self.random;
    }
}

/// The time of so many packets, from turns of `batch` packets each.
pub fn of_packets(packets: u64, batch: u32, mut turn: impl FnMut() -> Duration) -> Duration {
    let turns = packets.div_ceil(batch.into());
    let time: Duration = (0..turns).map(|_| turn()).sum();
    let timed = u128::from(turns * u64::from(batch)).max(1);
    let nanos = time.as_nanos() * u128::from(packets) / timed;
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

    use super::*;

    #[test]
    fn a_run_goes_on_with_the_draws_of_the_one_before() {
        let size = Size {
            workers: 2,
            ..Size::default()
        };
        let established = Established::new(Plan::V4, size).unwrap();
        let run = |batches: usize| {
            let mut hits = Hits::new(&established, 1, Order::Uniform);
            for _ in 0..batches {
                hits.requests(0..established.sessions);
            }
            hits.end();
        };
        run(1);
        run(2);
        let mut random = Random::new(8);
        for _ in 0..3 * BATCH {
            random.below(established.sessions);
        }
        let next = established.draws(1).below(established.sessions);
        assert_eq!(next, random.below(established.sessions));
    }
}
