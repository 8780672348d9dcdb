//! Clients that no backend serves: an RST or port unreachable within rate limits, or silence.

use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;

use crate::frames::{
    ACK, FIN_ACK, RST, SYN, SYN_ACK, TAGS, damaged, datagram, datagram_back, establish, ip, one,
    ports, reply, request, segment,
};
use crate::world::{BACK, CLIENT_MAC, FRONT, SERVICE_PORT, Settings, V4, V6, World};
use waxwing_dataplane::model::{MidStream, NoBackend, SessionAction};
use waxwing_dataplane::{BackendId, DropReason, Pick};
use waxwing_packet::{Mac, Protocol, Transport};
use waxwing_testkit::build;

/// A service whose backends are all down and that rejects.
fn rejecting(protocol: Protocol) -> Settings {
    Settings {
        protocol,
        health: vec![(false, SessionAction::Keep); 3],
        no_backend: NoBackend::Reject,
        ..Settings::default()
    }
}

#[test]
fn a_new_connection_that_no_backend_takes_is_rejected() {
    let none_up: [fn(&mut Settings); 3] = [
        |_| {},
        |settings| (settings.weights, settings.health) = (vec![0, 0], Vec::new()),
        |settings| settings.weights = Vec::new(),
    ];
    for (plan, tags) in [V4, V6].into_iter().flat_map(|p| TAGS.map(|t| (p, t))) {
        for (n, change) in none_up.into_iter().enumerate() {
            let mut settings = rejecting(Protocol::Tcp);
            settings.plan = plan;
            change(&mut settings);
            let mut world = World::new(settings);
            // Flags; flags of the RST, its sequence and its acknowledgment.
            for (flags, back, sequence, acknowledgment) in [
                (SYN, RST | ACK, 0, 1000 + 1 + 3),
                (ACK, RST, 2000, 0),
                (FIN_ACK, RST, 2000, 0),
                (SYN_ACK, RST, 2000, 0),
                (0, RST | ACK, 0, 1000 + 3),
            ] {
                let original = build::Tcp {
                    tags,
                    sequence: 1000,
                    acknowledgment: 2000,
                    ..segment(plan, 4000, flags)
                };
                let sent = world.frame(FRONT, &original.frame());
                let (port, packet) = one(&sent);
                assert_eq!((port, packet.ethernet.destination), (FRONT, CLIENT_MAC));
                assert_eq!(packet.ethernet.tags, tags);
                assert_eq!((packet.source, packet.destination), (plan.vip, plan.client));
                assert_eq!(ports(&packet), (SERVICE_PORT, 4000));
                let at = usize::from(packet.transport_start);
                let word = |at: usize| {
                    u32::from_be_bytes(sent[0].1[at..at + 4].try_into().expect("4 bytes"))
                };
                assert!(
                    matches!(packet.transport, Transport::Tcp { flags, .. } if flags.0 == back),
                    "{n} {flags:#x}"
                );
                assert_eq!((word(at + 4), word(at + 8)), (sequence, acknowledgment));
            }
            assert_eq!(world.counters[0].rejected.get(), 5);
            assert_eq!(world.counters[0].fallback.get(), 0, "nothing was chosen");
            let calls = world.script().calls;
            assert_eq!(calls == 0, world.settings.weights.is_empty());
            assert!(world.frame(FRONT, &request(plan, 4000, RST)).is_empty());
            assert_eq!(world.drops(), [(DropReason::MidStream, 1)]);
            assert_eq!(world.sessions(), []);
        }
    }
}

#[test]
fn a_datagram_that_no_backend_takes_is_unreachable() {
    for (plan, unreachable) in [(V4, (3, 3)), (V6, (1, 4))] {
        let mut settings = rejecting(Protocol::Udp);
        settings.plan = plan;
        let mut world = World::new(settings);
        let mut bytes = 0;
        for len in [0, 1, 500, 1400] {
            let original = datagram(plan, 5000, &vec![7; len]);
            let sent = world.frame(FRONT, &original);
            let (port, packet) = one(&sent);
            let (kind, code) = unreachable;
            assert_eq!(
                (port, packet.transport),
                (FRONT, Transport::Icmp { kind, code })
            );
            let quote = &sent[0].1[usize::from(packet.transport_start) + 8..];
            assert!(original[14..].starts_with(quote) && !quote.is_empty());
            bytes += sent[0].1.len() as u64;
        }
        let transmitted = &world.counters[0].transmitted;
        assert_eq!(
            (transmitted.packets.get(), transmitted.bytes.get()),
            (4, bytes)
        );
        assert_eq!(world.counters[0].rejected.get(), 4);
        assert_eq!(world.sessions(), []);
    }
}

