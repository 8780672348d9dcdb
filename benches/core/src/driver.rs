//! Drives one worker by hand, with its ports in memory.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};
use waxwing_dataplane::counters::WorkerCounters;
use waxwing_dataplane::model::Release;
use waxwing_dataplane::worker::{Worker, WorkerSetup};
use waxwing_dataplane::{BATCH, Epoch, Now, Policy, PortId};
use waxwing_packet::{Packet, parse};
use waxwing_testkit::memory::MemoryIo;

use crate::addresses::{BACK, FRONT};
use crate::testbed::Testbed;

/// The virtual time that passes per packet.
const PACKET_TIME: Duration = Duration::from_micros(1);

/// A worker whose frames and turns come from a benchmark.
pub struct WorkerDriver<'a> {
    testbed: &'a Testbed,
    worker: Worker<MemoryIo>,
    counters: Arc<WorkerCounters>,
    now: Duration,
    /// Frames injected since the last turn.
    injected: u32,
    /// Keeps the worker's mailbox open, as in production, and that of the epochs that it returns.
    mailboxes: (Sender<Epoch>, Receiver<Epoch>),
}

impl<'a> WorkerDriver<'a> {
    /// Drives worker `number`. New flows are picked by `policies` (indexed by
    /// [`waxwing_dataplane::Service::policy`], which is 0), or by the native fallback if there is none.
    pub fn new(testbed: &'a Testbed, number: usize, policies: Vec<Box<dyn Policy>>) -> Self {
        let mut driver = Self::with(testbed, number, policies);
        driver.worker.io().recycle_sent();
        driver
    }

    /// Drives worker `number` without policies, and keeps the frames that it sends for inspection.
    pub(crate) fn keeping_sent(testbed: &'a Testbed, number: usize) -> Self {
        Self::with(testbed, number, Vec::new())
    }

    fn with(testbed: &'a Testbed, number: usize, policies: Vec<Box<dyn Policy>>) -> Self {
        let counters = Arc::new(WorkerCounters::new(testbed.backends() as usize));
        let (send, mailbox) = unbounded();
        let (returned, receive) = unbounded();
        let setup = WorkerSetup {
            // Worker 0 also announces the VIPs, which must not be measured.
            number: number + 1,
            workers: testbed.size.workers,
            shared: testbed.shared.clone(),
            counters: Arc::clone(&counters),
            cluster_key: [5, 6, 7, 8],
            mailbox,
            returned,
        };
        let epoch = Epoch {
            snapshot: Arc::clone(&testbed.snapshot),
            policies,
            kept: Vec::new(),
            release: Release::held(),
        };
        let mut driver = Self {
            testbed,
            worker: Worker::new(MemoryIo::new(2, 4 * BATCH), setup, epoch),
            counters,
            now: Duration::from_nanos(testbed.clock.load(Ordering::Relaxed)),
            injected: 0,
            mailboxes: (send, receive),
        };
        // The first turn sweeps sessions that ended before, which must not be measured.
        let now = driver.next_turn();
        driver.run_turn(now);
        driver
    }

    /// Lets a client's frame arrive.
    pub fn inject_request(&mut self, frame: &[u8]) {
        self.inject(FRONT, frame);
    }

    /// Lets a backend's frame arrive.
    pub fn inject_reply(&mut self, frame: &[u8]) {
        self.inject(BACK, frame);
    }

    fn inject(&mut self, port: PortId, frame: &[u8]) {
        let is_injected = self.worker.io().inject(port, frame);
        assert!(is_injected, "the receive queue is full");
        self.injected += 1;
    }

    /// Runs a turn, which handles at most [`BATCH`] injected frames. Returns the time it took.
    pub fn turn(&mut self) -> Duration {
        let now = self.next_turn();
        let start = Instant::now();
        self.run_turn(now);
        start.elapsed()
    }

    /// Advances the virtual clock. Returns the time of the next turn, for [`WorkerDriver::run_turn`].
    pub fn next_turn(&mut self) -> Now {
        self.now += PACKET_TIME * std::mem::take(&mut self.injected);
        Now::from_start(self.now)
    }

    /// Runs the worker's turn and nothing else.
    #[inline]
    pub fn run_turn(&mut self, now: Now) {
        self.worker.turn(now);
    }

    /// Where the worker takes new epochs from, and where it returns the old ones.
    pub(crate) fn epochs(&self) -> (Sender<Epoch>, Receiver<Epoch>) {
        self.mailboxes.clone()
    }

    /// Frames sent by this driver's worker.
    pub fn sent(&self) -> u64 {
        self.counters.transmitted.packets.get()
    }

    /// Sessions opened by this driver's worker.
    pub(crate) fn opened(&self) -> u64 {
        self.counters.opened.get()
    }

    /// Sessions that the worker ended: expired or evicted.
    pub(crate) fn ended(&self) -> u64 {
        self.expired() + self.counters.evicted.get()
    }

    /// Sessions that expired.
    pub fn expired(&self) -> u64 {
        self.counters.expired.get()
    }

    /// Sessions that were evicted to make room for others.
    pub fn evicted(&self) -> u64 {
        self.counters.evicted.get()
    }

    /// Runs a turn with requests of new flows. Returns the backends that they were sent to.
    pub(crate) fn backends_of_turn(&mut self) -> Vec<u16> {
        self.turn();
        let sent = self.worker.io().sent();
        sent.iter()
            .filter_map(|(_, frame)| match parse(frame) {
                Ok(Packet::Ip(packet)) => self.testbed.plan.backend_at(packet.destination),
                _ => None,
            })
            .filter_map(|number| u16::try_from(number).ok())
            .collect()
    }

    pub(crate) fn discard_sent(&mut self) {
        self.worker.io().sent();
    }
}

impl Drop for WorkerDriver<'_> {
    fn drop(&mut self) {
        let now = u64::try_from(self.now.as_nanos()).unwrap_or(u64::MAX);
        self.testbed.clock.fetch_max(now, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

    use super::*;
    use crate::addresses::AddressPlan;
    use crate::open::open_sessions;
    use crate::testbed::Size;

    #[test]
    fn packets_of_established_sessions_are_forwarded_both_ways_and_open_no_session() {
        for plan in AddressPlan::ALL {
            let size = Size {
                services: 3,
                ..Size::default()
            };
            let testbed = Testbed::new(plan, size).unwrap();
            let backends = open_sessions(&testbed, size.sessions_max);
            let mut driver = WorkerDriver::new(&testbed, 0, Vec::new());
            let mut frames = testbed.frames();
            for client in 0..size.sessions_max {
                let backend = backends[client as usize].into();
                driver.inject_request(frames.established(client));
                driver.inject_reply(frames.reply(backend, client));
                driver.turn();
            }
            let sent = 2 * u64::from(size.sessions_max);
            assert_eq!(driver.sent(), sent, "{}", plan.name);
            assert_eq!(testbed.sessions(), size.sessions_max as usize);
        }
    }

    #[test]
    fn a_client_gets_a_backend_of_its_service() {
        let size = Size {
            services: 5,
            backends: 2,
            ..Size::default()
        };
        let testbed = Testbed::new(AddressPlan::V4, size).unwrap();
        for (client, backend) in (0_u32..).zip(open_sessions(&testbed, 100)) {
            assert_eq!(u32::from(backend) / 2, client % 5, "client {client}");
        }
    }
}
