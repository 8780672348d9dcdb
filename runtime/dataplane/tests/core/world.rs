//! A balancer in memory: one client side, one server side, and a clock that the test advances.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::frames::one;
use crossbeam_channel::{Receiver, Sender, unbounded};
use waxwing_dataplane::HopTable;
use waxwing_dataplane::counters::{BackendCounters, Counter, WorkerCounters};
use waxwing_dataplane::model::Release;
use waxwing_dataplane::model::{
    Backend, Bridge, Faces, MidStream, NoBackend, Port, Service, SessionAction, SourceId,
    SourcePool, SourceUse, Sources, Timeouts,
};
use waxwing_dataplane::path::SharedState;
use waxwing_dataplane::policy::{Closed, PickContext, TickContext};
use waxwing_dataplane::session::{Session, SessionTable};
use waxwing_dataplane::worker::{Worker, WorkerSetup};
use waxwing_dataplane::{
    BackendId, DirectFlows, DropReason, Epoch, FragmentLimits, FragmentTable, Gauges, NewFlow,
    NextHop, Now, Pick, Policy, PolicyFault, PortId, Ports, ServiceId, Snapshot, SourceLimit,
    SourceRates,
};
use waxwing_packet::{Address, Mac, Protocol};
use waxwing_testkit::memory::MemoryIo;

/// The clients' port.
pub(crate) const FRONT: PortId = PortId(0);
/// The backends' port.
pub(crate) const BACK: PortId = PortId(1);
/// The balancer's MAC addresses by port.
pub(crate) const PORT_MACS: [Mac; 2] = [Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2])];
/// In transparent mode, the bridge's own MAC address.
pub(crate) const BRIDGE_MAC: Mac = Mac([2, 0, 0, 0, 0, 3]);
/// The MAC address of the client or its gateway.
pub(crate) const CLIENT_MAC: Mac = Mac([2, 0, 0, 0, 1, 0]);
/// The TCP port of every service here.
pub(crate) const SERVICE_PORT: u16 = 80;
/// The port of every backend here.
pub(crate) const BACKEND_PORT: u16 = 8080;

/// The addresses of one family.
#[derive(Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) vip: Address,
    pub(crate) client: Address,
    backend: Address,
}

pub(crate) const V4: Plan = Plan {
    vip: Address::v4([203, 0, 113, 10]),
    client: Address::v4([198, 51, 100, 7]),
    backend: Address::v4([10, 2, 0, 10]),
};
pub(crate) const V6: Plan = Plan {
    vip: Address::v6([0x20, 1, 0xd, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10]),
    client: Address::v6([0x20, 1, 0xd, 0xb8, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]),
    backend: Address::v6([0xfd, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10]),
};

/// Each family with each protocol.
pub(crate) const EACH: [(Plan, Protocol); 4] = [
    (V4, Protocol::Tcp),
    (V4, Protocol::Udp),
    (V6, Protocol::Tcp),
    (V6, Protocol::Udp),
];

impl Plan {
    /// The n-th backend's address.
    pub(crate) fn backend(&self, n: u32) -> Address {
        Address::from_bits(self.backend.bits() + u128::from(n))
    }
}

/// The n-th backend's MAC address.
pub(crate) fn backend_mac(n: u32) -> Mac {
    Mac([2, 0, 0, 0, 2, n as u8])
}

/// Returns scripted picks in turn; records its calls.
#[derive(Default)]
pub(crate) struct Script {
    pub(crate) picks: Vec<Pick>,
    pub(crate) asked: Vec<NewFlow>,
    pub(crate) calls: usize,
    pub(crate) closed: Vec<Closed>,
    pub(crate) ticks: usize,
    pub(crate) fault: Option<PolicyFault>,
    pub(crate) payload_len: usize,
}

/// A [`Policy`] that shares a script with the test.
struct Scripted {
    script: Arc<std::sync::Mutex<Script>>,
    wants_closed: bool,
}

impl Scripted {
    fn script(&self) -> std::sync::MutexGuard<'_, Script> {
        self.script.lock().expect("the script is not poisoned")
    }
}

impl Policy for Scripted {
    fn payload_len(&self) -> usize {
        self.script().payload_len
    }

