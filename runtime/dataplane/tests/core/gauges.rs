//! Live numbers: sessions by worker, connect latency, batch times.

use std::time::Duration;

use crate::frames::{
    ACK, RST, SYN, SYN_ACK, datagram, datagram_back, one, packet, play, reply, request,
};
use crate::world::{BACK, FRONT, Settings, V4, World};
use waxwing_dataplane::counters::SessionCounts;
use waxwing_dataplane::model::Timeouts;
use waxwing_dataplane::session::{Phase, WORKER_UNCOUNTED};
use waxwing_dataplane::{BackendId, Gauges};
use waxwing_testkit::conversation;

const BACKEND: BackendId = BackendId(0);

const fn micros(us: u64) -> Duration {
    Duration::from_micros(us)
}

#[test]
fn a_session_counts_at_the_worker_that_opened_it() {
    let mut world = World::with_workers(2);
    let here =
        |world: &World| [0, 1].map(|n| world.shared.gauges.sessions_here(n, BACKEND).total());
    for (worker, client_port) in [(0, 4000), (1, 4001), (0, 4002)] {
        one(&world.frame_at(worker, FRONT, &request(V4, client_port, SYN)));
    }
    assert_eq!((here(&world), world.held()[0]), ([2, 1], 3));

    // Refused, and opened again at the other worker.
    one(&world.frame_at(0, BACK, &reply(V4, 0, 4000, RST | ACK)));
    one(&world.frame_at(1, FRONT, &request(V4, 4000, SYN)));
    assert_eq!((here(&world), world.held()[0]), ([1, 2], 3));

    let wait = Timeouts::default().tcp_half_open + Duration::from_secs(1);
    world.sweep_round(1, wait);
    assert_eq!((here(&world), world.held()[0]), ([0, 0], 0));
}

/// Each session is in one number: of its backend, and of the worker that opened it.
#[test]
fn sessions_are_counted_by_phase() {
    // The packet; half-open, active, closing.
    let rows = [
        ("a SYN", ">S", [1, 0, 0]),
        ("its answer", "<SA", [1, 0, 0]),
        ("opened", ">A", [0, 1, 0]),
        ("closed by the client", ">FA", [0, 1, 0]),
        ("closed by both", "<FA", [0, 0, 1]),
        ("the last ACK", ">A", [0, 0, 1]),
        ("an RST on top", ">R", [0, 0, 1]),
        ("its ports are used again", ">S", [1, 0, 0]),
        ("refused", "<RA", [0, 0, 1]),
        ("refused twice", "<RA", [0, 0, 1]),
        ("not refused at all", "<SA", [1, 0, 0]),
        ("opened again", ">A", [0, 1, 0]),
        ("reset", ">R", [0, 0, 1]),
        ("revived", "<A", [0, 1, 0]),
    ];
    let mut world = World::with_workers(2);
    for (what, word, expected) in rows {
        let (port, frame) = packet(V4, 4000, conversation::packet(word));
        // Replies arrive at the other worker.
        one(&world.frame_at(usize::from(port == BACK), port, &frame));
        let gauges = &world.shared.gauges;
        let all = gauges.sessions(BACKEND);
        let found = [all.half_open, all.active, all.closing];
        assert_eq!((found, all.total()), (expected, 1), "{what}");
        assert_eq!(gauges.sessions_here(0, BACKEND), all, "{what}");
    }
    let opened = world.shared.gauges.opened(BACKEND);
    assert_eq!((opened, world.shared.gauges.refused(BACKEND)), (2, 1));
    let failed = [0, 1].map(|worker| world.shared.gauges.failed_here(worker, BACKEND));
    assert_eq!(failed, [1, 0], "the refusal, at the worker that opened it");
    world.sweep_round(1, Duration::from_secs(86_400));
    let left = world.shared.gauges.sessions(BACKEND);
    assert_eq!(left, SessionCounts::default());
}

