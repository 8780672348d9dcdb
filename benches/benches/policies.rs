//! The cost of a policy's pick, natively and as a module, and of a module's life cycle: instantiation, swap,
//! and recovery after a trap.
//!
//! `pick/POLICY/{native,wasm}/BATCH` picks for a batch over ten backends; the figure is per flow.
//! `pick/empty/wasm` is a module that answers without work, the lower bound. `backends/POLICY/COUNT` picks
//! for a batch of 64 as a module, over more backends. Native and Wasm runs both write the flows into the
//! policy's records first, as the balancer does.

use std::hint::black_box;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{
    BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main,
};
use waxwing_benches::modules::{self, EMPTY, SEED, SERVICE, binding};
use waxwing_dataplane::policy::{PAYLOAD_MAX, PickContext};
use waxwing_dataplane::{BackendId, Gauges, NewFlow, Now, Pick, Policy};
use waxwing_packet::{Address, Protocol};
use waxwing_plugin::Host;
use waxwing_sdk::abi::{BackendRecord, PROTOCOL_UDP};
use waxwing_sdk::testing::{self, Driver, TestFlow};

const BATCHES: [usize; 4] = [1, 8, 32, 64];
const BACKENDS: u32 = 10;
const MORE_BACKENDS: [u32; 3] = [3, 100, 4096];
/// Flows that each measurement cycles through: few enough to stay in the caches, like those of a batch, which
/// the balancer has just collected.
const FLOWS: usize = 256;

macro_rules! bench_each {
    ($($name:ident :: $policy:ident, $package:literal, $config:literal;)*) => {
        const PACKAGES: &[&str] = &[$($package),*];

        fn picks(criterion: &mut Criterion, host: &Host) {
            $(
                let mut group = short(criterion, concat!("pick/", stringify!($name)));
                native::<waxwing_policies::$name::$policy>(&mut group, stringify!($name), $config);
                wasm(&mut group, host, stringify!($name), $config);
                group.finish();
            )*
        }

        fn more_backends(criterion: &mut Criterion, host: &Host) {
            $(
                let mut group = short(criterion, concat!("backends/", stringify!($name)));
                group.throughput(Throughput::Elements(64));
                for count in MORE_BACKENDS {
                    let records = records(stringify!($name), count);
                    // Some policies reject some numbers of backends.
                    let Some(mut wasm) = Wasm::new(host, stringify!($name), $config, &records) else {
                        continue;
                    };
                    group.bench_function(BenchmarkId::from_parameter(count), |bench| {
                        bench.iter(|| wasm.pick(64));
                    });
                }
                group.finish();
            )*
        }
    };
}

waxwing_policies::for_each_policy!(bench_each);

fn short<'a>(criterion: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group
        .sample_size(20)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(400));
    group
}

/// Backends of different weights, with the tags that the policy's config refers to.
fn records(name: &str, count: u32) -> Vec<BackendRecord> {
    let tags = if name == "quic_connection_id" {
        count
    } else {
        3
    };
    let record = |id: u32| BackendRecord {
        tag: 1 + id % tags,
        ..testing::backend(id, 1 + id % 3)
    };
    (0..count).map(record).collect()
}

/// Flows that suit the policy: UDP for DNS and QUIC.
fn flows(name: &str) -> Vec<TestFlow> {
    let udp = ["dns_name", "quic_connection_id"].contains(&name);
    let query = b"\0\x01\x01\0\0\x01\0\0\0\0\0\0\x03www\x08internal\x04test\0\0\x01\0\x01";
    let short_header = |at: usize| {
        let id = u32::try_from(at % 10 + 1).unwrap_or(1).to_be_bytes();
        [&[0x40, 0][..], &id, &[7; 40]].concat()
    };
    let payload = |(at, mut flow): (usize, TestFlow)| {
        if udp {
            flow.record.protocol = PROTOCOL_UDP;
        }
        match name {
            "dns_name" => flow.with_payload(query),
            _ => flow.with_payload(&short_header(at)),
        }
    };
    testing::flows(SEED)
        .take(FLOWS)
        .enumerate()
        .map(payload)
        .collect()
}

fn new_flow(flow: &TestFlow) -> NewFlow {
    let mut payload = [0; PAYLOAD_MAX];
    payload[..flow.payload.len()].copy_from_slice(&flow.payload);
    NewFlow {
        source: Address::v6(flow.record.source),
        source_port: flow.record.source_port,
        destination: Address::v6(flow.record.destination),
        destination_port: flow.record.destination_port,
        protocol: if flow.record.protocol == PROTOCOL_UDP {
            Protocol::Udp
        } else {
            Protocol::Tcp
        },
        hash: flow.record.hash,
        mid_stream: false,
        payload_len: u8::try_from(flow.payload.len()).unwrap_or(u8::MAX),
        payload,
    }
}

