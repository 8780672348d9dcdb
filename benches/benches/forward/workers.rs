//! Two workers on one table against one: `workers/TEAM/SESSIONS`, the time of a packet at each worker.
//! What the teams do is said at [`Team`].

use criterion::Criterion;
use waxwing_bed::{Plan, Team};

use crate::stand;

const SESSIONS: [u32; 2] = [1_000, 1_000_000];

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
    group.finish();
}
