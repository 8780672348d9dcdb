//! The SDK's test driver and the balancer tell a policy one story: one trace of sessions drives both, and
//! after each step every number of sessions and every reported end is the same.
//!
//! On one side are the core, the host and a module that reads the ABI's records by their offsets; on the
//! other the SDK's driver, its views and a policy in Rust.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use waxwing_dataplane::counters::WorkerCounters;
use waxwing_dataplane::model::{Backend, MidStream, NoBackend, Port, Release, SourceUse, Timeouts};
use waxwing_dataplane::path::SharedState;
use waxwing_dataplane::session::SessionTable;
use waxwing_dataplane::worker::{Worker, WorkerSetup};
use waxwing_dataplane::{
    BackendId, DirectFlows, Epoch, FragmentLimits, FragmentTable, Gauges, HopTable, NextHop, Now,
    Policy, PortId, Ports, Service, ServiceId, Snapshot, SourceRates,
};
use waxwing_packet::{Address, Link, Mac, Protocol, TcpFlags};
use waxwing_plugin::{BackendInfo, Host, HostOptions, ServiceBinding};
use waxwing_sdk::abi::{
    ClosedRecord, END_CLOSED, END_IDLE, END_REFUSED, END_RESET, END_UNANSWERED,
};
use waxwing_sdk::testing::{self, Driver};
use waxwing_sdk::{Backends, ClosedSession, ConfigError, Flow, NoConfig, Pick, SessionEnd};
use waxwing_testkit::build;
use waxwing_testkit::memory::MemoryIo;
use waxwing_tests::wat::Wat;

const FRONT: PortId = PortId(0);
const BACK: PortId = PortId(1);
const VIP: Address = Address::v4([203, 0, 113, 10]);
const CLIENT: Address = Address::v4([198, 51, 100, 7]);
const CLIENT_MAC: Mac = Mac([2, 0, 0, 0, 1, 0]);
const PORT_MACS: [Mac; 2] = [Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2])];

const TIMEOUTS: Timeouts = Timeouts {
    tcp_half_open: Duration::from_secs(20),
    tcp_established: Duration::from_secs(200),
    tcp_closing: Duration::from_secs(60),
    udp: Duration::from_secs(20),
    udp_unassured: Duration::from_secs(20),
};

/// From one step to the next, in milliseconds: long enough for the host to publish the module's counters.
const STEP_MS: u64 = 1100;

const COUNTERS: [&str; 16] = [
    "active_0",
    "half_open_0",
    "closing_0",
    "sessions_0",
    "failures_0",
    "refusals_0",
    "active_1",
    "half_open_1",
    "closing_1",
    "sessions_1",
    "failures_1",
    "refusals_1",
    "ends",
    "ended_by_backend",
    "duration_ms",
    "bytes",
];

/// Picks backend `source_port % 2`, and keeps what it reads as its counters. A counter must not fall, so it
/// holds the number of changes, and below it a byte of this worker's number and one of all workers'.
#[derive(Default)]
struct Recorder {
    values: [u64; 16],
}

impl Recorder {
    fn read(&mut self, backends: &Backends<'_>) {
        let pack = |all: u32, here: u32| u64::from(here) << 8 | u64::from(all);
        for (values, backend) in self.values.chunks_mut(6).zip(backends.iter()) {
            let numbers = [
                pack(backend.active(), backend.active_here()),
                pack(backend.half_open(), backend.half_open_here()),
                pack(backend.closing(), backend.closing_here()),
                backend.sessions_total(),
                backend.failures_total(),
                backend.refusals_total(),
            ];
            for (value, number) in values.iter_mut().zip(numbers) {
                if *value & 0xffff != number {
                    *value = ((*value >> 16) + 1) << 16 | number;
                }
            }
        }
    }
}

