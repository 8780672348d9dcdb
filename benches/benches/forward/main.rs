//! The packet's way in memory: parse, look up, NAT, send; batches of 64 where nothing else is said.
//!
//! What is timed is a worker's turn; making frames and putting them in is not. A name is
//! `WHAT/FAMILY/…`; sessions are made when the first bench that needs them runs, so a filter is quick.
//!
//! Invariant: that hits are hits and misses misses is checked, by the frames sent and the sessions made.

mod churn;
mod hits;
mod misses;
mod stand;
mod workers;

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use waxwing_bed::{Frames, Plan};
use waxwing_packet::parse;

fn parsing(criterion: &mut Criterion) {
    let mut group = stand::group(criterion, "parse");
    for plan in [Plan::V4, Plan::V6] {
        let mut frames = Frames::new(plan, 1);
        let frame = frames.later(0);
        group.bench_function(plan.name, |b| {
            b.iter(|| parse(black_box(frame)));
        });
    }
    group.finish();
}

criterion_group!(
    benches,
    parsing,
    hits::hits,
    misses::misses,
    churn::churn,
    workers::workers
);
criterion_main!(benches);
