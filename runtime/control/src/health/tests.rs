#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::sync::Arc;
use std::time::Duration;

use waxwing_dataplane::model::SessionAction;

use super::backend::{Admin, Outcome, State};
use super::roster::{Effect, Effects, Identity, Roster};
use crate::config::Config;
use crate::publish::keys::{BackendKey, backend_key};

const START: Duration = Duration::from_secs(1000);

fn at(seconds: u64) -> Duration {
    START + Duration::from_secs(seconds)
}

fn passed(reason: &str) -> Outcome {
    Outcome {
        passed: true,
        draining: false,
        weight: None,
        reason: reason.into(),
        took: Duration::from_millis(1),
    }
}

fn failed(reason: &str) -> Outcome {
    Outcome {
        passed: false,
        ..passed(reason)
    }
}

/// A service with three backends, the last of which is a backup where `more` says so, and a roster
/// that has just taken it up.
struct World {
    config: Arc<Config>,
    roster: Roster,
}

impl World {
    /// `service` are more keys of the service, `last` of its last backend.
    fn new(service: &str, last: &str) -> Self {
        let text = format!(
            r#"
            [[port]]
            interface = "eth0"
            [[service]]
            name = "web"
            vip = "203.0.113.10"
            port = 80
            protocol = "tcp"
            policy = "round_robin"
            {service}
            [[service.backend]]
            address = "10.2.0.1"
            port = 80
            [[service.backend]]
            address = "10.2.0.2"
            port = 80
            [[service.backend]]
            address = "10.2.0.3"
            port = 80
            {last}
            "#
        );
        let config = Arc::new(Config::parse(&text, "lb.toml".as_ref()).unwrap().0);
        let mut roster = Roster::default();
        roster.adopt(&config, START);
        Self { config, roster }
    }

    fn key(&self, backend: usize) -> BackendKey {
        let service = &self.config.services[0];
        backend_key(service, &service.backends[backend])
    }

    fn result(&mut self, backend: usize, outcome: &Outcome, now: Duration) {
        self.result_of(backend, 0, outcome, now);
    }

    /// A check's result; whether effects may be others for it.
    fn result_of(
        &mut self,
        backend: usize,
        check: usize,
        outcome: &Outcome,
        now: Duration,
    ) -> bool {
        let service = &self.config.services[0];
        let identity = Identity::of(&service.health.checks[check], &service.backends[backend]);
        let key = (self.key(backend), check);
        let outcomes = self.roster.result(key, &identity, outcome, now);
        outcomes.unwrap().effects
    }

    /// Another config is taken up.
    fn reload(&mut self, config: &Arc<Config>, now: Duration) {
        self.config = Arc::clone(config);
        self.roster.adopt(config, now);
    }

    fn state(&self, backend: usize) -> State {
        self.roster.get(self.key(backend)).unwrap().state
    }

    fn effects(&self, now: Duration) -> [Effect; 3] {
        let effects: Effects = self.roster.effects(&self.config, now);
        [0, 1, 2].map(|backend| effects[&self.key(backend)])
    }

    /// When something changes by time alone after this moment.
    fn next_change(&mut self, now: Duration) -> Option<Duration> {
        self.roster.settle(now);
        self.roster.next_change()
    }

    fn takes_new(&self, now: Duration) -> [bool; 3] {
        self.effects(now)
            .map(|effect| effect.healthy && effect.percent > 0)
    }
}

const CHECKED: &str = "[[service.health]]\ncheck = \"tcp\"\nrise = 2\nfall = 3";

#[test]
fn the_first_result_decides_and_then_it_takes_several() {
    let mut world = World::new(CHECKED, "");
    assert_eq!(world.state(0), State::Checking);
    let rows = [
        (passed("a"), State::Up),
        (failed("b"), State::Up),
        (failed("c"), State::Up),
        (passed("d"), State::Up),
        (failed("e"), State::Up),
        (failed("f"), State::Up),
        (failed("g"), State::Down),
        (passed("h"), State::Down),
        (failed("i"), State::Down),
        (passed("j"), State::Down),
        (passed("k"), State::Up),
    ];
    for (second, (outcome, state)) in (1..).zip(rows) {
        world.result(0, &outcome, at(second));
        assert_eq!(world.state(0), state, "after {}", outcome.reason);
    }
    let known = world.roster.get(world.key(0)).unwrap();
    let history: Vec<_> = known
        .history
        .iter()
        .map(|change| (change.at, change.state, change.reason.as_str()))
        .collect();
    let expected = [
        (at(1), State::Up, "a"),
        (at(7), State::Down, "g"),
        (at(11), State::Up, "k"),
    ];
    assert_eq!(history, expected);

    world.result(1, &failed("refused"), at(1));
    assert_eq!(world.state(1), State::Down, "nothing was known before");
}

