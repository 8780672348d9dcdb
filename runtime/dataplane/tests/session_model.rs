//! The session table compared with a plain map: any sequence of operations, in tables small enough to
//! fill up, with hashes poor enough to collide, gives the map's results.

#![cfg(not(loom))]

use std::collections::HashMap;

use proptest::prelude::*;
use waxwing_dataplane::session::{
    Evictable, FlowHash, Insert, Phase, Removed, SESSIONS_MAX, Session, SessionRef, SessionTable,
    SlotCache, TableError, TcpState, Tuple, WORKER_UNCOUNTED,
};
use waxwing_dataplane::{BackendId, NextHop, PortId, SourceId, Tick};
use waxwing_packet::{Address, Mac, Protocol, TcpFlags, VlanTag, VlanTags};

/// A flow of the model. Two services; backend `b` serves service `b % 2` at server
/// `b / 2`, so that both services share their servers and reply tuples can clash.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Flow {
    client: u8,
    service: u8,
    server: u8,
}

const fn flow(client: u8, service: u8, server: u8) -> Flow {
    Flow {
        client,
        service,
        server,
    }
}

#[derive(Clone, Debug)]
enum Step {
    Insert(Flow, u8),
    /// A change of the session of a client and a service.
    Change(u8, u8, Change),
    Advance(u8),
    Sweep(u8),
    Evict(u8),
}

#[derive(Clone, Copy, Debug)]
enum Change {
    Remove,
    Touch,
    SetHop(u8),
    Tcp(u8),
    Bytes(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let change = prop_oneof![
        4 => Just(Change::Remove),
        2 => Just(Change::Touch),
        2 => any::<u8>().prop_map(Change::SetHop),
        4 => (0..3_u8).prop_map(Change::Tcp),
        2 => any::<u8>().prop_map(Change::Bytes),
    ];
    prop_oneof![
        12 => (0..24_u8, 0..2_u8, 0..2_u8, any::<u8>())
            .prop_map(|(client, service, server, n)| Step::Insert(flow(client, service, server), n)),
        14 => (0..24_u8, 0..2_u8, change).prop_map(|(c, s, change)| Step::Change(c, s, change)),
        2 => (1..40_u8).prop_map(Step::Advance),
        1 => (1..40_u8).prop_map(Step::Sweep),
        2 => (1..40_u8).prop_map(Step::Evict),
    ]
}

fn address(client: u8) -> Address {
    if client.is_multiple_of(2) {
        Address::v4([10, 0, 0, client])
    } else {
        Address::v6([client; 16])
    }
}

fn session(flow: Flow, n: u8, now: Tick) -> Session {
    Session {
        client: address(flow.client),
        client_port: 1_000 + u16::from(flow.client),
        service_port: 80 + u16::from(flow.service),
        source: SourceId(flow.client),
        source_port: 1_000 + u16::from(flow.client),
        protocol: [Protocol::Tcp, Protocol::Udp][usize::from(flow.client.is_multiple_of(3))],
        worker: n & WORKER_UNCOUNTED,
        backend: BackendId(u32::from(flow.server * 2 + flow.service)),
        hop: hop(n),
        tags: tags(n),
        created: now,
        seen: now,
        tcp: phase(n % 3),
    }
}

fn hop(n: u8) -> NextHop {
    NextHop {
        port: PortId(n),
        mac: Mac([n, 1, 2, 3, 4, n]),
    }
}

fn tags(n: u8) -> VlanTags {
    let tag = |on: bool, tpid: bool| match (on, tpid) {
        (false, _) => VlanTag::default(),
        (_, false) => VlanTag {
            tpid: 0x8100,
            tci: u16::from(n) << 8 | 1,
        },
        (_, true) => VlanTag {
            tpid: 0x88a8,
            tci: u16::from(n) << 4 | 2,
        },
    };
    let count = n % 3;
    VlanTags {
        count,
        tags: [tag(count > 0, n & 4 != 0), tag(count > 1, n & 8 != 0)],
    }
}

/// Half-open, established, closing.
fn phase(n: u8) -> TcpState {
    use waxwing_dataplane::session::Direction::{Forward, Reply};
    let first = TcpState::first(TcpFlags(TcpFlags::SYN));
    let open = first
        .on_packet(Reply, TcpFlags(TcpFlags::SYN | TcpFlags::ACK))
        .on_packet(Forward, TcpFlags(TcpFlags::ACK));
    [first, open, open.on_packet(Reply, TcpFlags(TcpFlags::RST))][usize::from(n)]
}

fn classify(session: &Session) -> Evictable {
    match session.tcp.phase() {
        Phase::HalfOpen => Evictable::Unassured,
        Phase::Closing => Evictable::Closing,
        Phase::Established => Evictable::Never,
    }
}

fn expired(session: &Session, now: Tick) -> bool {
    now.since(session.seen) > 30
}

type ModelSessions = HashMap<(u8, u8), (Session, Flow, SessionRef)>;

/// Removes from the map what the table removed, and compares its bytes.
fn forget(map: &mut ModelSessions, bytes: &mut HashMap<SessionRef, u64>, removed: &Removed) {
    let mut of_map = map.iter();
    let (key, at) = of_map
        .find_map(|(key, (known, _, at))| (*known == removed.session).then_some((*key, *at)))
        .expect("a session of ours");
    assert_eq!(bytes.remove(&at).unwrap_or(0), removed.bytes);
    map.remove(&key);
}

/// The table, the map, and the mask that spoils hashes.
struct World {
    table: SessionTable,
    cache: SlotCache,
    map: ModelSessions,
    /// Each session's bytes.
    bytes: HashMap<SessionRef, u64>,
    /// A removed session, whose slot may hold another by now.
    stale: Option<SessionRef>,
    now: Tick,
    mask: u64,
}

impl World {
    fn new(sessions_max: u32, mask: u64) -> Self {
        let table = SessionTable::new(sessions_max, [4, 3, 2, 1]).expect("memory");
        let cache = table.slot_cache();
        Self {
            table,
            cache,
            map: HashMap::new(),
            bytes: HashMap::new(),
            stale: None,
            now: Tick(100),
            mask,
        }
    }