#[test]
fn a_datagram_session_is_half_open_until_its_backend_answers() {
    let mut world = World::new(Settings::udp(V4));
    let counts = |world: &World| {
        let counts = world.shared.gauges.sessions(BACKEND);
        [counts.half_open, counts.active, counts.closing]
    };
    one(&world.frame(FRONT, &datagram(V4, 4000, b"?")));
    assert_eq!(counts(&world), [1, 0, 0]);
    one(&world.frame(BACK, &datagram_back(V4, 0, 4000)));
    assert_eq!(counts(&world), [0, 1, 0]);
    world.sweep_round(0, Timeouts::default().udp + Duration::from_secs(1));
    assert_eq!(counts(&world), [0; 3]);
}

#[test]
fn sessions_of_workers_beyond_the_limit_count_in_total_only() {
    let gauges = Gauges::new(4, 200);
    for worker in [0, 126, 127, 199] {
        // As a session stores it.
        let worker = worker.min(usize::from(WORKER_UNCOUNTED));
        gauges.begin(worker, BACKEND, Phase::HalfOpen);
        gauges.change(worker, BACKEND, [Phase::HalfOpen, Phase::Established]);
        let here = gauges.sessions_here(worker, BACKEND);
        assert_eq!(here.active, u32::from(worker < 127), "{worker}");
    }
    assert_eq!(gauges.sessions(BACKEND).active, 4);
    gauges.end(usize::from(WORKER_UNCOUNTED), BACKEND, Phase::Established);
    assert_eq!(gauges.sessions(BACKEND).load(), 3);
}

/// Workers count each by itself: an end may be counted before the beginning.
#[test]
fn a_session_that_ends_before_it_is_counted_leaves_nothing() {
    let gauges = Gauges::new(1, 1);
    gauges.end(0, BACKEND, Phase::Established);
    assert_eq!(gauges.sessions(BACKEND), SessionCounts::default());
    gauges.begin(0, BACKEND, Phase::HalfOpen);
    gauges.change(0, BACKEND, [Phase::HalfOpen, Phase::Established]);
    assert_eq!(gauges.sessions(BACKEND), SessionCounts::default());
}

/// Opens a connection whose backend answers after this delay.
fn connect(world: &mut World, client_port: u16, answer: Duration) {
    one(&world.frame(FRONT, &request(V4, client_port, SYN)));
    world.advance(answer);
    one(&world.frame(BACK, &reply(V4, 0, client_port, SYN_ACK)));
}

#[test]
fn the_time_from_syn_to_syn_ack_is_averaged() {
    let mut world = World::with_workers(2);
    let latency = |world: &World| world.shared.gauges.latency_us(BACKEND);
    assert_eq!(latency(&world), 0, "not measured yet");
    connect(&mut world, 4000, micros(800));
    assert_eq!(latency(&world), 800, "the first one stands for itself");
    connect(&mut world, 4001, micros(1600));
    assert_eq!(latency(&world), 900, "each further one counts an eighth");

    // The SYN-ACK arrives at another worker, twice; the second changes nothing.
    one(&world.frame_at(0, FRONT, &request(V4, 4002, SYN)));
    world.advance(micros(1704));
    for _ in 0..2 {
        one(&world.frame_at(1, BACK, &reply(V4, 0, 4002, SYN_ACK)));
        assert_eq!(latency(&world), 1001);
        world.advance(micros(5000));
    }
}

#[test]
fn ambiguous_connect_times_are_not_measured() {
    // Packets, one millisecond apart.
    for packets in [
        ">S >S <SA", // A SYN sent again.
        ">S <RA",    // A refusal.
        ">S <S >SA", // A simultaneous open.
        ">S <A",     // An ACK of another connection.
        ">A <SA",    // A connection picked up in its middle.
    ] {
        let mut world = World::new(Settings::default());
        for step in packets.split(' ') {
            play(&mut world, 4000, step);
            world.advance(micros(1000));
        }
        assert_eq!(world.shared.gauges.latency_us(BACKEND), 0, "{packets}");
    }
}

