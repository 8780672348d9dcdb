//! Backends that left the config.

use super::*;

/// Removes the last of three backends. Returns its key.
fn remove_last(world: &mut World, protocol: &str, service: &str, now: Duration) -> BackendKey {
    let key = world.key(2);
    let fewer = config_of(protocol, service, &[1, 2], "");
    let announced = world.health.effects(&fewer, now)[&key];
    world.reload(&fewer, now);
    assert_eq!(effect(world, key, now), announced, "before it is in effect");
    key
}

fn effect(world: &World, key: BackendKey, now: Duration) -> Effect {
    world.health.effects(&world.config, now)[&key]
}

fn sessions(world: &World, key: BackendKey, now: Duration) -> SessionAction {
    let effect = effect(world, key, now);
    assert_eq!(effect.percent, 0, "it takes no new sessions");
    effect.sessions
}

#[test]
fn a_removed_backend_keeps_its_sessions_for_drain_timeout() {
    use SessionAction::{Keep, Repick, Reset};
    let rows = [
        ("tcp", "drain_timeout = \"60s\"", Keep, Reset),
        ("tcp", "", Keep, Keep),
        ("udp", "drain_timeout = \"60s\"", Keep, Repick),
        ("udp", "", Repick, Repick),
    ];
    for (protocol, service, first, last) in rows {
        let mut world = World::of(&config_of(protocol, service, &[1, 2, 3], ""));
        let key = remove_last(&mut world, protocol, service, at(10));
        assert_eq!(sessions(&world, key, at(10)), first, "{protocol} {service}");
        assert_eq!(sessions(&world, key, at(70)), last, "{protocol} {service}");
        let is_due = first != last;
        assert_eq!(world.next_change(at(10)), is_due.then_some(at(70)));
        // The keys of the service hold, as they are now.
        let soon = config_of(protocol, "drain_timeout = \"5s\"", &[1, 2], "");
        world.reload(&soon, at(11));
        assert_ne!(sessions(&world, key, at(15)), Keep);
    }
}

#[test]
fn a_backend_that_drained_before_it_was_removed_has_the_rest_of_its_time() {
    let drain = "drain_timeout = \"60s\"";
    let mut world = World::new(drain, "");
    let admin = AdminState::Draining;
    world
        .health
        .set(world.key(2), at(0), |it| it.set_admin(admin, None, at(0)));
    let key = remove_last(&mut world, "tcp", drain, at(50));
    assert_eq!(sessions(&world, key, at(59)), SessionAction::Keep);
    assert_eq!(sessions(&world, key, at(60)), SessionAction::Reset);
}

#[test]
fn on_down_holds_for_a_removed_backend() {
    let service = format!("on_down = \"repick\"\n{CHECKED}");
    let mut world = World::new(&service, "");
    let key = remove_last(&mut world, "tcp", &service, at(1));
    assert_eq!(sessions(&world, key, at(1)), SessionAction::Keep);
    world.health.set(key, at(2), |it| {
        it.set_admin(AdminState::Disabled, None, at(2))
    });
    assert_eq!(sessions(&world, key, at(2)), SessionAction::Repick);
    world.health.set(key, at(3), |it| {
        it.set_admin(AdminState::Enabled, None, at(3))
    });
    assert_eq!(sessions(&world, key, at(3)), SessionAction::Keep);

    let mut world = World::new(&service, "");
    world.result(2, &failed("refused"), at(1));
    let key = remove_last(&mut world, "tcp", &service, at(2));
    assert_eq!(sessions(&world, key, at(2)), SessionAction::Repick);
}

#[test]
fn a_removed_service_drains_by_its_last_keys() {
    let drain = "drain_timeout = \"60s\"";
    let mut world = World::new(drain, "");
    let key = world.key(0);
    world.reload(&config_of("udp", "", &[9], ""), at(10));
    assert_eq!(sessions(&world, key, at(69)), SessionAction::Keep);
    assert_eq!(sessions(&world, key, at(70)), SessionAction::Reset);
    world.health.keep_removed(|_| false);
    assert!(
        !world
            .health
            .effects(&world.config, at(70))
            .contains_key(&key)
    );
}

#[test]
fn a_backend_that_returns_starts_anew() {
    let mut world = World::new(CHECKED, "");
    for backend in 0..3 {
        world.result(backend, &passed("open"), at(1));
    }
    let key = remove_last(&mut world, "tcp", CHECKED, at(2));
    world.health.set(key, at(3), |it| {
        it.set_admin(AdminState::Disabled, None, at(3))
    });
    let all = config_of("tcp", CHECKED, &[1, 2, 3], "");
    world.reload(&all, at(4));
    assert_eq!(world.state(2), HealthState::Checking);
    world.result(2, &passed("open"), at(5));
    assert_eq!(world.effects(at(5)), [Effect::default(); 3]);
}
