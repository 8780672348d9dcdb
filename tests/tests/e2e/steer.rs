//! The operator asks what would happen, and changes what happens.

use std::cell::RefCell;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use waxwing_tests::actors::{RunningLoad, built_program, connections};
use waxwing_tests::load::UNTIL_STOPPED;
use waxwing_tests::process::retry;
use waxwing_tests::topology::{CLIENT4, VIP4};
use waxwing_tests::{Layout, Load, Process, Topology, Waxwing, query};

use crate::consequences::{WEB, ask, assert_reset, assert_served_by, server_of, stay};
use crate::health::three;
use crate::restart::{stop, stop_and_start};
use crate::{Scenario, scenario};

pub(crate) const SCENARIOS: &[Scenario] = &[
    scenario!(an_explanation_comes_true),
    scenario!(what_the_operator_changes_is_in_effect_and_recorded),
    scenario!(an_added_backend_serves_until_it_is_removed),
    scenario!(the_live_view_shows_rates_and_drains, "script"),
];

/// How long the live view may take for what it is asked.
const PATIENCE: Duration = Duration::from_secs(30);

/// The explanation of the client's packet from this port, and the command's exit code.
fn explain(waxwing: &Waxwing<'_>, port: u16) -> Result<(Value, Option<i32>)> {
    let (client, vip) = (format!("{CLIENT4}:{port}"), format!("{VIP4}:80"));
    let finished = waxwing.ask(&["explain", "tcp", &client, &vip, "--json"])?;
    let explanation = serde_json::from_str(&finished.stdout);
    let explanation = explanation.with_context(|| finished.stderr.clone())?;
    Ok((explanation, finished.status.code()))
}

/// The name of the backend that an explanation says.
fn chosen(explanation: &Value) -> Result<String> {
    let backends = explanation["backends"].as_array().context("no backends")?;
    let mut chosen = backends.iter().filter(|it| it["chosen"] == true);
    let name = chosen.next().and_then(|it| it["name"].as_str());
    Ok(name.with_context(|| format!("{explanation:#}"))?.to_owned())
}

fn an_explanation_comes_true() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let (_servers, mut config) = three(&topology)?;
    let web = config.service_mut("web")?;
    web.health.clear();
    "rendezvous".clone_into(&mut web.policy);
    let waxwing = Waxwing::start(&topology, &config)?;
    for port in 50_100..50_110 {
        let before = waxwing.status()?.sessions();
        let (explanation, code) = explain(&waxwing, port)?;
        ensure!(code == Some(0), "{explanation:#}");
        let name = chosen(&explanation)?;
        let packets = explanation["packets"].as_array().context("no packets")?;
        let outcomes: Vec<_> = packets.iter().map(|it| &it["outcome"]).collect();
        ensure!(outcomes == ["forwarded"; 3], "{explanation:#}");
        ensure!(
            waxwing.status()?.sessions() <= before,
            "it opened a session"
        );
        let mut connection = topology.client.enter(|| query::connect_from(port, WEB))??;
        let server = server_of(&query::get(&mut connection, "/")?)?;
        ensure!(
            name == format!("server-{server}"),
            "{name} was foretold, not {server}"
        );
        let (explanation, _) = explain(&waxwing, port)?;
        ensure!(
            explanation["session"]["phase"] == "active",
            "{explanation:#}"
        );
        ensure!(chosen(&explanation)? == name, "{explanation:#}");
        let (client, vip) = (format!("{CLIENT4}:{port}"), format!("{VIP4}:80"));
        let shown = waxwing.ask(&["session", "show", "tcp", &client, &vip, "--json"])?;
        let shown: Value = serde_json::from_str(&shown.stdout).context(shown.stderr)?;
        for field in ["client", "vip", "backend", "phase", "return_hop"] {
            let explained = &explanation["session"][field];
            ensure!(
                !explained.is_null() && shown[field] == *explained,
                "{shown:#}"
            );
        }
    }
    let client = format!("{CLIENT4}:50111");
    let none = waxwing.ask(&["session", "show", "tcp", &client, "203.0.113.10:80"])?;
    ensure!(
        !none.status.success() && none.stderr.contains("there is no session of tcp"),
        "{}",
        none.stderr
    );
    // What stops it is named.
    for name in ["server-1", "server-2", "server-3"] {
        ensure!(
            waxwing
                .ask(&["backend", "disable", "web", name])?
                .status
                .success()
        );
    }
    let (explanation, _) = explain(&waxwing, 50_111)?;
    ensure!(
        explanation["packets"][0]["outcome"] == "rejected",
        "{explanation:#}"
    );
    waxwing.stop().map(drop)
}