#[test]
fn packets_that_must_not_be_answered_are_dropped() {
    let mut from_group = segment(V4, 4000, SYN);
    from_group.link.source = Mac([1, 0, 0, 0, 0, 1]);
    let damaged = damaged(request(V4, 4000, SYN));
    let loud = rejecting(Protocol::Tcp);
    let middle = Settings {
        mid_stream: MidStream::Drop,
        ..loud.clone()
    };
    let silent = Settings {
        no_backend: NoBackend::Drop,
        ..loud.clone()
    };
    for (settings, frame, reason) in [
        (loud.clone(), from_group.frame(), DropReason::Martian),
        (loud, damaged, DropReason::Malformed),
        (middle, request(V4, 4000, ACK), DropReason::MidStream),
        (silent, request(V4, 4000, SYN), DropReason::NoBackend),
    ] {
        let mut world = World::new(settings);
        assert!(world.frame(FRONT, &frame).is_empty(), "{reason:?}");
        assert_eq!(world.drops(), [(reason, 1)]);
        assert_eq!(world.counters[0].rejected.get(), 0);
    }
}

#[test]
fn each_packet_of_a_rejected_flow_is_answered() {
    let mut world = World::new(rejecting(Protocol::Tcp));
    let damaged = damaged(request(V4, 4000, SYN));
    let whole = request(V4, 4000, SYN);
    assert_eq!(
        world
            .batch(FRONT, [&damaged, &whole, &damaged, &whole])
            .len(),
        2
    );
    assert_eq!(world.drops(), [(DropReason::Malformed, 2)]);
    assert_eq!(world.counters[0].rejected.get(), 2);
}

/// How many of `count` simultaneous rejections are sent.
fn refused_at_once(world: &mut World, protocol: Protocol, count: u16) -> usize {
    let frames = (0..count).map(|n| match protocol {
        Protocol::Tcp => request(V4, 1024 + n, SYN),
        Protocol::Udp => datagram(V4, 1024 + n, b"?"),
    });
    frames.map(|frame| world.frame(FRONT, &frame).len()).sum()
}

#[test]
fn rejections_have_rate_limits_by_kind() {
    for (protocol, burst, in_a_tenth) in [(Protocol::Tcp, 1000, 1000), (Protocol::Udp, 100, 100)] {
        let mut world = World::new(rejecting(protocol));
        assert_eq!(refused_at_once(&mut world, protocol, 1200), burst);
        assert_eq!(world.dropped(DropReason::AnswerLimit), 1200 - burst as u64);
        world.advance(Duration::from_millis(100));
        assert_eq!(refused_at_once(&mut world, protocol, 1200), in_a_tenth);
        world.advance(Duration::from_millis(10));
        assert_eq!(refused_at_once(&mut world, protocol, 1200), in_a_tenth / 10);
        assert_eq!(
            world.counters[0].responded.get(),
            0,
            "those are pings and the like"
        );
    }
}

#[test]
fn beyond_the_rate_limit_a_connection_waits_and_a_datagrams_session_ends() {
    let down = |settings: &mut Settings| {
        settings.health = vec![(false, SessionAction::Reset); 3];
        settings.no_backend = NoBackend::Reject;
    };
    let mut world = World::new(Settings::default());
    establish(&mut world, 4000, 0);
    world.change(down);
    refused_at_once(&mut world, Protocol::Tcp, 1000);
    assert!(world.frame(FRONT, &request(V4, 4000, ACK)).is_empty());
    assert_eq!(
        (world.sessions().len(), world.counters[0].reset.get()),
        (1, 0)
    );
    world.advance(Duration::from_millis(1));
    one(&world.frame(FRONT, &request(V4, 4000, ACK)));
    assert_eq!(
        (world.sessions().len(), world.counters[0].reset.get()),
        (0, 1)
    );

    let mut world = World::new(Settings::udp(V4));
    one(&world.frame(FRONT, &datagram(V4, 500, b"?")));
    world.change(down);
    refused_at_once(&mut world, Protocol::Udp, 100);
    assert!(world.frame(FRONT, &datagram(V4, 500, b"?")).is_empty());
    assert_eq!(
        (world.sessions().len(), world.counters[0].reset.get()),
        (0, 1)
    );
    assert_eq!(world.drops(), [(DropReason::AnswerLimit, 1)]);
}