    /// The masked hashes of both directions.
    fn hashes(&self, flow: Flow) -> [FlowHash; 2] {
        let client = (address(flow.client), 1_000 + u16::from(flow.client));
        let vip = (Address::v4([203, 0, 113, flow.service]), 80);
        let server = (Address::v4([10, 2, 0, flow.server]), 8080);
        [(client, vip), (server, client)].map(|(source, destination)| {
            let tuple = Tuple {
                source: source.0,
                destination: destination.0,
                source_port: source.1,
                destination_port: destination.1,
                protocol: Protocol::Tcp,
            };
            FlowHash::from_bits(self.table.hash(&tuple).bits() & self.mask)
        })
    }

    fn same_forward(flow: Flow) -> impl Fn(&Session) -> bool {
        move |s| s.client == address(flow.client) && s.backend.0 % 2 == u32::from(flow.service)
    }

    fn same_reply(flow: Flow) -> impl Fn(&Session) -> bool {
        move |s| s.client == address(flow.client) && s.backend.0 / 2 == u32::from(flow.server)
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Insert(flow, n) => self.insert(flow, n),
            Step::Change(client, service, change) => self.change((client, service), change),
            Step::Advance(ticks) => self.now.0 += u32::from(ticks),
            Step::Sweep(slots) => self.sweep(slots.into()),
            Step::Evict(window) => self.evict(window.into()),
        }
    }

    fn change(&mut self, key: (u8, u8), change: Change) {
        let Some((session, _, at)) = self.map.get_mut(&key) else {
            return;
        };
        let at = *at;
        match change {
            Change::Remove => {
                let bytes = self.bytes.remove(&at).unwrap_or(0);
                let session = *session;
                self.map.remove(&key);
                let removed = self.table.remove(&mut self.cache, at);
                assert_eq!(removed, Some(Removed { session, bytes }));
                self.stale = Some(at);
                let again = self.table.remove(&mut self.cache, at);
                assert_eq!(again, None, "removed twice");
                assert_eq!(self.table.get(at), None);
                assert_eq!(self.table.update_tcp(at, |_| phase(2)), None);
            }
            Change::Touch => {
                self.table.touch(at, self.now);
                self.table.touch(at, Tick(self.now.0 - 1));
                session.seen = self.now;
            }
            Change::SetHop(n) => {
                self.table.set_hop(at, hop(n), tags(n));
                (session.hop, session.tags) = (hop(n), tags(n));
            }
            Change::Tcp(n) => {
                let change = self.table.update_tcp(at, |_| phase(n));
                assert_eq!(change, Some((session.tcp, phase(n))));
                session.tcp = phase(n);
            }
            Change::Bytes(n) => {
                self.table.add_bytes(at, n.into());
                if let Some(stale) = self.stale {
                    self.table.add_bytes(stale, 1_000);
                }
                *self.bytes.entry(at).or_default() += u64::from(n);
            }
        }
    }

