//! The session table under real threads: loom's invariants over millions of steps.

#![cfg(not(loom))]

use std::collections::HashMap;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use waxwing_dataplane::session::{
    Direction, FlowHash, Insert, Session, SessionRef, SessionTable, SlotCache, TcpState,
};
use waxwing_dataplane::{BackendId, NextHop, PortId, SourceId, Tick};
use waxwing_packet::plain::wire_words;
use waxwing_packet::{Address, Mac, Protocol, TcpFlags, VlanTag, VlanTags};
use waxwing_testkit::random::Random;

const THREADS: u8 = 4;

/// The `nonce`-th session of flow `key`: each field follows from both.
fn session(key: u32, nonce: u32) -> Session {
    let bits = mix(key, nonce);
    let [a, b, c, d, ..] = bits.to_be_bytes();
    Session {
        client: Address::from_bits(u128::from(key) << 96 | u128::from(bits)),
        client_port: u16::from_be_bytes([a, b]),
        service_port: u16::from_be_bytes([b, c]),
        source: SourceId(d),
        source_port: u16::from_be_bytes([c, d]),
        protocol: [Protocol::Udp, Protocol::Tcp][usize::from(a % 2)],
        worker: a >> 1,
        backend: BackendId(nonce),
        hop: hop(d),
        tags: tags(d),
        created: Tick(nonce ^ key),
        seen: Tick(0),
        tcp: TcpState::default(),
    }
}

fn mix(key: u32, nonce: u32) -> u64 {
    Random::new(u64::from(key) << 32 | u64::from(nonce)).next()
}

fn hop(n: u8) -> NextHop {
    NextHop {
        port: PortId(n),
        mac: Mac([n; 6]),
    }
}

fn tags(n: u8) -> VlanTags {
    let tag = |tpid| VlanTag {
        tpid,
        tci: u16::from(n),
    };
    VlanTags {
        count: 2,
        tags: [tag(0x88a8), tag(0x8100)],
    }
}

fn below(random: &mut Random, end: u32) -> u32 {
    u32::try_from(random.below(end.into())).expect("below a u32")
}

fn key_of(session: &Session) -> u32 {
    u32::try_from(session.client.bits() >> 96).expect("the upper 32 bits")
}

/// A session is always read whole: constant fields follow from key and nonce, and the
/// return hop, which other threads change, is consistent.
fn assert_whole(found: &Session) {
    let whole = session(key_of(found), found.backend.0);
    let n = found.hop.port.0;
    assert_eq!((found.hop, found.tags), (hop(n), tags(n)), "a torn route");
    let constant = Session {
        hop: whole.hop,
        tags: whole.tags,
        seen: whole.seen,
        tcp: whole.tcp,
        ..*found
    };
    assert_eq!(constant, whole, "a torn session");
}

/// Few hashes, so that many keys share buckets and tags.
fn hashes(key: u32) -> [FlowHash; 2] {
    let class = u64::from(key % 5);
    [
        FlowHash::from_bits(class << 61),
        FlowHash::from_bits(class << 61 | class << 29),
    ]
}

fn find(table: &SessionTable, direction: usize, key: u32) -> Option<(SessionRef, Session)> {
    let found = table.find(hashes(key)[direction], |s| key_of(s) == key);
    if let Some((_, session)) = &found {
        assert_whole(session);
    }
    found
}

fn insert(table: &SessionTable, cache: &mut SlotCache, key: u32, nonce: u32) -> Insert {
    let same = |s: &Session| key_of(s) == key;
    let [forward, reply] = hashes(key);
    table.insert(cache, forward, reply, &session(key, nonce), same, same)
}

