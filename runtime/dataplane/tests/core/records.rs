//! Sessions of one process go on in another.

use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::{any, proptest};

use crate::frames::{
    ACK, FIN_ACK, RST, SYN, SYN_ACK, datagram, datagram_back, establish, one, reply, request,
};
use crate::hosts::{Arrival, Host, Kind};
use crate::source_nat::{self, vip};
use crate::world::{BACK, CLIENT_MAC, EACH, FRONT, SERVICE_PORT, Settings, V4, V6, World};
use waxwing_dataplane::model::SourceId;
use waxwing_dataplane::path::{RecordIds, RecordRefusal, Restorer};
use waxwing_dataplane::session::{CopiedSessions, Phase, RECORD_LEN, SessionRecord};
use waxwing_dataplane::{BackendId, NextHop, Pick, PortId, Tick};
use waxwing_packet::{Address, Mac, Protocol, VlanTag, VlanTags};

/// Every id stands for itself.
fn same_ids() -> RecordIds {
    RecordIds {
        backends: (0..64).map(BackendId).map(Some).collect(),
        ports: [FRONT, BACK].map(Some).into(),
        sources: (0..4).map(SourceId).map(Some).collect(),
    }
}

/// The records of a world's sessions, with fields of a later version behind each.
pub(crate) fn records(world: &World) -> Vec<Vec<u8>> {
    let record = |record: SessionRecord| {
        let mut bytes = Vec::new();
        record.write(&mut bytes);
        assert_eq!(bytes.len(), RECORD_LEN);
        bytes.extend(b"later");
        bytes
    };
    let mut records: Vec<_> = world
        .shared
        .sessions
        .records(now(world))
        .map(record)
        .collect();
    records.sort();
    records
}

fn now(world: &World) -> Tick {
    world.now().tick()
}

/// Restores records that were made `elapsed` ticks ago.
fn restore_after(
    world: &World,
    records: &[Vec<u8>],
    ids: &RecordIds,
    elapsed: u32,
) -> Vec<Result<(), RecordRefusal>> {
    let snapshot = world.settings.snapshot(1);
    let mut restorer = Restorer::new(&world.shared, &snapshot, ids, world.settings.workers);
    let restore = |bytes: &Vec<u8>| {
        let record = SessionRecord::read(bytes).expect("it is long enough");
        restorer.restore(&record, elapsed, now(world))
    };
    records.iter().map(restore).collect()
}

pub(crate) fn restore(world: &World, records: &[Vec<u8>]) -> Vec<Result<(), RecordRefusal>> {
    restore_after(world, records, &same_ids(), 0)
}

/// A second world, without sessions.
fn successor(of: &World) -> World {
    let world = World::new(of.settings.clone());
    // No pick may be asked for.
    world.script().picks = vec![Pick::Drop];
    world
}

#[test]
fn sessions_of_both_families_and_protocols_go_on() {
    for (plan, protocol) in EACH {
        let mut before = World::new(Settings::new(plan, protocol));
        before.script().picks = (0..3).map(Pick::Backend).collect();
        for client in 4000..4100 {
            let backend = u32::from(client - 4000) % 3;
            match protocol {
                Protocol::Tcp => establish(&mut before, client, backend),
                Protocol::Udp => {
                    one(&before.frame(FRONT, &datagram(plan, client, b"a")));
                    one(&before.frame(BACK, &datagram_back(plan, backend, client)));
                }
            }
        }
        let written = records(&before);
        let mut after = successor(&before);
        assert_eq!(restore(&after, &written), vec![Ok(()); 100]);
        assert_eq!(records(&after), written);
        assert_eq!(after.held(), before.held());
        assert_eq!(
            after.shared.gauges.opened(BackendId(0)),
            0,
            "not opened here"
        );
        for client in 4000..4100 {
            let backend = u32::from(client - 4000) % 3;
            let (forward, back) = match protocol {
                Protocol::Tcp => (
                    request(plan, client, ACK),
                    reply(plan, backend, client, ACK),
                ),
                Protocol::Udp => (
                    datagram(plan, client, b"a"),
                    datagram_back(plan, backend, client),
                ),
            };
            after.assert_reaches(backend, &forward, client);
            let (port, packet) = one(&after.frame(BACK, &back));
            assert_eq!((port, packet.source), (FRONT, plan.vip));
            assert_eq!(packet.ethernet.destination, CLIENT_MAC);
        }
        assert_eq!(after.script().calls, 0);
        assert_eq!(after.drops(), []);
    }
}

#[test]
fn a_translated_session_keeps_its_source_endpoint() {
    for plan in [V4, V6] {
        let mut before = World::new(source_nat::settings(plan, 100));
        let client = Host::neighbour(plan);
        let seen = source_nat::establish(&mut before, client, 40_000);
        let mut after = successor(&before);
        assert_eq!(restore(&after, &records(&before)), [Ok(())]);
        assert_eq!(after.shared.gauges.sessions_from(SourceId(1)), 1);
        let arrived = client.sends(&mut after, 40_000, vip(plan), Kind::tcp(ACK));
        assert_eq!(arrived.source, seen);
        let server = Host::server(plan, 0);
        let answer = server.sends(&mut after, crate::world::BACKEND_PORT, seen, Kind::tcp(ACK));
        assert_eq!(answer, Arrival::at(client, vip(plan), 40_000));
    }
}

