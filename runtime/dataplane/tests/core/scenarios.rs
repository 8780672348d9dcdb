//! What a user relies on, told frame by frame: the core in memory, under a clock that the test turns.

use std::time::Duration;

use crate::world::{
    BACK, BACKEND_PORT, CLIENT_MAC, FRONT, PORT_MACS, Plan, SERVICE_PORT, Settings, V4, V6, World,
    backend_mac,
};
use waxwing_dataplane::epoch::Release;
use waxwing_dataplane::session::Phase;
use waxwing_dataplane::snapshot::{MidStream, Timeouts};
use waxwing_dataplane::{BackendId, DropReason, Pick, PolicyFault, PortId};
use waxwing_packet::build::{self, verify_checksums};
use waxwing_packet::{
    Address, IpPacket, Link, Mac, Packet, Protocol, TcpFlags, Transport, VlanTag, VlanTags, parse,
};

const SYN: u8 = TcpFlags::SYN;
const ACK: u8 = TcpFlags::ACK;
const SYN_ACK: u8 = SYN | ACK;
const FIN_ACK: u8 = TcpFlags::FIN | ACK;
const RST: u8 = TcpFlags::RST;

/// From the client to the VIP.
fn request(plan: Plan, client_port: u16, flags: u8) -> Vec<u8> {
    request_to(plan, client_port, SERVICE_PORT, flags)
}

fn request_to(plan: Plan, client_port: u16, port: u16, flags: u8) -> Vec<u8> {
    build::Tcp {
        link: Link {
            source: CLIENT_MAC,
            destination: PORT_MACS[0],
        },
        source: (plan.client, client_port),
        destination: (plan.vip, port),
        flags: TcpFlags(flags),
        payload: b"GET",
        ..build::Tcp::default()
    }
    .frame()
}

/// From a backend to the client.
fn reply(plan: Plan, backend: u32, client_port: u16, flags: u8) -> Vec<u8> {
    build::Tcp {
        link: Link {
            source: backend_mac(backend),
            destination: PORT_MACS[1],
        },
        source: (plan.backend(backend), BACKEND_PORT),
        destination: (plan.client, client_port),
        flags: TcpFlags(flags),
        payload: b"200",
        ..build::Tcp::default()
    }
    .frame()
}

fn ip(frame: &[u8]) -> IpPacket {
    verify_checksums(frame).expect("its checksums are right");
    match parse(frame) {
        Ok(Packet::Ip(packet)) => packet,
        other => panic!("not an IP packet: {other:?}"),
    }
}

fn ports(packet: &IpPacket) -> (u16, u16) {
    match packet.transport {
        Transport::Tcp {
            source,
            destination,
            ..
        }
        | Transport::Udp {
            source,
            destination,
        } => (source, destination),
        other => panic!("no ports: {other:?}"),
    }
}

/// The one frame that was sent, and where.
fn one(sent: &[(PortId, Vec<u8>)]) -> (PortId, IpPacket) {
    assert_eq!(sent.len(), 1, "{sent:?}");
    (sent[0].0, ip(&sent[0].1))
}

/// Opens a connection up to the client's ACK.
fn establish(world: &mut World, client_port: u16, backend: u32) {
    let plan = world.settings.plan;
    one(&world.frame(FRONT, &request(plan, client_port, SYN)));
    one(&world.frame(BACK, &reply(plan, backend, client_port, SYN_ACK)));
    one(&world.frame(FRONT, &request(plan, client_port, ACK)));
}

#[test]
fn a_connection_is_translated_both_ways_from_handshake_to_reuse() {
    for plan in [V4, V6] {
        let mut world = World::new(Settings {
            plan,
            ..Settings::default()
        });
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
        assert_eq!(world.active(), [0, 1, 0]);

        one(&world.frame(FRONT, &request(plan, 4000, FIN_ACK)));
        assert_eq!(
            world.session().tcp.phase(),
            Phase::Established,
            "half closed is open"
        );
        one(&world.frame(BACK, &reply(plan, 1, 4000, FIN_ACK)));
        one(&world.frame(FRONT, &request(plan, 4000, ACK)));
        assert_eq!(world.session().tcp.phase(), Phase::Closing);

        let (_, packet) = one(&world.frame(FRONT, &request(plan, 4000, SYN)));
        assert_eq!(
            packet.destination,
            plan.backend(2),
            "a new connection is picked anew"
        );
        assert_eq!(world.active(), [0, 0, 1]);
        assert_eq!(world.script().calls, 2, "hits ask no policy");
        assert_eq!(world.drops(), []);
    }
}