    fn pick(
        &mut self,
        _service: ServiceId,
        _context: PickContext<'_>,
        flows: &[NewFlow],
        picks: &mut [Pick],
    ) -> Result<(), PolicyFault> {
        let mut script = self.script();
        script.calls += 1;
        for (flow, pick) in flows.iter().zip(picks) {
            let turn = script.asked.len();
            *pick = match script.picks.len() {
                0 => Pick::Backend(0),
                n => script.picks[turn % n],
            };
            script.asked.push(*flow);
        }
        script.fault.map_or(Ok(()), Err)
    }

    fn wants_closed(&self) -> bool {
        self.wants_closed
    }

    fn closed(&mut self, _service: ServiceId, events: &[Closed]) {
        self.script().closed.extend_from_slice(events);
    }

    fn tick(&mut self, _context: TickContext<'_>) {
        self.script().ticks += 1;
    }
}

/// The settings of a world.
#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) plan: Plan,
    pub(crate) protocol: Protocol,
    pub(crate) weights: Vec<u32>,
    /// The health of the first backends; the others are up.
    pub(crate) health: Vec<(bool, SessionAction)>,
    /// How many of the first backends the config no longer has.
    pub(crate) removed: u32,
    /// Whether the config no longer has any service.
    pub(crate) is_unserved: bool,
    pub(crate) sessions_max: u32,
    pub(crate) workers: usize,
    pub(crate) mid_stream: MidStream,
    pub(crate) adopts_replies: bool,
    pub(crate) no_backend: NoBackend,
    /// The most sessions of each service.
    pub(crate) service_sessions_max: Option<u32>,
    pub(crate) source_limit: Option<SourceLimit>,
    pub(crate) timeouts: Timeouts,
    /// A second service on port 81 in front of the same servers.
    pub(crate) second_service: bool,
    /// Further services with a range of ports, in front of the same servers.
    pub(crate) ranges: Vec<Ports>,
    /// Source addresses, with ids from 1 on, and their clients.
    pub(crate) sources: Vec<Address>,
    pub(crate) pools: Vec<SourcePool>,
    pub(crate) source_nat: SourceUse,
    /// Whether the policy wants closed sessions.
    pub(crate) wants_closed: bool,
    pub(crate) mtu: u16,
    /// Whether a refused connection is retried at another backend.
    pub(crate) retries_refused: bool,
    /// Whether VIPs answer ping.
    pub(crate) ping: bool,
    /// Whether packets to unserved ports of VIPs are answered.
    pub(crate) rejects_unserved: bool,
    /// Transparent mode: whether the two ports belong to a bridge.
    pub(crate) transparent: bool,
    pub(crate) fragments: FragmentLimits,
    /// The balancer's own addresses, and its subnets' broadcast addresses.
    pub(crate) own: Vec<Address>,
    /// What the config says of who is behind [`FRONT`] and [`BACK`].
    pub(crate) faces: [Option<Faces>; 2],
    /// Ports from number 2 on.
    pub(crate) vlans: Vec<Port>,
    /// Whether the fast path is switched off.
    pub(crate) without_fast_path: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            plan: V4,
            protocol: Protocol::Tcp,
            weights: vec![1, 1, 1],
            health: Vec::new(),
            removed: 0,
            is_unserved: false,
            sessions_max: 1024,
            workers: 1,
            mid_stream: MidStream::Pick,
            adopts_replies: false,
            no_backend: NoBackend::Drop,
            service_sessions_max: None,
            source_limit: None,
            timeouts: Timeouts::default(),
            second_service: false,
            ranges: Vec::new(),
            sources: Vec::new(),
            pools: Vec::new(),
            source_nat: SourceUse::Auto,
            wants_closed: true,
            mtu: 1500,
            retries_refused: false,
            ping: true,
            rejects_unserved: false,
            transparent: false,
            fragments: FragmentLimits::default(),
            own: Vec::new(),
            faces: [None; 2],
            vlans: Vec::new(),
            without_fast_path: false,
        }
    }
}

impl Settings {
    /// Services of one protocol at the addresses of one family.
    pub(crate) fn new(plan: Plan, protocol: Protocol) -> Self {
        Self {
            plan,
            protocol,
            ..Self::default()
        }
    }

    pub(crate) fn tcp(plan: Plan) -> Self {
        Self::new(plan, Protocol::Tcp)
    }

    pub(crate) fn udp(plan: Plan) -> Self {
        Self::new(plan, Protocol::Udp)
    }

