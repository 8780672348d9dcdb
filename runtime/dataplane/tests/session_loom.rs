//! The session table under every interleaving that loom explores within a preemption bound.
//!
//!     RUSTFLAGS="--cfg loom" cargo test -p waxwing-dataplane --test session_loom --release
//!
//! Each model checks an invariant of `waxwing_dataplane::session`. The table is the real one.

#![cfg(loom)]

use loom::sync::Arc;
use loom::thread;
use waxwing_dataplane::session::{
    Direction, FlowHash, Glimpse, Insert, Phase, Session, SessionRef, SessionTable, SlotCache,
    TcpState,
};
use waxwing_dataplane::{BackendId, NextHop, PortId, SourceId, Tick};
use waxwing_packet::plain::{PackedTags, wire_words};
use waxwing_packet::{Address, Mac, Protocol, TcpFlags, VlanTag, VlanTags};

/// Runs a model with at most `preemptions` forced switches per execution.
fn model(preemptions: usize, f: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 10_000;
    builder.check(f);
}

fn table(sessions: u32) -> Arc<SessionTable> {
    Arc::new(SessionTable::new(sessions, [1, 2, 3, 4]).expect("memory"))
}

/// A session whose fields all follow from `n`, so that a torn read shows.
fn session(n: u8) -> Session {
    Session {
        client: Address::v6([n; 16]),
        client_port: n.into(),
        service_port: u16::from(n) + 1,
        source: SourceId(n),
        source_port: u16::from(n) + 2,
        protocol: [Protocol::Udp, Protocol::Tcp][usize::from(n % 2)],
        worker: n,
        backend: BackendId(n.into()),
        hop: hop(n),
        tags: tags(n),
        created: Tick(n.into()),
        seen: Tick(n.into()),
        tcp: TcpState::first(TcpFlags(TcpFlags::SYN)),
    }
}

fn hop(n: u8) -> NextHop {
    NextHop {
        port: PortId(n),
        mac: Mac([n; 6]),
    }
}

fn tags(n: u8) -> VlanTags {
    let tag = VlanTag {
        tpid: 0x8100,
        tci: n.into(),
    };
    VlanTags {
        count: 1,
        tags: [tag, VlanTag::default()],
    }
}

const FORWARD: FlowHash = FlowHash::from_bits(0x1111_2222_3333_4444);
const REPLY: FlowHash = FlowHash::from_bits(0x8888_2222_3333_5555);

fn insert(table: &SessionTable, cache: &mut SlotCache, session: &Session) -> Insert {
    let (forward, reply) = (is(session), is(session));
    table.insert(cache, FORWARD, REPLY, session, forward, reply)
}

/// Whether both are of the same flow.
fn is(wanted: &Session) -> impl Fn(&Session) -> bool + use<> {
    let key = (wanted.client, wanted.client_port);
    move |session| (session.client, session.client_port) == key
}

fn created(insert: Insert) -> SessionRef {
    match insert {
        Insert::Created(at) => at,
        other => panic!("not created: {other:?}"),
    }
}

/// A table with room for one session, and this session.
fn one_session() -> (Arc<SessionTable>, SlotCache, SessionRef) {
    let table = table(1);
    let mut cache = table.slot_cache();
    let at = created(insert(&table, &mut cache, &session(1)));
    (table, cache, at)
}

/// Runs `f` beside the caller.
fn beside<T: 'static>(
    table: &Arc<SessionTable>,
    f: impl FnOnce(&SessionTable) -> T + Send + 'static,
) -> thread::JoinHandle<T> {
    let table = table.clone();
    thread::spawn(move || f(&table))
}

/// Two workers insert one flow's session: one creates it, the other finds it.
#[test]
fn one_of_two_inserts_wins() {
    model(3, || {
        let table = table(2);
        let work = |table: &SessionTable| insert(table, &mut table.slot_cache(), &session(1));
        let other = beside(&table, work);
        let mine = work(&table);
        let theirs = other.join().expect("no panic");
        match (mine, theirs) {
            (Insert::Created(a), Insert::Exists(b, found))
            | (Insert::Exists(b, found), Insert::Created(a)) => {
                assert_eq!((a, found), (b, session(1)));
            }
            other => panic!("{other:?}"),
        }
        assert_eq!((table.len(), table.iter().count()), (1, 1));
    });
}

