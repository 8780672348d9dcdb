//! Backends whose next hop is not resolved, and those that nothing checks.

use std::time::Duration;

use waxwing_dataplane::model::SessionAction;

use super::ejection::EJECTS;
use super::{CHECKED, World, at, failed};
use crate::health::backend::{HealthState, Reach};

/// Tells the reach of the backends: `y` reachable, `n` unreachable, `c` cut off, `r` being resolved, `-`
/// unknown.
fn reach(world: &mut World, known: &str, now: Duration) {
    let keys = [0, 1, 2].map(|backend| world.key(backend));
    world.health.record_reach(now, |address| {
        let at = keys.iter().position(|key| key.1 == address).unwrap();
        match known.as_bytes()[at] {
            b'y' => Some(Reach::Reachable),
            b'n' => Some(Reach::Unreachable("no answer".into())),
            b'c' => Some(Reach::CutOff("the port is down".into())),
            b'r' => Some(Reach::Resolving("no answer yet".into())),
            _ => None,
        }
    });
}

#[test]
fn an_unreachable_backend_takes_no_new_sessions_and_keeps_its_own() {
    let mut world = World::new("", "");
    reach(&mut world, "-yn", at(0));
    assert_eq!(world.takes_new(at(0)), [true, true, false]);
    let backend = world.health.get(world.key(2)).unwrap();
    let said = (backend.state, backend.reason.as_str());
    assert_eq!(said, (HealthState::Unreachable, "no answer"));
    assert_eq!(world.effects(at(0))[2].sessions, SessionAction::Keep);
    // A backend that is being resolved keeps what is known of it; a new one has had its time.
    reach(&mut world, "rrr", at(1));
    assert_eq!(world.takes_new(at(1)), [false, true, false]);
    reach(&mut world, "nnn", at(2));
    assert_eq!(world.takes_new(at(2)), [false; 3], "as with all down");
    reach(&mut world, "yyy", at(3));
    assert_eq!(world.takes_new(at(3)), [true; 3]);
}

#[test]
fn backends_that_this_host_cannot_send_to_take_new_sessions_when_no_other_can() {
    let mut world = World::new("", "backup = true");
    reach(&mut world, "ccy", at(0));
    assert_eq!(world.takes_new(at(0)), [false, false, true]);
    reach(&mut world, "ccc", at(1));
    assert_eq!(world.takes_new(at(1)), [true, true, false]);
    assert_eq!(world.state(0), HealthState::Unreachable);
    // The port is back, and its neighbours are asked for.
    reach(&mut world, "rrr", at(2));
    assert_eq!(world.takes_new(at(2)), [true, true, false]);
    reach(&mut world, "ncc", at(3));
    assert_eq!(world.takes_new(at(3)), [false, true, false]);
    reach(&mut world, "yrr", at(4));
    assert_eq!(world.takes_new(at(4)), [true, false, false]);
}

#[test]
fn panic_uses_no_unreachable_backend_and_a_backup_replaces_it() {
    let mut world = World::new(&format!("panic_threshold = 100\n{CHECKED}"), "");
    for backend in 0..3 {
        world.result(backend, &failed("refused"), at(1));
    }
    assert_eq!(world.takes_new(at(1)), [true; 3], "none is up");
    reach(&mut world, "yyn", at(2));
    assert_eq!(world.takes_new(at(2)), [true, true, false]);
    assert_eq!(world.state(2), HealthState::Down, "its check failed too");

    let mut world = World::new("panic_threshold = 50", "backup = true");
    reach(&mut world, "nny", at(1));
    assert_eq!(world.takes_new(at(1)), [false, false, true]);
    reach(&mut world, "nyy", at(2));
    assert_eq!(world.takes_new(at(2)), [false, true, false]);
}

#[test]
fn a_backend_that_nothing_watches_is_unchecked() {
    let state = |service, last| World::new(service, last).state(2);
    assert_eq!(state("", ""), HealthState::Unchecked);
    assert_eq!(state(EJECTS, ""), HealthState::Up);
    assert_eq!(state(CHECKED, ""), HealthState::Checking);
    let exempt = "health = { enabled = false }";
    assert_eq!(state(CHECKED, exempt), HealthState::Unchecked);
    assert_eq!(state("", "weight = 0"), HealthState::Draining);
}
