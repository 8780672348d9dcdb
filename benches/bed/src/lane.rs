//! One worker, with its ports in memory.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};
use waxwing_dataplane::counters::WorkerCounters;
use waxwing_dataplane::epoch::Release;
use waxwing_dataplane::worker::{Worker, WorkerSetup};
use waxwing_dataplane::{BATCH, BackendId, Epoch, Now, Policy, PortId};
use waxwing_packet::{Packet, parse};
use waxwing_testkit::memory::MemoryIo;

use crate::plan::{BACK, FRONT};
use crate::world::World;

/// What passes on a wire in this time is taken to be one packet: time goes on by it.
const PACKET_TIME: Duration = Duration::from_micros(1);

/// A worker that is driven by hand.
pub struct Lane<'a> {
    world: &'a World,
    worker: Worker<MemoryIo>,
    counters: Arc<WorkerCounters>,
    now: Duration,
    put: u32,
    /// Kept, so that the worker sees an open mailbox, as it does at work.
    _mailbox: (Sender<Epoch>, Receiver<Epoch>),
}

impl<'a> Lane<'a> {
    /// The worker of this number; new flows are for these policies to choose for (by
    /// [`waxwing_dataplane::Service::policy`], which is 0), or without one for the native fallback.
    #[must_use]
    pub fn new(world: &'a World, number: usize, policies: Vec<Box<dyn Policy>>) -> Self {
        let mut lane = Self::with(world, number, policies);
        lane.worker.io().recycle_sent();
        lane
    }

    /// Likewise, but the frames that it sends are kept, to be looked at.
    pub(crate) fn keeping(world: &'a World, number: usize) -> Self {
        Self::with(world, number, Vec::new())
    }

    fn with(world: &'a World, number: usize, policies: Vec<Box<dyn Policy>>) -> Self {
        let counters = Arc::new(WorkerCounters::new(world.backends() as usize));
        let (send, mailbox) = unbounded();
        let (returned, receive) = unbounded();
        let setup = WorkerSetup {
            // Worker 0 announces the VIPs, which is not to be part of a measurement.
            number: number + 1,
            workers: world.size.workers,
            shared: world.shared.clone(),
            counters: Arc::clone(&counters),
            cluster_key: [5, 6, 7, 8],
            mailbox,
            returned,
        };
        let epoch = Epoch {
            snapshot: Arc::clone(&world.snapshot),
            policies,
            kept: Vec::new(),
            release: Release::held(),
        };
        let mut lane = Self {
            world,
            worker: Worker::new(MemoryIo::new(2, 4 * BATCH), setup, epoch),
            counters,
            now: Duration::from_nanos(world.clock.load(Ordering::Relaxed)),
            put: 0,
            _mailbox: (send, receive),
        };
        // Its first turn looks for sessions that ended before, which is not to be part of a measurement.
        let now = lane.next_turn();
        lane.handle(now);
        lane
    }

    /// Lets a frame of a client arrive.
    ///
    /// # Panics
    /// More than a batch waits to be handled: a bug of the bench.
    pub fn put_request(&mut self, frame: &[u8]) {
        self.put(FRONT, frame);
    }

    /// Lets a frame of a backend arrive. Panics as [`Lane::put_request`] does.
    ///
    /// # Panics
    /// See there.
    pub fn put_reply(&mut self, frame: &[u8]) {
        self.put(BACK, frame);
    }

    fn put(&mut self, port: PortId, frame: &[u8]) {
        assert!(self.worker.io().inject(port, frame), "frames pile up");
        self.put += 1;
    }

    /// Has the worker handle what was put in, at most [`BATCH`]. How long that took.
    pub fn turn(&mut self) -> Duration {
        let now = self.next_turn();
        let start = Instant::now();
        self.handle(now);
        start.elapsed()
    }

    /// The time of the next turn, for [`Lane::handle`].
    pub fn next_turn(&mut self) -> Now {
        self.now += PACKET_TIME * std::mem::take(&mut self.put);
        Now::from_start(self.now)
    }

    /// The turn itself, and nothing else.
    #[inline]
    pub fn handle(&mut self, now: Now) {
        self.worker.turn(now);
    }

    /// How many frames it has sent, since it was made.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.counters.transmitted.packets.get()
    }

    /// How many sessions it has opened, since it was made.
    pub(crate) fn opened(&self) -> u64 {
        let backends = (0..self.world.backends()).map(BackendId);
        backends
            .map(|id| self.counters.backend(id).sessions.get())
            .sum()
    }

    /// How many it has ended, because their time was over or to make room.
    pub(crate) fn ended(&self) -> u64 {
        self.expired() + self.counters.evicted.get()
    }

    /// How many sessions it has ended because their time was over.
    #[must_use]
    pub fn expired(&self) -> u64 {
        self.counters.expired.get()
    }

    /// How many sessions it has ended to make room for others.
    #[must_use]
    pub fn evicted(&self) -> u64 {
        self.counters.evicted.get()
    }

    /// Takes a turn with requests of new flows; the backends that they went to.
    pub(crate) fn backends_of_turn(&mut self) -> Vec<u16> {
        self.turn();
        let sent = self.worker.io().sent();
        sent.iter()
            .filter_map(|(_, frame)| match parse(frame) {
                Ok(Packet::Ip(packet)) => self.world.plan.backend_at(packet.destination),
                _ => None,
            })
            .filter_map(|number| u16::try_from(number).ok())
            .collect()
    }

    pub(crate) fn forget_sent(&mut self) {
        self.worker.io().sent();
    }
}

impl Drop for Lane<'_> {
    fn drop(&mut self) {
        let now = u64::try_from(self.now.as_nanos()).unwrap_or(u64::MAX);
        self.world.clock.fetch_max(now, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

    use super::*;
    use crate::plan::Plan;
    use crate::world::Size;

    #[test]
    fn what_is_put_in_is_forwarded_both_ways_and_opens_no_further_session() {
        for plan in [Plan::V4, Plan::V6, Plan::V4_UDP, Plan::V6_UDP] {
            let size = Size {
                services: 3,
                ..Size::default()
            };
            let world = World::new(plan, size).unwrap();
            let backends = world.open(size.sessions_max);
            let mut lane = Lane::new(&world, 0, Vec::new());
            let mut frames = world.frames();
            for client in 0..size.sessions_max {
                lane.put_request(frames.later(client));
                lane.put_reply(frames.reply(backends[client as usize].into(), client));
                lane.turn();
            }
            assert_eq!(
                lane.sent(),
                2 * u64::from(size.sessions_max),
                "{}",
                plan.name
            );
            assert_eq!(world.sessions(), size.sessions_max as usize);
        }
    }

    #[test]
    fn a_client_stays_with_the_service_that_it_uses() {
        let size = Size {
            services: 5,
            backends: 2,
            ..Size::default()
        };
        let world = World::new(Plan::V4, size).unwrap();
        for (client, backend) in (0_u32..).zip(world.open(100)) {
            assert_eq!(u32::from(backend) / 2, client % 5, "client {client}");
        }
    }
}