    /// Every service's ports, and the port of its backends.
    fn ports(&self) -> Vec<(Ports, u16)> {
        let second = self.second_service.then_some(SERVICE_PORT + 1);
        let single = std::iter::once(SERVICE_PORT).chain(second);
        let single = single.map(|port| (Ports::one(port), BACKEND_PORT));
        let ranges = self.ranges.iter();
        single
            .chain(ranges.map(|ports| (*ports, Backend::PORT_KEPT)))
            .collect()
    }

    pub(crate) fn snapshot(&self, generation: u64) -> Snapshot {
        let mut services = Vec::new();
        let mut backends = Vec::new();
        let count = self.weights.len() as u32;
        for (n, (ports, backend_port)) in (0..).zip(self.ports()) {
            let service = Service {
                id: ServiceId(n),
                name: format!("service-{n}").into(),
                vip: self.plan.vip,
                ports,
                protocol: self.protocol,
                source_nat: self.source_nat,
                policy: 0,
                backends: (n * count + self.removed..(n + 1) * count)
                    .map(BackendId)
                    .collect(),
                mid_stream: self.mid_stream,
                adopts_replies: self.adopts_replies,
                no_backend: self.no_backend,
                sessions_max: self.service_sessions_max,
                timeouts: self.timeouts,
            };
            backends.extend((0..count).zip(&self.weights).map(|(b, weight)| {
                let id = BackendId(n * count + b);
                let address = self.plan.backend(b);
                let mut backend = Backend::new(id, &service, address, backend_port, *weight);
                backend.retries_refused = self.retries_refused;
                if let Some(health) = self.health.get(b as usize) {
                    (backend.healthy, backend.sessions) = *health;
                }
                if b < self.removed || self.is_unserved {
                    backend.weight = 0;
                }
                backend
            }));
            if !self.is_unserved {
                services.push(service);
            }
        }
        let bridge = |peer| Bridge {
            peer,
            macs: [PORT_MACS[0], PORT_MACS[1], BRIDGE_MAC],
        };
        let ports = PORT_MACS
            .iter()
            .zip([("front", BACK), ("back", FRONT)])
            .map(|(mac, (name, peer))| (name, *mac, peer));
        let ports = (0..)
            .zip(ports)
            .map(|(id, (name, mac, peer))| Port {
                faces: self.faces[usize::from(id)],
                bridge: self.transparent.then(|| bridge(peer)),
                ..Port::attached(PortId(id), name.into(), mac, self.mtu)
            })
            .chain(self.vlans.iter().cloned())
            .collect();
        let sources: Vec<_> = (1..).map(SourceId).zip(self.sources.clone()).collect();
        let snapshot = Snapshot::new(generation, services, backends, ports)
            .answering_ping(self.ping)
            .rejecting_unserved(self.rejects_unserved)
            .limiting_sources(self.source_limit)
            .with_sources(Sources::new(&sources, &self.pools))
            .with_own(self.own.clone());
        if self.without_fast_path {
            snapshot.without_fast_path()
        } else {
            snapshot
        }
    }
}

/// The balancer and its workers, which the test runs turn by turn.
pub(crate) struct World {
    pub(crate) settings: Settings,
    pub(crate) shared: SharedState,
    pub(crate) script: Arc<std::sync::Mutex<Script>>,
    pub(crate) counters: Vec<Arc<WorkerCounters>>,
    mailboxes: Vec<Sender<Epoch>>,
    pub(crate) returned: Receiver<Epoch>,
    workers: Vec<Worker<MemoryIo>>,
    now: Duration,
}

