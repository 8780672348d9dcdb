//! Two workers on one table against one: `workers/TEAM/SESSIONS`, the time of a packet at each worker.
//! What the teams do is said at [`Team`] and at [`Openers`], whose table has room for so many sessions.

use std::time::Duration;

use criterion::Criterion;
use waxwing_bed::{Openers, Plan, Size, Team};

use crate::stand;

const SESSIONS: [u32; 2] = [1_000, 1_000_000];
/// Room of the table that sessions are opened in, and those that a worker opens before the next table.
const ROOM: u32 = 1_000_000;
const OPENED: u32 = 1 << 18;

pub(crate) fn workers(criterion: &mut Criterion) {
    let mut group = stand::group(criterion, "workers");
    for sessions in SESSIONS {
        let mut established = None;
        for team in Team::ALL {
            group.bench_function(format!("{}/{sessions}", team.name), |b| {
                let established =
                    established.get_or_insert_with(|| stand::established(Plan::V4, sessions));
                b.iter_custom(|packets| team.run(established, packets));
            });
        }
    }
    for team in Openers::ALL {
        group.bench_function(format!("{}/{ROOM}", team.name), |b| {
            b.iter_custom(|packets| open(team, packets));
        });
    }
    group.finish();
}

/// Has each worker open so many sessions, in as many tables as that takes.
fn open(team: Openers, packets: u64) -> Duration {
    let size = Size {
        sessions_max: ROOM,
        workers: 2,
        ..Size::default()
    };
    let mut left = packets;
    let mut time = Duration::ZERO;
    while left > 0 {
        let world = stand::world(Plan::V4, size);
        let some = u32::try_from(left).map_or(OPENED, |left| left.min(OPENED));
        time += team.run(&world, some);
        left -= u64::from(some);
    }
    time
}
