//! Each shipped policy picks the same as Wasm and as native code, flow by flow.
//!
//! Each runs one seeded trace: 100,000 flows in batches of every size, with changing live numbers,
//! sessions that begin and end, passing time, and backends that are added, removed, drained and
//! reweighted.

use std::path::Path;

use waxwing_dataplane::counters::FailureRate;
use waxwing_dataplane::model::{MidStream, NoBackend, SourceUse, Timeouts};
use waxwing_dataplane::policy::{Closed, End, PickContext, TickContext};
use waxwing_dataplane::session::Phase;
use waxwing_dataplane::{
    BATCH, Backend, BackendId, Gauges, NewFlow, Now, Pick, Policy, Ports, Service, ServiceId,
    Snapshot,
};
use waxwing_packet::{Address, Protocol};
use waxwing_plugin::sample_payloads::{dns_query, payload_prefix, quic_packet};
use waxwing_plugin::{BackendInfo, Host, HostOptions, ServiceBinding, service_seed};
use waxwing_sdk::abi::{
    BackendRecord, ClosedRecord, END_CLOSED, FlowRecord, LiveRecord, PROTOCOL_UDP,
};
use waxwing_sdk::random::Random;
use waxwing_sdk::testing::{self, Driver, TestFlow};

const SERVICE: ServiceId = ServiceId(5);
const WORKER: u32 = 1;
const SEED: u64 = 42;
const FLOWS: usize = 100_000;
/// The backends change after this many flows.
const FLOWS_PER_CHANGE: usize = 10_000;
const BACKENDS: u32 = 12;

macro_rules! compare {
    ($($name:ident :: $policy:ident, $package:literal, $config:literal;)*) => {
        const PACKAGES: &[&str] = &[$($package),*];

        fn compare_all(host: &Host) {
            $(Trace::new(host, stringify!($name), $config).run::<waxwing_policies::$name::$policy>();)*
        }
    };
}

waxwing_policies::for_each_policy!(compare);

#[test]
fn shipped_policies_pick_the_same_as_wasm_and_natively() {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../Cargo.toml");
    let target = std::env::temp_dir().join(format!("waxwing-trace-{}", std::process::id()));
    let modules = waxwing_module_build::build(&manifest, PACKAGES, &target).expect("modules");
    let shipped: Vec<(&'static str, &'static [u8])> = modules
        .iter()
        .map(|module| {
            let bytes = std::fs::read(&module.path).expect("a module");
            (&*module.name.clone().leak(), &*bytes.leak())
        })
        .collect();
    std::fs::remove_dir_all(&target).expect("removed");
    let host = Host::new(HostOptions::default(), &shipped, None, |event| {
        panic!("{event:?}")
    });
    compare_all(&host.expect("a host"));
}

/// One policy's trace: the inputs of both sides.
struct Trace<'a> {
    host: &'a Host,
    name: &'static str,
    config: &'static str,
    random: Random,
    gauges: Gauges,
    records: Vec<BackendRecord>,
    now_ms: u64,
    ticked_ms: u64,
    /// When shared cells are added up next.
    shared_ms: u64,
    /// Sessions that have not ended, by the backend's index.
    sessions: Vec<(u32, Phase)>,
}

impl<'a> Trace<'a> {
    fn new(host: &'a Host, name: &'static str, config: &'static str) -> Self {
        Self {
            host,
            name,
            config,
            random: Random::new(SEED),
            gauges: Gauges::new(BACKENDS as usize, WORKER as usize + 1),
            records: Vec::new(),
            now_ms: 0,
            ticked_ms: 0,
            shared_ms: 0,
            sessions: Vec::new(),
        }
    }

    fn run<P: waxwing_sdk::Policy>(mut self) {
        let mut flows = testing::flows(SEED);
        self.change_backends();
        let (mut wasm, mut native) = (self.wasm(), self.native::<P>());
        for change in 0..FLOWS / FLOWS_PER_CHANGE {
            self.end_all_sessions();
            self.write_live(&mut native);
            self.change_backends();
            wasm = self.follow(wasm);
            native
                .set_backends(&self.records)
                .expect("the config is accepted");
            let mut left = FLOWS_PER_CHANGE;
            while left > 0 {
                let size = self.below(BATCH as u64 + 1).clamp(1, left);
                left -= size;
                let batch: Vec<TestFlow> = flows
                    .by_ref()
                    .take(size)
                    .map(|flow| self.flow(flow))
                    .collect();
                self.change_live_numbers();
                self.write_live(&mut native);
                let expected = native
                    .pick(&batch)
                    .into_iter()
                    .map(pick)
                    .collect::<Vec<_>>();
                let picks = self.pick(&mut *wasm, &batch);
                let at = change * FLOWS_PER_CHANGE + FLOWS_PER_CHANGE - left;
                assert_eq!(picks, expected, "{}, before flow {at}", self.name);
                self.begin_sessions(&picks);
                self.end_sessions(&mut *wasm, &mut native);
                self.pass_time(&mut *wasm, &mut native);
            }
        }
    }

