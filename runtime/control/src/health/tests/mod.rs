#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod ejection;
mod reach;
mod removed;
mod undecided;

use std::sync::Arc;
use std::time::Duration;

use waxwing_dataplane::model::SessionAction;

use super::admin_state::AdminState;
use super::backend::HealthState;
use super::check_state::CheckResult;
use super::effects::{Effect, Effects};
use super::rules::CheckIdentity;
use super::service_health::ServiceHealth;
use crate::config::Config;
use crate::publish::keys::{BackendKey, backend_key};

const START: Duration = Duration::from_secs(1000);

fn at(seconds: u64) -> Duration {
    START + Duration::from_secs(seconds)
}

fn passed(reason: &str) -> CheckResult {
    CheckResult {
        passed: true,
        draining: false,
        weight: None,
        reason: reason.into(),
        took: Duration::from_millis(1),
        log: Vec::new(),
    }
}

fn failed(reason: &str) -> CheckResult {
    CheckResult {
        passed: false,
        ..passed(reason)
    }
}

/// A service with three backends, and their health.
struct World {
    config: Arc<Config>,
    health: ServiceHealth,
}

impl World {
    /// `service`: more keys of the service; `last`: of its last backend.
    fn new(service: &str, last: &str) -> Self {
        Self::of(&config_of("tcp", service, &[1, 2, 3], last))
    }

    fn of(config: &Arc<Config>) -> Self {
        let config = Arc::clone(config);
        let mut health = ServiceHealth::default();
        health.adopt(&config, START);
        Self { config, health }
    }

    fn key(&self, backend: usize) -> BackendKey {
        let service = &self.config.services[0];
        backend_key(service, &service.backends[backend])
    }

    fn result(&mut self, backend: usize, outcome: &CheckResult, now: Duration) {
        self.result_of(backend, 0, outcome, now);
    }

    /// Records a result of one of several checks. Returns whether the effects may have changed.
    fn result_of(
        &mut self,
        backend: usize,
        check: usize,
        outcome: &CheckResult,
        now: Duration,
    ) -> bool {
        let service = &self.config.services[0];
        let identity = CheckIdentity::of(&service.health.checks[check], &service.backends[backend]);
        let key = (self.key(backend), check);
        let update = self.health.record_result(key, &identity, outcome, now);
        update.unwrap().effects_changed
    }

    fn reload(&mut self, config: &Arc<Config>, now: Duration) {
        self.config = Arc::clone(config);
        self.health.adopt(config, now);
    }

    fn state(&self, backend: usize) -> HealthState {
        self.health.get(self.key(backend)).unwrap().state
    }

    fn effects(&self, now: Duration) -> [Effect; 3] {
        let effects: Effects = self.health.effects(&self.config, now);
        [0, 1, 2].map(|backend| effects[&self.key(backend)])
    }

    /// Returns when the next change by time alone is due after `now`.
    fn next_change(&mut self, now: Duration) -> Option<Duration> {
        self.health.advance(now);
        self.health.next_change()
    }

    fn takes_new(&self, now: Duration) -> [bool; 3] {
        self.effects(now)
            .map(|effect| effect.healthy && effect.percent > 0)
    }
}

/// Returns a config of a service with backends of these last octets. `service`: more keys of the service;
/// `last`: of its last backend.
fn config_of(protocol: &str, service: &str, backends: &[u8], last: &str) -> Arc<Config> {
    let mut text = format!(
        "[[port]]\ninterface = \"eth0\"\n[[service]]\nname = \"web\"\nvip = \"203.0.113.10\"\nport = 80\n\
         protocol = \"{protocol}\"\npolicy = \"round_robin\"\n{service}\n"
    );
    for backend in backends {
        let address = format!("10.2.0.{backend}");
        text += &format!("[[service.backend]]\naddress = \"{address}\"\nport = 80\n");
    }
    text += last;
    Arc::new(Config::parse(&text, "lb.toml".as_ref()).unwrap().0)
}

const CHECKED: &str = "[[service.health]]\ncheck = \"tcp\"\nrise = 2\nfall = 3";

