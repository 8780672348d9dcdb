//! What policies learn between two batches: closed sessions, their bytes, and the time.

use std::time::Duration;

use crate::frames::{ACK, FIN_ACK, RST, SYN, SYN_ACK, establish, one, reply, request};
use crate::world::{
    BACK, BACKEND_PORT, CLIENT_MAC, FRONT, PORT_MACS, SERVICE_PORT, Settings, V4, World,
    backend_mac,
};
use waxwing_dataplane::model::Release;
use waxwing_dataplane::model::Timeouts;
use waxwing_dataplane::policy::{End, Vacant};
use waxwing_dataplane::{BackendId, Pick, Snapshot};
use waxwing_packet::{Link, Protocol};
use waxwing_testkit::build;

const TIMEOUT: Duration = Duration::from_secs(1);

/// Every timeout is one second.
fn settings() -> Settings {
    Settings {
        timeouts: Timeouts {
            tcp_half_open: TIMEOUT,
            tcp_established: TIMEOUT,
            tcp_closing: TIMEOUT,
            udp: TIMEOUT,
        },
        ..Settings::default()
    }
}

/// From the client, or from the backend.
#[derive(Clone, Copy)]
enum Step {
    Client(u8),
    Server(u8),
}

use Step::{Client, Server};

fn play(world: &mut World, client_port: u16, steps: &[Step]) {
    for step in steps {
        let (port, frame) = match *step {
            Client(flags) => (FRONT, request(V4, client_port, flags)),
            Server(flags) => (BACK, reply(V4, 0, client_port, flags)),
        };
        one(&world.frame(port, &frame));
    }
}

fn ends(world: &World) -> Vec<End> {
    world.script().closed.iter().map(|it| it.end).collect()
}

#[test]
fn a_policy_learns_how_each_connection_ended() {
    let rows: &[(&str, &[Step], End)] = &[
        (
            "closed by both",
            &[
                Client(SYN),
                Server(SYN_ACK),
                Client(ACK),
                Client(FIN_ACK),
                Server(FIN_ACK),
            ],
            End::Closed,
        ),
        (
            "closed by both, and reset on top",
            &[
                Client(SYN),
                Server(SYN_ACK),
                Server(FIN_ACK),
                Client(FIN_ACK),
                Client(RST),
            ],
            End::Closed,
        ),
        (
            "reset by the client",
            &[Client(SYN), Server(SYN_ACK), Client(ACK), Client(RST)],
            End::Reset,
        ),
        (
            "reset by the server",
            &[Client(SYN), Server(SYN_ACK), Client(ACK), Server(RST)],
            End::Reset,
        ),
        (
            "given up by the client",
            &[Client(SYN), Client(RST)],
            End::Reset,
        ),
        (
            "unknown to the server",
            &[Client(ACK), Server(RST)],
            End::Reset,
        ),
        (
            "an RST that was not the end",
            &[Client(SYN), Server(SYN_ACK), Server(RST), Client(ACK)],
            End::Idle,
        ),
        ("refused", &[Client(SYN), Server(RST | ACK)], End::Refused),
        (
            "refused, whatever the client says to it",
            &[Client(SYN), Server(RST | ACK), Client(ACK), Client(RST)],
            End::Refused,
        ),
        (
            "a forged refusal",
            &[Client(SYN), Server(RST | ACK), Server(SYN_ACK), Client(ACK)],
            End::Idle,
        ),
        (
            "refused after another word",
            &[Client(SYN), Server(ACK), Server(RST)],
            End::Refused,
        ),
        (
            "a client's RST to a challenge ACK is no refusal",
            &[Client(SYN), Server(ACK), Client(RST)],
            End::Reset,
        ),
        ("unanswered", &[Client(SYN), Client(SYN)], End::Unanswered),
        ("unanswered in its middle", &[Client(ACK)], End::Unanswered),
        (
            "half-open, but answered",
            &[Client(SYN), Server(SYN_ACK)],
            End::Idle,
        ),
        (
            "a word that opens nothing",
            &[Client(SYN), Server(ACK)],
            End::Idle,
        ),
        (
            "closed by one",
            &[Client(SYN), Server(SYN_ACK), Client(ACK), Client(FIN_ACK)],
            End::Idle,
        ),
    ];
    for wants_closed in [true, false] {
        for (row, steps, end) in rows {
            let mut world = World::new(Settings {
                wants_closed,
                ..settings()
            });
            play(&mut world, 4000, steps);
            assert_eq!(ends(&world), [], "{row}");
            world.sweep_round(0, 2 * TIMEOUT);
            let heard: &[End] = if wants_closed { &[*end] } else { &[] };
            assert_eq!(ends(&world), heard, "{row}");
            // Counted whether or not a policy wants it.
            let unanswered = world.counted(0, |backend| &backend.unanswered);
            assert_eq!(unanswered, u64::from(*end == End::Unanswered), "{row}");
            let refusals = world.counted(0, |backend| &backend.refused);
            let refused = *end == End::Refused || *row == "a forged refusal";
            assert_eq!(refusals, u64::from(refused), "{row}");
        }
    }
}

