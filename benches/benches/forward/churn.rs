//! Mixed traffic (`mixed/…`): nine of ten packets belong to active sessions, the tenth opens a session.
//!
//! In `mixed/lasting` no session ends. In `mixed/expiring` as many sessions expire as are opened. The
//! difference is the cost of expiry: of the sweep and of the table.

use std::time::Duration;

use criterion::Criterion;
use waxwing_bench_core::{AddressPlan, Frames, Random, Size, Testbed, WorkerDriver, time_packets};

use crate::setup::{self, FULL};

/// Sessions that are active at a time. With a new one every ten microseconds, each is active for a second.
const ACTIVE: u32 = 100_000;
const SESSIONS_MAX: u32 = 1 << 20;
/// One packet in this many opens a session.
const PACKETS: u32 = 10;

pub(crate) fn churn(criterion: &mut Criterion) {
    let mut group = setup::group(criterion, "mixed");
    group.bench_function("lasting", |b| {
        b.iter_custom(|packets| setup::at_least_timed(packets, lasting));
    });
    group.bench_function("expiring", |b| {
        let testbed = new_testbed(Duration::from_secs(2));
        let mut churn = Churn::new(&testbed);
        // Runs until as many sessions expire as are opened: for the timeout and a round of the sweep.
        churn.open_first();
        while churn.driver.expired() < u64::from(SESSIONS_MAX) {
            churn.turn();
        }
        b.iter_custom(|packets| time_packets(packets, FULL, || churn.turn()));
        churn.check();
    });
    group.finish();
}

/// Returns the time of `packets`, in as many tables as needed.
fn lasting(packets: u64) -> Duration {
    let room = u64::from((SESSIONS_MAX - ACTIVE) * PACKETS);
    let mut left = packets;
    let mut time = Duration::ZERO;
    while left > 0 {
        let testbed = new_testbed(Duration::from_secs(86_400));
        let mut churn = Churn::new(&testbed);
        churn.open_first();
        let some = left.min(room - room % u64::from(FULL));
        time += time_packets(some, FULL, || churn.turn());
        churn.check();
        assert_eq!(churn.driver.expired(), 0, "every session lasts");
        left -= some;
    }
    time
}

fn new_testbed(udp_timeout: Duration) -> Testbed {
    let size = Size {
        sessions_max: SESSIONS_MAX,
        udp_timeout,
        ..Size::default()
    };
    setup::testbed(AddressPlan::V4_UDP, size)
}

struct Churn<'a> {
    testbed: &'a Testbed,
    driver: WorkerDriver<'a>,
    frames: Frames,
    random: Random,
    /// The next client; the [`ACTIVE`] clients before it have active sessions.
    next: u32,
    /// Packets since the last one that opened a session.
    packet: u32,
    injected: u64,
}

impl<'a> Churn<'a> {
    fn new(testbed: &'a Testbed) -> Self {
        Self {
            testbed,
            driver: WorkerDriver::new(testbed, 0, Vec::new()),
            frames: testbed.frames(),
            random: Random::new(7),
            next: 0,
            packet: 0,
            injected: 0,
        }
    }

    /// Opens the first sessions.
    fn open_first(&mut self) {
        while self.next < ACTIVE {
            for _ in 0..FULL.min(ACTIVE - self.next) {
                self.open();
            }
            self.driver.turn();
        }
    }

    fn turn(&mut self) -> Duration {
        for _ in 0..FULL {
            self.packet += 1;
            if self.packet == PACKETS {
                self.packet = 0;
                self.open();
            } else {
                let client = self.next - 1 - self.random.below(ACTIVE);
                self.driver.inject_request(self.frames.established(client));
                self.injected += 1;
            }
        }
        self.driver.turn()
    }

    fn open(&mut self) {
        self.driver.inject_request(self.frames.opening(self.next));
        self.injected += 1;
        self.next += 1;
    }

    /// Checks that the traffic was as described.
    fn check(&self) {
        assert_eq!(
            self.driver.sent(),
            self.injected,
            "each packet is forwarded"
        );
        assert_eq!(self.driver.evicted(), 0, "the table has room");
        let opened = self.testbed.sessions() as u64 + self.driver.expired();
        assert_eq!(opened, u64::from(self.next), "each client has one session");
    }
}