/// A second copy has what the first one had not: sessions that began, ended, or changed their state.
#[test]
fn a_second_copy_has_what_has_changed() {
    let mut before = World::new(Settings::tcp(V4));
    for client in 4000..4003 {
        establish(&mut before, client, 0);
    }
    let after = successor(&before);
    let (snapshot, ids) = (after.settings.snapshot(1), same_ids());
    let mut restorer = Restorer::new(&after.shared, &snapshot, &ids, 1);
    let mut copied = CopiedSessions::default();
    let mut copy = |world: &World| {
        let (sessions, mut passed) = (&world.shared.sessions, Vec::new());
        sessions.copy(&mut copied, now(world), |record, has_ended| {
            passed.push((record.client_port, has_ended));
            restorer.end(&record);
            if !has_ended {
                assert_eq!(restorer.restore(&record, 0, now(world)), Ok(()));
            }
        });
        passed.sort_unstable();
        passed
    };
    assert_eq!(copy(&before), [4000, 4001, 4002].map(|port| (port, false)));
    assert_eq!(copy(&before), []);
    // One is closed, one is reset, one begins; a little time changes nothing.
    one(&before.frame(FRONT, &request(V4, 4000, FIN_ACK)));
    one(&before.frame(BACK, &reply(V4, 0, 4000, FIN_ACK)));
    one(&before.frame(FRONT, &request(V4, 4001, RST)));
    establish(&mut before, 4003, 0);
    before.advance(Duration::from_millis(200));
    one(&before.frame(FRONT, &request(V4, 4002, ACK)));
    assert_eq!(copy(&before), [4000, 4001, 4003].map(|port| (port, false)));
    // The closed one's tuple is used again: its session has ended, and another begun.
    one(&before.frame(FRONT, &request(V4, 4000, SYN)));
    assert_eq!(copy(&before), [(4000, false), (4000, true)]);
    assert_eq!(after.held(), before.held());
    let states = |world: &World| {
        let mut states: Vec<_> = world
            .sessions()
            .iter()
            .map(|it| (it.client_port, it.tcp))
            .collect();
        states.sort_unstable_by_key(|(port, _)| *port);
        states
    };
    assert_eq!(states(&after), states(&before));
}

/// The client's ACK completes the handshake only if it acknowledges the server's SYN.
#[test]
fn a_handshake_goes_on_where_it_stood() {
    let mut before = World::new(Settings::tcp(V4));
    one(&before.frame(FRONT, &request(V4, 4000, SYN)));
    one(&before.frame(BACK, &reply(V4, 0, 4000, SYN_ACK)));
    assert_eq!(before.session().tcp.phase(), Phase::HalfOpen);
    let mut after = successor(&before);
    assert_eq!(restore(&after, &records(&before)), [Ok(())]);
    let mut stray = crate::frames::segment(V4, 4000, ACK);
    stray.acknowledgment = stray.acknowledgment.wrapping_add(1 << 30);
    one(&after.frame(FRONT, &stray.frame()));
    assert_eq!(after.session().tcp.phase(), Phase::HalfOpen);
    one(&after.frame(FRONT, &request(V4, 4000, ACK)));
    assert_eq!(after.session().tcp.phase(), Phase::Established);
    assert_eq!(before.session().created, after.session().created);
}

#[test]
fn idle_time_counts_while_no_process_runs() {
    let mut before = World::new(Settings::udp(V4));
    one(&before.frame(FRONT, &datagram(V4, 4000, b"a")));
    before.advance(Duration::from_secs(10));
    let record = records(&before);
    // Unanswered UDP has 30 s.
    for (seconds, outcome) in [(19, Ok(())), (21, Err(RecordRefusal::Expired))] {
        let mut after = successor(&before);
        after.advance(Duration::from_secs(60));
        let restored = restore_after(&after, &record, &same_ids(), seconds * 10);
        assert_eq!(restored, [outcome], "{seconds} s later");
        if outcome.is_ok() {
            after.sweep_round(0, Duration::from_secs(2));
            assert_eq!(after.sessions(), [], "the rest of its time is over");
        }
    }
}