#[test]
fn unknown_backends_serve_until_one_is_known_to_be_up() {
    let mut world = World::new(CHECKED, "");
    assert_eq!(world.takes_new(at(0)), [true; 3]);
    world.result(0, &failed("refused"), at(1));
    assert_eq!(world.takes_new(at(1)), [false, true, true]);
    world.result(1, &passed("open"), at(1));
    assert_eq!(world.takes_new(at(1)), [false, true, false]);
    world.result(2, &passed("open"), at(1));
    assert_eq!(world.takes_new(at(1)), [false, true, true]);

    // The first to answer does not get all that the others had.
    let mut world = World::new(CHECKED, "");
    world.result(0, &passed("open"), at(1));
    assert_eq!(world.takes_new(at(1)), [true; 3], "most are unknown");
    world.result(1, &passed("open"), at(1));
    assert_eq!(world.takes_new(at(1)), [true, true, false]);
}

#[test]
fn a_backend_is_up_while_all_its_checks_pass() {
    let two = format!("{CHECKED}\n[[service.health]]\ncheck = \"http\"\nfall = 1");
    let mut world = World::new(&two, "health = { fall = 5 }");
    world.result_of(0, 0, &passed("open"), at(1));
    assert_eq!(world.state(0), State::Checking);
    world.result_of(0, 1, &passed("200"), at(1));
    assert_eq!(world.state(0), State::Up);
    world.result_of(0, 1, &failed("status 500"), at(2));
    let known = world.roster.get(world.key(0)).unwrap();
    assert_eq!(
        (known.state, known.reason.as_str()),
        (State::Down, "status 500")
    );
    // The last backend has a `fall` of its own.
    world.result_of(2, 0, &passed("open"), at(1));
    world.result_of(2, 1, &passed("200"), at(1));
    for _ in 0..4 {
        world.result_of(2, 1, &failed("status 500"), at(2));
    }
    assert_eq!(world.state(2), State::Up);
}

#[test]
fn sessions_of_a_backend_that_goes_down_have_the_fate_that_the_service_says() {
    let rows = [
        ("keep", SessionAction::Keep),
        ("reset", SessionAction::Reset),
        ("repick", SessionAction::Repick),
    ];
    for (word, fate) in rows {
        let mut world = World::new(&format!("on_down = \"{word}\"\n{CHECKED}"), "");
        world.result(0, &failed("refused"), at(1));
        let [down, other, _] = world.effects(at(1));
        assert_eq!((down.healthy, down.sessions), (false, fate));
        assert_eq!(other.sessions, SessionAction::Keep);
    }
}

#[test]
fn a_backup_serves_only_while_no_other_does() {
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
fn below_the_panic_threshold_health_is_ignored_but_not_the_operator() {
    let mut world = World::new(&format!("panic_threshold = 50\n{CHECKED}"), "");
    world.result(0, &passed("open"), at(1));
    world.result(1, &passed("open"), at(1));
    world.result(2, &failed("refused"), at(1));
    assert_eq!(world.takes_new(at(1)), [true, true, false]);
    for second in 2..5 {
        world.result(1, &failed("refused"), at(second));
    }
    assert_eq!(world.takes_new(at(5)), [true; 3], "one of three is up");
    world.roster.set_admin(world.key(2), Admin::Disabled, at(6));
    assert_eq!(
        world.takes_new(at(6)),
        [true, false, false],
        "one of two is"
    );
}

#[test]
fn a_backend_that_comes_back_gets_its_weight_in_steps() {
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
        world.roster.next_change(),
        Some(at(6)),
        "however late one asks"
    );
    assert_eq!(percent(&world, at(6)), 20);
    assert_eq!(percent(&world, at(10)), 60);
    assert_eq!(percent(&world, at(14)), 100);
    assert_eq!(world.next_change(at(14)), None);

    // It is taken out for maintenance, and is back before the operator says so.
    world
        .roster
        .set_admin(world.key(0), Admin::Draining, at(20));
    for second in 21..24 {
        world.result(0, &failed("refused"), at(second));
    }
    for second in 24..26 {
        world.result(0, &passed("open"), at(second));
    }
    world
        .roster
        .set_admin(world.key(0), Admin::Enabled, at(100));
    assert_eq!(percent(&world, at(100)), 10);

    let mut world = World::new(CHECKED, "");
    for (second, outcome) in (0..).zip([failed("refused"), passed("open"), passed("open")]) {
        world.result(0, &outcome, at(second));
    }
    assert_eq!(
        world.next_change(at(3)),
        None,
        "without a slow start nothing is due"
    );
}

