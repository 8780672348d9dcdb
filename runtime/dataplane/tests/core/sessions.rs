//! The life of a session: handshake to reuse, timeouts, resets, a full table.

use std::time::Duration;

use crate::frames::{
    ACK, FIN_ACK, RST, SYN, SYN_ACK, datagram, datagram_back, establish, one, ports, reply,
    request, request_to,
};
use crate::world::{
    BACK, BACKEND_PORT, CLIENT_MAC, FRONT, PORT_MACS, SERVICE_PORT, Settings, V4, V6, World,
    backend_mac,
};
use waxwing_dataplane::model::{MidStream, SessionAction, Timeouts};
use waxwing_dataplane::session::{Phase, Session};
use waxwing_dataplane::{DropReason, Pick};

#[test]
fn a_connection_is_translated_both_ways_from_handshake_to_reuse() {
    for plan in [V4, V6] {
        let mut world = World::new(Settings::tcp(plan));
        world.script().picks = vec![Pick::Backend(1), Pick::Backend(2)];

        let (port, packet) = one(&world.frame(FRONT, &request(plan, 4000, SYN)));
        assert_eq!(port, BACK);
        assert_eq!(
            (packet.source, packet.destination),
            (plan.client, plan.backend(1))
        );
        assert_eq!(ports(&packet), (4000, BACKEND_PORT));
        assert_eq!(packet.ethernet.source, PORT_MACS[1]);
        assert_eq!(packet.ethernet.destination, backend_mac(1));
        assert_eq!(packet.hop_limit, 63);
        assert_eq!(world.session().tcp.phase(), Phase::HalfOpen);

        let (port, packet) = one(&world.frame(BACK, &reply(plan, 1, 4000, SYN_ACK)));
        assert_eq!(port, FRONT);
        assert_eq!((packet.source, packet.destination), (plan.vip, plan.client));
        assert_eq!(ports(&packet), (SERVICE_PORT, 4000));
        assert_eq!(packet.ethernet.source, PORT_MACS[0]);
        assert_eq!(packet.ethernet.destination, CLIENT_MAC);
        assert_eq!(packet.hop_limit, 63);
        assert_eq!(world.session().tcp.phase(), Phase::HalfOpen);

        one(&world.frame(FRONT, &request(plan, 4000, ACK)));
        assert_eq!(world.session().tcp.phase(), Phase::Established);
        assert_eq!(world.held(), [0, 1, 0]);

        one(&world.frame(FRONT, &request(plan, 4000, FIN_ACK)));
        assert_eq!(
            world.session().tcp.phase(),
            Phase::Established,
            "half closed is open"
        );
        one(&world.frame(BACK, &reply(plan, 1, 4000, FIN_ACK)));
        one(&world.frame(FRONT, &request(plan, 4000, ACK)));
        assert_eq!(world.session().tcp.phase(), Phase::Closing);

        world.assert_reaches(
            2,
            &request(plan, 4000, SYN),
            "a new connection is picked anew",
        );
        assert_eq!(world.held(), [0, 0, 1]);
        assert_eq!(world.script().calls, 2, "hits ask no policy");
        assert_eq!(world.drops(), []);
    }
}

#[test]
fn udp_is_translated_both_ways_and_a_missing_checksum_stays_missing() {
    let mut world = World::new(Settings::udp(V4));
    let mut frame = datagram(V4, 5000, b"ping");
    frame[40..42].fill(0);
    let sent = world.frame(FRONT, &frame);
    let (port, packet) = one(&sent);
    assert_eq!((port, packet.destination), (BACK, V4.backend(0)));
    assert_eq!(sent[0].1[40..42], [0, 0], "RFC 768: no checksum");

    let (port, packet) = one(&world.frame(BACK, &datagram_back(V4, 0, 5000)));
    assert_eq!(
        (port, packet.source, ports(&packet)),
        (FRONT, V4.vip, (SERVICE_PORT, 5000))
    );
}

#[test]
fn an_rst_ends_nothing_and_traffic_revives() {
    let mut world = World::new(Settings::default());
    establish(&mut world, 4000, 0);
    one(&world.frame(FRONT, &request(V4, 4000, RST)));
    assert_eq!(world.session().tcp.phase(), Phase::Closing);
    one(&world.frame(BACK, &reply(V4, 0, 4000, ACK)));
    assert_eq!(world.session().tcp.phase(), Phase::Established);

    // Without traffic the shortened timeout passes.
    one(&world.frame(FRONT, &request(V4, 4000, RST)));
    world.advance(Timeouts::default().tcp_closing + Duration::from_secs(1));
    one(&world.frame(FRONT, &request(V4, 4000, SYN)));
    assert_eq!(world.script().asked.len(), 2, "the tuple was free again");
}