/// One change of a good record each, and why it is refused.
#[test]
fn a_record_is_checked_as_a_strangers_packet_is() {
    type Change = fn(&mut SessionRecord);
    let cases: [(Change, RecordRefusal); 14] = [
        (|it| it.backend = BackendId(1), RecordRefusal::Backend),
        (
            |it| it.backend = BackendId(u32::MAX),
            RecordRefusal::Backend,
        ),
        (|it| it.hop.port = PortId(1), RecordRefusal::Port),
        (|it| it.hop.port = PortId(255), RecordRefusal::Port),
        (|it| it.source = SourceId(1), RecordRefusal::Source),
        (|it| it.source = SourceId(255), RecordRefusal::Source),
        (
            |it| it.service_port = SERVICE_PORT + 1,
            RecordRefusal::ServicePort,
        ),
        (|it| it.client_port = 0, RecordRefusal::ServicePort),
        (|it| it.source_port = 0, RecordRefusal::ServicePort),
        (|it| it.client = V4.vip, RecordRefusal::Client),
        (
            |it| it.client = Address::v4([127, 0, 0, 1]),
            RecordRefusal::Client,
        ),
        (|it| it.client = V6.client, RecordRefusal::Client),
        (|it| it.hop.mac = Mac::BROADCAST, RecordRefusal::Client),
        (|it| it.idle = u32::MAX, RecordRefusal::Expired),
    ];
    let mut before = World::new(Settings::tcp(V4));
    establish(&mut before, 4000, 0);
    let good = before.shared.sessions.records(now(&before)).next();
    let good = good.expect("there is a session");
    let mut ids = same_ids();
    ids.backends[1] = None;
    ids.ports[1] = None;
    ids.sources[1] = None;
    let after = World::new(before.settings.clone());
    let snapshot = after.settings.snapshot(1);
    let late = Tick(100_000);
    let mut restorer = Restorer::new(&after.shared, &snapshot, &ids, 1);
    for (at, (change, why)) in cases.into_iter().enumerate() {
        let mut record = good;
        change(&mut record);
        assert_eq!(restorer.restore(&record, 0, late), Err(why), "case {at}");
    }
    assert_eq!(after.held(), [0; 3]);
    assert_eq!(restorer.restore(&good, 0, late), Ok(()));
    let twice = [
        good,
        // Another client's port, and the same source port towards the backend.
        SessionRecord {
            client_port: 4001,
            ..good
        },
    ];
    for record in twice {
        let refused = restorer.restore(&record, 0, late);
        assert_eq!(refused, Err(RecordRefusal::Duplicate));
    }
    assert_eq!(after.held(), [1, 0, 0]);
}

#[test]
fn a_smaller_table_takes_what_fits() {
    let mut before = World::new(Settings::tcp(V4));
    for client in 4000..4020 {
        one(&before.frame(FRONT, &request(V4, client, SYN)));
    }
    let after = World::new(Settings {
        sessions_max: 12,
        ..before.settings.clone()
    });
    let restored = restore(&after, &records(&before));
    let full = restored
        .iter()
        .filter(|it| **it == Err(RecordRefusal::Full))
        .count();
    assert_eq!((full, after.sessions().len()), (8, 12));
}

#[test]
fn tags_and_numbers_survive_at_their_limits() {
    for (count, tpid) in [(0, 0), (1, 0x8100), (2, 0x88a8)] {
        let tag = VlanTag { tpid, tci: 0xffff };
        let record = SessionRecord {
            client: V6.client,
            client_port: 1,
            service_port: u16::MAX,
            source: SourceId(255),
            source_port: u16::MAX,
            worker: 127,
            backend: BackendId(u32::MAX),
            hop: NextHop {
                port: PortId(7),
                mac: CLIENT_MAC,
            },
            tags: VlanTags {
                count,
                tags: [tag; 2],
            },
            idle: u32::MAX,
            age: 3,
            tcp: waxwing_dataplane::session::TcpState::default(),
            bytes: u64::MAX,
            server_sequence: 0xdead_beef,
        };
        let mut bytes = Vec::new();
        record.write(&mut bytes);
        assert_eq!(SessionRecord::read(&bytes), Some(record));
        assert_eq!(SessionRecord::read(&bytes[1..]), None, "it is too short");
    }
}

proptest! {
    /// Any bytes are read or refused, and what is restored forwards packets.
    #[test]
    fn any_bytes_are_restored_or_refused(
        records in vec(vec(any::<u8>(), RECORD_LEN), 1..40),
        sound in vec(any::<bool>(), 40),
    ) {
        let mut before = World::new(Settings::tcp(V4));
        establish(&mut before, 4000, 0);
        let mut good = Vec::new();
        for record in before.shared.sessions.records(now(&before)) {
            record.write(&mut good);
        }
        let mix = |(bytes, sound): (Vec<u8>, &bool)| match sound {
            // Half of the bytes are those of a session, so that some pass the first checks.
            true => good.iter().zip(bytes).map(|(good, any)| if any % 8 > 0 { *good } else { any }).collect(),
            false => bytes,
        };
        let records: Vec<Vec<u8>> = records.into_iter().zip(&sound).map(mix).collect();
        let mut after = World::new(before.settings.clone());
        after.advance(Duration::from_secs(3600));
        let restored = restore(&after, &records);
        let live = restored.iter().filter(|it| it.is_ok()).count();
        assert_eq!(after.sessions().len(), live);
        assert_eq!(after.held().iter().sum::<u32>() as usize, live);
        for session in after.sessions() {
            assert_eq!(session.client.family(), V4.client.family());
        }
        after.sweep_round(0, Duration::from_secs(100_000));
        assert_eq!(after.sessions(), []);
        assert_eq!(after.held(), [0; 3]);
    }
}