/// Two flows share a reply tuple: one gets it.
#[test]
fn one_of_two_clashing_inserts_wins() {
    model(3, || {
        let table = table(2);
        let work = |table: &SessionTable, n: u8, forward: u64| {
            let forward = FlowHash::from_bits(forward);
            let (new, same) = (session(n), is(&session(n)));
            table.insert(&mut table.slot_cache(), forward, REPLY, &new, same, |_| {
                true
            })
        };
        let other = beside(&table, move |table| work(table, 1, 1 << 40));
        let mine = work(&table, 3, 5 << 60);
        let theirs = other.join().expect("no panic");
        assert!(matches!(
            (mine, theirs),
            (Insert::Created(_), Insert::Clash(..)) | (Insert::Clash(..), Insert::Created(_))
        ));
        assert_eq!(table.len(), 1);
    });
}

/// A reader sees no session or a whole one; once one direction finds it, so does the other.
#[test]
fn a_session_appears_at_once() {
    model(3, || {
        let table = table(1);
        let reader = beside(&table, move |table| {
            let wanted = session(1);
            let first = table.find(FORWARD, is(&wanted));
            let second = table.find(REPLY, is(&wanted));
            if let Some((at, found)) = first {
                assert_eq!((found, second), (wanted, Some((at, wanted))));
            }
        });
        let mut cache = table.slot_cache();
        created(insert(&table, &mut cache, &session(1)));
        reader.join().expect("no panic");
    });
}

/// A slot changes its session while a reader looks for both. The reader sees each session whole
/// or not at all, and never the older one after the newer one.
#[test]
fn a_reused_slot_is_read_whole() {
    model(2, || {
        let (table, mut cache, at) = one_session();
        let reader = beside(&table, move |table| {
            let newer = table.find(FORWARD, is(&session(2)));
            let older = table.find(FORWARD, is(&session(1)));
            assert!(newer.is_none_or(|(_, found)| found == session(2)));
            assert!(older.is_none_or(|(seen_at, found)| (seen_at, found) == (at, session(1))));
            assert!(newer.is_none() || older.is_none());
        });
        let removed = table.remove(&mut cache, at).map(|it| it.session);
        assert_eq!(removed, Some(session(1)));
        created(insert(&table, &mut cache, &session(2)));
        reader.join().expect("no panic");
    });
}

/// A session that stays is always found, whatever happens in its bucket, whether the
/// neighbours' tags differ from its own or not.
#[test]
fn a_staying_session_is_always_found() {
    // A bit in the middle of a half changes the tag but not the buckets.
    const OTHER_TAG: u64 = 1 << 8;
    for (preemptions, difference) in [(3, OTHER_TAG), (1, 0)] {
        model(preemptions, move || {
            let table = table(2);
            let mut cache = table.slot_cache();
            let mut neighbour = |n: u8| {
                let [forward, reply] =
                    [FORWARD, REPLY].map(|hash| FlowHash::from_bits(hash.bits() ^ difference));
                let (session, is) = (session(n), is(&session(n)));
                created(table.insert(&mut cache, forward, reply, &session, &is, &is))
            };
            let leaving = neighbour(1);
            let mut cache = table.slot_cache();
            let staying = created(insert(&table, &mut cache, &session(2)));
            let reader = beside(&table, move |table| {
                let found = table.find(FORWARD, is(&session(2)));
                assert_eq!(found, Some((staying, session(2))));
            });
            table.remove(&mut cache, leaving);
            neighbour(3);
            reader.join().expect("no panic");
        });
    }
}

/// The session of a client by the fast path's reader, and whether its entry is the reply's.
fn glimpse(table: &SessionTable, hash: FlowHash, wanted: &Session) -> Option<(Glimpse, bool)> {
    let reader = table.reader();
    let place = reader.place(hash);
    let mut lane = reader.first(place);
    while !lane.is_none() {
        if let Some(glimpse) = reader.glimpse(lane)
            && glimpse.client == wire_words(wanted.client)
        {
            return Some((glimpse, lane.is_reply()));
        }
        lane = reader.next(place, lane);
    }
    None
}

/// All fields are the session's.
fn assert_whole(glimpse: &Glimpse, session: &Session) {
    let ports = u32::from(session.client_port) << 16 | u32::from(session.service_port);
    let fields = (
        glimpse.backend(),
        glimpse.request_ports(),
        glimpse.source_port(),
    );
    assert_eq!(fields, (session.backend, ports, session.source_port));
}