#[test]
fn a_reused_tuple_reports_how_the_old_connection_ended() {
    let opened = [Client(SYN), Server(SYN_ACK), Client(ACK)];
    for (closing, end) in [
        (&[Client(FIN_ACK), Server(FIN_ACK)][..], &[End::Closed][..]),
        (
            &[Client(FIN_ACK), Server(FIN_ACK), Server(RST)],
            &[End::Closed],
        ),
        // It is unknown whether that was the end.
        (&[Server(RST)], &[]),
    ] {
        let mut world = World::new(settings());
        play(&mut world, 4000, &opened);
        play(&mut world, 4000, closing);
        play(&mut world, 4000, &opened);
        assert_eq!(ends(&world), end);
    }
    let mut world = World::new(settings());
    for _ in 0..3 {
        play(&mut world, 4000, &[Client(SYN), Server(RST | ACK)]);
    }
    assert_eq!(ends(&world), [End::Refused; 2]);
}

#[test]
fn a_datagram_without_an_answer_is_unanswered() {
    let mut world = World::new(Settings {
        protocol: Protocol::Udp,
        ..settings()
    });
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
    for port in [4000, 4001] {
        let (client, vip) = ((V4.client, port), (V4.vip, SERVICE_PORT));
        one(&world.frame(FRONT, &datagram(front, client, vip)));
    }
    let (server, client) = ((V4.backend(0), BACKEND_PORT), (V4.client, 4000));
    one(&world.frame(BACK, &datagram(back, server, client)));
    world.sweep_round(0, 2 * TIMEOUT);

    let mut ends = ends(&world);
    ends.sort_by_key(|end| *end == End::Unanswered);
    assert_eq!(ends, [End::Idle, End::Unanswered]);
    assert_eq!(world.counted(0, |backend| &backend.unanswered), 1);
}

#[test]
fn an_evicted_session_is_reported_as_evicted_unless_it_was_over() {
    let full = |steps: &[Step]| {
        let mut world = World::new(Settings {
            sessions_max: 4,
            ..settings()
        });
        for client_port in 4000..4004 {
            play(&mut world, client_port, steps);
        }
        world
    };
    let half_open: &[Step] = &[Client(SYN), Server(SYN_ACK)];
    let closed: &[Step] = &[
        Client(SYN),
        Server(SYN_ACK),
        Client(FIN_ACK),
        Server(FIN_ACK),
    ];
    for (what, steps, wait, end) in [
        ("half-open", half_open, Duration::ZERO, End::Evicted),
        (
            "unanswered so far",
            &[Client(SYN)],
            Duration::ZERO,
            End::Evicted,
        ),
        (
            "its time was up",
            &[Client(SYN)],
            2 * TIMEOUT,
            End::Unanswered,
        ),
        ("closed", closed, Duration::ZERO, End::Closed),
    ] {
        let mut world = full(steps);
        world.advance(wait);
        play(&mut world, 5000, &[Client(SYN)]);
        assert_eq!(world.counters[0].evicted.get(), 1, "{what}");
        assert_eq!(ends(&world)[0], end, "{what}");
    }
}