#[test]
fn the_first_result_decides_later_ones_need_rise_or_fall() {
    let mut world = World::new(CHECKED, "");
    assert_eq!(world.state(0), HealthState::Checking);
    let rows = [
        (passed("a"), HealthState::Up),
        (failed("b"), HealthState::Up),
        (failed("c"), HealthState::Up),
        (passed("d"), HealthState::Up),
        (failed("e"), HealthState::Up),
        (failed("f"), HealthState::Up),
        (failed("g"), HealthState::Down),
        (passed("h"), HealthState::Down),
        (failed("i"), HealthState::Down),
        (passed("j"), HealthState::Down),
        (passed("k"), HealthState::Up),
    ];
    for (second, (outcome, state)) in (1..).zip(rows) {
        world.result(0, &outcome, at(second));
        assert_eq!(world.state(0), state, "after {}", outcome.reason);
    }
    let backend = world.health.get(world.key(0)).unwrap();
    let history: Vec<_> = backend
        .history
        .iter()
        .map(|change| (change.at, change.state, change.reason.as_str()))
        .collect();
    let expected = [
        (at(1), HealthState::Up, "a"),
        (at(7), HealthState::Down, "g"),
        (at(11), HealthState::Up, "k"),
    ];
    assert_eq!(history, expected);

    world.result(1, &failed("refused"), at(1));
    assert_eq!(world.state(1), HealthState::Down, "it was undecided before");
}

#[test]
fn a_backend_is_up_while_all_its_checks_pass() {
    let two = format!("{CHECKED}\n[[service.health]]\ncheck = \"http\"\nfall = 1");
    let mut world = World::new(&two, "health = { fall = 5 }");
    world.result_of(0, 0, &passed("open"), at(1));
    assert_eq!(world.state(0), HealthState::Checking);
    world.result_of(0, 1, &passed("200"), at(1));
    assert_eq!(world.state(0), HealthState::Up);
    world.result_of(0, 1, &failed("status 500"), at(2));
    let backend = world.health.get(world.key(0)).unwrap();
    assert_eq!(
        (backend.state, backend.reason.as_str()),
        (HealthState::Down, "status 500")
    );
    // The last backend has a `fall` of its own.
    world.result_of(2, 0, &passed("open"), at(1));
    world.result_of(2, 1, &passed("200"), at(1));
    for _ in 0..4 {
        world.result_of(2, 1, &failed("status 500"), at(2));
    }
    assert_eq!(world.state(2), HealthState::Up);
}

#[test]
fn on_down_decides_the_sessions_of_a_backend_that_goes_down() {
    let rows = [
        ("keep", SessionAction::Keep),
        ("reset", SessionAction::Reset),
        ("repick", SessionAction::Repick),
    ];
    for (word, action) in rows {
        let mut world = World::new(&format!("on_down = \"{word}\"\n{CHECKED}"), "");
        world.result(0, &failed("refused"), at(1));
        let [down, other, _] = world.effects(at(1));
        assert_eq!((down.healthy, down.sessions), (false, action));
        assert_eq!(other.sessions, SessionAction::Keep);
    }
}

#[test]
fn a_backup_serves_only_while_no_main_backend_does() {
    let mut world = World::new(CHECKED, "backup = true");
    for backend in 0..3 {
        world.result(backend, &passed("open"), at(1));
    }
    assert_eq!(world.takes_new(at(1)), [true, true, false]);
    for backend in 0..2 {
        for second in 2..5 {
            world.result(backend, &failed("refused"), at(second));
        }
    }
    assert_eq!(world.takes_new(at(5)), [false, false, true]);
    for second in 6..8 {
        world.result(1, &passed("open"), at(second));
    }
    assert_eq!(world.takes_new(at(8)), [false, true, false]);
}