fn native<P: waxwing_sdk::Policy>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    config: &str,
) {
    let records = records(name, BACKENDS);
    let flows = flows(name);
    for batch in BATCHES {
        let mut driver =
            Driver::<P>::start(config, &records, SEED).expect("the policy accepts the config");
        let mut batches = flows.chunks_exact(batch).cycle();
        let mut picks = Vec::with_capacity(batch);
        let mut nanos = 0_u64;
        group.throughput(Throughput::Elements(batch as u64));
        group.bench_function(BenchmarkId::new("native", batch), |bench| {
            bench.iter(|| {
                // The host resets this before each call; otherwise sessions would accumulate.
                for record in driver.live_mut() {
                    record.half_open = 10;
                }
                nanos += 20_000;
                driver.host_mut().now_ms = nanos / 1_000_000;
                let flows = batches.next().expect("the iterator is endless");
                driver.pick_into(flows, &mut picks);
                black_box(&picks);
            });
        });
    }
}

fn wasm(group: &mut BenchmarkGroup<'_, WallTime>, host: &Host, name: &str, config: &str) {
    let mut instance = Wasm::new(host, name, config, &records(name, BACKENDS))
        .expect("the policy accepts the config");
    for batch in BATCHES {
        group.throughput(Throughput::Elements(batch as u64));
        group.bench_function(BenchmarkId::new("wasm", batch), |bench| {
            bench.iter(|| instance.pick(batch));
        });
    }
}

/// A module's instance that picks.
struct Wasm {
    policy: Box<dyn Policy>,
    ids: Vec<BackendId>,
    gauges: Gauges,
    flows: Vec<NewFlow>,
    at: usize,
    nanos: u64,
    picks: [Pick; 64],
}

impl Wasm {
    fn new(host: &Host, name: &str, config: &str, records: &[BackendRecord]) -> Option<Self> {
        Some(Self {
            policy: modules::instance(host, name, config, records)?,
            ids: records.iter().map(|r| BackendId(r.id)).collect(),
            gauges: Gauges::new(records.len(), 1),
            flows: flows(name).iter().map(new_flow).collect(),
            at: 0,
            nanos: 0,
            picks: [Pick::Fallback; 64],
        })
    }

    fn pick(&mut self, batch: usize) {
        self.at = if self.at + 2 * batch > FLOWS {
            0
        } else {
            self.at + batch
        };
        // The millisecond changes now and then, as in production.
        self.nanos += 20_000;
        let context = PickContext {
            now: Now::from_start(Duration::from_nanos(self.nanos)),
            backends: &self.ids,
            gauges: &self.gauges,
        };
        let flows = &self.flows[self.at..self.at + batch];
        self.policy
            .pick(SERVICE, context, flows, &mut self.picks[..batch])
            .expect("the pick succeeds");
        black_box(&self.picks);
    }
}

/// A module's life cycle: instantiation; a swap, which drops the previous instance; a trap with its report.
fn life_cycle(criterion: &mut Criterion, host: &Host) {
    let mut group = short(criterion, "module");
    let services = [binding("{}", &records("round_robin", BACKENDS))];
    let module = host.policy("round_robin").expect("the module is shipped");
    group.bench_function("instantiate", |bench| {
        bench.iter(|| {
            host.instantiate(&module, 0, SEED, &services)
                .expect("the instance starts")
        });
    });
    group.bench_function("swap", |bench| {
        let mut serving = host
            .instantiate(&module, 0, SEED, &services)
            .expect("the instance starts");
        bench.iter(|| {
            let next = host
                .instantiate(&module, 0, SEED, &services)
                .expect("the instance starts");
            host.activate(&module, false);
            serving = next;
        });
        black_box(serving.payload_len());
    });
    group.bench_function("trap_and_recover", |bench| {
        let module = host.policy("trap").expect("the module is shipped");
        let mut wasm =
            Wasm::new(host, "trap", "{}", &records("trap", BACKENDS)).expect("the instance starts");
        bench.iter(|| {
            wasm.policy = host
                .instantiate(&module, 0, SEED, &services)
                .expect("the instance starts");
            let context = PickContext {
                now: Now::default(),
                backends: &wasm.ids,
                gauges: &wasm.gauges,
            };
            let picks = &mut wasm.picks[..1];
            let trapped = wasm.policy.pick(SERVICE, context, &wasm.flows[..1], picks);
            assert!(trapped.is_err(), "the pick traps");
        });
    });
    group.finish();
}

/// The empty module with a trap on flows from ports that its vetting does not use.
fn trap() -> String {
    let pick = "(local.get $n)))";
    let trapping = "(if (i32.gt_u (i32.load16_u offset=2088 (i32.const 0)) (i32.const 2000))
                     (then unreachable))
                   (local.get $n)))";
    EMPTY.replace(pick, trapping)
}

fn policies(criterion: &mut Criterion) {
    let host = modules::host(PACKAGES, &[("trap", &trap()), ("empty", EMPTY)]);
    let mut group = short(criterion, "pick/empty");
    wasm(&mut group, &host, "empty", "{}");
    group.finish();
    picks(criterion, &host);
    more_backends(criterion, &host);
    life_cycle(criterion, &host);
}

criterion_group!(benches, policies);
criterion_main!(benches);
