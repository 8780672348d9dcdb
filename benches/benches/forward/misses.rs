//! A packet that opens a session: `miss/WHO/BATCH`, where the native fallback chooses its backend, or
//! the policy `round_robin` as native code, or as the module that ships.

use std::cell::OnceCell;
use std::time::Duration;

use criterion::Criterion;
use waxwing_bed::{Opening, Plan, Size, World, of_packets};
use waxwing_benches::modules;
use waxwing_benches::native::Native;
use waxwing_dataplane::Policy;
use waxwing_plugin::Host;
use waxwing_policies::round_robin::RoundRobin;
use waxwing_sdk::abi::BackendRecord;
use waxwing_sdk::testing;

use crate::stand;

const BATCHES: [u32; 4] = [1, 8, 32, 64];
/// Sessions that a table takes before the next one.
const SESSIONS: u32 = 1 << 18;
const BACKENDS: u32 = 8;

/// Makes a worker's policies.
type Policies<'a> = &'a dyn Fn() -> Vec<Box<dyn Policy>>;

pub(crate) fn misses(criterion: &mut Criterion) {
    let mut group = stand::group(criterion, "miss");
    let host = OnceCell::new();
    let host = || host.get_or_init(|| modules::host(&["waxwing-policy-round-robin"], &[]));
    let sides: [(&str, Policies<'_>); 3] = [
        ("fallback", &Vec::new),
        ("native", &native),
        ("wasm", &|| wasm(host())),
    ];
    for (name, policies) in sides {
        for batch in BATCHES {
            group.bench_function(format!("{name}/{batch}"), |b| {
                b.iter_custom(|packets| open(packets, batch, policies));
            });
        }
    }
    group.finish();
}

/// Has so many clients open a session each, in as many tables as that takes.
fn open(packets: u64, batch: u32, policies: Policies<'_>) -> Duration {
    let mut left = packets;
    let mut time = Duration::ZERO;
    while left > 0 {
        let world = new_world();
        let mut opening = Opening::new(&world, policies());
        let some = left.min(SESSIONS.into());
        time += of_packets(some, batch, || opening.turn(batch));
        opening.end();
        left -= some;
    }
    time
}

fn new_world() -> World {
    let size = Size {
        sessions_max: SESSIONS,
        backends: BACKENDS,
        ..Size::default()
    };
    stand::world(Plan::V4, size)
}

fn records() -> Vec<BackendRecord> {
    (0..BACKENDS).map(|id| testing::backend(id, 1)).collect()
}

fn native() -> Vec<Box<dyn Policy>> {
    let policy = Native::<RoundRobin>::new("{}", &records()).expect("it takes them");
    vec![Box::new(policy)]
}

fn wasm(host: &Host) -> Vec<Box<dyn Policy>> {
    let policy = modules::instance(host, "round_robin", "{}", &records());
    vec![policy.expect("it takes them")]
}