impl waxwing_sdk::Policy for Recorder {
    type Config = NoConfig;
    const WANTS_CLOSED: bool = true;
    const COUNTERS: &'static [&'static str] = &COUNTERS;

    fn new(_: NoConfig, _: &Backends<'_>) -> Result<Self, ConfigError> {
        Ok(Self::default())
    }

    fn pick(&mut self, flow: &Flow<'_>, _: &Backends<'_>) -> Pick {
        Pick::Backend(usize::from(flow.source().port() % 2))
    }

    fn closed(&mut self, closed: &ClosedSession<'_>, _: &Backends<'_>) {
        let end = match closed.end() {
            Some(SessionEnd::Closed) => 1,
            Some(SessionEnd::Reset) => 2,
            Some(SessionEnd::Idle) => 3,
            Some(SessionEnd::Unanswered) => 4,
            Some(SessionEnd::Refused) => 5,
            Some(SessionEnd::Evicted) => 6,
            None => 7,
        };
        self.values[12] += 1 << (8 * end);
        self.values[13] += 1 << (8 * closed.backend());
        self.values[14] += closed.duration_ms();
        self.values[15] += closed.bytes();
    }

    fn tick(&mut self, backends: &Backends<'_>) {
        self.read(backends);
    }

    fn counters(&self, values: &mut [u64]) {
        values.copy_from_slice(&self.values);
    }
}