fn what_the_operator_changes_is_in_effect_and_recorded() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let (_servers, mut config) = three(&topology)?;
    config.service_mut("web")?.health.clear();
    let waxwing = Waxwing::start(&topology, &config)?;
    let ask = |args: &[&str]| -> Result<String> {
        let finished = waxwing.ask(args)?;
        ensure!(finished.status.success(), "{args:?}: {}", finished.stderr);
        Ok(finished.stdout)
    };

    let (mut connection, _) = stay(&topology)?;
    ensure!(ask(&["session", "kill", "--client", "10.1.0.0/24"])?.starts_with("1 session"));
    assert_reset(&mut connection)?;
    waxwing.wait_status("no session", |status| status.sessions() == 0)?;

    ask(&["backend", "weight", "web", "server-1", "0"])?;
    assert_served_by(&topology, &["2", "3"])?;
    let (connection, place) = stay(&topology)?;
    let connection = RefCell::new(connection);
    let name = format!("server-{}", place + 1);
    ask(&["backend", "drain", "web", &name, "--within", "1s"])?;
    waxwing.wait_status("the end of the drain", |_| {
        query::get(&mut connection.borrow_mut(), "/").is_err()
    })?;

    let shown = ask(&["backend", "show", "web", "server-1"])?;
    ensure!(shown.contains("operator_weight: 0"), "{shown}");
    let sorted = ask(&["backend", "list", "--sort", "sessions", "--json"])?;
    let sorted: Value = serde_json::from_str(&sorted)?;
    let sessions = (0..3).map(|n| sorted["items"][n]["sessions"].as_u64());
    ensure!(sessions.is_sorted_by(|a, b| a >= b), "{sorted:#}");

    let events = ask(&["event", "list", "--area", "admin"])?;
    for part in ["/v1/sessions/kill", "/v1/backends/weight", "\"within_s\":1"] {
        let mut found = events.lines().filter(|line| line.contains(part));
        let line = found
            .next()
            .with_context(|| format!("no {part}: {events}"))?;
        ensure!(line.contains("uid 0, pid "), "{line}");
    }
    waxwing.stop().map(drop)
}

