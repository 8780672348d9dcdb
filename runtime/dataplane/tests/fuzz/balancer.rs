//! Runs arbitrary frames through the balancer, for the fuzzer and the ordinary test.
//!
//! Invariant: nothing panics. Each frame has exactly one counted outcome; a held fragment has it at its
//! release. The kernel gets frames unmodified. Frames that arrive with correct checksums leave with correct
//! ones. The session counts are consistent. A balancer without the fast path does the same to the bit.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::unbounded;
use waxwing_dataplane::counters::WorkerCounters;
use waxwing_dataplane::model::Release;
use waxwing_dataplane::model::{
    Backend, MidStream, NoBackend, Port, Service, SessionAction, SourceUse, Timeouts,
};
use waxwing_dataplane::path::SharedState;
use waxwing_dataplane::policy::Vacant;
use waxwing_dataplane::session::{Session, SessionRef, SessionTable};
use waxwing_dataplane::worker::{Worker, WorkerSetup};
use waxwing_dataplane::{
    BackendId, DirectFlows, DropReason, Epoch, FragmentLimits, FragmentTable, Gauges, Now, PortId,
    Ports, ServiceId, Snapshot, SourceRates,
};
use waxwing_dataplane::{HopTable, NextHop};
use waxwing_packet::{Address, Link, Mac, Packet, Protocol, TcpFlags, VlanTags, checksum, parse};
use waxwing_testkit::build;
use waxwing_testkit::memory::MemoryIo;

const VIPS: [Address; 2] = [
    Address::v4([203, 0, 113, 10]),
    Address::from_bits(0x2001_0db8 << 96 | 0x10),
];
const CLIENTS: [Address; 2] = [
    Address::v4([198, 51, 100, 7]),
    Address::from_bits(0x2001_0db8_0002 << 80 | 7),
];
const BACKENDS: [Address; 2] = [
    Address::v4([10, 2, 0, 10]),
    Address::from_bits(0xfd00_0002 << 96 | 0x10),
];
const MACS: [Mac; 2] = [Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2])];
const PEER: Mac = Mac([2, 0, 0, 0, 1, 0]);
/// Few, so that floods fill the table.
const SESSIONS_MAX: u32 = 8;
/// The backends of all services: two each, one of which is down.
const BACKENDS_MAX: usize = 12;
/// The most frames of an input.
const FRAMES_MAX: usize = 256;

/// A worker with services of both protocols and address families.
pub(crate) struct Balancer {
    worker: Worker<MemoryIo>,
    shared: SharedState,
    counters: Arc<WorkerCounters>,
    /// Fragments held since the last time that none was held.
    held: Vec<Vec<u8>>,
    now: Duration,
    /// The same without the fast path.
    general: Option<Box<Self>>,
}

fn snapshot() -> Snapshot {
    let (mut services, mut backends) = (Vec::new(), Vec::new());
    let endpoints = [
        (80, Protocol::Tcp),
        (81, Protocol::Tcp),
        (53, Protocol::Udp),
    ];
    for (n, (port, protocol)) in endpoints.into_iter().enumerate() {
        for (family, vip) in VIPS.into_iter().enumerate() {
            let id = u32::try_from(services.len()).expect("there are few services");
            let service = Service {
                id: ServiceId(id),
                name: "fuzzed".into(),
                vip,
                ports: Ports::one(port),
                protocol,
                source_nat: SourceUse::Auto,
                policy: 0,
                backends: [BackendId(2 * id), BackendId(2 * id + 1)].into(),
                mid_stream: [MidStream::Pick, MidStream::Drop][n % 2],
                adopts_replies: false,
                no_backend: NoBackend::Reject,
                sessions_max: None,
                timeouts: Timeouts::default(),
            };
            let backend =
                |of: u32| Backend::new(BackendId(2 * id + of), &service, BACKENDS[family], 8080, 1);
            // The second TCP service has no healthy backend.
            let down = Backend {
                healthy: false,
                sessions: SessionAction::Reset,
                ..backend(1)
            };
            backends.extend([
                Backend {
                    healthy: n != 1,
                    ..backend(0)
                },
                down,
            ]);
            services.push(service);
        }
    }
    let port = |(id, mac): (u8, &Mac)| Port::attached(PortId(id), "port".into(), *mac, 1500);
    let ports = (0..).zip(&MACS).map(port);
    Snapshot::new(1, services, backends, ports.collect())
}

impl Balancer {
    pub(crate) fn new() -> Self {
        Self {
            general: Some(Box::new(Self::with(snapshot().without_fast_path()))),
            ..Self::with(snapshot())
        }
    }