#[test]
fn udp_is_translated_both_ways_and_a_missing_checksum_stays_missing() {
    let mut world = World::new(Settings {
        protocol: Protocol::Udp,
        ..Settings::default()
    });
    let mut frame = build::Udp {
        link: Link {
            source: CLIENT_MAC,
            destination: PORT_MACS[0],
        },
        source: (V4.client, 5000),
        destination: (V4.vip, SERVICE_PORT),
        payload: b"ping",
        ..build::Udp::default()
    }
    .frame();
    frame[40..42].fill(0);
    let sent = world.frame(FRONT, &frame);
    let (port, packet) = one(&sent);
    assert_eq!((port, packet.destination), (BACK, V4.backend(0)));
    assert_eq!(sent[0].1[40..42], [0, 0], "RFC 768: no checksum");

    let answer = build::Udp {
        link: Link {
            source: backend_mac(0),
            destination: PORT_MACS[1],
        },
        source: (V4.backend(0), BACKEND_PORT),
        destination: (V4.client, 5000),
        payload: b"pong",
        ..build::Udp::default()
    };
    let (port, packet) = one(&world.frame(BACK, &answer.frame()));
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

    // Without traffic the shortened timer runs out.
    one(&world.frame(FRONT, &request(V4, 4000, RST)));
    world.advance(Timeouts::default().tcp_closing + Duration::from_secs(1));
    one(&world.frame(FRONT, &request(V4, 4000, SYN)));
    assert_eq!(world.script().asked.len(), 2, "the tuple was free again");
}

#[test]
fn traffic_behind_an_rst_in_the_same_batch_revives_too() {
    let mut world = World::new(Settings::default());
    establish(&mut world, 4000, 0);
    for flags in [RST, ACK] {
        assert!(world.io(0).inject(FRONT, &request(V4, 4000, flags)));
    }
    world.run(0);
    world.io(0).sent();
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
        sweep_round(&mut world, Duration::ZERO);
        assert_eq!(
            world.sessions().len(),
            1,
            "{phase:?} lives up to its timeout"
        );
        sweep_round(&mut world, Duration::from_secs(2));
        assert_eq!(world.sessions().len(), 0, "{phase:?} ends after it");
        assert_eq!(world.active(), [0, 0, 0]);
        assert_eq!(world.script().closed.len(), 1, "the policy hears of it");
        assert_eq!(world.script().closed[0].backend, 0);
    }
}

/// Lets time pass, and the worker with it, until every slot was looked at.
fn sweep_round(world: &mut World, wait: Duration) {
    world.advance(wait);
    for _ in 0..100 {
        world.advance(Duration::from_millis(5));
        world.run(0);
    }
}

#[test]
fn a_session_whose_time_is_up_serves_no_further_packet() {
    let mut world = World::new(Settings {
        mid_stream: MidStream::Drop,
        ..Settings::default()
    });
    establish(&mut world, 4000, 0);
    world.advance(Timeouts::default().tcp_established + Duration::from_secs(1));
    assert!(world.frame(FRONT, &request(V4, 4000, ACK)).is_empty());
    assert_eq!(world.drops(), [(DropReason::MidStream, 1)]);
}

#[test]
fn a_full_table_gives_up_half_open_sessions_and_never_an_established_one() {
    let mut world = World::new(Settings {
        sessions_max: 64,
        ..Settings::default()
    });
    for client_port in 0..32 {
        establish(&mut world, 4000 + client_port, 0);
    }
    // A flood of SYNs that nobody answers, each newer than the last.
    for client_port in 0..500 {
        world.advance(Duration::from_millis(100));
        world.frame(FRONT, &request(V4, 10_000 + client_port, SYN));
    }
    let established = world
        .sessions()
        .iter()
        .filter(|s| s.client_port < 10_000)
        .count();
    assert_eq!(established, 32, "no established session was evicted");
    assert_eq!(world.drops(), [], "every SYN found room");
    let evicted = world.counters[0].evicted.get();
    assert!(evicted >= 500 - 32, "{evicted}");
    assert_eq!(world.active()[0] as usize, world.sessions().len());
    for client_port in 0..32 {
        one(&world.frame(BACK, &reply(V4, 0, 4000 + client_port, ACK)));
    }
}

