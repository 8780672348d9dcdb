//! Which backends are in a pool: at the start, after a reload, and with a broken check.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use waxwing_tests::actors::{RunningLoad, connections};
use waxwing_tests::moody_server::Mood;
use waxwing_tests::query;
use waxwing_tests::topology::VIP4;
use waxwing_tests::{
    Config, Fault, HealthCheck, Kind, Layout, Load, Server, Service, Topology, Waxwing,
};

use crate::consequences::{PROBE, WEB, ask, assert_reset, assert_served_by, but, served, stay};
use crate::health::{eject_only, quick, start_all_up, three, wait_takes_new, wait_web};
use crate::{Scenario, scenario};

pub(crate) const SCENARIOS: &[Scenario] = &[
    scenario!(a_server_that_is_dead_at_the_start_is_out_and_stays_out),
    scenario!(
        without_its_broken_check_a_pool_serves_at_once,
        "nginx",
        "openssl"
    ),
    scenario!(
        a_new_check_removes_no_backend_before_its_first_results,
        "nginx",
        "openssl"
    ),
    scenario!(a_backup_that_is_well_serves_before_mains_that_are_down),
    scenario!(weight_zero_drains_until_the_deadline),
    scenario!(a_server_that_was_restarted_while_it_drained_starts_slowly),
    scenario!(
        clients_that_wait_for_an_ejected_backend_go_to_another,
        "nft"
    ),
];

/// Workers apply a state within this time.
const FOLLOWS: Duration = Duration::from_secs(1);

/// Starts three nginx servers behind the service `web`, without checks.
fn three_of_nginx(topology: &Topology) -> Result<(Vec<Server<'_>>, Config)> {
    let servers = (1..=3).map(|number| Server::start(topology, number, Kind::Nginx));
    let servers = servers.collect::<Result<_>>()?;
    let service = Service::v4("web", "tcp", (80, Kind::Nginx.port()), 3);
    Ok((servers, Config::new(topology).with(service)))
}

/// Returns an HTTP check whose third result comes four seconds after its first.
fn slow(path: &str) -> HealthCheck {
    HealthCheck {
        interval: Some("2s"),
        fast_interval: Some("2s"),
        timeout: Some("1800ms"),
        ..quick("http").with(&format!("path = '{path}'"))
    }
}

/// Returns the config with this as the only check of `web`.
fn checked(config: &Config, check: HealthCheck) -> Result<Config> {
    let mut config = config.clone();
    config.service_mut("web")?.health = vec![check];
    Ok(config)
}

/// Asserts that each of the three servers answers a third of the new connections.
fn assert_shared(topology: &Topology) -> Result<()> {
    let tally = served(topology, PROBE)?;
    let is_third = |server| (tally.share(server) - 1.0 / 3.0).abs() < 0.05;
    ensure!(
        ["1", "2", "3"].into_iter().all(is_third),
        "not a third each: {:?}",
        tally.servers
    );
    Ok(())
}

/// The first results arrive within milliseconds after the start, in varying order.
fn a_server_that_is_dead_at_the_start_is_out_and_stays_out() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let (mut servers, config) = three(&topology)?;
    for dead in [0, 1, 2, 0, 1] {
        servers[dead].suffer(Fault::Stopped)?;
        let waxwing = Waxwing::start(&topology, &config)?;
        wait_web(&waxwing, but(dead, "down"))?;
        let found = Instant::now();
        let others = [0, 1, 2].map(|place| place != dead);
        wait_takes_new(&waxwing, others)?;
        let took = found.elapsed();
        ensure!(took < FOLLOWS, "the workers applied it only after {took:?}");
        let tally = served(&topology, PROBE)?;
        let name = format!("{}", dead + 1);
        ensure!(!tally.servers.contains_key(&name), "{:?}", tally.servers);
        let status = wait_web(&waxwing, but(dead, "down"))?;
        ensure!(
            status.takes_new("web") == others,
            "the dead server takes new sessions: {status}"
        );
        waxwing.stop()?;
        servers[dead].recover(Fault::Stopped)?;
    }
    Ok(())
}