/// All operations from all threads on few flows, in a table too small for all of them.
#[test]
fn sessions_are_read_whole_and_are_unique() {
    const KEYS: u32 = 40;
    let table = SessionTable::new(24, [9; 4]).expect("memory");
    let barrier = Barrier::new(THREADS.into());
    let (created, removed) = (AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        for n in 0..THREADS {
            let (table, barrier, counts) = (&table, &barrier, (&created, &removed));
            scope.spawn(move || {
                let mut random = Random::new(u64::from(n) + 1);
                let mut cache = table.slot_cache();
                let mut known: HashMap<u32, SessionRef> = HashMap::new();
                for _round in 0..200 {
                    for _ in 0..500 {
                        let key = below(&mut random, KEYS);
                        act(table, &mut cache, &mut random, &mut known, key, counts);
                    }
                    barrier.wait();
                    if n == 0 {
                        let [created, removed] =
                            [counts.0, counts.1].map(|count| count.load(Ordering::SeqCst));
                        assert_settled(table, created - removed);
                    }
                    barrier.wait();
                }
            });
        }
    });
    assert!(
        removed.load(Ordering::SeqCst) > 1_000,
        "the test tests little"
    );
}

/// One step of one thread; references are kept long, so most are stale.
fn act(
    table: &SessionTable,
    cache: &mut SlotCache,
    random: &mut Random,
    known: &mut HashMap<u32, SessionRef>,
    key: u32,
    (created, removed): (&AtomicU64, &AtomicU64),
) {
    match random.below(16) {
        0..5 => match insert(table, cache, key, below(random, 1 << 22)) {
            Insert::Created(at) => {
                created.fetch_add(1, Ordering::SeqCst);
                known.insert(key, at);
            }
            Insert::Exists(at, session) => {
                assert_whole(&session);
                assert_eq!(key_of(&session), key);
                known.insert(key, at);
            }
            Insert::Clash(..) | Insert::Full => {}
        },
        5..8 => {
            if let Some((at, _)) = find(table, random.index(2), key) {
                known.insert(key, at);
            }
        }
        8 => {
            table.sweep(
                cache,
                4,
                |session| session.created.0.is_multiple_of(7),
                |ended| {
                    assert_whole(&ended.session);
                    removed.fetch_add(1, Ordering::SeqCst);
                },
            );
        }
        operation => {
            let Some(at) = known.get(&key).copied() else {
                return;
            };
            let n = random.byte();
            match operation {
                9..12 => {
                    if let Some(ended) = table.remove(cache, at) {
                        assert_whole(&ended.session);
                        assert_eq!(key_of(&ended.session), key);
                        removed.fetch_add(1, Ordering::SeqCst);
                    }
                }
                12 => table.set_hop(at, hop(n), tags(n)),
                13 => drop(table.touch(at, Tick(n.into()))),
                14 => {
                    let flags = TcpFlags(n);
                    table.update_tcp(at, |tcp| tcp.on_packet(Direction::Forward, flags));
                }
                _ => {
                    if let Some(session) = table.get(at) {
                        assert_whole(&session);
                        assert_eq!(key_of(&session), key, "a reference to another session");
                    }
                }
            }
        }
    }
}

/// At rest: one session per flow, found in both directions, and the counts are right.
fn assert_settled(table: &SessionTable, live: u64) {
    let mut listed = HashMap::new();
    for (at, session) in table.iter() {
        assert_whole(&session);
        assert_eq!(
            listed.insert(key_of(&session), at),
            None,
            "two sessions of one flow"
        );
        for direction in [0, 1] {
            let found = find(table, direction, key_of(&session));
            assert_eq!(found, Some((at, session)));
        }
    }
    assert_eq!((table.len() as u64, listed.len() as u64), (live, live));
}

