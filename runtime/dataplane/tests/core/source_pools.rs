//! Pools of source ports: capacity, and exhaustion.

use std::collections::HashSet;
use std::time::Duration;

use crate::frames::{ACK, FIN_ACK, SYN, SYN_ACK, one, ports};
use crate::hosts::{Arrival, Endpoint, Host, Kind};
use crate::source_nat::{FIRST_PORT, establish, network, pool, settings, source, vip};
use crate::world::{BACK, BACKEND_PORT, Settings, V4, V6, World};
use waxwing_dataplane::model::SourceId;
use waxwing_dataplane::session::Phase;
use waxwing_dataplane::{DropReason, Pick};
use waxwing_packet::{Address, Protocol};

/// Both ends close the connection that the backend sees by this source endpoint.
fn close(world: &mut World, client: Host, port: u16, seen: Endpoint) {
    let plan = world.settings.plan;
    client.sends(world, port, vip(plan), Kind::tcp(FIN_ACK));
    Host::server(plan, 0).sends(world, BACKEND_PORT, seen, Kind::tcp(FIN_ACK));
    client.sends(world, port, vip(plan), Kind::tcp(ACK));
}

#[test]
fn a_pool_of_eight_ports_holds_eight_connections() {
    for plan in [V4, V6] {
        let mut world = World::new(settings(plan, 8));
        let client = Host::neighbour(plan);
        let seen: Vec<Endpoint> = (0..8)
            .map(|n| establish(&mut world, client, 4000 + n))
            .collect();
        let used: HashSet<u16> = seen.iter().map(|(_, port)| *port).collect();
        assert_eq!(used, (FIRST_PORT..FIRST_PORT + 8).collect());

        let ninth = client.frame(4008, vip(plan), Kind::tcp(SYN));
        assert_eq!(world.frame(BACK, &ninth), []);
        assert_eq!(world.drops(), [(DropReason::SourcePorts, 1)]);
        assert_eq!(world.sessions().len(), 8, "none was overwritten");

        // Towards another server all ports are free.
        let turn = world.script().asked.len();
        world.script().picks = vec![Pick::Backend(0); turn];
        world.script().picks.push(Pick::Backend(1));
        let elsewhere = client.sends(&mut world, 4009, vip(plan), Kind::tcp(SYN));
        assert_eq!(elsewhere.destination.0, plan.backend(1));
        world.script().picks = vec![Pick::Backend(0)];

        // A closed connection's port is reused when no other is free.
        close(&mut world, client, 4003, seen[3]);
        assert_eq!(establish(&mut world, client, 4008), seen[3]);
        assert_eq!(world.counters[0].evicted.get(), 1);
        for (n, seen) in (0..).zip(&seen).filter(|(n, _)| *n != 3) {
            let server = Host::server(plan, 0);
            let answer = server.sends(&mut world, BACKEND_PORT, *seen, Kind::tcp(ACK));
            assert_eq!(answer, Arrival::at(client, vip(plan), 4000 + n));
        }
    }
}

#[test]
fn an_expired_session_frees_its_port() {
    let mut world = World::new(Settings {
        protocol: Protocol::Udp,
        ..settings(V4, 1)
    });
    let (client, server) = (Host::neighbour(V4), Host::server(V4, 0));
    let udp = Kind::of(Protocol::Udp, 0);
    let first = client.sends(&mut world, 4000, vip(V4), udp);
    server.sends(&mut world, BACKEND_PORT, first.source, udp);
    world.advance(Duration::from_secs(3));
    client.sends(&mut world, 4000, vip(V4), udp);
    let second = client.frame(4001, vip(V4), udp);
    assert_eq!(world.frame(BACK, &second), [], "an assured flow stays");
    assert_eq!(world.dropped(DropReason::SourcePorts), 1);
    world.advance(Duration::from_secs(121));
    let again = client.sends(&mut world, 4001, vip(V4), udp);
    assert_eq!(again.source, first.source);
    let answer = server.sends(&mut world, BACKEND_PORT, again.source, udp);
    assert_eq!(answer, Arrival::at(client, vip(V4), 4001));
    assert_eq!(world.sessions().len(), 1);
    assert_eq!(world.shared.gauges.sessions_from(SourceId(1)), 1);
}

/// Otherwise a SYN flood would occupy a pool for the whole half-open timeout.
#[test]
fn the_oldest_half_open_connection_frees_its_port_first() {
    let mut world = World::new(settings(V4, 8));
    let client = Host::neighbour(V4);
    let stays = establish(&mut world, client, 3999);
    for n in 0..100 {
        world.advance(Duration::from_millis(200));
        client.sends(&mut world, 4000 + n, vip(V4), Kind::tcp(SYN));
    }
    assert_eq!(world.counters[0].evicted.get(), 93);
    let newest: HashSet<u16> = world.sessions().iter().map(|s| s.client_port).collect();
    assert_eq!(newest, (4093..4100).chain([3999]).collect());
    let server = Host::server(V4, 0);
    let answer = server.sends(&mut world, BACKEND_PORT, stays, Kind::tcp(ACK));
    assert_eq!(answer, Arrival::at(client, vip(V4), 3999));
}