#[test]
fn a_flood_of_udp_gives_way_to_what_is_answered() {
    let settings = Settings {
        protocol: Protocol::Udp,
        sessions_max: 64,
        ..Settings::default()
    };
    let mut world = World::new(settings);
    let datagram = |link, source, destination| {
        build::Udp {
            link,
            source,
            destination,
            ..build::Udp::default()
        }
        .frame()
    };
    let front = Link {
        source: CLIENT_MAC,
        destination: PORT_MACS[0],
    };
    let back = Link {
        source: backend_mac(0),
        destination: PORT_MACS[1],
    };
    for port in 4000..4032 {
        let (client, vip) = ((V4.client, port), (V4.vip, SERVICE_PORT));
        one(&world.frame(FRONT, &datagram(front, client, vip)));
        one(&world.frame(BACK, &datagram(back, (V4.backend(0), BACKEND_PORT), client)));
    }
    for port in 10_000..10_500 {
        world.frame(
            FRONT,
            &datagram(front, (V4.client, port), (V4.vip, SERVICE_PORT)),
        );
    }
    let answered = world
        .sessions()
        .iter()
        .filter(|s| s.client_port < 10_000)
        .count();
    assert_eq!((answered, world.drops()), (32, Vec::new()));
}

#[test]
fn a_table_full_of_established_sessions_refuses_and_counts() {
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
fn two_frames_of_one_new_flow_in_a_batch_get_one_session() {
    let mut world = World::new(Settings::default());
    world.script().picks = vec![Pick::Backend(0), Pick::Backend(1), Pick::Backend(2)];
    for client_port in [4000, 4001, 4000] {
        assert!(world.io(0).inject(FRONT, &request(V4, client_port, SYN)));
    }
    world.run(0);
    let sent = world.io(0).sent();
    let to: Vec<Address> = sent
        .iter()
        .map(|(_, frame)| ip(frame).destination)
        .collect();
    assert_eq!(
        to,
        [V4.backend(0), V4.backend(1), V4.backend(0)],
        "in the order of arrival"
    );
    assert_eq!(world.script().calls, 1, "one call for the batch");
    assert_eq!(world.script().asked.len(), 2);
    assert_eq!(world.sessions().len(), 2);
}

#[test]
fn frames_behind_a_refused_first_one_share_its_reason() {
    let mut world = World::new(Settings::default());
    world.script().picks = vec![Pick::Drop];
    for _ in 0..3 {
        assert!(world.io(0).inject(FRONT, &request(V4, 4000, SYN)));
    }
    world.run(0);
    assert_eq!(world.drops(), [(DropReason::Policy, 3)]);
    assert_eq!(world.script().asked.len(), 1);
}

#[test]
fn a_reply_that_arrives_at_another_worker_finds_its_session() {
    let mut world = World::new(Settings {
        workers: 2,
        ..Settings::default()
    });
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
fn a_pick_is_trusted_in_nothing() {
    let weights = vec![1, 0, 1];
    let mut world = World::new(Settings {
        weights,
        ..Settings::default()
    });
    world.script().picks = vec![
        Pick::Backend(1),
        Pick::Backend(99),
        Pick::Backend(u32::MAX),
        Pick::Fallback,
    ];
    for client_port in 0..40 {
        let (_, packet) = one(&world.frame(FRONT, &request(V4, 4000 + client_port, SYN)));
        assert_ne!(
            packet.destination,
            V4.backend(1),
            "a drained backend takes no session"
        );
    }
    assert_eq!(world.counters[0].fallback.get(), 40);
    assert!(
        world.active()[0] > 0 && world.active()[2] > 0,
        "{:?}",
        world.active()
    );

    world.script().picks = vec![Pick::Drop];
    assert!(world.frame(FRONT, &request(V4, 5000, SYN)).is_empty());
    assert_eq!(world.drops(), [(DropReason::Policy, 1)]);
}

#[test]
fn a_policy_that_fails_costs_no_packet() {
    let mut world = World::new(Settings::default());
    world.script().fault = Some(PolicyFault::Trap);
    for client_port in 0..30 {
        one(&world.frame(FRONT, &request(V4, 4000 + client_port, SYN)));
    }
    assert_eq!(world.counters[0].fallback.get(), 30);
    assert!(
        world.active().iter().all(|n| *n > 0),
        "{:?}",
        world.active()
    );
}

#[test]
fn a_policy_sees_the_flow_and_as_much_payload_as_it_asked_for() {
    let mut world = World::new(Settings {
        plan: V6,
        ..Settings::default()
    });
    world.script().payload_len = 2;
    one(&world.frame(FRONT, &request(V6, 4000, SYN)));
    one(&world.frame(FRONT, &request(V6, 4001, ACK)));
    let asked = world.script().asked.clone();
    assert_eq!((asked[0].source, asked[0].source_port), (V6.client, 4000));
    assert_eq!(
        (asked[0].destination, asked[0].destination_port),
        (V6.vip, SERVICE_PORT)
    );
    assert_eq!(
        &asked[0].payload[..usize::from(asked[0].payload_len)],
        b"GE"
    );
    assert_eq!((asked[0].mid_stream, asked[1].mid_stream), (false, true));
    assert_ne!(asked[0].hash, asked[1].hash);
}

#[test]
fn packets_in_the_middle_of_an_unknown_connection() {
    for (mid_stream, flags, goes_on) in [
        (MidStream::Pick, ACK, true),
        (MidStream::Pick, FIN_ACK, true),
        (MidStream::Pick, RST, false),
        (MidStream::Drop, ACK, false),
        (MidStream::Drop, SYN_ACK, false),
        (MidStream::Drop, SYN, true),
    ] {
        let mut world = World::new(Settings {
            mid_stream,
            ..Settings::default()
        });
        let sent = world.frame(FRONT, &request(V4, 4000, flags));
        assert_eq!(
            sent.len(),
            usize::from(goes_on),
            "{mid_stream:?} {flags:#x}"
        );
        assert_eq!(world.dropped(DropReason::MidStream), u64::from(!goes_on));
        assert_eq!(world.sessions().len(), usize::from(goes_on));
    }
}

#[test]
fn what_is_not_ours_goes_to_the_kernel_unchanged() {
    let mut world = World::new(Settings::default());
    // A backend's reply on a connection that did not come through the VIP.
    let direct = reply(V4, 0, 4000, SYN_ACK);
    assert!(world.frame(BACK, &direct).is_empty());
    assert_eq!(world.io(0).passed_to_kernel(), [(BACK, direct)]);
    assert_eq!(world.counters[0].to_kernel.get(), 1);
    assert_eq!(world.drops(), []);
}

#[test]
fn every_drop_has_its_reason() {
    let drained = Settings {
        weights: vec![0, 0],
        ..Settings::default()
    };
    let small = Settings {
        mtu: 40,
        ..Settings::default()
    };
    let mut loopback = V4;
    loopback.client = Address::v4([127, 0, 0, 1]);
    let mut last_hop = request(V4, 4000, SYN);
    last_hop[22] = 1;
    let mut truncated = request(V4, 4000, SYN);
    truncated.truncate(40);
    let mut fragment = request(V4, 4000, SYN);
    fragment[20] = 0x20;
    let mut other_protocol = request(V4, 4000, SYN);
    other_protocol[23] = 132;
    for (settings, frame, reason) in [
        (drained, request(V4, 4000, SYN), DropReason::NoBackend),
        (small, request(V4, 4000, SYN), DropReason::TooBig),
        (
            Settings::default(),
            request_to(V4, 4000, 99, SYN),
            DropReason::NoService,
        ),
        (
            Settings::default(),
            request(loopback, 4000, SYN),
            DropReason::Martian,
        ),
        (Settings::default(), last_hop, DropReason::HopLimit),
        (Settings::default(), truncated, DropReason::Malformed),
        (Settings::default(), fragment, DropReason::Fragment),
        (Settings::default(), other_protocol, DropReason::Unsupported),
    ] {
        let mut world = World::new(settings);
        assert!(world.frame(FRONT, &frame).is_empty(), "{reason:?}");
        assert_eq!(world.drops(), [(reason, 1)]);
    }
}

#[test]
fn an_unresolved_backend_is_asked_for_and_counted() {
    let mut world = World::new(Settings::default());
    world.shared.next_hops.set(BackendId(0), None);
    assert!(world.frame(FRONT, &request(V4, 4000, SYN)).is_empty());
    assert_eq!(world.drops(), [(DropReason::NeighborUnresolved, 1)]);
    assert_eq!(world.shared.next_hops.take_wanted(), [BackendId(0)]);

    world.shared.next_hops.set(
        BackendId(0),
        Some(waxwing_dataplane::NextHop {
            port: BACK,
            mac: backend_mac(0),
        }),
    );
    one(&world.frame(FRONT, &request(V4, 4000, SYN)));
    assert_eq!(
        world.script().asked.len(),
        1,
        "the retry is of the same session"
    );
}

#[test]
fn a_full_transmit_ring_is_counted_and_passes() {
    let mut world = World::new(Settings::default());
    establish(&mut world, 4000, 0);
    world.io(0).limit_transmit(0);
    assert!(world.frame(FRONT, &request(V4, 4000, ACK)).is_empty());
    assert_eq!(world.drops(), [(DropReason::TransmitRingFull, 1)]);
    world.io(0).limit_transmit(usize::MAX);
    one(&world.frame(FRONT, &request(V4, 4000, ACK)));
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

#[test]
fn replies_follow_the_client_to_another_gateway() {
    let mut world = World::new(Settings::default());
    establish(&mut world, 4000, 0);
    let other_gateway = Mac([2, 0, 0, 0, 9, 9]);
    let mut moved = request(V4, 4000, ACK);
    moved[6..12].copy_from_slice(&other_gateway.0);
    one(&world.frame(FRONT, &moved));
    let (_, packet) = one(&world.frame(BACK, &reply(V4, 0, 4000, ACK)));
    assert_eq!(packet.ethernet.destination, other_gateway);
}

#[test]
fn a_client_on_a_vlan_gets_its_tags_back() {
    let tag = |tpid, tci| VlanTag { tpid, tci };
    for tags in [
        VlanTags::one(tag(0x8100, 100)),
        VlanTags::two(tag(0x88a8, 7), tag(0x8100, 100)),
    ] {
        let mut world = World::new(Settings::default());
        let tagged = build::Tcp {
            link: Link {
                source: CLIENT_MAC,
                destination: PORT_MACS[0],
            },
            tags,
            source: (V4.client, 4000),
            destination: (V4.vip, SERVICE_PORT),
            flags: TcpFlags(SYN),
            ..build::Tcp::default()
        };
        let (_, packet) = one(&world.frame(FRONT, &tagged.frame()));
        assert_eq!(packet.ethernet.tags, VlanTags::NONE);
        assert_eq!(packet.ethernet.destination, backend_mac(0));
        let (_, packet) = one(&world.frame(BACK, &reply(V4, 0, 4000, SYN_ACK)));
        assert_eq!(packet.ethernet.tags, tags);
        assert_eq!(packet.ethernet.destination, CLIENT_MAC);
        assert_eq!(
            (packet.source, ports(&packet)),
            (V4.vip, (SERVICE_PORT, 4000))
        );
    }
}

#[test]
fn a_vip_answers_ping_arp_and_neighbour_solicitations() {
    for plan in [V4, V6] {
        let mut world = World::new(Settings {
            plan,
            ..Settings::default()
        });
        let ping = build::Echo {
            link: Link {
                source: CLIENT_MAC,
                destination: PORT_MACS[0],
            },
            source: plan.client,
            destination: plan.vip,
            payload: b"are you there?",
            ..build::Echo::default()
        };
        let (port, packet) = one(&world.frame(FRONT, &ping.frame()));
        assert_eq!(
            (port, packet.source, packet.destination),
            (FRONT, plan.vip, plan.client)
        );
        assert_eq!(packet.ethernet.destination, CLIENT_MAC);
    }

    let mut world = World::new(Settings::default());
    let who_has = |target| build::ArpRequest {
        mac: CLIENT_MAC,
        sender: V4.client,
        target,
        ..build::ArpRequest::default()
    };
    let sent = world.frame(FRONT, &who_has(V4.vip).frame());
    let Ok(Packet::Arp(ethernet)) = parse(&sent[0].1) else {
        panic!("{sent:?}")
    };
    let answer = waxwing_packet::arp::Arp::parse(&sent[0].1, &ethernet).expect("it is ARP");
    assert_eq!((answer.sender, answer.sender_mac), (V4.vip, PORT_MACS[0]));
    assert_eq!(answer.target_mac, CLIENT_MAC);
    assert!(
        world
            .frame(FRONT, &who_has(V4.backend(0)).frame())
            .is_empty(),
        "not ours"
    );

    let mut world = World::new(Settings {
        plan: V6,
        ..Settings::default()
    });
    let solicitation = build::NeighborSolicitation {
        mac: CLIENT_MAC,
        source: V6.client,
        target: V6.vip,
        ..build::NeighborSolicitation::default()
    };
    let sent = world.frame(FRONT, &solicitation.frame());
    let (_, packet) = one(&sent);
    let answer = waxwing_packet::ndp::Advertisement::parse(&sent[0].1, &packet).expect("an answer");
    assert_eq!((answer.target, packet.destination), (V6.vip, V6.client));
    assert_eq!(world.counters[0].answered.get(), 1);
}

#[test]
fn vips_are_announced_on_every_port_twice_and_again_when_they_change() {
    let mut world = World::new(Settings::default());
    let announced = world.counters[0].announced.get();
    assert_eq!(announced, 4, "one VIP, two ports, two rounds");

    let more = Settings {
        plan: V6,
        ..world.settings.clone()
    };
    let release = Release::held();
    let epoch = world.epoch(more.snapshot(2), release.clone());
    world.mailboxes[0].send(epoch).expect("the worker is there");
    release.give();
    world.run(0);
    world.advance(Duration::from_secs(3));
    world.run(0);
    assert_eq!(world.counters[0].announced.get() - announced, 4);
    let frames = world.io(0).sent();
    assert!(frames.iter().all(|(_, frame)| ip(frame).source == V6.vip));
}

#[test]
fn a_change_moves_no_session_and_waits_for_its_release() {
    let mut world = World::new(Settings::default());
    world.script().picks = vec![Pick::Backend(0)];
    establish(&mut world, 4000, 0);

    let drained = Settings {
        weights: vec![0, 1, 1],
        ..world.settings.clone()
    };
    let release = Release::held();
    let epoch = world.epoch(drained.snapshot(2), release.clone());
    world.mailboxes[0].send(epoch).expect("the worker is there");
    let (_, packet) = one(&world.frame(FRONT, &request(V4, 4001, SYN)));
    assert_eq!(
        packet.destination,
        V4.backend(0),
        "held back: the old epoch serves"
    );

    release.give();
    let (_, packet) = one(&world.frame(FRONT, &request(V4, 4002, SYN)));
    assert_ne!(
        packet.destination,
        V4.backend(0),
        "the drained backend takes no new session"
    );
    let (_, packet) = one(&world.frame(FRONT, &request(V4, 4000, ACK)));
    assert_eq!(packet.destination, V4.backend(0), "its old session stays");
    assert_eq!(
        world.returned.try_iter().count(),
        1,
        "the old epoch came back"
    );
}

#[test]
fn counters_say_what_happened_and_nothing_else() {
    let mut world = World::new(Settings::default());
    establish(&mut world, 4000, 0);
    let refused = world.frame(FRONT, &request(V4, 4001, SYN));
    one(&refused);
    one(&world.frame(BACK, &reply(V4, 0, 4001, RST | ACK)));
    let counters = &world.counters[0];
    let backend = counters.backend(BackendId(0));
    assert_eq!(counters.received.packets.get(), 5);
    assert_eq!(backend.forward.packets.get(), 3);
    assert_eq!(backend.reply.packets.get(), 2);
    assert_eq!(backend.sessions.get(), 2);
    assert_eq!(backend.refused.get(), 1);
    assert_eq!(world.drops(), []);
}
