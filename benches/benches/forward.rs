//! The packet's way in memory: parse, look up, NAT, send; one worker, batches of 64.
//!
//! What is timed is [`Worker::turn`]; putting the frames in is not.

use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use crossbeam_channel::unbounded;
use waxwing_dataplane::counters::WorkerCounters;
use waxwing_dataplane::epoch::Release;
use waxwing_dataplane::forward::Shared;
use waxwing_dataplane::memory::MemoryIo;
use waxwing_dataplane::session::SessionTable;
use waxwing_dataplane::snapshot::{
    Backend, MidStream, NextHops, NoBackend, Port, Service, SourceUse, Timeouts,
};
use waxwing_dataplane::worker::{Worker, WorkerSetup};
use waxwing_dataplane::{
    BATCH, BackendId, Epoch, FragmentLimits, FragmentTable, Gauges, NextHop, Now, PortId, Ports,
    ServiceId, Snapshot,
};
use waxwing_packet::{Address, Link, Mac, Protocol, TcpFlags, build, parse};

const FRONT: PortId = PortId(0);
const BACK: PortId = PortId(1);
const BACKENDS: u32 = 8;

/// Addresses of one family.
#[derive(Clone, Copy)]
struct Plan {
    name: &'static str,
    vip: Address,
    clients: Address,
    backends: Address,
}

const V4: Plan = Plan {
    name: "v4",
    vip: Address::v4([203, 0, 113, 10]),
    clients: Address::v4([100, 64, 0, 0]),
    backends: Address::v4([10, 2, 0, 10]),
};

const V6: Plan = Plan {
    name: "v6",
    vip: Address::v6([0x20, 1, 0xd, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10]),
    clients: Address::v6([0x20, 1, 0xd, 0xb8, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
    backends: Address::v6([0xfd, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10]),
};

fn offset(address: Address, by: u32) -> Address {
    Address::from_bits(address.bits() + u128::from(by))
}

/// The `n`-th client's packet to the VIP.
fn request(plan: Plan, n: u32, flags: u8) -> Vec<u8> {
    build::Tcp {
        link: Link {
            source: Mac([2, 0, 0, 0, 1, 0]),
            destination: Mac([2, 0, 0, 0, 0, 1]),
        },
        source: (offset(plan.clients, n), 4000),
        destination: (plan.vip, 80),
        flags: TcpFlags(flags),
        ..build::Tcp::default()
    }
    .frame()
}

struct Bench {
    worker: Worker<MemoryIo>,
    now: Duration,
}

impl Bench {
    fn new(plan: Plan, sessions_max: u32) -> Self {
        let shared = Shared {
            sessions: Arc::new(SessionTable::new(sessions_max, [1, 2, 3, 4]).expect("memory")),
            next_hops: Arc::new(NextHops::new(64)),
            gauges: Arc::new(Gauges::new(64, 1)),
            fragments: Arc::new(FragmentTable::new(FragmentLimits::default(), [5, 6, 7, 8])),
        };
        let service = Service {
            id: ServiceId(0),
            name: "bench".into(),
            vip: plan.vip,
            ports: Ports::one(80),
            protocol: Protocol::Tcp,
            source_nat: SourceUse::Auto,
            policy: 0,
            backends: (0..BACKENDS).map(BackendId).collect(),
            mid_stream: MidStream::Pick,
            no_backend: NoBackend::Drop,
            timeouts: Timeouts::default(),
        };
        let backends = (0..BACKENDS)
            .map(|n| {
                let id = BackendId(n);
                let hop = NextHop {
                    port: BACK,
                    mac: Mac([2, 0, 0, 0, 2, 0]),
                };
                shared.next_hops.set(id, Some(hop));
                Backend::new(id, &service, offset(plan.backends, n), 8080, 1)
            })
            .collect();
        let port = |id, name: &str, last| {
            Port::attached(id, name.into(), Mac([2, 0, 0, 0, 0, last]), 1500)
        };
        let ports = vec![port(FRONT, "front", 1), port(BACK, "back", 2)];
        let epoch = Epoch {
            snapshot: Arc::new(Snapshot::new(1, vec![service], backends, ports)),
            policies: Vec::new(),
            kept: Vec::new(),
            release: Release::held(),
        };
        let mut io = MemoryIo::new(2, 2 * BATCH);
        io.recycle_sent();
        let setup = WorkerSetup {
            number: 1,
            workers: 1,
            shared,
            counters: Arc::new(WorkerCounters::new(64)),
            cluster_key: [5, 6, 7, 8],
            mailbox: unbounded().1,
            returned: unbounded().0,
        };
        Self {
            worker: Worker::new(io, setup, epoch),
            now: Duration::from_secs(1),
        }
    }

    /// Puts a batch in and times its turn.
    fn turn<'a>(&mut self, frames: impl Iterator<Item = &'a Vec<u8>>) -> Duration {
        for frame in frames {
            assert!(
                self.worker.io().inject(FRONT, frame),
                "the pool is large enough"
            );
        }
        let start = Instant::now();
        self.worker.turn(Now::from_start(self.now));
        start.elapsed()
    }
}

fn parsing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("parse");
    for plan in [V4, V6] {
        let frame = request(plan, 0, TcpFlags::ACK);
        group.bench_function(plan.name, |b| {
            b.iter(|| parse(std::hint::black_box(&frame)));
        });
    }
}