/// Each retry draws other ports, so a client that retries finds even the last one.
#[test]
fn a_retry_finds_a_port_in_a_nearly_full_pool() {
    let mut world = World::new(Settings {
        sessions_max: 4096,
        ..settings(V4, 1024)
    });
    let client = Host::neighbour(V4);
    let mut seen = HashSet::new();
    let (mut at_once, mut tries) = (0, 0);
    for n in 0..1024 {
        let port = 10_000 + n;
        let syn = client.frame(port, vip(V4), Kind::tcp(SYN));
        let mut first = true;
        let mut sent = world.frame(BACK, &syn);
        while sent.is_empty() {
            first = false;
            world.advance(Duration::from_secs(1));
            sent = world.frame(BACK, &syn);
            tries += 1;
            assert!(tries < 100, "connection {n}");
        }
        at_once += u32::from(first);
        let server = Host::server(V4, 0);
        let (_, packet) = one(&sent);
        let source = (packet.source, ports(&packet).0);
        assert!(seen.insert(source), "{source:?} twice");
        server.sends(&mut world, BACKEND_PORT, source, Kind::tcp(SYN_ACK));
        client.sends(&mut world, port, vip(V4), Kind::tcp(ACK));
    }
    assert_eq!(world.sessions().len(), 1024);
    assert!(at_once > 1010, "{at_once} at once, {tries} tries more");
}

#[test]
fn further_addresses_are_used_once_the_first_has_no_port_left() {
    let mut world = World::new(Settings {
        sources: (0..3).map(|n| source(V4, n)).collect(),
        pools: vec![pool(&[network(V4)], 3, 5)],
        ..Settings::default()
    });
    let client = Host::neighbour(V4);
    let seen: Vec<Endpoint> = (0..15)
        .map(|n| establish(&mut world, client, 4000 + n))
        .collect();
    for five in seen.chunks(5) {
        let addresses: HashSet<Address> = five.iter().map(|(address, _)| *address).collect();
        assert_eq!(addresses.len(), 1, "a client keeps to an address");
    }
    assert_eq!(seen.iter().collect::<HashSet<_>>().len(), 15);
    for id in 1..=3 {
        assert_eq!(world.shared.gauges.sessions_from(SourceId(id)), 5);
    }
}

#[test]
fn two_workers_give_out_no_port_twice() {
    let mut world = World::new(Settings {
        workers: 2,
        ..settings(V4, 16)
    });
    let client = Host::neighbour(V4);
    for n in 0..20 {
        let frame = client.frame(4000 + n, vip(V4), Kind::tcp(SYN));
        let worker = usize::from(n % 2);
        assert!(world.io(worker).inject(BACK, &frame));
    }
    for worker in [0, 1] {
        world.run(worker);
    }
    let sent: Vec<_> = [0, 1].map(|worker| world.io(worker).sent()).concat();
    // The replies arrive at the other worker. Of 20 sessions, four half-open ones were evicted.
    let live: HashSet<Endpoint> = (world.sessions().iter())
        .map(|session| (source(V4, 0), session.source_port))
        .collect();
    assert_eq!((sent.len(), live.len()), (20, 16));
    for session in world.sessions() {
        let seen = (source(V4, 0), session.source_port);
        let server = Host::server(V4, 0);
        let frame = server.frame(BACKEND_PORT, seen, Kind::tcp(SYN_ACK));
        let worker = usize::from(session.client_port.is_multiple_of(2));
        let sent = world.frame_at(worker, BACK, &frame);
        let (_, packet) = one(&sent);
        assert_eq!(ports(&packet).1, session.client_port);
    }
}

/// A closed connection's tuple is free for the same client at once; it gets a new source endpoint.
#[test]
fn a_client_may_reuse_its_own_port() {
    let mut world = World::new(settings(V4, 2));
    let client = Host::neighbour(V4);
    for _ in 0..5 {
        let seen = establish(&mut world, client, 4000);
        assert_eq!(world.session().tcp.phase(), Phase::Established);
        close(&mut world, client, 4000, seen);
        assert_eq!(world.session().tcp.phase(), Phase::Closing);
        world.advance(Duration::from_secs(1));
    }
    assert_eq!(world.drops(), []);
    assert_eq!(world.shared.gauges.sessions_from(SourceId(1)), 1);
}

/// A late reply would reach its port's next client, and nothing tells datagrams apart: so the port that most
/// likely waits for none goes first.
#[test]
fn a_full_pool_takes_the_port_of_the_datagram_that_waits_least() {
    let mut world = World::new(Settings {
        protocol: Protocol::Udp,
        ..settings(V4, 3)
    });
    let (client, server) = (Host::neighbour(V4), Host::server(V4, 0));
    let udp = Kind::of(Protocol::Udp, 0);
    let opens = |world: &mut World, port, answered| {
        let seen = client.sends(world, port, vip(V4), udp).source;
        if answered {
            server.sends(world, BACKEND_PORT, seen, udp);
        }
        seen
    };
    let waits = opens(&mut world, 4000, false);
    world.advance(Duration::from_secs(1));
    let answered = opens(&mut world, 4001, true);
    world.advance(Duration::from_secs(1));
    let speaks = opens(&mut world, 4002, true);

    let fourth = opens(&mut world, 4003, true);
    assert_eq!(fourth, answered, "it has its reply and was silent since");
    let fifth = opens(&mut world, 4004, true);
    assert_eq!(fifth, waits, "of three that may go on, the longest silent");
    let sixth = opens(&mut world, 4005, false);
    assert!([speaks, fourth, fifth].contains(&sixth));
    assert_eq!(world.drops(), []);
    assert_eq!(world.counters[0].evicted.get(), 3);
    assert_eq!(world.sessions().len(), 3);
}