    fn insert(&mut self, flow: Flow, n: u8) {
        let new = session(flow, n, self.now);
        let [forward, reply] = self.hashes(flow);
        let key = (flow.client, flow.service);
        let result = self.table.insert(
            &mut self.cache,
            forward,
            reply,
            &new,
            Self::same_forward(flow),
            Self::same_reply(flow),
        );
        let known = self.map.get(&key).map(|(session, _, at)| (*at, *session));
        let other = self.map.get(&(flow.client, 1 - flow.service));
        let clash = other.is_some_and(|(_, taken, _)| taken.server == flow.server);
        match result {
            Insert::Exists(at, found) => assert_eq!(Some((at, found)), known),
            Insert::Clash(..) => assert!(known.is_none() && clash, "no clash"),
            Insert::Full => {
                assert!(known.is_none() && !clash);
                let full = self.map.len() == self.table.capacity();
                // Both buckets of a hash are full: 16 words, and a session has two.
                assert!(
                    full || self.mask != u64::MAX && self.map.len() >= 8,
                    "not full"
                );
            }
            Insert::Created(at) => {
                assert!(known.is_none() && !clash && self.map.len() < self.table.capacity());
                self.map.insert(key, (new, flow, at));
            }
        }
    }

    /// A partial sweep removes only expired sessions; a full one removes all of them.
    fn sweep(&mut self, slots: usize) {
        let now = self.now;
        let (map, bytes) = (&mut self.map, &mut self.bytes);
        let gone = |removed: Removed| {
            let s = &removed.session;
            assert!(expired(s, now), "swept too early: {s:?}");
            forget(map, bytes, &removed);
        };
        self.table
            .sweep(&mut self.cache, slots, |s| expired(s, now), gone);
        if slots >= self.table.capacity() {
            assert!(
                !self.map.values().any(|(s, ..)| expired(s, now)),
                "left behind"
            );
        }
    }

    fn evict(&mut self, window: usize) {
        let evicted = self
            .table
            .evict(&mut self.cache, window, classify, self.now);
        let rank = |s: &Session| match classify(s) {
            Evictable::Unassured => Some((1, 0)),
            Evictable::Closing => Some((0, self.now.since(s.seen))),
            Evictable::Never => None,
        };
        let evicted_rank = evicted.as_ref().and_then(|it| rank(&it.session));
        let best = self.map.values().filter_map(|(s, ..)| rank(s)).max();
        if window >= self.table.capacity() {
            assert_eq!(evicted_rank, best);
        }
        if let Some(removed) = evicted {
            assert_ne!(classify(&removed.session), Evictable::Never);
            forget(&mut self.map, &mut self.bytes, &removed);
        }
    }