/// A packet of an established session, sessions chosen at random.
fn hits(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("hit");
    group.throughput(Throughput::Elements(1));
    for (plan, sessions) in [(V4, 1_000), (V4, 100_000), (V4, 1_000_000), (V6, 1_000)] {
        let mut bench = Bench::new(plan, 2 * sessions);
        for batch in (0..sessions).collect::<Vec<_>>().chunks(BATCH) {
            let frames: Vec<_> = batch
                .iter()
                .map(|n| request(plan, *n, TcpFlags::SYN))
                .collect();
            bench.turn(frames.iter());
        }
        // Made beforehand, so that building frames costs the caches nothing between turns.
        let mut random = Random(7);
        let frames: Vec<Vec<u8>> = (0..16_384)
            .map(|_| request(plan, random.below(sessions), TcpFlags::ACK))
            .collect();
        let mut at = 0;
        group.bench_function(format!("{}/{sessions}", plan.name), |b| {
            b.iter_custom(|packets| {
                let mut time = Duration::ZERO;
                for _ in 0..packets.div_ceil(BATCH as u64) {
                    time += bench.turn(frames[at..at + BATCH].iter());
                    at = (at + BATCH) % frames.len();
                }
                time
            });
        });
    }
}

/// Every packet opens a session; the native fallback picks.
fn misses(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("miss");
    group.throughput(Throughput::Elements(1));
    const CLIENTS: u32 = 1 << 16;
    let frames: Vec<Vec<u8>> = (0..CLIENTS)
        .map(|n| request(V4, n, TcpFlags::SYN))
        .collect();
    let mut bench = Bench::new(V4, 2 * CLIENTS);
    let mut batches = frames.chunks(BATCH);
    group.bench_function("v4/rendezvous", |b| {
        b.iter_custom(|packets| {
            let mut time = Duration::ZERO;
            for _ in 0..packets.div_ceil(BATCH as u64) {
                let batch = batches.next().unwrap_or_else(|| {
                    // Every client has its session: a new table, for new sessions.
                    bench = Bench::new(V4, 2 * CLIENTS);
                    batches = frames.chunks(BATCH);
                    batches.next().expect("there are clients")
                });
                time += bench.turn(batch.iter());
            }
            time
        });
    });
}

/// A small generator (xorshift64*), so that every run visits the same sessions.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u32) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32;
        u32::try_from((high * u64::from(bound)) >> 32).expect("below the bound")
    }
}

criterion_group!(benches, parsing, hits, misses);
criterion_main!(benches);