/// [`Recorder`] as a module: backends at 0x2000, flows at 0x3000, picks at 0x4000, ends at 0x4800, live
/// records at 0x6000, counters at 0x7000.
fn recorder() -> &'static [u8] {
    let mut wat = Wat {
        section: format!(
            "kind=policy\\0aabi=1.1\\0aname=recorder\\0atick=10\\0acounters={}\\0a",
            COUNTERS.join(",")
        )
        .leak(),
        init: "(i32.store offset=76 (i32.const 0x1000) (i32.const 0x7000))
               (i32.store offset=80 (i32.const 0x1000) (i32.const 16))
               (i32.const 0x1000)",
        pick: "
          (local $i i32)
          (loop $next
            (i32.store offset=0x4000 (i32.mul (local.get $i) (i32.const 4))
              (i32.and (i32.const 1)
                (i32.load16_u offset=0x3028 (i32.mul (local.get $i) (i32.const 64)))))
            (local.set $i (i32.add (local.get $i) (i32.const 1)))
            (br_if $next (i32.lt_u (local.get $i) (local.get 1))))
          (local.get 1)",
        more: "
          (func $put (param $to i32) (param $words i64)
            (local $number i64)
            ;; Of two words, the lowest bytes.
            (local.set $number (i64.or
              (i64.and (local.get $words) (i64.const 0xff))
              (i64.and (i64.shr_u (local.get $words) (i64.const 24)) (i64.const 0xff00))))
            (if (i64.ne (local.get $number)
                        (i64.and (i64.load (local.get $to)) (i64.const 0xffff)))
              (then (i64.store (local.get $to) (i64.or (local.get $number)
                (i64.shl
                  (i64.add (i64.shr_u (i64.load (local.get $to)) (i64.const 16)) (i64.const 1))
                  (i64.const 16)))))))
          ;; Reads the numbers of a backend, whose records are at $at of theirs, to its counters.
          (func $read (param $at i32) (param $to i32)
            (call $put (local.get $to) (i64.load offset=0x2014 align=1 (local.get $at)))
            (call $put (i32.add (local.get $to) (i32.const 8))
              (i64.load offset=0x6000 (local.get $at)))
            (call $put (i32.add (local.get $to) (i32.const 16))
              (i64.load offset=0x6008 (local.get $at)))
            (call $put (i32.add (local.get $to) (i32.const 24))
              (i64.load offset=0x6010 (local.get $at)))
            (call $put (i32.add (local.get $to) (i32.const 32))
              (i64.load offset=0x6018 (local.get $at)))
            (call $put (i32.add (local.get $to) (i32.const 40))
              (i64.load offset=0x6020 (local.get $at))))
          (func (export \"waxwing_tick\") (param i32)
            (call $read (i32.const 0) (i32.const 0x7000))
            (call $read (i32.const 64) (i32.const 0x7030)))
          (func $add (param $to i32) (param $value i64)
            (i64.store (local.get $to) (i64.add (i64.load (local.get $to)) (local.get $value))))
          (func $one (param $place i32) (result i64)
            (i64.shl (i64.const 1)
              (i64.extend_i32_u (i32.mul (local.get $place) (i32.const 8)))))
          (func (export \"waxwing_closed\") (param $header i32) (param $n i32)
            (local $at i32)
            (loop $next
              (call $add (i32.const 0x7060) (call $one (i32.load offset=0x4814 (local.get $at))))
              (call $add (i32.const 0x7068) (call $one (i32.load offset=0x4810 (local.get $at))))
              (call $add (i32.const 0x7070) (i64.load offset=0x4800 (local.get $at)))
              (call $add (i32.const 0x7078) (i64.load offset=0x4808 (local.get $at)))
              (local.set $at (i32.add (local.get $at) (i32.const 32)))
              (br_if $next (i32.lt_u (local.get $at)
                (i32.mul (local.get $n) (i32.const 32))))))",
        ..Wat::GOOD
    };
    wat.set(72, 64);
    wat.set(84, 0x6000);
    wat.shipped()
}

fn service() -> Service {
    Service {
        id: ServiceId(0),
        name: "web".into(),
        vip: VIP,
        ports: Ports::one(80),
        protocol: Protocol::Tcp,
        source_nat: SourceUse::Auto,
        policy: 0,
        backends: [0, 1].map(BackendId).into(),
        mid_stream: MidStream::Pick,
        adopts_replies: false,
        no_backend: NoBackend::Drop,
        sessions_max: None,
        timeouts: TIMEOUTS,
    }
}

fn backend_address(id: u16) -> Address {
    Address::v4([10, 2, 0, if id == 0 { 10 } else { 11 }])
}

fn snapshot() -> Snapshot {
    let service = service();
    let backend = |id: u16| {
        let address = backend_address(id);
        Backend::new(BackendId(id.into()), &service, address, 8080, 1)
    };
    let ports = [(FRONT, "front"), (BACK, "back")].map(|(id, name)| {
        let mac = PORT_MACS[usize::from(id.0)];
        Port::attached(id, name.into(), mac, 1500)
    });
    Snapshot::new(
        1,
        vec![service.clone()],
        [0, 1].map(backend).into(),
        ports.into(),
    )
}

/// The module in its host, below a worker in memory.
struct Balancer {
    host: Host,
    worker: Worker<MemoryIo>,
    now: Duration,
}

impl Balancer {
    fn new() -> Self {
        let shipped = [("recorder", recorder())];
        let host = Host::new(HostOptions::default(), &shipped, None, |event| {
            panic!("{event:?}")
        });
        let host = host.expect("a host");
        let backend = |id: u32| BackendInfo {
            id: BackendId(id),
            key: id.into(),
            weight: 1,
            healthy: true,
            health_weight: 100,
            tag: 0,
        };
        let binding = ServiceBinding {
            service: ServiceId(0),
            name: "web".into(),
            config_json: "{}".into(),
            backends: [0, 1].map(backend).into(),
        };
        let bound = host.bind("recorder", 1, 1, &[binding]).expect("it serves");
        host.activate(&bound.in_use.module, false);
        Self {
            worker: worker(bound.policies),
            host,
            now: Duration::from_secs(10),
        }
    }

    fn frame(&mut self, (port, frame): &(PortId, Vec<u8>)) {
        assert!(
            self.worker.io().inject(*port, frame),
            "the pool has a frame"
        );
        while self.worker.turn(Now::from_start(self.now)) {}
        assert_eq!(self.worker.io().sent().len(), 1, "it is forwarded");
    }

    fn pass_ms(&mut self, ms: u64) {
        for _ in 0..ms / 10 {
            self.now += Duration::from_millis(10);
            self.worker.turn(Now::from_start(self.now));
        }
    }

    fn counters(&self) -> [u64; 16] {
        let values = self.host.counters("recorder");
        COUNTERS.map(|name| values["web"].counters[name])
    }
}

fn worker(policies: Vec<Box<dyn Policy>>) -> Worker<MemoryIo> {
    let shared = SharedState {
        sessions: Arc::new(SessionTable::new(64, [1, 2, 3, 4]).expect("it is small")),
        next_hops: Arc::new(HopTable::new(2)),
        gauges: Arc::new(Gauges::new(2, 1)),
        fragments: Arc::new(FragmentTable::new(FragmentLimits::default(), [5, 6, 7, 8])),
        direct: Arc::new(DirectFlows::new(64)),
        source_rates: Arc::new(SourceRates::new([13, 14, 15, 16])),
    };
    for id in [0, 1] {
        let mac = Mac([2, 0, 0, 0, 2, 0]);
        shared
            .next_hops
            .set(BackendId(id), Some(NextHop { port: BACK, mac }));
    }
    let setup = WorkerSetup {
        number: 0,
        workers: 1,
        shared,
        counters: Arc::new(WorkerCounters::new(2)),
        cluster_key: [5, 6, 7, 8],
        mailbox: crossbeam_channel::unbounded().1,
        returned: crossbeam_channel::unbounded().0,
    };
    let epoch = Epoch {
        snapshot: Arc::new(snapshot()),
        policies,
        kept: Vec::new(),
        release: Release::held(),
    };
    let mut worker = Worker::new(MemoryIo::new(2, 256), setup, epoch);
    // Announcements at start.
    for seconds in [0, 3, 6] {
        worker.turn(Now::from_start(Duration::from_secs(seconds)));
    }
    worker.io().sent();
    worker
}

/// A packet of the trace.
#[derive(Clone, Copy, Debug)]
enum Packet {
    Client(u8),
    Server(u8),
}

use Packet::{Client, Server};

/// What a packet, or the time, does to a session.
#[derive(Clone, Copy, Debug)]
enum Effect {
    Nothing,
    Begins,
    Opens,
    /// It ends like this, after its last packet by so many milliseconds.
    Ends(u32, u64),
    Goes,
    /// It goes, and a new one begins.
    BeginsAgain,
}

use Effect::{Begins, BeginsAgain, Ends, Goes, Nothing, Opens};

const SYN: u8 = TcpFlags::SYN;
const ACK: u8 = TcpFlags::ACK;
const FIN: u8 = TcpFlags::FIN | ACK;
const RST: u8 = TcpFlags::RST;

/// Steps: the client's port, the packet (or the seconds that pass before the next step), and its effect.
type Step = (u16, Result<Packet, u64>, Effect);

#[rustfmt::skip]
const TRACE: &[Step] = &[
    (4000, Ok(Client(SYN)), Begins),
    (4001, Ok(Client(SYN)), Begins),
    (4001, Ok(Server(SYN | ACK)), Nothing),
    (4000, Ok(Server(SYN | ACK)), Nothing),
    (4000, Ok(Client(ACK)), Opens),
    (4001, Ok(Client(ACK)), Opens),
    // Refused, and again.
    (4002, Ok(Client(SYN)), Begins),
    (4002, Ok(Server(RST | ACK)), Ends(END_REFUSED, 0)),
    (4002, Ok(Client(SYN)), BeginsAgain),
    (4002, Ok(Server(RST | ACK)), Ends(END_REFUSED, 0)),
    // Closed, with data, and used again.
    (4000, Ok(Server(ACK)), Nothing),
    (4000, Ok(Client(FIN)), Nothing),
    (4000, Ok(Server(FIN)), Ends(END_CLOSED, 0)),
    (4000, Ok(Client(ACK)), Nothing),
    (4000, Ok(Client(SYN)), BeginsAgain),
    (4000, Ok(Server(SYN | ACK)), Nothing),
    (4000, Ok(Client(ACK)), Opens),
    // A refused one, which was never assured, soon goes.
    (4002, Err(9), Goes),
    // Reset twice.
    (4001, Ok(Client(RST)), Ends(END_RESET, 0)),
    (4001, Ok(Server(RST)), Nothing),
    // Never answered, although repeated.
    (4003, Ok(Client(SYN)), Begins),
    (4003, Ok(Client(SYN)), Nothing),
    (4003, Err(21), Ends(END_UNANSWERED, 20_000)),
    // The closing one goes; the open one stays.
    (4001, Err(35), Goes),
    (4000, Ok(Client(ACK)), Nothing),
    (4000, Err(201), Ends(END_IDLE, 200_000)),
];

/// A session as the trace knows it.
#[derive(Clone, Copy, Default)]
struct Known {
    began_ms: u64,
    last_ms: u64,
    bytes: u64,
}

fn frame(port: u16, packet: Packet) -> (PortId, Vec<u8>) {
    let backend = (backend_address(port % 2), 8080);
    let (at, link, source, destination, flags) = match packet {
        Client(flags) => (
            FRONT,
            (CLIENT_MAC, PORT_MACS[0]),
            (CLIENT, port),
            (VIP, 80),
            flags,
        ),
        Server(flags) => {
            let link = (Mac([2, 0, 0, 0, 2, 0]), PORT_MACS[1]);
            (BACK, link, backend, (CLIENT, port), flags)
        }
    };
    let frame = build::Tcp {
        link: Link {
            source: link.0,
            destination: link.1,
        },
        source,
        destination,
        flags: TcpFlags(flags),
        // Of the server's sequence number, 0.
        acknowledgment: 1,
        payload: b"a story",
        ..build::Tcp::default()
    };
    (at, frame.frame())
}

#[test]
fn the_sdks_driver_and_the_balancer_tell_one_story() {
    let mut balancer = Balancer::new();
    let mut driver = Driver::<Recorder>::start("{}", &testing::backends(&[1, 1]), 1)
        .expect("there is nothing to refuse");
    let mut sessions: HashMap<u16, Known> = HashMap::new();
    let mut now_ms = 0;
    for (n, (port, what, effect)) in TRACE.iter().enumerate() {
        let backend = usize::from(port % 2);
        if matches!(effect, Goes | BeginsAgain) {
            driver.forget(backend);
        }
        if matches!(effect, Begins | BeginsAgain) {
            let flow = testing::flows(1).next().expect("endless");
            let mut flow = flow;
            flow.record.source_port = *port;
            assert_eq!(driver.pick(&[flow]), [Pick::Backend(backend)]);
            let (began_ms, last_ms) = (now_ms, now_ms);
            sessions.insert(
                *port,
                Known {
                    began_ms,
                    last_ms,
                    bytes: 0,
                },
            );
        }
        let session = sessions.get_mut(port).expect("it began");
        match what {
            Ok(packet) => {
                let frame = frame(*port, *packet);
                balancer.frame(&frame);
                session.bytes += frame.1.len() as u64;
                session.last_ms = now_ms;
            }
            Err(seconds) => {
                balancer.pass_ms(seconds * 1000);
                now_ms += seconds * 1000;
            }
        }
        match *effect {
            Opens => driver.open(backend),
            Ends(end, after_ms) => driver.end(ClosedRecord {
                duration_ms: session.last_ms + after_ms - session.began_ms,
                bytes: session.bytes,
                backend: u32::from(port % 2),
                end,
                reserved: 0,
            }),
            Nothing | Begins | BeginsAgain | Goes => {}
        }
        driver.tick(0);
        balancer.pass_ms(STEP_MS);
        now_ms += STEP_MS;
        let (ours, sdks) = (balancer.counters(), driver.counters());
        let named = |values: &[u64]| {
            let values = COUNTERS.iter().zip(values.to_vec());
            values
                .map(|(name, value)| format!("{name} {value:#x}"))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            named(&ours),
            named(sdks),
            "step {n}: port {port}, {what:?}, {effect:?}"
        );
    }
    let ends = driver.counters()[12];
    assert_eq!(
        ends, 0x02_01_01_01_01_00,
        "two refused, and one of each other kind"
    );
}