#[test]
fn below_the_panic_threshold_only_the_operator_takes_backends_out() {
    let mut world = World::new(&format!("panic_threshold = 50\n{CHECKED}"), "");
    world.result(0, &passed("open"), at(1));
    world.result(1, &passed("open"), at(1));
    world.result(2, &failed("refused"), at(1));
    assert_eq!(world.takes_new(at(1)), [true, true, false]);
    for second in 2..5 {
        world.result(1, &failed("refused"), at(second));
    }
    assert_eq!(world.takes_new(at(5)), [true; 3], "one of three is up");
    world.health.set(world.key(2), at(6), |it| {
        it.set_admin(AdminState::Disabled, None, at(6))
    });
    assert_eq!(
        world.takes_new(at(6)),
        [true, false, false],
        "one of two is up"
    );
}

#[test]
fn slow_start_raises_the_weight_in_steps() {
    let mut world = World::new(&format!("slow_start = \"10s\"\n{CHECKED}"), "");
    let percent = |world: &World, now| world.effects(now)[0].percent;
    world.result(0, &passed("open"), at(0));
    assert_eq!(percent(&world, at(0)), 100, "it was not down before");
    for second in 1..4 {
        world.result(0, &failed("refused"), at(second));
    }
    for second in 4..6 {
        world.result(0, &passed("open"), at(second));
    }
    assert_eq!(percent(&world, at(5)), 10);
    assert_eq!(world.next_change(at(5)), Some(at(6)));
    assert_eq!(
        world.health.next_change(),
        Some(at(6)),
        "the answer stays until advance"
    );
    assert_eq!(percent(&world, at(6)), 20);
    assert_eq!(percent(&world, at(10)), 60);
    assert_eq!(percent(&world, at(14)), 100);
    assert_eq!(world.next_change(at(14)), None);

    // It goes down and recovers while it drains; slow start begins when the operator enables it.
    world.health.set(world.key(0), at(20), |it| {
        it.set_admin(AdminState::Draining, None, at(20))
    });
    for second in 21..24 {
        world.result(0, &failed("refused"), at(second));
    }
    for second in 24..26 {
        world.result(0, &passed("open"), at(second));
    }
    world.health.set(world.key(0), at(100), |it| {
        it.set_admin(AdminState::Enabled, None, at(100))
    });
    assert_eq!(percent(&world, at(100)), 10);

    let mut world = World::new(CHECKED, "");
    for (second, outcome) in (0..).zip([failed("refused"), passed("open"), passed("open")]) {
        world.result(0, &outcome, at(second));
    }
    assert_eq!(
        world.next_change(at(3)),
        None,
        "nothing is due without a slow start"
    );
}

#[test]
fn the_weight_of_a_check_scales_the_backends_weight() {
    let mut world = World::new(CHECKED, "");
    let rows = [
        (Some(75), 75, true),
        (None, 75, false),
        (Some(75), 75, false),
        (Some(0), 0, true),
        (Some(300), 300, true),
    ];
    for (weight, percent, is_new) in rows {
        let outcome = CheckResult {
            weight,
            ..passed("up")
        };
        assert_eq!(world.result_of(0, 0, &outcome, at(1)), is_new);
        assert_eq!(world.effects(at(1))[0].percent, percent);
    }
}

#[test]
fn weight_0_drains_whether_from_the_config_or_a_check() {
    let mut world = World::new(&format!("drain_timeout = \"60s\"\n{CHECKED}"), "weight = 0");
    assert_eq!(world.state(2), HealthState::Draining, "by the config");
    assert_eq!(world.next_change(at(0)), Some(at(60)));
    assert_eq!(world.effects(at(60))[2].sessions, SessionAction::Reset);
    let none = CheckResult {
        weight: Some(0),
        ..passed("up 0%")
    };
    world.result(0, &none, at(1));
    assert_eq!(world.state(0), HealthState::Draining, "by an agent check");
    world.result(1, &passed("open"), at(1));
    assert_eq!(world.takes_new(at(1)), [false, true, false]);
}