#[test]
fn a_weight_that_a_check_gives_is_the_backends_share() {
    let mut world = World::new(CHECKED, "");
    let rows = [
        (Some(75), 75, true),
        (None, 75, false),
        (Some(75), 75, false),
        (Some(0), 0, true),
        (Some(300), 300, true),
    ];
    for (weight, percent, is_new) in rows {
        let outcome = Outcome {
            weight,
            ..passed("up")
        };
        assert_eq!(world.result_of(0, 0, &outcome, at(1)), is_new);
        assert_eq!(world.effects(at(1))[0].percent, percent);
    }
}

#[test]
fn a_backend_without_weight_drains_whoever_says_so() {
    let mut world = World::new(&format!("drain_timeout = \"60s\"\n{CHECKED}"), "weight = 0");
    assert_eq!(world.state(2), State::Draining, "the config does");
    assert_eq!(world.next_change(at(0)), Some(at(60)));
    assert_eq!(world.effects(at(60))[2].sessions, SessionAction::Reset);
    let none = Outcome {
        weight: Some(0),
        ..passed("up 0%")
    };
    world.result(0, &none, at(1));
    assert_eq!(world.state(0), State::Draining, "an agent does");
    world.result(1, &passed("open"), at(1));
    assert_eq!(world.takes_new(at(1)), [false, true, false]);
}

#[test]
fn a_draining_backend_keeps_its_sessions_for_as_long_as_it_may() {
    let mut world = World::new(&format!("drain_timeout = \"60s\"\n{CHECKED}"), "");
    world.result(0, &passed("open"), at(0));
    world
        .roster
        .set_admin(world.key(0), Admin::Draining, at(10));
    let effect = |world: &World, now| {
        let effect = world.effects(now)[0];
        (effect.healthy, effect.percent, effect.sessions)
    };
    assert_eq!(effect(&world, at(10)), (true, 0, SessionAction::Keep));
    assert_eq!(world.next_change(at(10)), Some(at(70)));
    assert_eq!(effect(&world, at(69)), (true, 0, SessionAction::Keep));
    assert_eq!(effect(&world, at(70)), (true, 0, SessionAction::Reset));
    world.roster.set_admin(world.key(0), Admin::Enabled, at(80));
    assert_eq!(effect(&world, at(80)), (true, 100, SessionAction::Keep));

    // The server's own word.
    let draining = Outcome {
        draining: true,
        ..passed("drain")
    };
    world.result(1, &draining, at(80));
    assert_eq!(world.state(1), State::Draining);
    world.result(1, &passed("up"), at(81));
    assert_eq!(world.state(1), State::Up);
}

const EJECTS: &str = "[service.ejection]\nfailures = 5\nwindow = \"10s\"\ntime = \"10s\"\n\
                      time_max = \"30s\"\nmin_healthy = 50";

/// Lets so many connections in all have failed at the first backends, at a time.
fn count(world: &mut World, counts: [u64; 3], now: Duration) {
    let keys = [0, 1, 2].map(|backend| world.key(backend));
    world.roster.failures(now, |key| {
        let at = keys.iter().position(|it| *it == key)?;
        Some(counts[at])
    });
}

