//! A packet of an established session: `hit/FAMILY/ORDER/SESSIONS`; the table is full.

use criterion::Criterion;
use waxwing_bench_core::{AddressPlan, EstablishedTraffic, Order, time_packets};

use crate::setup::{self, FULL};

const SESSIONS: [u32; 4] = [1_000, 100_000, 1_000_000, 8_000_000];

pub(crate) fn established(criterion: &mut Criterion) {
    let mut group = setup::group(criterion, "hit");
    for plan in [AddressPlan::V4, AddressPlan::V6] {
        for sessions in SESSIONS {
            let mut established = None;
            for order in Order::ALL {
                let name = format!("{}/{}/{sessions}", plan.name, order.name());
                group.bench_function(name, |b| {
                    let established =
                        established.get_or_insert_with(|| setup::established(plan, sessions));
                    let mut traffic = EstablishedTraffic::new(established, 0, order);
                    b.iter_custom(|packets| {
                        time_packets(packets, FULL, || traffic.requests(0..sessions))
                    });
                    traffic.end();
                });
            }
        }
    }
    group.finish();
}
