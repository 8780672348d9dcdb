//! One or two workers on one table: `workers/SCENARIO/SESSIONS`, the time per packet at each worker. See
//! [`EstablishedScenario`] and [`OpenScenario`]; for the latter, `SESSIONS` is the table's capacity.

use std::time::Duration;

use criterion::Criterion;
use waxwing_bench_core::{AddressPlan, EstablishedScenario, OpenScenario, Size};

use crate::setup;

const SESSIONS: [u32; 2] = [1_000, 1_000_000];
/// The capacity of tables in which sessions are opened, and the sessions that a worker opens per table.
const CAPACITY: u32 = 1_000_000;
const OPENED: u32 = 1 << 18;

pub(crate) fn workers(criterion: &mut Criterion) {
    let mut group = setup::group(criterion, "workers");
    for sessions in SESSIONS {
        let mut established = None;
        for scenario in EstablishedScenario::ALL {
            group.bench_function(format!("{}/{sessions}", scenario.name), |b| {
                let established = established
                    .get_or_insert_with(|| setup::established(AddressPlan::V4, sessions));
                b.iter_custom(|packets| scenario.run(established, packets));
            });
        }
    }
    for scenario in OpenScenario::ALL {
        group.bench_function(format!("{}/{CAPACITY}", scenario.name), |b| {
            b.iter_custom(|packets| open(scenario, packets));
        });
    }
    group.finish();
}

/// Returns the workers' mean time to open `packets` sessions each, in as many tables as needed.
fn open(scenario: OpenScenario, packets: u64) -> Duration {
    let size = Size {
        sessions_max: CAPACITY,
        workers: 2,
        ..Size::default()
    };
    setup::at_least_timed(packets, |packets| {
        let mut left = packets;
        let mut time = Duration::ZERO;
        while left > 0 {
            let testbed = setup::testbed(AddressPlan::V4, size);
            let some = u32::try_from(left).map_or(OPENED, |left| left.min(OPENED));
            time += scenario.run(&testbed, some);
            left -= u64::from(some);
        }
        time
    })
}
