//! Config reloads under load: no request fails, no session moves.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use waxwing_tests::actors::{RunningLoad, connections};
use waxwing_tests::load::UNTIL_STOPPED;
use waxwing_tests::topology::{VIP4, server4};
use waxwing_tests::{Backend, Config, Layout, Load, Tally, Topology, Waxwing, actors};

use crate::consequences::stay;
use crate::traffic::{assert_served, web};
use crate::{Scenario, scenario};

pub(crate) const SCENARIOS: &[Scenario] = &[
    scenario!(backends_come_and_go_under_load).heavy(),
    scenario!(a_drained_backend_keeps_its_sessions),
    scenario!(sighup_reloads),
    scenario!(a_reload_says_what_it_changed),
    scenario!(a_bad_config_leaves_the_running_one),
];

/// Returns the config in which `web` has only the first `servers` servers as backends.
fn over(topology: &Topology, servers: usize) -> Result<Config> {
    let mut config = web(topology);
    config.service_mut("web")?.backends.truncate(servers);
    Ok(config)
}

fn backends_come_and_go_under_load() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let _servers = actors::http_servers(&topology, 8080)?;
    let waxwing = Waxwing::start(&topology, &over(&topology, 1)?)?;
    let load = Load {
        rate: 1000,
        ..connections(VIP4, 80, UNTIL_STOPPED)
    };
    let mut running = RunningLoad::start(&topology.client, load)?;
    for servers in [2, 3, 1, 3, 2, 3, 1, 2, 3, 1] {
        waxwing.reload(&over(&topology, servers)?)?;
        await_answers_from(&mut running, servers)?;
    }
    // An unexpected answer (for example from a server's own address) makes the client reset the
    // connection; TCP would hide that by a second SYN.
    let resets = resets_sent(&topology)?;
    running.stop()?;
    let tally = running.finish()?;
    ensure!(tally.failed() == 0, "requests failed: {:?}", tally.failures);
    ensure!(resets == 0, "the client reset {resets} connections");
    waxwing.stop().map(drop)
}

/// Returns how many segments with RST the client has sent (`tcpOutRsts` of RFC 4022).
fn resets_sent(topology: &Topology) -> Result<u64> {
    let counters = topology.client.run("cat", &["/proc/net/snmp"])?;
    let mut lines = counters
        .lines()
        .filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = (lines.next(), lines.next());
    let mut pairs = names
        .zip(values)
        .into_iter()
        .flat_map(|(names, values)| names.split(' ').zip(values.split(' ')));
    let value = pairs
        .find(|(name, _)| *name == "OutRsts")
        .context("no OutRsts")?
        .1;
    Ok(value.parse()?)
}

/// Waits until answers come from exactly this many servers. Requests from before the reload may be in
/// flight, so that the first answers may follow the old config.
fn await_answers_from(running: &mut RunningLoad, servers: usize) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        running.take_samples()?;
        let mut seen = Tally::default();
        while seen.answers() < 50 {
            ensure!(
                !running.has_ended()?,
                "the load ended before the last reload"
            );
            thread::sleep(Duration::from_millis(100));
            let samples = running.take_samples()?;
            samples.iter().for_each(|sample| seen.add(sample));
        }
        if seen.servers.len() == servers {
            return Ok(());
        }
        let from = &seen.servers;
        ensure!(
            Instant::now() < deadline,
            "{servers} servers in the config, answers from {from:?}"
        );
    }
}

fn a_reload_says_what_it_changed() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let _servers = actors::http_servers(&topology, 8080)?;
    let waxwing = Waxwing::start(&topology, &over(&topology, 1)?)?;
    let asserts = |servers, change: &str| -> Result<()> {
        let said = waxwing.reload(&over(&topology, servers)?)?;
        let status = waxwing.status()?;
        let generation = &status.0["config"]["generation"];
        let expected = format!("generation {generation}: {change} touched\n");
        ensure!(said == expected, "it said {said}, not {expected}");
        Ok(())
    };
    asserts(1, "nothing changed, 0 sessions")?;
    asserts(3, "+2 backends, 0 sessions")?;
    assert_served(&topology, VIP4)?;
    asserts(3, "nothing changed, 0 sessions")?;
    let mut drained = over(&topology, 3)?;
    drained.service_mut("web")?.backends[0].weight = 0;
    let said = waxwing.reload(&drained)?;
    ensure!(
        said.contains(": 1 backend changed, 0 sessions touched"),
        "{said}"
    );
    let (_open, place) = stay(&topology)?;
    drained.service_mut("web")?.backends.remove(place);
    let said = waxwing.reload(&drained)?;
    ensure!(
        said.ends_with(": -1 backend, 1 session touched\n"),
        "{said}"
    );
    waxwing.stop().map(drop)
}

