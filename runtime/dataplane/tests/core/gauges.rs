//! Live numbers: who made a backend's sessions.

use std::time::Duration;

use crate::frames::{ACK, RST, SYN, one, reply, request};
use crate::world::{BACK, FRONT, Settings, V4, World};
use waxwing_dataplane::session::WORKER_UNCOUNTED;
use waxwing_dataplane::snapshot::Timeouts;
use waxwing_dataplane::{BackendId, Gauges};

const BACKEND: BackendId = BackendId(0);

#[test]
fn a_session_is_counted_at_the_worker_that_made_it_whoever_ends_it() {
    let mut world = World::new(Settings {
        workers: 2,
        ..Settings::default()
    });
    let here = |world: &World| [0, 1].map(|n| world.shared.gauges.active_here(n, BACKEND));
    for (worker, client_port) in [(0, 4000), (1, 4001), (0, 4002)] {
        one(&world.frame_at(worker, FRONT, &request(V4, client_port, SYN)));
    }
    assert_eq!((here(&world), world.active()[0]), ([2, 1], 3));

    // Refused, and opened anew by way of the other worker.
    one(&world.frame_at(0, BACK, &reply(V4, 0, 4000, RST | ACK)));
    one(&world.frame_at(1, FRONT, &request(V4, 4000, SYN)));
    assert_eq!((here(&world), world.active()[0]), ([1, 2], 3));

    let wait = Timeouts::default().tcp_half_open + Duration::from_secs(1);
    world.sweep_round(1, wait);
    assert_eq!((here(&world), world.active()[0]), ([0, 0], 0));
}

#[test]
fn workers_beyond_what_a_session_can_tell_are_counted_in_all_only() {
    let gauges = Gauges::new(4, 200);
    for worker in [0, 126, 127, 199] {
        // As a session keeps it.
        let worker = worker.min(usize::from(WORKER_UNCOUNTED));
        gauges.begin(worker, BACKEND);
        let here = gauges.active_here(worker, BACKEND);
        assert_eq!(here, u32::from(worker < 127), "{worker}");
    }
    assert_eq!(gauges.active(BACKEND), 4);
    gauges.end(usize::from(WORKER_UNCOUNTED), BACKEND);
    assert_eq!(gauges.active(BACKEND), 3);
}