#[test]
fn failures_of_connections_eject_and_the_time_out_doubles() {
    let mut world = World::new(EJECTS, "");
    count(&mut world, [100, 0, 0], at(0));
    assert_eq!(
        world.state(0),
        State::Up,
        "what was before it looked does not count"
    );
    count(&mut world, [104, 0, 0], at(1));
    count(&mut world, [104, 0, 0], at(12));
    count(&mut world, [105, 0, 0], at(13));
    assert_eq!(world.state(0), State::Up, "never five within ten seconds");
    count(&mut world, [109, 0, 0], at(14));
    assert_eq!(world.state(0), State::Ejected);
    assert_eq!(world.takes_new(at(14)), [false, true, true]);
    assert_eq!(world.effects(at(14))[0].sessions, SessionAction::Keep);
    assert_eq!(world.next_change(at(14)), Some(at(24)));
    count(&mut world, [109, 0, 0], at(24));
    assert_eq!(world.state(0), State::Up);
    // Again, and again: 20 seconds, then 30, which is the most.
    for (ejected, back) in [(25, 45), (46, 76), (77, 107)] {
        let so_far = 109 + ejected * 10;
        count(&mut world, [so_far, 0, 0], at(ejected));
        assert_eq!(world.state(0), State::Ejected);
        count(&mut world, [so_far, 0, 0], at(back - 1));
        assert_eq!(world.state(0), State::Ejected);
        count(&mut world, [so_far, 0, 0], at(back));
        assert_eq!(world.state(0), State::Up);
    }
    // What comes while it is out is of sessions from before.
    count(&mut world, [1300, 0, 0], at(120));
    assert_eq!(world.state(0), State::Ejected);
    count(&mut world, [1400, 0, 0], at(125));
    count(&mut world, [1400, 0, 0], at(150));
    count(&mut world, [1400, 0, 0], at(151));
    assert_eq!(world.state(0), State::Up);
    // In for longer than it was out: forgiven.
    count(&mut world, [2000, 0, 0], at(200));
    count(&mut world, [2000, 0, 0], at(210));
    assert_eq!(world.state(0), State::Up);
}

#[test]
fn never_more_are_ejected_than_may_be() {
    let mut world = World::new(EJECTS, "");
    count(&mut world, [0; 3], at(0));
    count(&mut world, [50; 3], at(1));
    let out = (0..3).filter(|backend| world.state(*backend) == State::Ejected);
    assert_eq!(out.count(), 1, "two of three are half or more, one is not");
}

#[test]
fn what_is_known_outlives_a_reload() {
    let mut world = World::new(CHECKED, "");
    world.result(0, &failed("refused"), at(1));
    world.roster.set_admin(world.key(1), Admin::Draining, at(1));
    let config = World::new(&format!("on_down = \"reset\"\n{CHECKED}"), "weight = 5").config;
    world.reload(&config, at(2));
    assert_eq!(
        [0, 1, 2].map(|b| world.state(b)),
        [State::Down, State::Draining, State::Checking]
    );
    let without = World::new("", "").config;
    world.reload(&without, at(3));
    assert_eq!(world.state(0), State::Up, "nothing checks it any more");
}

#[test]
fn a_backup_that_is_well_goes_before_panic() {
    let mut world = World::new(
        &format!("panic_threshold = 100\n{CHECKED}"),
        "backup = true",
    );
    for backend in 0..2 {
        world.result(backend, &failed("refused"), at(1));
    }
    assert_eq!(world.takes_new(at(1)), [false, false, true]);
    world.result(2, &failed("refused"), at(1));
    assert_eq!(world.takes_new(at(1)), [true, true, false], "nobody is up");
}

#[test]
fn a_check_is_known_by_what_it_is_and_not_by_its_place() {
    let agent = "[[service.health]]\ncheck = \"agent\"\nport = 9100";
    let mut world = World::new(&format!("{agent}\n{CHECKED}"), "");
    let weight = Outcome {
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
        "its weight went with it"
    );
    let service = &old.services[0];
    let gone = Identity::of(&service.health.checks[0], &service.backends[0]);
    let late = world
        .roster
        .result((world.key(0), 0), &gone, &failed("late"), at(3));
    assert!(late.is_none(), "it is not what stands there now");
}

#[test]
fn a_check_that_is_new_must_fail_as_often_as_any() {
    let mut world = World::new(CHECKED, "");
    for backend in 0..3 {
        world.result(backend, &passed("open"), at(1));
    }
    let more = format!("{CHECKED}\n[[service.health]]\ncheck = \"http\"\nfall = 2");
    let more = World::new(&more, "").config;
    world.reload(&more, at(2));
    assert_eq!(world.takes_new(at(2)), [true; 3]);
    world.result_of(0, 1, &failed("status 404"), at(3));
    assert_eq!(world.takes_new(at(3)), [true; 3], "nor does one get all");
    world.result_of(0, 1, &failed("status 404"), at(4));
    assert_eq!(world.takes_new(at(4)), [false, true, true]);
}
