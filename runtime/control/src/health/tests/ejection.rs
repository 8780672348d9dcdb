//! Failures of clients' connections.

use super::*;
use crate::health::ejection::Encounters;

pub(super) const EJECTS: &str = "[service.ejection]\nfailures = 5\nwindow = \"10s\"\ntime = \"10s\"\n\
                      time_max = \"30s\"\nmin_healthy = 50";

/// Sets the failure counters of the three backends.
fn count(world: &mut World, counts: [u64; 3], now: Duration) {
    let keys = [0, 1, 2].map(|backend| world.key(backend));
    world.health.record_failures(now, |key| {
        let failures = counts[keys.iter().position(|it| *it == key)?];
        Some(Encounters {
            failures,
            ..Encounters::default()
        })
    });
}

/// Sets the packets sent to each of the three backends, and their replies.
fn exchange(world: &mut World, packets: [(u64, u64); 3], now: Duration) {
    let keys = [0, 1, 2].map(|backend| world.key(backend));
    world.health.record_failures(now, |key| {
        let (sent, replies) = packets[keys.iter().position(|it| *it == key)?];
        Some(Encounters {
            failures: 0,
            sent,
            replies,
        })
    });
}

#[test]
fn a_silent_backend_of_a_udp_service_is_ejected() {
    // Packets and replies at times in seconds; whether the first backend is ejected at the end.
    type Step = (u64, [(u64, u64); 3]);
    const RESTS: [(u64, u64); 2] = [(50, 50), (50, 50)];
    let rests = |first| [first, RESTS[0], RESTS[1]];
    let rows: [(&str, &str, &[Step], bool); 6] = [
        (
            "no reply",
            "udp",
            &[(1, rests((5, 0))), (3, rests((5, 0)))],
            true,
        ),
        (
            "its replies may come yet",
            "udp",
            &[(1, rests((5, 0))), (2, rests((5, 0)))],
            false,
        ),
        (
            "too few datagrams",
            "udp",
            &[(1, rests((4, 0))), (3, rests((4, 0)))],
            false,
        ),
        (
            "one reply",
            "udp",
            &[
                (1, rests((50, 0))),
                (2, rests((50, 1))),
                (3, rests((50, 1))),
            ],
            false,
        ),
        (
            "a protocol without replies",
            "udp",
            &[(1, [(50, 0); 3]), (3, [(50, 0); 3])],
            false,
        ),
        (
            "TCP",
            "tcp",
            &[(1, rests((5, 0))), (3, rests((5, 0)))],
            false,
        ),
    ];
    for (what, protocol, steps, ejected) in rows {
        let mut world = World::of(&config_of(protocol, EJECTS, &[1, 2, 3], ""));
        exchange(&mut world, [(0, 0); 3], at(0));
        for (time, packets) in steps {
            exchange(&mut world, *packets, at(*time));
        }
        let is = world.state(0) == HealthState::Ejected;
        assert_eq!(is, ejected, "{what}");
        assert_eq!(world.state(1), HealthState::Up, "{what}");
        if ejected {
            let reason = &world.health.get(world.key(0)).unwrap().reason;
            assert_eq!(
                reason,
                "no reply to 5 datagrams within 10 s; ejected for 10 s"
            );
        }
    }
}

#[test]
fn connection_failures_eject_and_the_ejection_time_doubles() {
    let mut world = World::new(EJECTS, "");
    count(&mut world, [100, 0, 0], at(0));
    assert_eq!(
        world.state(0),
        HealthState::Up,
        "failures before the first count are ignored"
    );
    count(&mut world, [104, 0, 0], at(1));
    count(&mut world, [104, 0, 0], at(12));
    count(&mut world, [105, 0, 0], at(13));
    assert_eq!(
        world.state(0),
        HealthState::Up,
        "never five failures within ten seconds"
    );
    count(&mut world, [109, 0, 0], at(14));
    assert_eq!(world.state(0), HealthState::Ejected);
    assert_eq!(world.takes_new(at(14)), [false, true, true]);
    assert_eq!(world.effects(at(14))[0].sessions, SessionAction::Keep);
    assert_eq!(world.next_change(at(14)), Some(at(24)));
    count(&mut world, [109, 0, 0], at(24));
    assert_eq!(world.state(0), HealthState::Up);
    // The next ejections last 20 seconds, then 30, the maximum.
    for (ejected, back) in [(25, 45), (46, 76), (77, 107)] {
        let so_far = 109 + ejected * 10;
        count(&mut world, [so_far, 0, 0], at(ejected));
        assert_eq!(world.state(0), HealthState::Ejected);
        count(&mut world, [so_far, 0, 0], at(back - 1));
        assert_eq!(world.state(0), HealthState::Ejected);
        count(&mut world, [so_far, 0, 0], at(back));
        assert_eq!(world.state(0), HealthState::Up);
    }
    // Failures during an ejection belong to sessions from before it.
    count(&mut world, [1300, 0, 0], at(120));
    assert_eq!(world.state(0), HealthState::Ejected);
    count(&mut world, [1400, 0, 0], at(125));
    count(&mut world, [1400, 0, 0], at(150));
    count(&mut world, [1400, 0, 0], at(151));
    assert_eq!(world.state(0), HealthState::Up);
    // It stayed in for longer than the last ejection, so the count starts anew.
    count(&mut world, [2000, 0, 0], at(200));
    count(&mut world, [2000, 0, 0], at(210));
    assert_eq!(world.state(0), HealthState::Up);
}

#[test]
fn min_healthy_limits_ejections() {
    let mut world = World::new(EJECTS, "");
    count(&mut world, [0; 3], at(0));
    count(&mut world, [50; 3], at(1));
    let out = (0..3).filter(|backend| world.state(*backend) == HealthState::Ejected);
    assert_eq!(out.count(), 1, "two of three are at least half, one is not");
}
