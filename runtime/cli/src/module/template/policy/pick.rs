//! Times the policy by batch size, natively and as a module in the balancer's own host.
//!
//! The first packets of new sessions come in batches. A call into the module costs about 30 ns,
//! which the flows of a batch share. `waxwing module bench` times the module alone.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use waxwing_sdk::HostBench;
use waxwing_sdk::testing::{self, Driver, TestFlow};

use {{library}}::ClientHash;

const BATCHES: [usize; 4] = [1, 8, 32, 64];
const CONFIG: &str = "{}";
/// As many backends as the host's side has.
const WEIGHTS: [u32; 8] = [1; 8];

fn pick(criterion: &mut Criterion) {
    let mut native = Driver::<ClientHash>::start(CONFIG, &testing::backends(&WEIGHTS), 1)
        .expect("the policy takes its config");
    let flows: Vec<TestFlow> = testing::flows(1).take(64).collect();
    let mut wasm = HostBench::start(env!("CARGO_MANIFEST_DIR"), CONFIG)
        .inspect_err(|why| eprintln!("native only: {why}"))
        .ok();

    let mut group = criterion.benchmark_group("pick");
    for batch in BATCHES {
        group.throughput(Throughput::Elements(batch as u64));
        group.bench_function(BenchmarkId::new("native", batch), |bencher| {
            bencher.iter(|| native.pick(&flows[..batch]));
        });
        if let Some(wasm) = &mut wasm {
            group.bench_function(BenchmarkId::new("wasm", batch), |bencher| {
                bencher.iter_custom(|calls| wasm.run(batch, calls));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, pick);
criterion_main!(benches);