/// A slot changes its session while the fast path reads it, by either direction: it sees one of both sessions
/// whole, or none, and by the entry of that direction.
#[test]
fn a_reused_slot_is_glimpsed_whole() {
    for (hash, is_reply) in [(FORWARD, false), (REPLY, true)] {
        model(2, move || {
            let (table, mut cache, at) = one_session();
            let reader = beside(&table, move |table| {
                let reader = table.reader();
                let lane = reader.first(reader.place(hash));
                if let Some(glimpse) = reader.glimpse(lane) {
                    let n = [1, 2].map(session).into_iter();
                    let mut n = n.filter(|n| wire_words(n.client) == glimpse.client);
                    assert_whole(&glimpse, &n.next().expect("one of both"));
                    assert_eq!(lane.is_reply(), is_reply);
                }
            });
            table.remove(&mut cache, at).expect("the only remover");
            created(insert(&table, &mut cache, &session(2)));
            reader.join().expect("no panic");
        });
    }
}

/// A session that stays is always found by the fast path's reader while neighbours with other tags come and
/// go; with the same tag, the reader may miss it, and the general path's lookup finds it.
#[test]
fn a_staying_session_is_always_glimpsed() {
    for (preemptions, difference) in [(3, 1 << 8), (1, 0)] {
        model(preemptions, move || {
            let table = table(2);
            let mut cache = table.slot_cache();
            let mut neighbour = |n: u8| {
                let [forward, reply] =
                    [FORWARD, REPLY].map(|hash| FlowHash::from_bits(hash.bits() ^ difference));
                let (session, is) = (session(n), is(&session(n)));
                created(table.insert(&mut cache, forward, reply, &session, &is, &is))
            };
            let leaving = neighbour(1);
            let mut cache = table.slot_cache();
            created(insert(&table, &mut cache, &session(2)));
            let reader = beside(&table, move |table| {
                let found = glimpse(table, FORWARD, &session(2));
                assert!(found.is_some() || difference == 0);
                if let Some((glimpse, _)) = found {
                    assert_whole(&glimpse, &session(2));
                }
            });
            table.remove(&mut cache, leaving);
            neighbour(3);
            reader.join().expect("no panic");
        });
    }
}

/// A session in its second bucket is always found, whatever happens in the first.
#[test]
fn a_session_that_overflowed_is_always_found() {
    model(2, || {
        let table = table(13);
        let mut cache = table.slot_cache();
        let mut neighbours = (1..=10).map(|n| created(insert(&table, &mut cache, &session(n))));
        let leaving = neighbours.next().expect("the first of ten");
        assert_eq!(neighbours.count(), 9);
        let staying = created(insert(&table, &mut cache, &session(11)));
        let reader = beside(&table, move |table| {
            let found = table.find(FORWARD, is(&session(11)));
            assert_eq!(found, Some((staying, session(11))));
        });
        table.remove(&mut cache, leaving).expect("the only remover");
        created(insert(&table, &mut cache, &session(12)));
        reader.join().expect("no panic");
    });
}

/// Of two removers one gets the session; its slot is freed once.
#[test]
fn one_of_two_removes_wins() {
    model(3, || {
        let (table, mut cache, at) = one_session();
        let other = beside(&table, move |table| {
            table.remove(&mut table.slot_cache(), at).is_some()
        });
        let mine = table.remove(&mut cache, at).is_some();
        let theirs = other.join().expect("no panic");
        assert!(mine != theirs, "{mine} {theirs}");
        assert_eq!(table.len(), 0);
        created(insert(&table, &mut cache, &session(2)));
        assert_eq!(insert(&table, &mut cache, &session(3)), Insert::Full);
    });
}

/// A flow ends and starts again while another worker inserts it too: one session remains.
#[test]
fn a_remove_and_two_inserts_leave_one_session() {
    model(2, || {
        let table = table(2);
        let mut cache = table.slot_cache();
        let at = created(insert(&table, &mut cache, &session(1)));
        let other = beside(&table, move |table| {
            let mut cache = table.slot_cache();
            matches!(insert(&table, &mut cache, &session(1)), Insert::Created(_))
        });
        table.remove(&mut cache, at).expect("the only remover");
        let mine = matches!(insert(&table, &mut cache, &session(1)), Insert::Created(_));
        let theirs = other.join().expect("no panic");
        assert!(!(mine && theirs), "two sessions of one flow");
        assert!(mine || theirs || table.is_empty());
        assert_eq!(table.iter().count(), table.len());
    });
}