/// The possible steps, in any order.
#[derive(Clone, Debug)]
enum Step {
    /// A packet of this client, or to it, at this worker.
    Client(usize, u16, u8),
    Server(usize, u32, u16, u8),
    /// A worker processes its frames.
    Turn(usize),
    /// Backends change.
    Health(Vec<(bool, SessionAction)>, NoBackend),
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let flags = prop::sample::select(vec![SYN, ACK, SYN_ACK, FIN_ACK, RST, RST | ACK, 0]);
    use SessionAction::{Keep, Repick, Reset};
    let action = prop::sample::select(vec![Keep, Reset, Repick]);
    let no_backend = prop::sample::select(vec![NoBackend::Drop, NoBackend::Reject]);
    let client = 4000..4004_u16;
    let step = prop_oneof![
        8 => (0..2_usize, client.clone(), flags.clone()).prop_map(|(w, c, f)| Step::Client(w, c, f)),
        4 => (0..2_usize, 0..3_u32, client, flags).prop_map(|(w, b, c, f)| Step::Server(w, b, c, f)),
        4 => (0..2_usize).prop_map(Step::Turn),
        2 => (vec((any::<bool>(), action), 3), no_backend).prop_map(|(health, n)| Step::Health(health, n)),
        1 => prop::sample::select(vec![1, 100, 60_000, 300_000]).prop_map(Step::Wait),
    ];
    vec(step, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// For any sequence: each frame ends once, sent frames are well-formed, and sessions are counted.
    #[test]
    fn every_frame_ends_in_one_way_whatever_happens_to_backends(
        steps in steps(),
        udp in any::<bool>(),
        drop in any::<bool>(),
    ) {
        let mut world = World::new(Settings {
            protocol: if udp { Protocol::Udp } else { Protocol::Tcp },
            mid_stream: if drop { MidStream::Drop } else { MidStream::Pick },
            workers: 2,
            ..Settings::default()
        });
        world.script().picks = vec![Pick::Backend(0), Pick::Keep(1), Pick::Fallback, Pick::Backend(2)];
        let mut received = 0;
        for step in steps {
            match step {
                Step::Client(worker, client, flags) => {
                    received += 1;
                    let frame = if udp { datagram(V4, client, &[flags]) } else { request(V4, client, flags) };
                    prop_assert!(world.io(worker).inject(FRONT, &frame));
                }
                Step::Server(worker, backend, client, flags) => {
                    received += 1;
                    let frame = if udp {
                        datagram_back(V4, backend, client)
                    } else {
                        reply(V4, backend, client, flags)
                    };
                    prop_assert!(world.io(worker).inject(BACK, &frame));
                }
                Step::Turn(worker) => world.run(worker),
                Step::Health(health, no_backend) => {
                    world.change(|settings| (settings.health, settings.no_backend) = (health, no_backend));
                }
                Step::Wait(ms) => world.advance(Duration::from_millis(ms)),
            }
        }
        let mut sent = 0;
        for worker in [0, 1] {
            world.run(worker);
            let frames = world.io(worker).sent();
            sent += frames.len() as u64;
            for (_, frame) in &frames {
                ip(frame);
            }
        }
        let to_kernel: u64 = world.counters.iter().map(|c| c.to_kernel.get()).sum();
        let dropped: u64 = world.drops().iter().map(|(_, n)| n).sum();
        prop_assert_eq!(sent + to_kernel + dropped, received);
        let held: u32 = world.held().iter().sum();
        prop_assert_eq!(held as usize, world.sessions().len());
        let count = |counter: fn(&waxwing_dataplane::counters::WorkerCounters) -> u64| {
            world.counters.iter().map(|c| counter(c)).sum::<u64>()
        };
        let opened = |id| world.shared.gauges.opened(BackendId(id));
        let begun: u64 = (0..3).map(opened).sum();
        let ended = count(|c| c.reset.get()) + count(|c| c.repicked.get()) + count(|c| c.expired.get());
        prop_assert_eq!(begun - ended, held.into(), "every end has its counter");
    }
}

#[test]
fn a_refused_connection_tries_another_backend() {
    for (weights, expected) in [(vec![1, 1], true), (vec![1, 0], false)] {
        let mut world = World::new(Settings {
            weights,
            retries_refused: true,
            ..Settings::default()
        });
        world.script().picks = vec![Pick::Backend(0), Pick::Backend(1)];
        one(&world.frame(FRONT, &request(V4, 4000, SYN)));
        let answer = world.frame(BACK, &reply(V4, 0, 4000, RST | ACK));
        assert_eq!(
            answer.is_empty(),
            expected,
            "the client hears of it, or not"
        );
        let kept = world.counters[0].dropped(DropReason::RefusedRetried).get();
        assert_eq!(kept, u64::from(expected));
        assert_eq!(world.shared.gauges.refused(BackendId(0)), 1);
        if expected {
            let again = one(&world.frame(FRONT, &request(V4, 4000, SYN)));
            assert_eq!(again.1.destination, V4.backend(1), "the SYN comes again");
        }
    }
}

#[test]
fn packets_to_unserved_ports_of_a_vip_are_rejected() {
    for plan in [V4, V6] {
        let mut world = World::new(Settings {
            rejects_unserved: true,
            ..Settings::tcp(plan)
        });
        // TTL 1, as a trace's first packet has.
        for hop_limit in [1, 64] {
            let syn = build::Tcp {
                destination: (plan.vip, SERVICE_PORT + 9),
                hop_limit,
                ..segment(plan, 4000, SYN)
            };
            let (port, packet) = one(&world.frame(FRONT, &syn.frame()));
            assert_eq!((port, packet.source), (FRONT, plan.vip));
            assert_eq!(ports(&packet), (SERVICE_PORT + 9, 4000));
            let is_reset =
                matches!(packet.transport, Transport::Tcp { flags, .. } if flags.0 == RST | ACK);
            assert!(is_reset, "{:?}", packet.transport);

            let probe = build::Udp {
                link: syn.link,
                source: (plan.client, 5000),
                destination: (plan.vip, 33434),
                hop_limit,
                payload: &[7; 32],
                ..build::Udp::default()
            };
            let (port, packet) = one(&world.frame(FRONT, &probe.frame()));
            assert_eq!((port, packet.source), (FRONT, plan.vip));
            let (kind, code) = match plan.vip.family() {
                waxwing_packet::Family::V4 => (3, 3),
                waxwing_packet::Family::V6 => (1, 4),
            };
            assert_eq!(packet.transport, Transport::Icmp { kind, code });
        }
        assert_eq!(world.counters[0].unserved_rejected.get(), 4);
        assert_eq!(world.counters[0].rejected.get(), 0);
        // No RST about an RST; none to a martian; none to a VIP.
        let to = (plan.vip, SERVICE_PORT + 9);
        let rst = build::Tcp {
            destination: to,
            ..segment(plan, 4000, RST)
        };
        assert_eq!(world.frame(FRONT, &rst.frame()), []);
        let from_vip = build::Tcp {
            source: (plan.vip, 4000),
            ..build::Tcp {
                destination: to,
                ..segment(plan, 4000, SYN)
            }
        };
        assert_eq!(world.frame(FRONT, &from_vip.frame()), []);
        assert_eq!(
            world.drops(),
            [(DropReason::Martian, 1), (DropReason::NoService, 1)]
        );
    }
}

/// A port scan takes no RSTs from the clients of a service whose servers are down.
#[test]
fn answers_at_unserved_ports_have_a_limit_of_their_own() {
    let mut world = World::new(Settings {
        rejects_unserved: true,
        ..rejecting(Protocol::Tcp)
    });
    let mut answered = 0;
    for port in 10_000..12_000 {
        let syn = build::Tcp {
            destination: (V4.vip, port),
            ..segment(V4, 4000, SYN)
        };
        answered += world.frame(FRONT, &syn.frame()).len();
    }
    assert_eq!(answered, 100);
    assert_eq!(world.drops(), [(DropReason::AnswerLimit, 1900)]);
    one(&world.frame(FRONT, &request(V4, 4000, SYN)));
    world.advance(Duration::from_millis(100));
    let syn = build::Tcp {
        destination: (V4.vip, 10_000),
        ..segment(V4, 4000, SYN)
    };
    one(&world.frame(FRONT, &syn.frame()));
}
