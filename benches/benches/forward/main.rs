//! Forwarding in memory: parse, look up, NAT, send; in batches of 64 unless stated otherwise.
//!
//! Only the worker's turn is timed, not making and injecting frames. Names are `WHAT/FAMILY/…`. Sessions are
//! opened when the first bench that needs them runs, so a filtered run is quick.
//!
//! Invariant: each bench checks by frames sent and sessions opened that hits were hits and misses misses.

mod churn;
mod established;
mod new_sessions;
mod setup;
mod workers;

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use waxwing_bench_core::{AddressPlan, Frames};
use waxwing_packet::parse;

fn parsing(criterion: &mut Criterion) {
    let mut group = setup::group(criterion, "parse");
    for plan in [AddressPlan::V4, AddressPlan::V6] {
        let mut frames = Frames::new(plan, 1);
        let frame = frames.established(0);
        group.bench_function(plan.name, |b| {
            b.iter(|| parse(black_box(frame)));
        });
    }
    group.finish();
}

criterion_group!(
    benches,
    parsing,
    established::established,
    new_sessions::new_sessions,
    churn::churn,
    workers::workers
);
criterion_main!(benches);
