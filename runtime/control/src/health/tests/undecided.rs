//! Backends without a result: at the start, and after they joined a running service.

use super::*;

/// A consistent policy keeps its choice over a restart only if no backend is left out meanwhile.
#[test]
fn after_a_start_a_backend_counts_as_up_until_its_first_result() {
    for others in ["", "panic_threshold = 100\n", "slow_start = \"10s\"\n"] {
        let mut world = World::new(&format!("{others}{CHECKED}"), "");
        assert_eq!(world.takes_new(at(0)), [true; 3]);
        world.result(0, &passed("open"), at(1));
        world.result(1, &passed("open"), at(1));
        assert_eq!(world.takes_new(at(1)), [true; 3], "{others}");
        assert_eq!(world.effects(at(1)), [Effect::default(); 3], "{others}");
        world.result(2, &passed("open"), at(2));
        assert_eq!(world.effects(at(2)), [Effect::default(); 3], "{others}");
    }
}

#[test]
fn after_a_start_the_first_failure_ejects_at_once() {
    let panics = format!("panic_threshold = 60\n{CHECKED}");
    for service in [CHECKED, &panics] {
        let mut world = World::new(service, "");
        world.result(1, &failed("refused"), at(1));
        assert_eq!(world.takes_new(at(1)), [true, false, true]);
    }
    // Panic needs failures, not the lack of results.
    let mut world = World::new(&panics, "");
    world.result(1, &failed("refused"), at(1));
    world.result(2, &failed("refused"), at(1));
    assert_eq!(world.takes_new(at(1)), [true; 3], "one of three is up");
}

#[test]
fn after_a_start_backups_wait_for_mains_that_have_no_result() {
    let mut world = World::new(CHECKED, "backup = true");
    world.result(2, &passed("open"), at(1));
    assert_eq!(world.takes_new(at(1)), [true, true, false]);
    world.result(0, &failed("refused"), at(1));
    assert_eq!(world.takes_new(at(1)), [false, true, false]);
    world.result(1, &failed("refused"), at(1));
    assert_eq!(world.takes_new(at(1)), [false, false, true]);
}

/// Returns a service whose backend 1 is up, and to which two more were just added.
fn with_two_added() -> World {
    let mut world = World::of(&config_of("tcp", CHECKED, &[1], ""));
    world.result(0, &passed("open"), at(0));
    let all = config_of("tcp", CHECKED, &[1, 2, 3], "");
    let effects = world.health.effects(&all, at(0));
    world.reload(&all, at(0));
    assert_eq!(world.health.effects(&all, at(0)), effects, "as announced");
    world
}

/// The first backend with a result does not get the share of all others.
#[test]
fn added_backends_serve_while_they_are_the_majority_or_none_is_up() {
    let mut world = with_two_added();
    assert_eq!(world.takes_new(at(0)), [true; 3], "most are undecided");
    world.result(1, &failed("refused"), at(1));
    assert_eq!(world.takes_new(at(1)), [true, false, false]);
    for second in 2..5 {
        world.result(0, &failed("refused"), at(second));
    }
    assert_eq!(world.takes_new(at(5)), [false, false, true], "none is up");
    world.result(2, &passed("open"), at(6));
    assert_eq!(world.takes_new(at(6)), [false, false, true]);
}

#[test]
fn an_added_service_starts_as_the_balancer_does() {
    let text = config_of("tcp", CHECKED, &[1, 2, 3], "");
    let other = config_of("udp", CHECKED, &[9], "");
    let mut world = World::of(&other);
    let effects = world.health.effects(&text, at(0));
    world.reload(&text, at(0));
    assert_eq!(world.health.effects(&text, at(0)), effects, "as announced");
    world.result(0, &passed("open"), at(1));
    world.result(1, &passed("open"), at(1));
    assert_eq!(world.takes_new(at(1)), [true; 3]);
}