fn without_its_broken_check_a_pool_serves_at_once() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let (_servers, config) = three_of_nginx(&topology)?;
    let broken = checked(&config, quick("http").with("path = '/nonesuch'"))?;
    let waxwing = Waxwing::start(&topology, &broken)?;
    let status = wait_web(&waxwing, ["down"; 3])?;
    let reason = status.health("web", 0).reason;
    ensure!(reason.contains("404"), "down for another reason: {reason}");
    wait_takes_new(&waxwing, [false; 3])?;
    let connected = topology.client.enter(|| query::connect(WEB))?;
    ensure!(connected.is_err(), "connected with all backends down");

    waxwing.reload(&config)?;
    assert_shared(&topology)?;
    wait_web(&waxwing, ["unchecked"; 3])?;
    waxwing.stop().map(drop)
}

/// Backends that served without a check stay up under a new one until its first results.
fn a_new_check_removes_no_backend_before_its_first_results() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let (servers, config) = three_of_nginx(&topology)?;
    let waxwing = Waxwing::start(&topology, &config)?;
    wait_web(&waxwing, ["unchecked"; 3])?;

    // The first backend answers a second before the others, and must not serve alone.
    servers[1].set_mood(&Mood::Late)?;
    servers[2].set_mood(&Mood::Late)?;
    waxwing.reload(&checked(&config, slow("/healthz"))?)?;
    assert_shared(&topology).context("while two are late")?;
    waxwing.wait_status("every server's first result", |status| {
        (0..3).all(|place| {
            let health = status.health("web", place);
            health.checks.iter().any(|check| check.last_at.is_some())
        })
    })?;
    waxwing.reload(&config)?;

    let added = Instant::now();
    waxwing.reload(&checked(&config, slow("/healtz"))?)?;
    assert_shared(&topology).context("before the first results of the check with the typo")?;
    waxwing.wait_status("the first to be down", |status| {
        status.states("web").contains(&"down")
    })?;
    let fell = added.elapsed();
    let status = wait_web(&waxwing, ["down"; 3])?;
    eprintln!("the first backend was down after {fell:?}");
    ensure!(
        fell >= Duration::from_secs(4),
        "down after {fell:?}, with fewer than three failures: {:#?}",
        status.health("web", 0)
    );
    waxwing.stop().map(drop)
}

/// Panic mode needs all backends unhealthy, and a healthy backup prevents it.
fn a_backup_that_is_well_serves_before_mains_that_are_down() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let (mut servers, mut config) = three(&topology)?;
    let web = config.service_mut("web")?;
    web.panic_threshold = Some(50);
    web.backends[2].backup = true;
    let waxwing = start_all_up(&topology, &config)?;
    assert_served_by(&topology, &["1", "2"])?;
    for server in &mut servers[..2] {
        server.suffer(Fault::Stopped)?;
    }
    wait_web(&waxwing, ["down", "down", "up"])?;
    wait_takes_new(&waxwing, [false, false, true])?;
    assert_served_by(&topology, &["3"])?;
    servers[0].recover(Fault::Stopped)?;
    wait_web(&waxwing, but(1, "down"))?;
    wait_takes_new(&waxwing, [true, false, false])?;
    assert_served_by(&topology, &["1"])?;
    waxwing.stop().map(drop)
}

fn weight_zero_drains_until_the_deadline() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let (_servers, mut config) = three(&topology)?;
    config.service_mut("web")?.drain_timeout = Some("2s");
    let waxwing = start_all_up(&topology, &config)?;
    let (mut connection, place) = stay(&topology)?;

    config.service_mut("web")?.backends[place].weight = 0;
    waxwing.reload(&config)?;
    let drained = Instant::now();
    query::get(&mut connection, "/").context("before the drain deadline")?;
    wait_web(&waxwing, but(place, "draining"))?;
    thread::sleep(Duration::from_millis(2500).saturating_sub(drained.elapsed()));
    assert_reset(&mut connection)?;

    config.service_mut("web")?.backends[place].weight = 1;
    waxwing.reload(&config)?;
    wait_web(&waxwing, ["up"; 3])?;
    wait_takes_new(&waxwing, [true; 3])?;
    assert_shared(&topology)?;
    waxwing.stop().map(drop)
}