/// Two threads at the same flow at once: one creates it, one removes it.
#[test]
fn exactly_one_of_two_threads_wins() {
    let table = SessionTable::new(1_000, [9; 4]).expect("memory");
    let barrier = Barrier::new(2);
    let race = || {
        let mut cache = table.slot_cache();
        (0..20_000)
            .map(|round| {
                barrier.wait();
                let made = insert(&table, &mut cache, round % 7, round);
                barrier.wait();
                let (at, session) = find(&table, 0, round % 7).expect("one of the two made it");
                if let Insert::Created(mine) | Insert::Exists(mine, _) = made {
                    assert_eq!(mine, at);
                }
                barrier.wait();
                let ended = table.remove(&mut cache, at);
                assert!(ended.is_none_or(|ended| ended.session == session));
                (matches!(made, Insert::Created(_)), ended.is_some())
            })
            .collect::<Vec<_>>()
    };
    let (one, other) = thread::scope(|scope| {
        let other = scope.spawn(race);
        (race(), other.join().expect("no panic"))
    });
    for (one, other) in one.iter().zip(&other) {
        assert!(one.0 != other.0 && one.1 != other.1, "{one:?} {other:?}");
    }
    assert!(table.is_empty());
}

/// Sessions that stay are always found, while others come and go in their buckets.
#[test]
fn staying_sessions_are_always_found() {
    const STAYING: u32 = 10;
    let table = SessionTable::new(24, [9; 4]).expect("memory");
    let mut cache = table.slot_cache();
    for key in 0..STAYING {
        assert!(matches!(
            insert(&table, &mut cache, key, 1),
            Insert::Created(_)
        ));
    }
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for n in 0..2 {
            let (table, done) = (&table, &done);
            scope.spawn(move || {
                let mut random = Random::new(n);
                let mut cache = table.slot_cache();
                while !done.load(Ordering::Relaxed) {
                    let key = STAYING + below(&mut random, 20);
                    if let Insert::Created(at) = insert(table, &mut cache, key, 2) {
                        assert!(table.remove(&mut cache, at).is_some());
                    }
                }
            });
        }
        let mut random = Random::new(7);
        for _ in 0..1_000_000 {
            let key = below(&mut random, STAYING);
            let found = find(&table, random.index(2), key);
            assert!(found.is_some(), "session {key} was missed");
        }
        done.store(true, Ordering::Relaxed);
    });
}

/// The fast path's reader sees each session whole or not at all while others take its slot.
#[test]
fn sessions_are_glimpsed_whole() {
    const KEYS: u32 = 20;
    let table = SessionTable::new(12, [9; 4]).expect("memory");
    let done = AtomicBool::new(false);
    let mut glimpsed = 0;
    thread::scope(|scope| {
        for n in 0..2 {
            let (table, done) = (&table, &done);
            scope.spawn(move || {
                let mut random = Random::new(n);
                let mut cache = table.slot_cache();
                let mut known = Vec::new();
                while !done.load(Ordering::Relaxed) {
                    let (key, nonce) = (below(&mut random, KEYS), below(&mut random, 1 << 22));
                    if let Insert::Created(at) = insert(table, &mut cache, key, nonce) {
                        known.push(at);
                    }
                    if known.len() > 4 {
                        let at = known.swap_remove(random.index(4));
                        assert!(table.remove(&mut cache, at).is_some());
                    }
                }
            });
        }
        let reader = table.reader();
        let mut random = Random::new(7);
        for _ in 0..1_000_000 {
            let place = reader.place(hashes(below(&mut random, KEYS))[random.index(2)]);
            let mut lane = reader.first(place);
            while !lane.is_none() {
                if let Some(glimpse) = reader.glimpse(lane) {
                    let client = glimpse.client.map(u64::from_be);
                    let key = u32::try_from(client[0] >> 32).expect("the upper 32 bits");
                    let whole = session(key, glimpse.backend().0);
                    assert_eq!(glimpse.client, wire_words(whole.client));
                    let ports = u32::from(whole.client_port) << 16 | u32::from(whole.service_port);
                    assert_eq!(glimpse.request_ports(), ports);
                    assert_eq!(glimpse.source_port(), whole.source_port);
                    glimpsed += 1;
                }
                lane = reader.next(place, lane);
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(glimpsed > 1_000, "the test tests little");
}