#[test]
fn a_policy_learns_a_sessions_duration_and_bytes() {
    let mut world = World::new(settings());
    let mut bytes = 0;
    for (client_port, replies) in [(4000, 3), (4001, 0)] {
        let mut frames = vec![(FRONT, request(V4, client_port, SYN))];
        frames.extend((0..replies).map(|_| (BACK, reply(V4, 0, client_port, SYN_ACK))));
        for (port, frame) in &frames {
            one(&world.frame(*port, frame));
        }
        let frames: usize = frames.iter().map(|(_, frame)| frame.len()).sum();
        bytes = bytes.max(frames);
        // One after the other, in the same slot.
        world.sweep_round(0, 2 * TIMEOUT);
    }
    let closed = world.script().closed.clone();
    assert_eq!(closed[0].bytes, bytes as u64, "all of it, both ways");
    assert_eq!(closed[1].bytes, request(V4, 4001, SYN).len() as u64);
    for closed in closed {
        let lived = closed.duration_ms;
        assert!((2000..2600).contains(&lived), "{lived} ms");
    }
}

#[test]
fn an_epoch_decides_which_policies_get_closed_sessions() {
    let mut world = World::new(Settings {
        wants_closed: false,
        ..settings()
    });
    establish(&mut world, 4000, 0);
    let mut change = |wants_closed: bool, generation: u64| {
        world.settings.wants_closed = wants_closed;
        let release = Release::held();
        release.give();
        let epoch = world.epoch(world.settings.snapshot(generation), release);
        world.mailboxes[0].send(epoch).expect("the worker is there");
        let frame = request(V4, 4000, ACK);
        one(&world.frame(FRONT, &frame));
        frame.len() as u64
    };
    let bytes = change(true, 2) + change(true, 3);
    change(false, 4);
    change(true, 5);
    world.sweep_round(0, 2 * TIMEOUT);
    let heard: Vec<u64> = world.script().closed.iter().map(|it| it.bytes).collect();
    assert_eq!(heard, [bytes + bytes / 2], "those of three of the epochs");
}

#[test]
fn sessions_of_a_removed_backend_are_not_reported() {
    let mut world = World::new(settings());
    establish(&mut world, 4000, 0);
    let old = world.settings.snapshot(1);
    let mut services: Vec<_> = old.services().cloned().collect();
    services[0].backends = Box::default();
    let backends = old.backends().cloned().collect();
    let removed = Snapshot::new(2, services, backends, old.ports().to_vec());
    let release = Release::held();
    release.give();
    let epoch = world.epoch(removed, release);
    world.mailboxes[0].send(epoch).expect("the worker is there");
    world.sweep_round(0, 2 * TIMEOUT);
    assert_eq!((ends(&world), world.active()), (vec![], vec![0, 0, 0]));
}

#[test]
fn policies_tick_each_turn_with_or_without_frames() {
    let mut world = World::new(settings());
    let before = world.script().ticks;
    for turn in 1..=5 {
        world.advance(Duration::from_millis(20));
        if turn % 2 == 0 {
            assert!(world.io(0).inject(FRONT, &request(V4, 4000, SYN)));
        }
        world.turn(0);
        assert_eq!(world.script().ticks, before + turn);
    }
}

#[test]
fn a_draining_backend_keeps_its_connections() {
    let world = |picks: &[Pick]| {
        let mut world = World::new(Settings {
            weights: vec![1, 0],
            ..Settings::default()
        });
        world.script().picks = picks.to_vec();
        one(&world.frame(FRONT, &request(V4, 4000, SYN)));
        (0..2)
            .map(|n| world.counters[0].backend(BackendId(n)).sessions.get())
            .collect::<Vec<_>>()
    };
    assert_eq!(world(&[Pick::Keep(1)]), [0, 1]);
    assert_eq!(world(&[Pick::Backend(1)]), [1, 0], "a new one is not");
    assert_eq!(world(&[Pick::Keep(7)]), [1, 0], "there is no such backend");
}

#[test]
fn a_kept_policy_continues_in_the_next_epoch() {
    let mut world = World::new(Settings::default());
    let release = Release::held();
    release.give();
    let mut next = world.epoch(world.settings.snapshot(2), release);
    next.policies = vec![Box::new(Vacant)];
    next.kept = vec![(0, 0)];
    world.mailboxes[0].send(next).expect("it listens");
    world.turn(0);
    one(&world.frame(FRONT, &request(V4, 4000, SYN)));
    assert_eq!(
        world.script().calls,
        1,
        "the first epoch's policy was asked"
    );
    let old = world
        .returned
        .try_recv()
        .expect("it gives the old one back");
    assert!(!old.policies[0].wants_closed(), "nothing of it is left");
}