    fn end_all_sessions(&mut self) {
        for (place, phase) in std::mem::take(&mut self.sessions) {
            self.gauges.end(WORKER as usize, self.id(place), phase);
        }
    }

    /// Makes another list of backends: other weights, other tags, some drained, sometimes one removed.
    fn change_backends(&mut self) {
        // A QUIC server id belongs to one backend; the other policies get three groups.
        let tags = if self.name == "quic_connection_id" {
            BACKENDS
        } else {
            3
        };
        let gone = self.below(2 * u64::from(BACKENDS));
        let weights = (0..BACKENDS).map(|id| (id, [3, 1, 0, 2, 7][self.below(5)]));
        self.records = weights
            .collect::<Vec<_>>()
            .into_iter()
            .filter(|(id, _)| *id as usize != gone)
            .map(|(id, weight)| BackendRecord {
                tag: 1 + id % tags,
                ..testing::backend(id, weight)
            })
            .collect();
    }

    fn wasm(&self) -> Box<dyn Policy> {
        let bound = self
            .host
            .bind(self.name, WORKER + 1, SEED, &[self.binding()]);
        let bound = bound.expect("it is shipped");
        self.host
            .activate(&bound.in_use.module, bound.in_use.others.is_some());
        let mut policies = bound.policies.into_iter();
        policies.nth(WORKER as usize).expect("the worker's")
    }

    /// Returns the instance that serves the changed backends.
    fn follow(&self, mut before: Box<dyn Policy>) -> Box<dyn Policy> {
        let mut after = self.wasm();
        let snapshot = self.snapshot();
        let context = TickContext {
            now: self.now(),
            snapshot: &snapshot,
            gauges: &self.gauges,
        };
        after.inherit(&mut *before, context);
        after
    }

    fn native<P: waxwing_sdk::Policy>(&self) -> Driver<P> {
        let seed = service_seed(SEED, SERVICE, WORKER);
        let worker = u16::try_from(WORKER).expect("it is small");
        Driver::start_on((worker, worker + 1), self.config, &self.records, seed)
            .expect("the config is accepted")
    }

    fn binding(&self) -> ServiceBinding {
        let backend = |record: &BackendRecord| BackendInfo {
            id: BackendId(record.id),
            key: record.key,
            weight: record.weight,
            healthy: true,
            health_weight: 100,
            tag: record.tag,
        };
        ServiceBinding {
            service: SERVICE,
            name: "web".into(),
            config_json: self.config.into(),
            backends: self.records.iter().map(backend).collect(),
        }
    }

    /// Makes it a flow from one of some thousand clients, with a payload that some policy may read.
    fn flow(&mut self, mut flow: TestFlow) -> TestFlow {
        flow.record.source[13..16].copy_from_slice(&[0, self.byte() % 16, self.byte()]);
        if self.below(2) == 0 {
            flow.record.protocol = PROTOCOL_UDP;
        }
        match self.below(4) {
            0 => flow,
            1 => flow.with_payload(&query(self.below(50))),
            2 => {
                let server_id = 1 + self.byte() % 4;
                flow.with_payload(&quic_packet(&[0, 0, 0, 0, server_id]))
            }
            _ => {
                let bytes: Vec<u8> = (0..self.below(200)).map(|_| self.byte()).collect();
                flow.with_payload(&bytes)
            }
        }
    }

    fn change_live_numbers(&mut self) {
        let place = self.below(self.records.len() as u64);
        let id = BackendId(self.records[place].id);
        let [latency, rate, failures, signal] =
            [5000, 1000, 100_000, 300].map(|limit| self.number(limit));
        self.gauges.measure_latency(id, latency);
        let failures = FailureRate {
            ppm: failures,
            samples: rate,
        };
        self.gauges.set_rates(id, rate, failures);
        let which = self.below(4);
        self.gauges.set_signal(id, which, signal);
    }

    /// Writes the live numbers for the native side, as the host does for the module.
    fn write_live<P: waxwing_sdk::Policy>(&self, native: &mut Driver<P>) {
        native.host_mut().now_ms = self.now_ms;
        for at in 0..self.records.len() {
            let id = BackendId(self.records[at].id);
            let all = self.gauges.sessions(id);
            let here = self.gauges.sessions_here(WORKER as usize, id);
            let failures = self.gauges.failure_rate(id);
            let record = &mut native.backends_mut()[at];
            record.active = all.active;
            record.active_here = here.active;
            record.sessions_per_s = self.gauges.sessions_per_s(id);
            record.latency_us = self.gauges.latency_us(id);
            record.failures_ppm = failures.ppm;
            record.signals = self.gauges.signals(id);
            native.live_mut()[at] = LiveRecord {
                half_open: all.half_open,
                half_open_here: here.half_open,
                closing: all.closing,
                closing_here: here.closing,
                sessions: self.gauges.opened(id),
                failure_samples: failures.samples,
                ..LiveRecord::default()
            };
        }
    }

    fn pick(&self, wasm: &mut dyn Policy, batch: &[TestFlow]) -> Vec<Pick> {
        let ids: Vec<BackendId> = self.records.iter().map(|r| BackendId(r.id)).collect();
        let context = PickContext {
            now: self.now(),
            backends: &ids,
            gauges: &self.gauges,
        };
        let flows: Vec<NewFlow> = batch.iter().map(new_flow).collect();
        let mut picks = vec![Pick::Drop; flows.len()];
        wasm.pick(SERVICE, context, &flows, &mut picks)
            .expect("picks");
        picks
    }