/// An attacker who forges an RST may forge a SYN too. If that went to another server, the connection would
/// break at its client's next segment.
#[test]
fn a_syn_after_an_rst_stays_with_its_server() {
    let mut world = World::new(Settings::default());
    world.script().picks = vec![Pick::Backend(0), Pick::Backend(1)];
    establish(&mut world, 4000, 0);
    one(&world.frame(FRONT, &request(V4, 4000, RST)));
    assert_eq!(world.destination_of(&request(V4, 4000, SYN)), V4.backend(0));
    assert_eq!(world.destination_of(&request(V4, 4000, ACK)), V4.backend(0));
    assert_eq!(world.session().tcp.phase(), Phase::Established);

    // A draining server may still have the connection; a down one does not.
    world.change(|settings| settings.weights[0] = 0);
    one(&world.frame(FRONT, &request(V4, 4000, RST)));
    assert_eq!(world.destination_of(&request(V4, 4000, SYN)), V4.backend(0));
    one(&world.frame(FRONT, &request(V4, 4000, RST)));
    world.change(|settings| settings.health = vec![(false, SessionAction::Keep)]);
    assert_eq!(world.destination_of(&request(V4, 4000, SYN)), V4.backend(1));
    assert_eq!(world.drops(), []);
}

#[test]
fn traffic_after_an_rst_in_one_batch_revives() {
    let mut world = World::new(Settings::default());
    establish(&mut world, 4000, 0);
    world.batch(FRONT, [RST, ACK].map(|flags| request(V4, 4000, flags)));
    assert_eq!(world.session().tcp.phase(), Phase::Established);
}

#[test]
fn each_phase_has_its_timeout_and_a_sweep_frees_the_slot() {
    let timeouts = Timeouts::default();
    for (phase, timeout) in [
        (Phase::HalfOpen, timeouts.tcp_half_open),
        (Phase::Established, timeouts.tcp_established),
    ] {
        let mut world = World::new(Settings::default());
        match phase {
            Phase::HalfOpen => drop(world.frame(FRONT, &request(V4, 4000, SYN))),
            _ => establish(&mut world, 4000, 0),
        }
        world.advance(timeout - Duration::from_secs(1));
        world.sweep_round(0, Duration::ZERO);
        assert_eq!(
            world.sessions().len(),
            1,
            "{phase:?} lives up to its timeout"
        );
        world.sweep_round(0, Duration::from_secs(2));
        assert_eq!(world.sessions().len(), 0, "{phase:?} ends after it");
        assert_eq!(world.held(), [0, 0, 0]);
        assert_eq!(world.script().closed.len(), 1, "the policy hears of it");
        assert_eq!(world.script().closed[0].backend, 0);
    }
}

#[test]
fn an_expired_session_serves_no_packet() {
    let mut world = World::new(Settings {
        mid_stream: MidStream::Drop,
        ..Settings::default()
    });
    establish(&mut world, 4000, 0);
    world.advance(Timeouts::default().tcp_established + Duration::from_secs(1));
    assert!(world.frame(FRONT, &request(V4, 4000, ACK)).is_empty());
    assert_eq!(world.drops(), [(DropReason::MidStream, 1)]);
}

/// The sessions that are left of those before a flood, whose client ports are from 10,000 on.
fn left(world: &World) -> usize {
    let sessions = world.sessions();
    sessions.iter().filter(|s| s.client_port < 10_000).count()
}

#[test]
fn a_full_table_evicts_half_open_sessions_and_never_established_ones() {
    let mut world = World::new(Settings {
        sessions_max: 64,
        ..Settings::default()
    });
    for client_port in 0..32 {
        establish(&mut world, 4000 + client_port, 0);
    }
    // A flood of unanswered SYNs, each newer than the last.
    for client_port in 0..500 {
        world.advance(Duration::from_millis(100));
        world.frame(FRONT, &request(V4, 10_000 + client_port, SYN));
    }
    assert_eq!(left(&world), 32, "no established session was evicted");
    assert_eq!(world.drops(), [], "every SYN found room");
    let evicted = world.counters[0].evicted.get();
    assert!(evicted >= 500 - 32, "{evicted}");
    assert_eq!(world.held()[0] as usize, world.sessions().len());
    for client_port in 0..32 {
        one(&world.frame(BACK, &reply(V4, 0, 4000 + client_port, ACK)));
    }
}