    fn with(snapshot: Snapshot) -> Self {
        let shared = SharedState {
            sessions: Arc::new(
                SessionTable::new(SESSIONS_MAX, [1, 2, 3, 4])
                    .expect("a small table fits in memory"),
            ),
            next_hops: Arc::new(HopTable::new(BACKENDS_MAX)),
            gauges: Arc::new(Gauges::new(BACKENDS_MAX, 1)),
            fragments: Arc::new(FragmentTable::new(FragmentLimits::default(), [9; 4])),
            direct: Arc::new(DirectFlows::new(64)),
            source_rates: Arc::new(SourceRates::new([13, 14, 15, 16])),
        };
        let hop = NextHop {
            port: PortId(1),
            mac: PEER,
        };
        for id in (0..).take(BACKENDS_MAX) {
            shared.next_hops.set(BackendId(id), Some(hop));
        }
        let counters = Arc::new(WorkerCounters::new(BACKENDS_MAX));
        let epoch = Epoch {
            snapshot: Arc::new(snapshot),
            policies: vec![Box::new(Vacant)],
            kept: Vec::new(),
            release: Release::held(),
        };
        let setup = WorkerSetup {
            number: 0,
            workers: 1,
            shared: shared.clone(),
            counters: Arc::clone(&counters),
            cluster_key: [5, 6, 7, 8],
            mailbox: unbounded().1,
            returned: unbounded().0,
        };
        let mut balancer = Self {
            worker: Worker::new(MemoryIo::new(2, 32), setup, epoch),
            shared,
            counters,
            held: Vec::new(),
            now: Duration::from_secs(10),
            general: None,
        };
        // Skips the announcements.
        for _ in 0..4 {
            balancer.turn();
            balancer.now += Duration::from_secs(3);
        }
        balancer.worker.io().sent();
        balancer
    }

    /// All sessions and counters.
    fn state(&self) -> (Vec<(SessionRef, Session)>, String) {
        let counters = format!("{:?}", self.counters);
        (self.shared.sessions.iter().collect(), counters)
    }

    fn turn(&mut self) {
        self.worker.turn(Now::from_start(self.now));
    }

    fn dropped(&self) -> u64 {
        let reasons = DropReason::ALL.iter();
        reasons
            .map(|reason| self.counters.dropped(*reason).get())
            .sum()
    }

    /// Handles a frame and checks the invariants. Returns the frames sent.
    pub(crate) fn handle(&mut self, port: PortId, frame: &[u8]) -> Vec<Vec<u8>> {
        let counters = Arc::clone(&self.counters);
        let before = (self.dropped(), counters.held.get(), counters.released.get());
        if !self.worker.io().inject(port, frame) {
            return Vec::new();
        }
        self.turn();
        let sent = self.worker.io().sent();
        let kernel = self.worker.io().passed_to_kernel();
        let dropped = self.dropped() - before.0;
        let held = counters.held.get() - before.1;
        let released = counters.released.get() - before.2;
        let ended = sent.len() as u64 + kernel.len() as u64 + dropped;
        assert_eq!(ended + held, 1 + released);
        assert_eq!(self.worker.io().in_flight(), 0);
        if held > 0 {
            self.held.push(frame.to_vec());
        }
        for (_, bytes) in &kernel {
            let is_unmodified = bytes == frame || self.held.contains(bytes);
            assert!(is_unmodified, "the kernel got a modified frame");
        }
        let is_valid =
            has_valid_checksums(frame) && self.held.iter().all(|held| has_valid_checksums(held));
        for (_, bytes) in &sent {
            assert!(
                !is_valid || has_valid_checksums(bytes),
                "{frame:02x?} to {bytes:02x?}"
            );
        }
        if self.shared.fragments.held() == 0 {
            self.held.clear();
        }
        let gauges = (0..).map(BackendId).take(BACKENDS_MAX);
        let counted: u32 = gauges
            .map(|id| self.shared.gauges.sessions(id).total())
            .sum();
        assert_eq!(counted as usize, self.shared.sessions.len());
        assert!(self.shared.sessions.len() <= self.shared.sessions.capacity());
        if let Some(mut general) = self.general.take() {
            general.now = self.now;
            let by_general_path = general.handle(port, frame);
            assert!(sent.iter().map(|(_, bytes)| bytes).eq(&by_general_path));
            assert_eq!(self.state(), general.state(), "{frame:02x?}");
            self.general = Some(general);
        }
        sent.into_iter().map(|(_, bytes)| bytes).collect()
    }
}

/// Whether a frame's checksums are correct; frames without checksums count as correct.
fn has_valid_checksums(frame: &[u8]) -> bool {
    match parse(frame) {
        Ok(Packet::Ip(packet)) => checksum::are_correct(frame, &packet),
        _ => true,
    }
}

