//! A packet of an established session: `hit/FAMILY/ORDER/SESSIONS`, in a table that is full of them.

use criterion::Criterion;
use waxwing_bed::{Hits, Order, Plan, of_packets};

use crate::stand::{self, FULL};

const SESSIONS: [u32; 4] = [1_000, 100_000, 1_000_000, 8_000_000];

pub(crate) fn hits(criterion: &mut Criterion) {
    let mut group = stand::group(criterion, "hit");
    for plan in [Plan::V4, Plan::V6] {
        for sessions in SESSIONS {
            let mut established = None;
            for order in Order::ALL {
                let name = format!("{}/{}/{sessions}", plan.name, order.name());
                group.bench_function(name, |b| {
                    let established =
                        established.get_or_insert_with(|| stand::established(plan, sessions));
                    let mut hits = Hits::new(established, 0, order);
                    b.iter_custom(|packets| {
                        of_packets(packets, FULL, || hits.requests(0..sessions))
                    });
                    hits.end();
                });
            }
        }
    }
    group.finish();
}
