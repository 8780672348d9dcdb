//! What the benches of this program have in common.

use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput};
use waxwing_bed::{Frames, Lane, Order, Plan, Random, Size, World};
use waxwing_dataplane::BATCH;

/// A whole batch.
pub(crate) const FULL: u32 = 64;
const _: () = assert!(FULL as usize == BATCH);

/// A group whose benches take a second or two each, and whose iteration is one packet.
pub(crate) fn group<'a>(criterion: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group
        .sample_size(20)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(800))
        .throughput(Throughput::Elements(1));
    group
}

/// The time of so many packets, from turns of `batch` packets each.
pub(crate) fn of_packets(packets: u64, batch: u32, mut turn: impl FnMut() -> Duration) -> Duration {
    let turns = packets.div_ceil(batch.into());
    let time: Duration = (0..turns).map(|_| turn()).sum();
    let nanos = time.as_nanos() * u128::from(packets) / u128::from(turns * u64::from(batch)).max(1);
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// A world for this many sessions, and for this policy of each worker.
pub(crate) fn world(plan: Plan, size: Size) -> World {
    World::new(plan, size).expect("there is the memory for its sessions")
}

/// Established sessions.
pub(crate) struct Established {
    pub(crate) world: World,
    pub(crate) sessions: u32,
    /// Of each client.
    pub(crate) backends: Vec<u16>,
}

impl Established {
    /// A table that is full of them.
    pub(crate) fn new(plan: Plan, sessions: u32) -> Self {
        let size = Size {
            sessions_max: sessions,
            workers: 2,
            ..Size::default()
        };
        let world = world(plan, size);
        Self {
            backends: world.open(sessions),
            world,
            sessions,
        }
    }
}

/// One worker's packets of established sessions.
pub(crate) struct Hits<'a> {
    established: &'a Established,
    lane: Lane<'a>,
    frames: Frames,
    random: Random,
    order: Order,
    put: u64,
}

impl<'a> Hits<'a> {
    pub(crate) fn new(established: &'a Established, worker: usize, order: Order) -> Self {
        Self {
            established,
            lane: Lane::new(&established.world, worker, Vec::new()),
            frames: established.world.frames(),
            random: Random::new(7 + worker as u64),
            order,
            put: 0,
        }
    }

    /// A batch of requests, from clients within `clients`.
    pub(crate) fn requests(&mut self, clients: std::ops::Range<u32>) -> Duration {
        for _ in 0..FULL {
            let client = self.draw(&clients);
            self.lane.put_request(self.frames.later(client));
        }
        self.turn()
    }

    /// A batch of replies to them.
    pub(crate) fn replies(&mut self, clients: std::ops::Range<u32>) -> Duration {
        for _ in 0..FULL {
            let client = self.draw(&clients);
            let backend = self.established.backends[client as usize].into();
            self.lane.put_reply(self.frames.reply(backend, client));
        }
        self.turn()
    }

    fn draw(&mut self, clients: &std::ops::Range<u32>) -> u32 {
        clients.start
            + self
                .order
                .draw(&mut self.random, clients.end - clients.start)
    }

    fn turn(&mut self) -> Duration {
        self.put += u64::from(FULL);
        self.lane.turn()
    }
}

impl Drop for Hits<'_> {
    fn drop(&mut self) {
        assert_eq!(self.lane.sent(), self.put, "each packet was forwarded");
        let sessions = self.established.sessions as usize;
        assert_eq!(
            self.established.world.sessions(),
            sessions,
            "all of them hits"
        );
    }
}
