//! Traffic of established sessions at one worker.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use waxwing_dataplane::session::TableError;
use waxwing_dataplane::{BATCH, Epoch};

use crate::addresses::AddressPlan;
use crate::driver::WorkerDriver;
use crate::frames::Frames;
use crate::open::open_sessions;
use crate::order::{Order, Random};
use crate::testbed::{Size, Testbed};

/// A testbed whose session table is full: clients 0 to `sessions` - 1 have a session each.
pub struct EstablishedTestbed {
    /// The testbed.
    pub testbed: Testbed,
    /// The number of sessions.
    pub sessions: u32,
    /// The backend of each client.
    backends: Vec<u16>,
    /// By worker: the random state where its last traffic ended. The next [`EstablishedTraffic`] continues
    /// there; otherwise each run would use the same few sessions of a large table.
    draws: Vec<Mutex<Random>>,
}

impl EstablishedTestbed {
    /// Fills a new testbed's table.
    pub fn new(plan: AddressPlan, size: Size) -> Result<Self, TableError> {
        let testbed = Testbed::new(plan, size)?;
        let draws = (0..size.workers).map(|worker| Mutex::new(Random::new(7 + worker as u64)));
        Ok(Self {
            backends: open_sessions(&testbed, size.sessions_max),
            testbed,
            sessions: size.sessions_max,
            draws: draws.collect(),
        })
    }

    fn draws(&self, worker: usize) -> MutexGuard<'_, Random> {
        // A poisoned lock belongs to a bench that failed; its numbers are still usable.
        self.draws[worker]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Full batches of established sessions' packets at one worker.
pub struct EstablishedTraffic<'a> {
    established: &'a EstablishedTestbed,
    driver: WorkerDriver<'a>,
    frames: Frames,
    worker: usize,
    random: Random,
    order: Order,
    injected: u64,
}

impl<'a> EstablishedTraffic<'a> {
    /// Traffic at worker `worker`, from clients in this order. Continues where the worker's last traffic
    /// ended.
    pub fn new(established: &'a EstablishedTestbed, worker: usize, order: Order) -> Self {
        Self {
            established,
            driver: WorkerDriver::new(&established.testbed, worker, Vec::new()),
            frames: established.testbed.frames(),
            worker,
            random: established.draws(worker).clone(),
            order,
            injected: 0,
        }
    }

    /// Forwards a batch of requests from clients within `clients`. Returns the time it took.
    pub fn requests(&mut self, clients: Range<u32>) -> Duration {
        for _ in 0..BATCH {
            let client = self.draw(&clients);
            self.driver.inject_request(self.frames.established(client));
        }
        self.turn()
    }

    /// Forwards a batch of replies to clients within `clients`. Returns the time it took.
    pub fn replies(&mut self, clients: Range<u32>) -> Duration {
        for _ in 0..BATCH {
            let client = self.draw(&clients);
            let backend = self.established.backends[client as usize].into();
            self.driver.inject_reply(self.frames.reply(backend, client));
        }
        self.turn()
    }

    /// See [`WorkerDriver::epochs`].
    pub(crate) fn epochs(&self) -> (Sender<Epoch>, Receiver<Epoch>) {
        self.driver.epochs()
    }

    fn draw(&mut self, clients: &Range<u32>) -> u32 {
        let count = clients.end - clients.start;
        clients.start + self.order.draw(&mut self.random, count)
    }

    fn turn(&mut self) -> Duration {
        self.injected += BATCH as u64;
        self.driver.turn()
    }

    /// Ends the traffic, and keeps the random state for the worker's next traffic.
    pub fn end(self) {
        let sessions = self.established.sessions as usize;
        assert_eq!(
            self.driver.sent(),
            self.injected,
            "each packet is forwarded"
        );
        assert_eq!(
            self.established.testbed.sessions(),
            sessions,
            "no packet opens a session"
        );
        *self.established.draws(self.worker) = self.random;
    }
}

/// Runs turns of `batch` packets until `packets` were handled. Returns the turns' time, scaled to `packets`.
pub fn time_packets(packets: u64, batch: u32, mut turn: impl FnMut() -> Duration) -> Duration {
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
    fn traffic_continues_with_the_random_state_of_the_traffic_before() {
        let size = Size {
            workers: 2,
            ..Size::default()
        };
        let established = EstablishedTestbed::new(AddressPlan::V4, size).unwrap();
        let run = |batches: usize| {
            let mut traffic = EstablishedTraffic::new(&established, 1, Order::Uniform);
            for _ in 0..batches {
                traffic.requests(0..established.sessions);
            }
            traffic.end();
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