fn an_added_backend_serves_until_it_is_removed() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let (_servers, mut config) = three(&topology)?;
    let web = config.service_mut("web")?;
    web.health.clear();
    let third = web.backends.pop().context("no third backend")?;
    let endpoint = format!("{}:{}", third.address, third.port.unwrap_or(8080));
    let mut waxwing = Waxwing::start(&topology, &config)?;
    let load = Load {
        rate: 200,
        ..connections(VIP4, 80, UNTIL_STOPPED)
    };
    let mut load = RunningLoad::start(&topology.client, load)?;
    assert_served_by(&topology, &["1", "2"])?;

    let add = ["backend", "add", "web", &endpoint, "--name", "third"];
    ask(&waxwing, &add)?;
    assert_served_by(&topology, &["1", "2", "3"])?;
    waxwing.reload(&config)?;
    assert_served_by(&topology, &["1", "2", "3"])?;
    let said = waxwing.ask(&["status"])?.stdout;
    ensure!(said.contains("added by an operator"), "{said}");
    let difference = waxwing.ask(&["config", "diff"])?.stdout;
    ensure!(!difference.contains("third"), "{difference}");
    load.stop()?;
    let tally = load.finish()?;
    ensure!(tally.failed() == 0, "requests failed: {:?}", tally.failures);

    stop_and_start(&mut waxwing, Duration::from_millis(100))?;
    assert_served_by(&topology, &["1", "2", "3"])?;
    waxwing.upgrade()?;
    assert_served_by(&topology, &["1", "2", "3"])?;

    for (command, why) in [
        (&add[..], "the service has it already"),
        (&["backend", "add", "web", "10.2.0.14"], "it has no port"),
        (&["backend", "add", "web", "here:80"], "write ADDRESS:PORT"),
        (&["backend", "add", "wob", &endpoint], "web"),
        (&["backend", "remove", "web", "server-1"], "waxwing.toml"),
        (&["backend", "remove", "web", "fourth"], "third"),
    ] {
        let finished = waxwing.ask(command)?;
        let said = finished.stderr;
        ensure!(
            !finished.status.success() && said.contains(why),
            "{command:?}: {said}"
        );
    }
    ask(&waxwing, &["backend", "remove", "web", "third"])?;
    assert_served_by(&topology, &["1", "2"])?;

    // The file comes first.
    ask(&waxwing, &add)?;
    config.service_mut("web")?.backends.push(third);
    let said = waxwing.reload(&config)?;
    ensure!(said.contains("the service has it already"), "{said}");
    let said = waxwing.ask(&["status"])?.stdout;
    ensure!(!said.contains("added by an operator"), "{said}");
    assert_served_by(&topology, &["1", "2", "3"])?;

    // One that the file does not allow beside its own keeps nothing from starting.
    let fourth = [
        "backend",
        "add",
        "web",
        "10.2.0.14:8080",
        "--name",
        "fourth",
    ];
    ask(&waxwing, &fourth)?;
    stop(&mut waxwing)?;
    config.service_mut("web")?.backends[2].name = Some("fourth".to_owned());
    waxwing.write_config(&config.to_toml()?)?;
    waxwing.restart()?;
    waxwing.wait_log("which do not fit the config's file")?;
    assert_served_by(&topology, &["1", "2", "3"])?;
    waxwing.stop().map(drop)
}

fn the_live_view_shows_rates_and_drains() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let (_servers, mut config) = three(&topology)?;
    config.service_mut("web")?.health.clear();
    let waxwing = Waxwing::start(&topology, &config)?;
    let (program, socket) = (built_program("waxwing")?, config.socket());
    let shell = format!(
        "stty rows 30 columns 160; exec {} top --socket {} --every 200ms",
        program.display(),
        socket.display()
    );
    // It gives the command a terminal. Of the screen only what changes is written, word by word.
    let mut command = topology.balancer.command("script");
    command.args([
        "--quiet",
        "--return",
        "--flush",
        "--command",
        &shell,
        "/dev/null",
    ]);
    let mut top = Process::spawn_asked("waxwing top", &command)?;
    let shows = |top: &Process, text: &str| {
        retry(PATIENCE, || {
            let screen = top.stdout();
            ensure!(screen.contains(text), "no {text:?} on the screen: {screen}");
            Ok(())
        })
    };
    shows(&top, "server-3")?;
    assert_served_by(&topology, &["1", "2", "3"])?;
    shows(&top, "█")?;
    // The service is chosen first, then its first backend. What is not confirmed is not done.
    top.ask("jjxn")?;
    top.ask("dy")?;
    let expected = ["draining", "unchecked", "unchecked"];
    waxwing.wait_status("the drain", |status| status.states("web") == expected)?;
    top.ask("q")?;
    let finished = top.finish(PATIENCE)?;
    ensure!(finished.status.success(), "{}", finished.stdout);
    waxwing.stop().map(drop)
}