impl World {
    pub(crate) fn new(settings: Settings) -> Self {
        let backends_max = 64;
        let shared = SharedState {
            sessions: Arc::new(
                SessionTable::new(settings.sessions_max, [1, 2, 3, 4]).expect("it is small"),
            ),
            next_hops: Arc::new(HopTable::new(backends_max)),
            gauges: Arc::new(
                Gauges::new(backends_max, settings.workers).with_services(backends_max),
            ),
            fragments: Arc::new(FragmentTable::new(settings.fragments, [9, 10, 11, 12])),
            direct: Arc::new(DirectFlows::new(1024)),
            source_rates: Arc::new(SourceRates::new([13, 14, 15, 16])),
        };
        let count = settings.weights.len() as u32;
        for id in 0..count * settings.ports().len() as u32 {
            let hop = NextHop {
                port: BACK,
                mac: backend_mac(id % count),
            };
            shared.next_hops.set(BackendId(id), Some(hop));
        }
        let script = Arc::default();
        let (give_back, returned) = unbounded();
        let mut world = Self {
            shared,
            script,
            counters: Vec::new(),
            mailboxes: Vec::new(),
            returned,
            workers: Vec::new(),
            now: Duration::from_secs(10),
            settings,
        };
        for number in 0..world.settings.workers {
            let (mailbox, inbox) = unbounded();
            let counters = WorkerCounters::new(backends_max).with_services(backends_max);
            let counters = Arc::new(counters);
            let setup = WorkerSetup {
                number,
                workers: world.settings.workers,
                shared: world.shared.clone(),
                counters: Arc::clone(&counters),
                cluster_key: [5, 6, 7, 8],
                mailbox: inbox,
                returned: give_back.clone(),
            };
            let epoch = world.epoch(world.settings.snapshot(1), Release::held());
            let mut worker = Worker::new(MemoryIo::new(2, 256), setup, epoch);
            // Announcements at start have their own scenario.
            for seconds in [0, 3, 6] {
                worker.turn(Now::from_start(Duration::from_secs(seconds)));
            }
            worker.io().sent();
            world.mailboxes.push(mailbox);
            world.counters.push(counters);
            world.workers.push(worker);
        }
        world
    }

    pub(crate) fn with_workers(workers: usize) -> Self {
        Self::new(Settings {
            workers,
            ..Settings::default()
        })
    }

    /// An epoch with the scripted policy.
    pub(crate) fn epoch(&self, snapshot: Snapshot, release: Release) -> Epoch {
        Epoch {
            snapshot: Arc::new(snapshot),
            policies: vec![Box::new(Scripted {
                script: Arc::clone(&self.script),
                wants_closed: self.settings.wants_closed,
            })],
            kept: Vec::new(),
            release,
        }
    }

    /// Has every backend reached by this port too.
    pub(crate) fn reach_also_by(&self, port: PortId) {
        let hops = &self.shared.next_hops;
        for id in (0..64).map(BackendId).filter(|id| hops.get(*id).is_some()) {
            hops.set_among(id, hops.get(id), &[port]);
        }
    }

    /// Gives all workers new settings from their next turn on.
    pub(crate) fn change(&mut self, change: impl FnOnce(&mut Settings)) {
        change(&mut self.settings);
        for worker in 0..self.settings.workers {
            self.change_at(worker, |_| {});
        }
    }

    /// Gives one worker new settings before the others.
    pub(crate) fn change_at(&mut self, worker: usize, change: impl FnOnce(&mut Settings)) {
        change(&mut self.settings);
        self.publish_at(worker, self.settings.snapshot(2));
    }

    /// Gives a worker a snapshot that it may use at once.
    pub(crate) fn publish_at(&mut self, worker: usize, snapshot: Snapshot) {
        let release = Release::held();
        release.give();
        self.send(worker, self.epoch(snapshot, release));
    }

    pub(crate) fn send(&self, worker: usize, epoch: Epoch) {
        let mailbox = &self.mailboxes[worker];
        mailbox.send(epoch).expect("the worker is there");
    }

