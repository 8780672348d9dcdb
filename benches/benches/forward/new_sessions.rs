//! A packet that opens a session: `miss/PICKER/BATCH`. The backend is picked by the native fallback, by the
//! policy `round_robin` as native code, or by its shipped module.

use std::cell::OnceCell;
use std::time::Duration;

use criterion::Criterion;
use waxwing_bench_core::{AddressPlan, NewSessions, Size, Testbed, time_packets};
use waxwing_benches::modules;
use waxwing_benches::native::Native;
use waxwing_dataplane::Policy;
use waxwing_plugin::Host;
use waxwing_policies::round_robin::RoundRobin;
use waxwing_sdk::abi::BackendRecord;
use waxwing_sdk::testing;

use crate::setup;

const BATCHES: [u32; 4] = [1, 8, 32, 64];
/// Sessions per table.
const SESSIONS: u32 = 1 << 18;
/// Turns before the clock starts: a new instance's memory and code are cold.
const WARM_UP: u32 = 64;
const BACKENDS: u32 = 8;

/// Makes a worker's policies.
type Policies<'a> = &'a dyn Fn() -> Vec<Box<dyn Policy>>;

pub(crate) fn new_sessions(criterion: &mut Criterion) {
    let mut group = setup::group(criterion, "miss");
    let host = OnceCell::new();
    let host = || host.get_or_init(|| modules::host(&["waxwing-policy-round-robin"], &[]));
    let pickers: [(&str, Policies<'_>); 3] = [
        ("fallback", &Vec::new),
        ("native", &native),
        ("wasm", &|| wasm(host())),
    ];
    for (name, policies) in pickers {
        for batch in BATCHES {
            group.bench_function(format!("{name}/{batch}"), |b| {
                b.iter_custom(|packets| open(packets, batch, policies));
            });
        }
    }
    group.finish();
}

/// Returns the time to open `packets` sessions, in as many tables as needed.
fn open(packets: u64, batch: u32, policies: Policies<'_>) -> Duration {
    setup::at_least_timed(packets, |packets| {
        let mut left = packets;
        let mut time = Duration::ZERO;
        while left > 0 {
            let testbed = new_testbed();
            let mut new = NewSessions::new(&testbed, policies());
            for _ in 0..WARM_UP {
                new.turn(batch);
            }
            let some = left.min((SESSIONS - WARM_UP * batch).into());
            time += time_packets(some, batch, || new.turn(batch));
            new.end();
            left -= some;
        }
        time
    })
}

fn new_testbed() -> Testbed {
    let size = Size {
        sessions_max: SESSIONS,
        backends: BACKENDS,
        ..Size::default()
    };
    setup::testbed(AddressPlan::V4, size)
}

fn records() -> Vec<BackendRecord> {
    (0..BACKENDS).map(|id| testing::backend(id, 1)).collect()
}

fn native() -> Vec<Box<dyn Policy>> {
    let policy =
        Native::<RoundRobin>::new("{}", &records()).expect("the policy accepts the backends");
    vec![Box::new(policy)]
}

fn wasm(host: &Host) -> Vec<Box<dyn Policy>> {
    let policy = modules::instance(host, "round_robin", "{}", &records());
    vec![policy.expect("the policy accepts the backends")]
}
