//! What the benches of this program have in common.

use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput};
use waxwing_bed::{Established, Plan, Size, World};
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

/// A world without sessions.
pub(crate) fn world(plan: Plan, size: Size) -> World {
    World::new(plan, size).expect("there is the memory for its sessions")
}

/// One that is full of them.
pub(crate) fn established(plan: Plan, sessions: u32) -> Established {
    let size = Size {
        sessions_max: sessions,
        workers: 2,
        ..Size::default()
    };
    Established::new(plan, size).expect("there is the memory for its sessions")
}
