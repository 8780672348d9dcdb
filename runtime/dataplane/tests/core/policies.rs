//! What policies learn between two batches: closed sessions, their bytes, and the time.

use std::time::Duration;

use crate::frames::{
    ACK, SYN, SYN_ACK, datagram, datagram_back, establish, one, packet, play, reply, request,
};
use crate::world::{BACK, FRONT, Settings, V4, World};
use waxwing_dataplane::model::{Release, Timeouts};
use waxwing_dataplane::policy::{End, Vacant};
use waxwing_dataplane::{BackendId, Pick, Snapshot};
use waxwing_testkit::conversation;

const TIMEOUT: Duration = Duration::from_secs(1);
const BACKEND: BackendId = BackendId(0);

/// Every timeout is one second.
fn settings() -> Settings {
    Settings {
        timeouts: Timeouts {
            tcp_half_open: TIMEOUT,
            tcp_established: TIMEOUT,
            tcp_closing: TIMEOUT,
            udp: TIMEOUT,
            udp_unassured: TIMEOUT,
        },
        ..Settings::default()
    }
}

fn ends(world: &World) -> Vec<End> {
    world.script().closed.iter().map(|it| it.end).collect()
}

/// How each connection ends, and by which of its packets its policy learns of it: the others end by their
/// timeout.
#[rustfmt::skip]
const ENDS: &[(&str, &str, End, Option<usize>)] = &[
    ("closed by both", ">S <SA >A >FA <FA >A", End::Closed, Some(5)),
    ("closed by both, and reset on top", ">S <SA <FA >FA >R", End::Closed, Some(4)),
    ("closed by one, reset by the other", ">S <SA >A >FA <R", End::Reset, Some(5)),
    ("reset by both", ">S <SA >A >R <R", End::Reset, Some(4)),
    ("reset by the server", ">S <SA >A <R", End::Reset, Some(4)),
    ("given up by the client", ">S >R", End::Reset, Some(2)),
    ("unknown to the server", ">A <R", End::Reset, Some(2)),
    ("over before it began", ">SR", End::Reset, Some(1)),
    ("an RST that was not the end", ">S <SA <R >A >FA <FA", End::Reset, Some(3)),
    ("refused", ">S <RA", End::Refused, Some(2)),
    ("refused, and the client speaks on", ">S <RA >A >R", End::Refused, Some(2)),
    ("a forged refusal", ">S <RA <SA >A", End::Refused, Some(2)),
    ("refused after a challenge ACK", ">S <A <R", End::Refused, Some(3)),
    ("no refusal: RST to a challenge ACK", ">S <A >R", End::Reset, Some(3)),
    ("unanswered", ">S >S", End::Unanswered, None),
    ("unanswered in its middle", ">A", End::Unanswered, None),
    ("answered by a challenge ACK", ">S <A", End::Unanswered, None),
    ("half-open, but answered", ">S <SA", End::Idle, None),
    ("closed by one", ">S <SA >A >FA", End::Idle, None),
];

#[test]
fn a_policy_learns_once_how_each_connection_ended_and_when_it_ended() {
    for wants_closed in [true, false] {
        for (row, packets, end, told_at) in ENDS {
            let mut world = World::new(Settings {
                wants_closed,
                ..settings()
            });
            let heard: &[End] = if wants_closed { &[*end] } else { &[] };
            for (at, packet) in (1..).zip(packets.split(' ')) {
                play(&mut world, 4000, packet);
                let is_told = told_at.is_some_and(|told_at| at >= told_at);
                let expected = if is_told { heard } else { &[] };
                assert_eq!(ends(&world), expected, "{row}, packet {at}");
            }
            world.sweep_round(0, 2 * TIMEOUT);
            assert_eq!((&ends(&world)[..], world.held()[0]), (heard, 0), "{row}");
            // Counted whether or not a policy wants it.
            let gauges = &world.shared.gauges;
            let failures = (gauges.refused(BACKEND), gauges.unanswered(BACKEND));
            let is = |kind| u64::from(*end == kind);
            assert_eq!(failures, (is(End::Refused), is(End::Unanswered)), "{row}");
        }
    }
}

/// The closing packet's bytes count. A packet afterwards, or the removal, changes nothing.
#[test]
fn a_closed_session_has_its_true_duration_and_bytes() {
    for (row, packets, last) in [
        ("closed by both", ">S <SA >A >FA", "<FA"),
        ("reset", ">S <SA >A", "<R"),
        ("refused", ">S", "<R"),
    ] {
        let mut world = World::new(Settings::default());
        play(&mut world, 4000, packets);
        world.advance(Duration::from_millis(700));
        play(&mut world, 4000, last);
        play(&mut world, 4000, ">A");
        world.sweep_round(0, Duration::from_secs(600));
        let steps = conversation::packets(packets).chain(conversation::packets(last));
        let bytes = steps.map(|step| packet(V4, 4000, step).1.len() as u64);
        let closed = world.script().closed.clone();
        let found: Vec<_> = closed.iter().map(|it| (it.duration_ms, it.bytes)).collect();
        assert_eq!(found, [(700, bytes.sum())], "{row}");
    }
}

/// It ended when its time was up, not when a sweep came by.
#[test]
fn an_idle_session_lasts_until_its_timeout() {
    for (row, packets, again) in [("idle", ">S <SA >A", ">A"), ("unanswered", ">S", ">S")] {
        let mut world = World::new(settings());
        play(&mut world, 4000, packets);
        world.advance(Duration::from_millis(300));
        play(&mut world, 4000, again);
        world.sweep_round(0, 20 * TIMEOUT);
        let found = world.script().closed[0].duration_ms;
        assert_eq!(found, 1300, "{row}");
    }
}

#[test]
fn a_reused_tuple_reports_how_the_old_connection_ended() {
    let opened = ">S <SA >A";
    for (closing, end) in [
        (">FA <FA", &[End::Closed][..]),
        (">FA <FA <R", &[End::Closed]),
        // The SYN goes to the server: it is unknown whether that was the end.
        ("<R", &[End::Reset]),
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
    assert_eq!(ends(&world), [End::Refused; 3]);
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
    assert_eq!(world.shared.gauges.unanswered(BACKEND), 1);
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
        // The sweep of the same turn ends the other three whose time was up; all four were closed.
        let told = if end == End::Evicted { 1 } else { 4 };
        assert_eq!(ends(&world), vec![end; told], "{what}");
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
    let lived: Vec<u64> = closed.iter().map(|it| it.duration_ms).collect();
    assert_eq!(lived, [1000; 2], "until their timeout");
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
    assert_eq!((ends(&world), world.held()), (vec![], vec![0, 0, 0]));
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
            .map(|n| world.shared.gauges.opened(BackendId(n)))
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