#[test]
fn a_draining_backend_keeps_its_sessions_for_drain_timeout() {
    let mut world = World::new(&format!("drain_timeout = \"60s\"\n{CHECKED}"), "");
    world.result(0, &passed("open"), at(0));
    world.health.set(world.key(0), at(10), |it| {
        it.set_admin(AdminState::Draining, None, at(10))
    });
    let effect = |world: &World, now| {
        let effect = world.effects(now)[0];
        (effect.healthy, effect.percent, effect.sessions)
    };
    assert_eq!(effect(&world, at(10)), (true, 0, SessionAction::Keep));
    assert_eq!(world.next_change(at(10)), Some(at(70)));
    assert_eq!(effect(&world, at(69)), (true, 0, SessionAction::Keep));
    assert_eq!(effect(&world, at(70)), (true, 0, SessionAction::Reset));
    world.health.set(world.key(0), at(80), |it| {
        it.set_admin(AdminState::Enabled, None, at(80))
    });
    assert_eq!(effect(&world, at(80)), (true, 100, SessionAction::Keep));

    // The server asks to drain.
    let draining = CheckResult {
        draining: true,
        ..passed("drain")
    };
    world.result(1, &draining, at(80));
    assert_eq!(world.state(1), HealthState::Draining);
    world.result(1, &passed("up"), at(81));
    assert_eq!(world.state(1), HealthState::Up);
}

#[test]
fn health_survives_a_reload() {
    let mut world = World::new(CHECKED, "");
    world.result(0, &failed("refused"), at(1));
    world.health.set(world.key(1), at(1), |it| {
        it.set_admin(AdminState::Draining, None, at(1))
    });
    let config = World::new(&format!("on_down = \"reset\"\n{CHECKED}"), "weight = 5").config;
    world.reload(&config, at(2));
    assert_eq!(
        [0, 1, 2].map(|b| world.state(b)),
        [
            HealthState::Down,
            HealthState::Draining,
            HealthState::Checking
        ]
    );
    let without = World::new("", "").config;
    world.reload(&without, at(3));
    assert_eq!(
        world.state(0),
        HealthState::Unchecked,
        "it has no check any more"
    );
}

#[test]
fn a_healthy_backup_is_preferred_to_panic() {
    let mut world = World::new(
        &format!("panic_threshold = 100\n{CHECKED}"),
        "backup = true",
    );
    for backend in 0..2 {
        world.result(backend, &failed("refused"), at(1));
    }
    assert_eq!(world.takes_new(at(1)), [false, false, true]);
    world.result(2, &failed("refused"), at(1));
    assert_eq!(world.takes_new(at(1)), [true, true, false], "none is up");
}

#[test]
fn a_check_keeps_its_state_by_identity_and_not_by_index() {
    let agent = "[[service.health]]\ncheck = \"agent\"\nport = 9100";
    let mut world = World::new(&format!("{agent}\n{CHECKED}"), "");
    let weight = CheckResult {
        weight: Some(25),
        ..passed("25%")
    };
    world.result_of(0, 0, &weight, at(1));
    world.result_of(0, 1, &passed("open"), at(1));
    assert_eq!(world.effects(at(1))[0].percent, 25);
    let old = Arc::clone(&world.config);

    let without = World::new(CHECKED, "").config;
    world.reload(&without, at(2));
    assert_eq!(
        world.effects(at(2))[0].percent,
        100,
        "the weight went with the check"
    );
    let service = &old.services[0];
    let gone = CheckIdentity::of(&service.health.checks[0], &service.backends[0]);
    let late = world
        .health
        .record_result((world.key(0), 0), &gone, &failed("late"), at(3));
    assert!(late.is_none(), "another check has its index now");
}

#[test]
fn a_new_check_needs_fall_failures_to_take_a_backend_down() {
    let mut world = World::new(CHECKED, "");
    for backend in 0..3 {
        world.result(backend, &passed("open"), at(1));
    }
    let more = format!("{CHECKED}\n[[service.health]]\ncheck = \"http\"\nfall = 2");
    let more = World::new(&more, "").config;
    world.reload(&more, at(2));
    assert_eq!(world.takes_new(at(2)), [true; 3]);
    world.result_of(0, 1, &failed("status 404"), at(3));
    assert_eq!(
        world.takes_new(at(3)),
        [true; 3],
        "the other backends keep serving"
    );
    world.result_of(0, 1, &failed("status 404"), at(4));
    assert_eq!(world.takes_new(at(4)), [false, true, true]);
}