fn a_drained_backend_keeps_its_sessions() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let _servers = actors::http_servers(&topology, 8080)?;
    let mut config = web(&topology);
    let waxwing = Waxwing::start(&topology, &config)?;
    // Nine keep-alive connections: three per server.
    let kept = Load {
        clients: 9,
        keep_alive: true,
        rate: 90,
        ..connections(VIP4, 80, Duration::from_secs(5))
    };
    let kept = RunningLoad::start(&topology.client, kept)?;
    waxwing.wait_status("nine sessions", |status| status.sessions() == 9)?;

    config.service_mut("web")?.backends[0].weight = 0;
    waxwing.reload(&config)?;
    let fresh = Load {
        rate: 300,
        ..connections(VIP4, 80, Duration::from_secs(2))
    };
    let fresh = actors::load(&topology.client, fresh)?;
    ensure!(
        fresh.failed() == 0,
        "new connections failed: {:?}",
        fresh.failures
    );
    ensure!(
        !fresh.servers.contains_key("1"),
        "new connections to the drained server: {fresh:?}"
    );
    ensure!(
        waxwing.status()?.backend_sessions("web", server4(1))? >= 3,
        "the drained backend lost sessions"
    );

    // A removed backend keeps its sessions too.
    config.service_mut("web")?.backends.remove(0);
    waxwing.reload(&config)?;
    let tally = kept.finish()?;
    ensure!(
        tally.failed() == 0,
        "kept connections failed: {:?}",
        tally.failures
    );
    // 90 requests a second for five seconds, a third of them on the sessions of server 1.
    let shares: Vec<f64> = ["1", "2", "3"]
        .iter()
        .map(|server| tally.share(server))
        .collect();
    ensure!(
        shares.iter().all(|share| (share - 1.0 / 3.0).abs() < 0.02),
        "sessions moved: {shares:?}"
    );
    waxwing.stop().map(drop)
}

fn sighup_reloads() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let _servers = actors::http_servers(&topology, 8080)?;
    let mut waxwing = Waxwing::start(&topology, &over(&topology, 1)?)?;
    waxwing.write_config(&web(&topology).to_toml()?)?;
    waxwing.signal(Signal::SIGHUP)?;
    waxwing.wait_status("server 3 to be in the config", |status| {
        status.has_backend("web", server4(3))
    })?;
    assert_served(&topology, VIP4)?;
    waxwing.stop().map(drop)
}

fn a_bad_config_leaves_the_running_one() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let _servers = actors::http_servers(&topology, 8080)?;
    let good = web(&topology);
    let mut waxwing = Waxwing::start(&topology, &good)?;
    let load = Load {
        rate: 500,
        ..connections(VIP4, 80, Duration::from_secs(4))
    };
    let running = RunningLoad::start(&topology.client, load)?;

    let mut twice = good.clone();
    twice.services[1].vip = VIP4;
    twice.services[1].backends = vec![Backend::new(server4(1), 8080)];
    for (what, text, expected) in [
        (
            "an unknown key",
            good.to_toml()? + "\ncolour = \"red\"\n",
            "colour",
        ),
        (
            "a VIP and port of two services",
            twice.to_toml()?,
            "203.0.113.10",
        ),
        ("not TOML", "[[service\n".to_owned(), "waxwing.toml:1:"),
        ("an empty file", String::new(), "port"),
    ] {
        waxwing.write_config(&text)?;
        let refused = waxwing.ask(&["reload"])?;
        ensure!(!refused.status.success(), "{what} was accepted");
        let said = refused.stdout + &refused.stderr;
        ensure!(
            said.contains(expected) && said.contains("waxwing.toml:"),
            "{what}: {said}"
        );
        // A reload by signal reports its error only in the log.
        waxwing.signal(Signal::SIGHUP)?;
    }
    let tally = running.finish()?;
    ensure!(tally.failed() == 0, "requests failed: {:?}", tally.failures);
    ensure!(
        tally.servers.len() == 3,
        "not all servers answered: {:?}",
        tally.servers
    );
    waxwing.stop().map(drop)
}