#[test]
fn a_reused_slot_is_measured_from_its_own_syn() {
    let mut world = World::new(Settings {
        sessions_max: 1,
        ..Settings::default()
    });
    connect(&mut world, 4000, micros(300));
    play(&mut world, 4000, ">FA <FA");
    world.advance(Duration::from_secs(1));
    connect(&mut world, 4000, micros(300));
    assert_eq!(world.sessions().len(), 1);
    assert_eq!(world.shared.gauges.latency_us(BACKEND), 300);
}

/// The clock is read once per turn: a batch lasts until the next turn, unless the worker
/// slept in between.
#[test]
fn a_batch_is_timed_until_the_next_turn() {
    let mut world = World::new(Settings::default());
    let mut turn_after = |wait: Duration, frames: u16| {
        world.advance(wait);
        for client_port in 0..frames {
            let frame = request(V4, 4000 + client_port, SYN);
            assert!(world.io(0).inject(FRONT, &frame));
        }
        assert_eq!(world.turn(0), frames > 0);
        world.io(0).sent();
        world.counters[0].batch_times()
    };
    let times = turn_after(Duration::ZERO, 10);
    assert_eq!(times.count(), 0, "how long it took is not known yet");
    let times = turn_after(micros(6), 10);
    assert_eq!((times.count(), times.quantile_us(0.5)), (1, Some(6)));
    let times = turn_after(micros(2), 0);
    assert_eq!((times.count(), times.quantile_us(0.5)), (2, Some(2)));
    // An idle turn, then a sleep.
    let times = turn_after(Duration::from_millis(20), 1);
    assert_eq!(times.count(), 2);
    let times = turn_after(micros(3), 0);
    assert_eq!((times.count(), times.quantile_us(1.0)), (3, Some(6)));
}

#[test]
fn a_retransmitted_syn_counts_once() {
    // Packets, one second apart, and whether the SYN counts as retransmitted.
    let rows = [
        ("answered", ">S <SA >A", 0),
        ("repeated", ">S >S", 1),
        ("repeated often", ">S >S >S >S", 1),
        ("answered late", ">S >S <SA >S", 1),
        ("its answer was lost", ">S <SA >S", 0),
        ("refused", ">S <RA >S", 0),
        ("begun in its middle", ">A >S", 0),
    ];
    for workers in [1, 2] {
        for (what, packets, counted) in rows {
            let mut world = World::with_workers(workers);
            for (n, step) in conversation::packets(packets).enumerate() {
                let (port, frame) = packet(V4, 4000, step);
                one(&world.frame_at(n % workers, port, &frame));
                world.advance(Duration::from_secs(1));
            }
            let found = world.counted(0, |backend| &backend.syn_repeated);
            assert_eq!(found, counted, "{what}, {workers} workers");
            let failed = world.shared.gauges.failed_here(0, BACKEND);
            let refused = world.shared.gauges.refused(BACKEND);
            assert_eq!(u64::from(failed), counted + refused, "{what}");
        }
    }
    // An immediate answer.
    let mut world = World::new(Settings::default());
    connect(&mut world, 4000, micros(100));
    world.advance(Duration::from_secs(1));
    one(&world.frame(FRONT, &request(V4, 4000, SYN)));
    assert_eq!(world.counted(0, |backend| &backend.syn_repeated), 0);
    // Duplicates of one frame do not count as retransmissions.
    let mut world = World::new(Settings::default());
    for _ in 0..2 {
        let sent = world.batch(FRONT, (0..3).map(|_| request(V4, 4000, SYN)));
        assert_eq!(sent.len(), 3);
        world.advance(Duration::from_secs(1));
    }
    assert_eq!(world.counted(0, |backend| &backend.syn_repeated), 1);
}