/// An upgrade drains, stops, starts and enables a server. Its caches are then as cold as after a failure.
fn a_server_that_was_restarted_while_it_drained_starts_slowly() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let (mut servers, mut config) = three(&topology)?;
    config.service_mut("web")?.slow_start = Some("4s");
    let waxwing = start_all_up(&topology, &config)?;
    ask(&waxwing, &["backend", "drain", "web", "server-1"])?;
    wait_web(&waxwing, but(0, "draining"))?;
    servers[0].suffer(Fault::Stopped)?;
    wait_web(&waxwing, but(0, "down"))?;
    servers[0].recover(Fault::Stopped)?;
    wait_web(&waxwing, but(0, "draining"))?;
    ask(&waxwing, &["backend", "enable", "web", "server-1"])?;
    let weight = || -> Result<u64> {
        let status = wait_web(&waxwing, ["up"; 3])?;
        Ok(status.health("web", "server-1").weight_percent)
    };
    let mut weights = vec![weight()?];
    let mut shares = Vec::new();
    for _ in 0..5 {
        shares.push(served(&topology, Duration::from_secs(1))?.share("1"));
        weights.push(weight()?);
    }
    eprintln!("its shares, second by second: {shares:.2?}; its weights: {weights:?} %");
    ensure!(
        weights[0] <= 30,
        "its first weight is too high: {weights:?} %"
    );
    ensure!(shares[0] < 0.2, "its first share is too high: {shares:.2?}");
    ensure!(weights.is_sorted(), "its weight fell: {weights:?}");
    ensure!(
        weights.last() == Some(&100),
        "its last weight is not 100 %: {weights:?}"
    );
    waxwing.stop().map(drop)
}

/// A client repeats its SYN after a second. By then the silent backend is ejected, and the SYN goes to
/// another.
fn clients_that_wait_for_an_ejected_backend_go_to_another() -> Result<()> {
    const TIME: Duration = Duration::from_secs(3);
    let topology = Topology::new(Layout::default())?;
    let (mut servers, mut config) = three(&topology)?;
    eject_only(config.service_mut("web")?);
    let waxwing = Waxwing::start(&topology, &config)?;
    assert_served_by(&topology, &["1", "2", "3"])?;
    servers[0].suffer(Fault::Dropped)?;
    // One client per request, so that waiting clients delay no other.
    let load = Load {
        clients: 90,
        rate: 90,
        timeout: Duration::from_secs(10),
        ..connections(VIP4, 80, Duration::from_secs(2))
    };
    let running = RunningLoad::start(&topology.client, load)?;
    wait_web(&waxwing, but(0, "ejected"))?;
    let ejected = Instant::now();
    let tally = running.finish()?;
    ensure!(tally.failed() == 0, "requests failed: {:?}", tally.failures);
    ensure!(
        !tally.servers.contains_key("1"),
        "the silent server answered: {:?}",
        tally.servers
    );
    servers[0].recover(Fault::Dropped)?;
    wait_web(&waxwing, ["up"; 3])?;
    let out = ejected.elapsed();
    eprintln!(
        "out for {out:?}; {} requests went to other backends",
        tally.answers()
    );
    ensure!(out < TIME + FOLLOWS, "the backend was out for {out:?}");
    assert_served_by(&topology, &["1", "2", "3"])?;
    let history = wait_web(&waxwing, ["up"; 3])?.health("web", 0).history;
    let ejections = history.iter().filter(|change| change.state == "ejected");
    ensure!(ejections.count() == 1, "ejected again: {history:#?}");
    waxwing.stop().map(drop)
}
