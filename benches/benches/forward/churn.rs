//! Sessions that come and go: nine of ten packets are of sessions that are at work, the tenth opens a
//! new one (`mixed/…`).
//!
//! `mixed/lasting` has a table in which none ends; `mixed/expiring` one in which as many end, by time,
//! as begin: the difference is what expiry takes, on the sweep and on the table.

use std::time::Duration;

use criterion::Criterion;
use waxwing_bed::{Frames, Lane, Plan, Random, Size, World, of_packets};

use crate::stand::{self, FULL};

/// Sessions at work at one time. With a new one every ten microseconds each works for a second.
const AT_WORK: u32 = 100_000;
const SESSIONS_MAX: u32 = 1 << 20;
/// Of each, one packet is of a new session.
const PACKETS: u32 = 10;

pub(crate) fn churn(criterion: &mut Criterion) {
    let mut group = stand::group(criterion, "mixed");
    group.bench_function("lasting", |b| {
        b.iter_custom(|packets| {
            let room = u64::from((SESSIONS_MAX - AT_WORK) * PACKETS);
            let mut left = packets;
            let mut time = Duration::ZERO;
            while left > 0 {
                let world = world(Duration::from_secs(86_400));
                let mut churn = Churn::new(&world);
                churn.begin();
                let some = left.min(room - room % u64::from(FULL));
                time += of_packets(some, FULL, || churn.turn());
                churn.check();
                assert_eq!(churn.lane.expired(), 0, "every session lasts");
                left -= some;
            }
            time
        });
    });
    group.bench_function("expiring", |b| {
        let world = world(Duration::from_secs(2));
        let mut churn = Churn::new(&world);
        // Until as many end as begin: the timeout, and a round of the sweep.
        churn.begin();
        while churn.lane.expired() < u64::from(SESSIONS_MAX) {
            churn.turn();
        }
        b.iter_custom(|packets| of_packets(packets, FULL, || churn.turn()));
        churn.check();
    });
    group.finish();
}

fn world(udp_timeout: Duration) -> World {
    let size = Size {
        sessions_max: SESSIONS_MAX,
        udp_timeout,
        ..Size::default()
    };
    stand::world(Plan::V4_UDP, size)
}

struct Churn<'a> {
    world: &'a World,
    lane: Lane<'a>,
    frames: Frames,
    random: Random,
    /// The client that comes next; the [`AT_WORK`] before it are at work.
    next: u32,
    packet: u32,
    put: u64,
}

impl<'a> Churn<'a> {
    fn new(world: &'a World) -> Self {
        Self {
            world,
            lane: Lane::new(world, 0, Vec::new()),
            frames: world.frames(),
            random: Random::new(7),
            next: 0,
            packet: 0,
            put: 0,
        }
    }

    /// Opens the first sessions.
    fn begin(&mut self) {
        while self.next < AT_WORK {
            for _ in 0..FULL.min(AT_WORK - self.next) {
                self.open();
            }
            self.lane.turn();
        }
    }

    fn turn(&mut self) -> Duration {
        for _ in 0..FULL {
            self.packet += 1;
            if self.packet == PACKETS {
                self.packet = 0;
                self.open();
            } else {
                let client = self.next - 1 - self.random.below(AT_WORK);
                self.lane.put_request(self.frames.later(client));
                self.put += 1;
            }
        }
        self.lane.turn()
    }

    fn open(&mut self) {
        self.lane.put_request(self.frames.opening(self.next));
        self.put += 1;
        self.next += 1;
    }

    /// That it measured what it says.
    ///
    /// # Panics
    /// A packet was not forwarded, one of a session at work opened another, or one had to make room.
    fn check(&self) {
        assert_eq!(self.lane.sent(), self.put, "each packet is forwarded");
        assert_eq!(self.lane.evicted(), 0, "the table has room");
        let made = self.world.sessions() as u64 + self.lane.expired();
        assert_eq!(made, u64::from(self.next), "each client has one session");
    }
}