/// Forged RSTs and a flood at once. The connections are adjacent in the table, so that no other session is in
/// the eviction window.
#[test]
fn a_reset_connection_is_evicted_only_if_it_stays_silent() {
    let mut world = World::new(Settings {
        sessions_max: 512,
        ..Settings::default()
    });
    for client_port in 0..300 {
        establish(&mut world, 4000 + client_port, 0);
    }
    for client_port in 0..300 {
        one(&world.frame(FRONT, &request(V4, 4000 + client_port, RST)));
    }
    for client_port in 0..2000 {
        world.advance(Duration::from_millis(4));
        world.frame(FRONT, &request(V4, 10_000 + client_port, SYN));
    }
    assert_eq!(left(&world), 300);
    // Few, because the search continues at the last victim.
    let full = world.dropped(DropReason::SessionTableFull);
    assert!((1..50).contains(&full), "{full}");

    // If all others are established, the silent ones are evicted.
    let others: Vec<u16> = world.sessions().iter().map(|s| s.client_port).collect();
    for port in others.into_iter().filter(|port| *port >= 10_000) {
        one(&world.frame(BACK, &reply(V4, 0, port, SYN_ACK)));
        one(&world.frame(FRONT, &request(V4, port, ACK)));
    }
    world.advance(Duration::from_secs(11));
    for client_port in 0..20 {
        world.frame(FRONT, &request(V4, 20_000 + client_port, SYN));
    }
    assert!(left(&world) < 300);
}

#[test]
fn a_udp_flood_does_not_evict_assured_flows() {
    let settings = Settings {
        sessions_max: 64,
        ..Settings::udp(V4)
    };
    let mut world = World::new(settings);
    for port in 4000..4032 {
        one(&world.frame(FRONT, &datagram(V4, port, b"?")));
        one(&world.frame(BACK, &datagram_back(V4, 0, port)));
    }
    assert!(
        !world.sessions().iter().any(Session::is_assured),
        "too soon"
    );
    world.advance(Duration::from_secs(2));
    for port in 4000..4032 {
        one(&world.frame(FRONT, &datagram(V4, port, b"more")));
    }
    assert!(world.sessions().iter().all(Session::is_assured));
    assert_eq!(world.counters[0].assured.get(), 32);
    for port in 10_000..10_500 {
        world.frame(FRONT, &datagram(V4, port, b"?"));
    }
    assert_eq!((left(&world), world.drops()), (32, Vec::new()));
}

#[test]
fn a_table_full_of_established_sessions_drops_and_counts() {
    let mut world = World::new(Settings {
        sessions_max: 32,
        ..Settings::default()
    });
    let room = world.shared.sessions.capacity() as u16;
    for client_port in 0..room {
        establish(&mut world, 4000 + client_port, 0);
    }
    assert!(world.frame(FRONT, &request(V4, 60_000, SYN)).is_empty());
    assert_eq!(world.drops(), [(DropReason::SessionTableFull, 1)]);
    assert_eq!(world.sessions().len(), usize::from(room));
}

#[test]
fn a_reply_that_arrives_at_another_worker_finds_its_session() {
    let mut world = World::with_workers(2);
    one(&world.frame_at(0, FRONT, &request(V4, 4000, SYN)));
    let (port, packet) = one(&world.frame_at(1, BACK, &reply(V4, 0, 4000, SYN_ACK)));
    assert_eq!((port, packet.source), (FRONT, V4.vip));
    let (_, packet) = one(&world.frame_at(1, FRONT, &request(V4, 4000, ACK)));
    assert_eq!(
        packet.destination,
        V4.backend(0),
        "and so does the client's next packet"
    );
    assert_eq!(world.session().tcp.phase(), Phase::Established);
    assert_eq!(world.script().asked.len(), 1);
}

#[test]
fn two_services_in_front_of_one_server_share_a_client_port() {
    let mut world = World::new(Settings {
        second_service: true,
        ..Settings::default()
    });
    one(&world.frame(FRONT, &request_to(V4, 4000, SERVICE_PORT, SYN)));
    let (_, packet) = one(&world.frame(FRONT, &request_to(V4, 4000, SERVICE_PORT + 1, SYN)));
    let (translated, _) = ports(&packet);
    assert_ne!(
        translated, 4000,
        "the second connection has a tuple of its own at the server"
    );
    assert_eq!(world.sessions().len(), 2);

    let (_, packet) = one(&world.frame(BACK, &reply(V4, 0, 4000, SYN_ACK)));
    assert_eq!(ports(&packet), (SERVICE_PORT, 4000));
    let (_, packet) = one(&world.frame(BACK, &reply(V4, 0, translated, SYN_ACK)));
    assert_eq!(
        ports(&packet),
        (SERVICE_PORT + 1, 4000),
        "the client sees its own port"
    );
    let (_, packet) = one(&world.frame(FRONT, &request_to(V4, 4000, SERVICE_PORT + 1, ACK)));
    assert_eq!(ports(&packet), (translated, BACKEND_PORT));
}