    fn begin_sessions(&mut self, picks: &[Pick]) {
        for pick in picks {
            if let Pick::Backend(place) | Pick::Keep(place) = pick {
                let phases = [Phase::HalfOpen, Phase::Established];
                let phase = phases[self.below(2)];
                self.gauges.begin(WORKER as usize, self.id(*place), phase);
                self.sessions.push((*place, phase));
            }
        }
    }

    /// Ends sessions until 2000 are left.
    fn end_sessions<P: waxwing_sdk::Policy>(
        &mut self,
        wasm: &mut dyn Policy,
        native: &mut Driver<P>,
    ) {
        while self.sessions.len() > 2000 {
            let at = self.below(self.sessions.len() as u64);
            let (place, phase) = self.sessions.swap_remove(at);
            let (duration_ms, bytes) = (self.random.next(), self.random.next());
            self.gauges.end(WORKER as usize, self.id(place), phase);
            let end = End::Closed;
            wasm.closed(
                SERVICE,
                &[Closed {
                    backend: place,
                    duration_ms,
                    bytes,
                    end,
                }],
            );
            native.end(ClosedRecord {
                duration_ms,
                bytes,
                backend: place,
                end: END_CLOSED,
                reserved: 0,
            });
        }
    }

    fn pass_time<P: waxwing_sdk::Policy>(&mut self, wasm: &mut dyn Policy, native: &mut Driver<P>) {
        self.now_ms += self.random.next() % 20;
        let every = u64::from(P::TICK_MS);
        if every > 0 && self.now_ms >= self.ticked_ms + every {
            self.ticked_ms = self.now_ms;
            self.write_live(native);
            native.tick(0);
        }
        if self.now_ms >= self.shared_ms {
            self.shared_ms = self.now_ms + 10;
            testing::share(std::slice::from_mut(native));
        }
        let snapshot = self.snapshot();
        wasm.tick(TickContext {
            now: self.now(),
            snapshot: &snapshot,
            gauges: &self.gauges,
        });
    }

    fn snapshot(&self) -> Snapshot {
        let service = Service {
            id: SERVICE,
            name: "web".into(),
            vip: Address::v4([203, 0, 113, 10]),
            ports: Ports::one(80),
            protocol: Protocol::Tcp,
            source_nat: SourceUse::Auto,
            policy: 0,
            backends: self.records.iter().map(|r| BackendId(r.id)).collect(),
            mid_stream: MidStream::Pick,
            adopts_replies: false,
            no_backend: NoBackend::Drop,
            sessions_max: None,
            timeouts: Timeouts::default(),
        };
        let backend = |r: &BackendRecord| {
            Backend::new(
                BackendId(r.id),
                &service,
                Address::v4([10, 0, 0, 1]),
                80,
                r.weight,
            )
        };
        let backends = self.records.iter().map(backend).collect();
        Snapshot::new(1, vec![service.clone()], backends, Vec::new())
    }

    const fn now(&self) -> Now {
        Now::from_start(std::time::Duration::from_millis(self.now_ms))
    }

    fn id(&self, index: u32) -> BackendId {
        BackendId(self.records[index as usize].id)
    }

    fn below(&mut self, limit: u64) -> usize {
        usize::try_from(self.random.next() % limit).expect("it is small")
    }

    fn number(&mut self, limit: u64) -> u32 {
        u32::try_from(self.random.next() % limit).expect("it is small")
    }

    fn byte(&mut self) -> u8 {
        self.random.next().to_le_bytes()[7]
    }
}

/// Returns a DNS query for one of some names.
fn query(name: usize) -> Vec<u8> {
    let label = format!("host{name}");
    let zone = if name.is_multiple_of(3) {
        "internal"
    } else {
        "example"
    };
    dns_query([&*label, zone, "test"])
}

fn pick(pick: waxwing_sdk::Pick) -> Pick {
    match pick {
        waxwing_sdk::Pick::Backend(at) => Pick::Backend(u32::try_from(at).expect("a backend")),
        waxwing_sdk::Pick::Keep(at) => Pick::Keep(u32::try_from(at).expect("a backend")),
        waxwing_sdk::Pick::Drop => Pick::Drop,
        waxwing_sdk::Pick::Fallback => Pick::Fallback,
    }
}

fn new_flow(flow: &TestFlow) -> NewFlow {
    let FlowRecord {
        source,
        destination,
        hash,
        source_port,
        destination_port,
        protocol,
        ..
    } = flow.record;
    let (payload, payload_len) = payload_prefix(&flow.payload);
    NewFlow {
        source: Address::v6(source),
        source_port,
        destination: Address::v6(destination),
        destination_port,
        protocol: if protocol == PROTOCOL_UDP {
            Protocol::Udp
        } else {
            Protocol::Tcp
        },
        hash,
        mid_stream: false,
        payload_len,
        payload,
    }
}
