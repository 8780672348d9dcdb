//! What policies learn between two batches: closed sessions, their bytes, and the time.

use std::time::Duration;

use crate::frames::{
    ACK, SYN, SYN_ACK, datagram, datagram_back, establish, one, play, reply, request,
};
use crate::world::{BACK, FRONT, Settings, V4, World};
use waxwing_dataplane::model::{Release, Timeouts};
use waxwing_dataplane::policy::{End, Vacant};
use waxwing_dataplane::{BackendId, Pick, Snapshot};

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

fn ends(world: &World) -> Vec<End> {
    world.script().closed.iter().map(|it| it.end).collect()
}

#[test]
fn a_policy_learns_how_each_connection_ended() {
    let rows = [
        ("closed by both", ">S <SA >A >FA <FA", End::Closed),
        (
            "closed by both, and reset on top",
            ">S <SA <FA >FA >R",
            End::Closed,
        ),
        ("reset by the client", ">S <SA >A >R", End::Reset),
        ("reset by the server", ">S <SA >A <R", End::Reset),
        ("given up by the client", ">S >R", End::Reset),
        ("unknown to the server", ">A <R", End::Reset),
        ("an RST that was not the end", ">S <SA <R >A", End::Idle),
        ("refused", ">S <RA", End::Refused),
        (
            "refused, and the client speaks on",
            ">S <RA >A >R",
            End::Refused,
        ),
        ("a forged refusal", ">S <RA <SA >A", End::Idle),
        ("refused after another word", ">S <A <R", End::Refused),
        ("no refusal: RST to a challenge ACK", ">S <A >R", End::Reset),
        ("unanswered", ">S >S", End::Unanswered),
        ("unanswered in its middle", ">A", End::Unanswered),
        ("half-open, but answered", ">S <SA", End::Idle),
        ("a word that opens nothing", ">S <A", End::Idle),
        ("closed by one", ">S <SA >A >FA", End::Idle),
    ];
    for wants_closed in [true, false] {
        for (row, packets, end) in rows {
            let mut world = World::new(Settings {
                wants_closed,
                ..settings()
            });
            play(&mut world, 4000, packets);
            assert_eq!(ends(&world), [], "{row}");
            world.sweep_round(0, 2 * TIMEOUT);
            let heard: &[End] = if wants_closed { &[end] } else { &[] };
            assert_eq!(ends(&world), heard, "{row}");
            // Counted whether or not a policy wants it.
            let unanswered = world.counted(0, |backend| &backend.unanswered);
            assert_eq!(unanswered, u64::from(end == End::Unanswered), "{row}");
            let refusals = world.counted(0, |backend| &backend.refused);
            let refused = end == End::Refused || row == "a forged refusal";
            assert_eq!(refusals, u64::from(refused), "{row}");
        }
    }
}

#[test]
fn a_reused_tuple_reports_how_the_old_connection_ended() {
    let opened = ">S <SA >A";
    for (closing, end) in [
        (">FA <FA", &[End::Closed][..]),
        (">FA <FA <R", &[End::Closed]),
        // It is unknown whether that was the end.
        ("<R", &[]),
    ] {
        let mut world = World::new(settings());
        for packets in [opened, closing, opened] {
            play(&mut world, 4000, packets);
        }
        assert_eq!(ends(&world), end);
    }
    let mut world = World::new(settings());
    for _ in 0..3 {
        play(&mut world, 4000, ">S <RA");
    }
    assert_eq!(ends(&world), [End::Refused; 2]);
}

#[test]
fn a_datagram_without_an_answer_is_unanswered() {
    let mut world = World::new(Settings {
        timeouts: settings().timeouts,
        ..Settings::udp(V4)
    });
    for port in [4000, 4001] {
        one(&world.frame(FRONT, &datagram(V4, port, b"?")));
    }
    one(&world.frame(BACK, &datagram_back(V4, 0, 4000)));
    world.sweep_round(0, 2 * TIMEOUT);

    let mut ends = ends(&world);
    ends.sort_by_key(|end| *end == End::Unanswered);
    assert_eq!(ends, [End::Idle, End::Unanswered]);
    assert_eq!(world.counted(0, |backend| &backend.unanswered), 1);
}

#[test]
fn an_evicted_session_is_reported_as_evicted_unless_it_was_over() {
    let now = Duration::ZERO;
    for (what, packets, wait, end) in [
        ("half-open", ">S <SA", now, End::Evicted),
        ("unanswered so far", ">S", now, End::Evicted),
        ("its time was up", ">S", 2 * TIMEOUT, End::Unanswered),
        ("closed", ">S <SA >FA <FA", now, End::Closed),
    ] {
        let mut world = World::new(Settings {
            sessions_max: 4,
            ..settings()
        });
        for client_port in 4000..4004 {
            play(&mut world, client_port, packets);
        }
        world.advance(wait);
        play(&mut world, 5000, ">S");
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
        world.publish_at(0, world.settings.snapshot(generation));
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
    world.publish_at(0, removed);
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
    world.send(0, next);
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