/// A return hop is read as a whole, even by a reader that two changes overtake.
#[test]
fn return_hops_are_read_whole() {
    model(3, || {
        let (table, _cache, at) = one_session();
        let reader = beside(&table, move |table| {
            let found = table.get(at).expect("it stays");
            let n = found.hop.port.0;
            assert_eq!((found.hop, found.tags), (hop(n), tags(n)));
        });
        table.set_hop(at, hop(2), tags(2));
        table.set_hop(at, hop(3), tags(3));
        reader.join().expect("no panic");
        assert_eq!(table.get(at).expect("it stays").hop, hop(3));
    });
}

/// So it is by the fast path's reader, with its VLAN tags; or not at all.
#[test]
fn return_hops_are_glimpsed_whole() {
    model(3, || {
        let (table, _cache, _) = one_session();
        let reader = beside(&table, move |table| {
            let reader = table.reader();
            let lane = reader.first(reader.place(FORWARD));
            if let Some((glimpse, found)) = reader.glimpse_with_tags(lane) {
                let [kind, n, ..] = glimpse.hop().to_be_bytes();
                let expected = PackedTags::from(&tags(n));
                assert_eq!((kind, found), (expected.kind, expected));
            }
        });
        let (at, _) = table.find(FORWARD, is(&session(1))).expect("it stays");
        table.set_hop(at, hop(2), tags(2));
        table.set_hop(at, hop(3), tags(3));
        reader.join().expect("no panic");
    });
}

/// Operations on a stale reference leave the slot's next session unchanged. The last-seen tick is not
/// compared: loom lets a store come between the two halves of a `fetch_max`, which loses the store. No
/// processor's memory model allows that, nor does that of C++.
#[test]
fn stale_references_change_nothing() {
    model(3, || {
        let (table, mut cache, at) = one_session();
        let stale = beside(&table, move |table| {
            table.set_hop(at, hop(9), tags(9));
            table.update_tcp(at, |tcp| {
                tcp.on_packet(Direction::Forward, TcpFlags(TcpFlags::RST))
            });
            table.touch(at, Tick(1));
        });
        table.remove(&mut cache, at).expect("the only remover");
        created(insert(&table, &mut cache, &session(2)));
        stale.join().expect("no panic");
        let (_, found) = table.find(FORWARD, is(&session(2))).expect("it stays");
        assert_eq!(
            Session {
                seen: Tick(2),
                ..found
            },
            session(2)
        );
    });
}

/// Two workers process two packets of one connection at once: both take effect.
#[test]
fn no_tcp_update_is_lost() {
    model(3, || {
        let (table, _cache, at) = one_session();
        let fin = TcpFlags(TcpFlags::FIN | TcpFlags::ACK);
        let other = beside(&table, move |table| {
            table.update_tcp(at, |s| s.on_packet(Direction::Reply, fin))
        });
        table.update_tcp(at, |s| s.on_packet(Direction::Forward, fin));
        other.join().expect("no panic");
        assert_eq!(table.get(at).expect("it stays").tcp.phase(), Phase::Closing);
    });
}

/// An eviction that judged a session half-open does not remove it once it is established.
#[test]
fn eviction_spares_a_session_that_became_established() {
    use waxwing_dataplane::session::Evictable;
    model(3, || {
        let (table, _cache, at) = one_session();
        let syn_ack = TcpFlags(TcpFlags::SYN | TcpFlags::ACK);
        let ack = TcpFlags(TcpFlags::ACK);
        table.update_tcp(at, |s| s.on_packet(Direction::Reply, syn_ack));
        let evictor = beside(&table, move |table| {
            let classify = |s: &Session| match s.tcp.phase() {
                Phase::HalfOpen => Evictable::Unassured,
                Phase::Closing => Evictable::Closing,
                Phase::Established => Evictable::Never,
            };
            table.evict(&mut table.slot_cache(), 1, classify, Tick(5))
        });
        let updated = table.update_tcp(at, |s| s.on_packet(Direction::Forward, ack));
        let evicted = evictor.join().expect("no panic");
        assert!(
            updated.is_some() != evicted.is_some(),
            "{updated:?} {evicted:?}"
        );
    });
}
