//! Set-ups of this program's benches.

use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput};
use waxwing_bench_core::{AddressPlan, EstablishedTestbed, Size, Testbed};
use waxwing_dataplane::BATCH;

/// The frames of a full batch.
pub(crate) const FULL: u32 = 64;
const _: () = assert!(FULL as usize == BATCH);

/// A group whose benches take one or two seconds each; an iteration is one packet.
pub(crate) fn group<'a>(criterion: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group
        .sample_size(20)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(800))
        .throughput(Throughput::Elements(1));
    group
}

/// Returns the time of `packets`, from `time` for these or more. Criterion plans a sample by all the time of
/// its warm-up, to which tables and instances belong, and so may plan a single packet.
pub(crate) fn at_least_timed(packets: u64, time: impl FnOnce(u64) -> Duration) -> Duration {
    const TIMED_MIN: u64 = 1 << 14;
    let timed = packets.max(TIMED_MIN);
    let nanos = time(timed).as_nanos() * u128::from(packets) / u128::from(timed);
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// A testbed without sessions.
pub(crate) fn testbed(plan: AddressPlan, size: Size) -> Testbed {
    Testbed::new(plan, size).expect("the session table fits in memory")
}

/// A testbed for two workers whose table is full of sessions.
pub(crate) fn established(plan: AddressPlan, sessions: u32) -> EstablishedTestbed {
    let size = Size {
        sessions_max: sessions,
        workers: 2,
        ..Size::default()
    };
    EstablishedTestbed::new(plan, size).expect("the session table fits in memory")
}
