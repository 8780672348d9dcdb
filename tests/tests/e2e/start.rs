//! The start: whatever the network is like, whichever signals arrive, and whatever an earlier run left.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use waxwing_tests::actors::{RunningLoad, connections};
use waxwing_tests::moody_server::Mood;
use waxwing_tests::topology::{VIP4, server4};
use waxwing_tests::{Backend, Layout, Load, Topology, Waxwing, actors};

use crate::health::{three, wait_web};
use crate::traffic::{assert_served, web};
use crate::{Scenario, scenario};

pub(crate) const SCENARIOS: &[Scenario] = &[
    scenario!(a_port_that_is_down_and_a_server_without_a_route_stop_nothing),
    scenario!(a_restart_with_checks_breaks_no_connection),
    scenario!(signals_while_it_starts_end_nothing_or_all_cleanly),
    scenario!(leftovers_of_a_killed_run_stop_no_start),
    scenario!(kept_machine_code_serves_the_next_start),
];

/// The routes to the servers go with the port. `start`, `check` and `reload` warn of that alike.
fn a_port_that_is_down_and_a_server_without_a_route_stop_nothing() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let _servers = actors::http_servers(&topology, 8080)?;
    let mut config = web(&topology);
    let lost = Backend::new([198, 51, 100, 77].into(), 8080);
    config.service_mut("web")?.backends.push(lost);
    topology.balancer.ip("link set back down\n")?;
    let waxwing = Waxwing::start(&topology, &config)?;
    let warnings = [
        "back is down",
        "backend 10.2.0.11 cannot be reached",
        "backend 198.51.100.77 cannot be reached",
    ];
    for text in warnings {
        waxwing.wait_log(text)?;
    }
    let path = topology.scratch.path().join("waxwing.toml");
    let mut check = topology.balancer_command(&[])?;
    let check = waxwing_tests::process::run(check.args(["check", "--config"]).arg(path))?;
    let reload = waxwing.ask(&["reload"])?;
    ensure!(reload.status.success(), "{}", reload.stderr);
    for said in [check, reload.stdout + &reload.stderr] {
        for text in warnings {
            ensure!(said.contains(text), "`{text}` is missing: {said}");
        }
    }
    config.service_mut("web")?.backends[3].weight = 0;
    waxwing.reload(&config)?;
    topology.balancer.ip("link set back up\n")?;
    waxwing.wait_status("the next hops", |status| {
        (1..=3).all(|number| status.next_hop("web", server4(number))["resolved"] == true)
    })?;
    assert_served(&topology, VIP4)?;
    waxwing.stop().map(drop)
}

/// Two servers' first results come at once, the third's after a second. Until then its connections must stay.
fn a_restart_with_checks_breaks_no_connection() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let (servers, mut config) = three(&topology)?;
    let web = config.service_mut("web")?;
    web.policy = "rendezvous".into();
    web.health[0].timeout = Some("1900ms");
    web.health[0].interval = Some("2s");
    web.health[0].fast_interval = Some("2s");
    let mut waxwing = Waxwing::start(&topology, &config)?;
    wait_web(&waxwing, ["up"; 3])?;
    let load = Load {
        clients: 30,
        keep_alive: true,
        rate: 60,
        ..connections(VIP4, 80, Duration::from_secs(8))
    };
    let load = RunningLoad::start(&topology.client, load)?;
    waxwing.wait_status("thirty connections", |status| status.sessions() >= 30)?;
    servers[2].set_mood(&Mood::Late)?;
    waxwing.kill();
    waxwing.restart()?;
    waxwing.wait_status("two results and a late one", |status| {
        status.states("web") == ["up", "up", "checking"]
    })?;
    ensure!(
        waxwing.status()?.takes_new("web") == [true; 3],
        "the late server is left out"
    );
    wait_web(&waxwing, ["up"; 3])?;
    let tally = load.finish()?;
    ensure!(
        tally.failed() == 0,
        "connections broke: {:?}",
        tally.failures
    );
    waxwing.stop().map(drop)
}

fn signals_while_it_starts_end_nothing_or_all_cleanly() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let _servers = actors::http_servers(&topology, 8080)?;
    let config = web(&topology);
    let mut waxwing = Waxwing::spawn(&topology, &config)?;
    waxwing.wait_log("starts")?;
    for signal in [
        Signal::SIGHUP,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
        Signal::SIGALRM,
    ] {
        waxwing.signal(signal)?;
    }
    waxwing.wait_ready()?;
    waxwing.wait_log("config reloaded")?;
    assert_served(&topology, VIP4)?;
    waxwing.stop()?;

    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut waxwing = Waxwing::spawn(&topology, &config)?;
        waxwing.wait_log("starts")?;
        waxwing.signal(signal)?;
        waxwing.finish_start()?;
    }
    Ok(())
}

/// The longest path that a socket can have, in a folder with what a killed run left. Nothing beside it has a
/// path that a socket can have.
fn leftovers_of_a_killed_run_stop_no_start() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let _servers = actors::http_servers(&topology, 8080)?;
    let scratch = topology.scratch.path();
    let name = 107 - scratch.as_os_str().len() - "//s".len();
    let folder = scratch.join("w".repeat(name));
    fs::create_dir(&folder)?;
    let config = web(&topology).with_socket(folder.join("s"));
    let mut waxwing = Waxwing::start(&topology, &config)?;
    for _ in 0..3 {
        waxwing.kill();
        ensure!(config.socket().exists(), "a killed run leaves its socket");
        waxwing.restart()?;
        assert_served(&topology, VIP4)?;
    }
    waxwing.stop()?;
    ensure!(
        fs::read_dir(&folder)?.next().is_none(),
        "something is left in {}",
        folder.display()
    );
    Ok(())
}

fn kept_machine_code_serves_the_next_start() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let _servers = actors::http_servers(&topology, 8080)?;
    let cache = topology.scratch.path().join("cache");
    let config = web(&topology);
    let text = config.to_toml()?;
    let path = topology.scratch.write("cached.toml", text)?;
    let check = || -> Result<(String, Duration)> {
        let mut command = topology.balancer_command(&[])?;
        command.args(["check", "--config"]).arg(&path);
        let begun = Instant::now();
        let finished =
            waxwing_tests::Process::spawn("waxwing", &command)?.finish(Duration::from_secs(60))?;
        ensure!(finished.status.success(), "{}", finished.stderr);
        Ok((finished.stdout + &finished.stderr, begun.elapsed()))
    };
    let (_, first) = check()?;
    let entries = || -> Result<Vec<_>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(&cache).context("nothing was kept")? {
            let entry = entry?;
            entries.push((entry.file_name(), entry.metadata()?.modified()?));
        }
        entries.sort();
        Ok(entries)
    };
    let kept = entries()?;
    ensure!(!kept.is_empty(), "nothing was kept");
    let (_, second) = check()?;
    eprintln!("checked in {first:?}, then in {second:?}");
    ensure!(entries()? == kept, "it was compiled again");
    // An entry that is damaged is made again.
    let damaged = cache.join(&kept[0].0);
    fs::write(&damaged, "damaged")?;
    check()?;
    ensure!(fs::read(&damaged)?.len() > 1000, "it was not made again");
    Ok(())
}