    /// The table equals the map: by count, by listing, and by both hashes of each session.
    fn check(&self) {
        assert_eq!(self.table.len(), self.map.len());
        let listed: HashMap<SessionRef, Session> = self.table.iter().collect();
        assert_eq!(listed.len(), self.map.len());
        for client in 0..24 {
            for service in 0..2 {
                let known = self.map.get(&(client, service));
                for server in 0..2 {
                    let flow = flow(client, service, server);
                    let [forward, reply] = self.hashes(flow);
                    let expected = known.map(|(session, _, at)| (*at, *session));
                    let found = self.table.find(forward, Self::same_forward(flow));
                    assert_eq!(found, expected);
                    if let Some((session, pinned, at)) = known
                        && pinned.server == server
                    {
                        assert_eq!(listed.get(at), Some(session));
                        assert_eq!(self.table.get(*at), Some(*session));
                        let found = self.table.find(reply, Self::same_reply(flow));
                        assert_eq!(found, Some((*at, *session)));
                    }
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn table_equals_map(
        sessions_max in 1..40_u32,
        // All bits; a few hashes in all; one bucket's worth; none.
        mask in prop_oneof![3 => Just(u64::MAX), 1 => Just(3 << 62), 1 => Just(0xff), 1 => Just(0)],
        steps in prop::collection::vec(step(), 1..250),
    ) {
        let mut world = World::new(sessions_max, mask);
        for (at, step) in steps.iter().enumerate() {
            world.step(step);
            if at % 16 == 0 {
                world.check();
            }
        }
        world.check();
    }
}

/// Every table holds exactly its capacity, and all slots return.
#[test]
fn fills_to_its_capacity_and_empties() {
    for sessions_max in [1, 2, 3, 7, 8, 9, 64, 255, 256, 300, 1_000, 70_000] {
        let table = SessionTable::new(sessions_max, [7, 7, 7, 7]).expect("memory");
        let mut cache = table.slot_cache();
        for round in 0..3 {
            for n in 0..=sessions_max {
                let tuple = |direction: u8| Tuple {
                    source: Address::v4((n * 3 + round).to_be_bytes()),
                    destination: Address::v4([1, 1, 1, direction]),
                    source_port: 1,
                    destination_port: 2,
                    protocol: Protocol::Udp,
                };
                let [forward, reply] = [0, 1].map(|direction| table.hash(&tuple(direction)));
                let new = session(flow(2, 0, 0), 0, Tick(n));
                let made = table.insert(&mut cache, forward, reply, &new, |_| false, |_| false);
                assert_eq!(
                    matches!(made, Insert::Created(_)),
                    n < sessions_max,
                    "{made:?}"
                );
            }
            assert_eq!(
                (table.len(), table.iter().count()),
                (table.capacity(), table.capacity())
            );
            let mut ended = 0;
            table.sweep(&mut cache, usize::MAX, |_| true, |_| ended += 1);
            assert_eq!((ended, table.len()), (table.capacity(), 0));
        }
    }
}

/// A dropped cache's slots are available to others.
#[test]
fn a_dropped_cache_returns_its_slots() {
    let table = SessionTable::new(1_000, [1; 4]).expect("memory");
    let insert = |cache: &mut SlotCache, n: u32| {
        let [a, b] = [u64::from(n) << 32, u64::from(n) << 33 | 1]
            .map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let new = session(flow(0, 0, 0), 0, Tick(n));
        let hashes = [FlowHash::from_bits(a), FlowHash::from_bits(b)];
        table.insert(cache, hashes[0], hashes[1], &new, |_| false, |_| false)
    };
    let mut one = table.slot_cache();
    let mut other = table.slot_cache();
    assert!(matches!(insert(&mut one, 0), Insert::Created(_)));
    let mut made = 1;
    while matches!(insert(&mut other, made), Insert::Created(_)) {
        made += 1;
    }
    // One magazine is 1/256 of the table: 3 slots, of which one is in use.
    assert_eq!(made, 1_000 - 2);
    drop(one);
    assert!(matches!(insert(&mut other, made), Insert::Created(_)));
}

/// A session stores its worker in seven bits.
#[test]
fn a_worker_beyond_the_limit_is_stored_as_uncounted() {
    let table = SessionTable::new(10, [1; 4]).expect("memory");
    let mut cache = table.slot_cache();
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        for worker in [0, 1, 126, 127, 128, 255] {
            let new = Session {
                worker,
                protocol,
                ..session(flow(0, 0, 0), 0, Tick(1))
            };
            let hash = FlowHash::from_bits(1);
            let made = table.insert(&mut cache, hash, hash, &new, |_| false, |_| false);
            let Insert::Created(at) = made else {
                panic!("not created: {made:?}")
            };
            let known = Session {
                worker: worker.min(WORKER_UNCOUNTED),
                ..new
            };
            assert_eq!(table.get(at), Some(known));
            table.remove(&mut cache, at);
        }
    }
}

#[test]
fn sizes_and_limits() {
    for refused in [0, SESSIONS_MAX + 1, u32::MAX] {
        assert_eq!(
            SessionTable::new(refused, [0; 4]).err(),
            Some(TableError::OutOfRange(refused))
        );
    }
    let table = SessionTable::new(100_000, [0; 4]).expect("memory");
    assert!(table.is_empty());
    let table = SessionTable::new(1_000_000, [0; 4]).expect("memory");
    let per_session = table.memory_bytes() / table.capacity();
    assert_eq!(per_session, 112, "of 128, with which 8 M fit in 1 GiB");
}