/// Arbitrary bytes as a frame, at either port.
pub(crate) fn any_bytes(bytes: &[u8]) {
    let mut balancer = Balancer::new();
    for port in [PortId(0), PortId(1)] {
        balancer.handle(port, bytes);
    }
}

/// A valid conversation with one mutated frame: three bytes encode the place and the value of each change.
pub(crate) fn mutated(bytes: &[u8]) {
    let Some((which, changes)) = bytes.split_first() else {
        return;
    };
    let mut balancer = Balancer::new();
    let step = |kind, flags| Step {
        kind,
        family: which >> 7,
        client: 0,
        flags,
        wait: 0,
    };
    let conversation = [
        step(0, TcpFlags::SYN),
        step(3, TcpFlags::SYN | TcpFlags::ACK),
        step(0, TcpFlags::ACK),
        step(2, 0),
        step(4, 0),
        step(5, 0),
        step(6, 0),
    ];
    let at = usize::from(which & 0x7f) % conversation.len();
    for (n, step) in conversation.iter().enumerate() {
        let (port, mut frame) = step.frame();
        balancer.handle(port, &frame);
        if n == at {
            for change in changes.chunks_exact(3).take(FRAMES_MAX) {
                let place = usize::from(u16::from_be_bytes([change[0], change[1]]));
                match frame.len() {
                    0 => break,
                    // High places truncate the frame, which random offsets would rarely do.
                    len if place >= 0xff00 => frame.truncate(usize::from(change[2]).min(len)),
                    len => frame[place % len] = change[2],
                }
                balancer.handle(port, &frame);
            }
        }
    }
}

/// A sequence of frames, encoded in five bytes each.
pub(crate) fn sequence(bytes: &[u8]) {
    let mut balancer = Balancer::new();
    for step in bytes.chunks_exact(5).take(FRAMES_MAX) {
        let step = Step {
            kind: step[0],
            family: step[1],
            client: step[2],
            flags: step[3],
            wait: step[4],
        };
        balancer.now += step.delay();
        let (port, frame) = step.frame();
        balancer.handle(port, &frame);
    }
}

/// A frame and the time before it.
#[derive(Clone, Copy, Debug)]
struct Step {
    kind: u8,
    family: u8,
    client: u8,
    flags: u8,
    wait: u8,
}

impl Step {
    /// The time before the frame: from 0 to hours.
    fn delay(self) -> Duration {
        Duration::from_millis((1 << (self.wait % 26)) - 1)
    }

    /// The frame and the port that it arrives at.
    fn frame(self) -> (PortId, Vec<u8>) {
        let family = usize::from(self.family % 2);
        let client = (CLIENTS[family], 4000 + u16::from(self.client % 16));
        let server = (BACKENDS[family], 8080);
        let vip = |port| (VIPS[family], port);
        let flags = TcpFlags(self.flags);
        let link = |port: usize| Link {
            source: PEER,
            destination: MACS[port],
        };
        let tcp = |port, source, destination| {
            let segment = build::Tcp {
                link: link(port),
                source,
                destination,
                flags,
                payload: b"fuzz",
                ..build::Tcp::default()
            };
            segment.frame()
        };
        let udp = |port, source, destination| {
            let datagram = build::Udp {
                link: link(port),
                source,
                destination,
                payload: b"fuzz",
                ..build::Udp::default()
            };
            datagram.frame()
        };
        let (front, back) = (PortId(0), PortId(1));
        match self.kind % 7 {
            0 => (front, tcp(0, client, vip(80))),
            1 => (front, tcp(0, client, vip(81))),
            2 => (front, udp(0, client, vip(53))),
            3 => (back, tcp(1, server, client)),
            4 => (back, udp(1, server, client)),
            5 => {
                let echo = build::Echo {
                    link: link(0),
                    source: client.0,
                    destination: VIPS[family],
                    ..build::Echo::default()
                };
                (front, echo.frame())
            }
            _ => (front, self.address_query(client.0, VIPS[family])),
        }
    }

    /// An ARP request or a neighbour solicitation.
    fn address_query(self, sender: Address, target: Address) -> Vec<u8> {
        if self.family.is_multiple_of(2) {
            let request = build::ArpRequest {
                mac: PEER,
                tags: VlanTags::NONE,
                sender,
                target,
            };
            return request.frame();
        }
        let solicitation = build::NeighborSolicitation {
            mac: PEER,
            tags: VlanTags::NONE,
            source: sender,
            target,
        };
        solicitation.frame()
    }
}