    pub(crate) fn script(&self) -> std::sync::MutexGuard<'_, Script> {
        self.script.lock().expect("the script is not poisoned")
    }

    pub(crate) fn advance(&mut self, by: Duration) {
        self.now += by;
    }

    pub(crate) fn now(&self) -> Now {
        Now::from_start(self.now)
    }

    pub(crate) fn io(&mut self, worker: usize) -> &mut MemoryIo {
        self.workers[worker].io()
    }

    pub(crate) fn worker(&mut self, number: usize) -> &mut Worker<MemoryIo> {
        &mut self.workers[number]
    }

    /// Runs one turn of a worker; returns whether there was a frame.
    pub(crate) fn turn(&mut self, worker: usize) -> bool {
        self.workers[worker].turn(Now::from_start(self.now))
    }

    /// Advances time and runs a worker until it has swept a whole small table.
    pub(crate) fn sweep_round(&mut self, worker: usize, wait: Duration) {
        self.advance(wait);
        for _ in 0..100 {
            self.advance(Duration::from_millis(5));
            self.run(worker);
        }
    }

    /// Runs a worker until no frame is left.
    pub(crate) fn run(&mut self, worker: usize) {
        while self.turn(worker) {}
    }

    /// Gives a frame to worker 0; returns what it sends.
    pub(crate) fn frame(&mut self, port: PortId, frame: &[u8]) -> Vec<(PortId, Vec<u8>)> {
        self.frame_at(0, port, frame)
    }

    /// Gives a frame to a worker; returns what it sends.
    pub(crate) fn frame_at(
        &mut self,
        worker: usize,
        port: PortId,
        frame: &[u8],
    ) -> Vec<(PortId, Vec<u8>)> {
        assert!(self.io(worker).inject(port, frame), "the pool has a frame");
        self.run(worker);
        self.io(worker).sent()
    }

    /// Gives worker 0 all these frames before its turn; returns what it sends.
    pub(crate) fn batch(
        &mut self,
        port: PortId,
        frames: impl IntoIterator<Item = impl AsRef<[u8]>>,
    ) -> Vec<(PortId, Vec<u8>)> {
        for frame in frames {
            assert!(self.io(0).inject(port, frame.as_ref()), "room in the pool");
        }
        self.run(0);
        self.io(0).sent()
    }

    /// Gives worker 0 a client's frame that must be forwarded; returns its new destination.
    pub(crate) fn destination_of(&mut self, frame: &[u8]) -> Address {
        one(&self.frame(FRONT, frame)).1.destination
    }

    /// Gives worker 0 a client's frame, which must be forwarded to this backend.
    #[track_caller]
    pub(crate) fn assert_reaches(&mut self, backend: u32, frame: &[u8], why: impl fmt::Display) {
        let expected = self.settings.plan.backend(backend);
        assert_eq!(self.destination_of(frame), expected, "{why}");
    }

    /// The drops that are counted for a service too.
    pub(crate) fn dropped_of(&self, service: u32, reason: DropReason) -> u64 {
        let workers = self.counters.iter();
        workers
            .map(|c| c.dropped_of(ServiceId(service), reason))
            .sum()
    }

    pub(crate) fn dropped(&self, reason: DropReason) -> u64 {
        self.counters.iter().map(|c| c.dropped(reason).get()).sum()
    }

    /// The drops by reason.
    pub(crate) fn drops(&self) -> Vec<(DropReason, u64)> {
        DropReason::ALL
            .iter()
            .map(|r| (*r, self.dropped(*r)))
            .filter(|(_, n)| *n > 0)
            .collect()
    }

    pub(crate) fn sessions(&self) -> Vec<Session> {
        self.shared
            .sessions
            .iter()
            .map(|(_, session)| session)
            .collect()
    }

    /// The only session.
    pub(crate) fn session(&self) -> Session {
        let sessions = self.sessions();
        assert_eq!(sessions.len(), 1, "{sessions:?}");
        sessions[0]
    }

    /// A backend's counter, summed over all workers.
    pub(crate) fn counted(&self, id: u32, counter: fn(&BackendCounters) -> &Counter) -> u64 {
        let of_backend = |c: &Arc<WorkerCounters>| counter(c.backend(BackendId(id))).get();
        self.counters.iter().map(of_backend).sum()
    }

    /// The sessions of each backend, in any phase.
    pub(crate) fn held(&self) -> Vec<u32> {
        (0..self.settings.weights.len() as u32)
            .map(|id| self.shared.gauges.sessions(BackendId(id)).total())
            .collect()
    }
}

impl Drop for World {
    /// Checks that every frame returned to its pool and was counted once.
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        for worker in &mut self.workers {
            worker.io().sent();
            worker.io().passed_to_kernel();
            assert_eq!(
                worker.io().in_flight(),
                0,
                "frames are missing from the pool"
            );
        }
        let sum = |of: fn(&WorkerCounters) -> &Counter| -> u64 {
            self.counters
                .iter()
                .map(|counters| of(counters).get())
                .sum()
        };
        let dropped: u64 = self.drops().into_iter().map(|(_, n)| n).sum();
        assert_eq!(
            sum(|c| &c.received.packets) + sum(|c| &c.released) + sum(|c| &c.fragments_sent),
            sum(|c| &c.transmitted.packets)
                + sum(|c| &c.to_kernel)
                + sum(|c| &c.held)
                + sum(|c| &c.packets_fragmented)
                + dropped,
            "every frame ends in one way"
        );
    }
}
