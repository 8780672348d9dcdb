//! The effects of health states on new sessions and on existing sessions, also without a healthy backend.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use waxwing_tests::actors::{self, connections};
use waxwing_tests::process::retry;
use waxwing_tests::query::{self, PATIENCE};
use waxwing_tests::topology::VIP4;
use waxwing_tests::{Fault, Kind, Layout, Load, Server, Service, Tally, Topology, Waxwing};

use crate::health::{
    check_of, eject_only, quick, start_all_up, three, wait_judged, wait_takes_new, wait_web,
};
use crate::{Scenario, scenario};

pub(crate) const SCENARIOS: &[Scenario] = &[
    scenario!(a_drained_backend_keeps_sessions_and_a_disabled_one_stays_disabled),
    scenario!(a_drained_backends_sessions_end_at_the_deadline),
    scenario!(the_health_command_reports_by_exit_code),
    scenario!(sessions_of_a_backend_that_went_down_are_kept_or_reset),
    scenario!(datagrams_to_a_down_backend_move_to_another),
    scenario!(with_all_down_clients_are_refused_or_ignored, "nft").alone(),
    scenario!(a_backup_serves_while_all_main_backends_are_down),
    scenario!(a_recovered_backend_starts_slowly),
    scenario!(failures_of_sessions_eject_a_backend_for_a_time, "nft"),
    scenario!(an_unreachable_and_a_silent_udp_backend_are_ejected, "nft"),
    scenario!(
        panic_mode_keeps_a_pool_with_a_broken_check,
        "nginx",
        "openssl"
    ),
];

/// Duration for [`served`] in tests that only need to know which servers answer.
pub(crate) const PROBE: Duration = Duration::from_millis(500);

pub(crate) const WEB: SocketAddr = SocketAddr::new(VIP4, 80);

/// Opens 300 connections within this time, and asserts that none fails.
pub(crate) fn served(topology: &Topology, within: Duration) -> Result<Tally> {
    let load = Load {
        rate: 300 * 1000 / u32::try_from(within.as_millis())?,
        ..connections(VIP4, 80, within)
    };
    let tally = actors::load(&topology.client, load)?;
    ensure!(tally.failed() == 0, "requests failed: {:?}", tally.failures);
    Ok(tally)
}

/// Asserts that new connections are answered by these servers and no others.
pub(crate) fn assert_served_by(topology: &Topology, servers: &[&str]) -> Result<()> {
    let tally = served(topology, PROBE)?;
    let by: Vec<&str> = tally.servers.keys().map(String::as_str).collect();
    ensure!(by == servers, "answers are from {by:?}, not {servers:?}");
    Ok(())
}

/// Runs a command of the balancer, and asserts that it succeeds.
pub(crate) fn ask(waxwing: &Waxwing<'_>, args: &[&str]) -> Result<()> {
    let finished = waxwing.ask(args)?;
    ensure!(
        finished.status.success(),
        "{args:?}: {}{}",
        finished.stdout,
        finished.stderr
    );
    Ok(())
}

/// Opens a connection and returns it with its backend's index.
pub(crate) fn stay(topology: &Topology) -> Result<(TcpStream, usize)> {
    let mut connection = topology.client.enter(|| query::connect(WEB))??;
    let number = server_of(&query::get(&mut connection, "/")?)?;
    Ok((connection, number - 1))
}

/// Returns the number in `server=1`.
pub(crate) fn server_of(answer: &str) -> Result<usize> {
    let number = answer.trim().strip_prefix("server=");
    let number = number.and_then(|number| number.parse().ok());
    number.with_context(|| format!("not a server's name: {answer}"))
}

/// Returns three states: this one for one backend, and `up` for the others.
pub(crate) fn but(place: usize, state: &str) -> [&str; 3] {
    let mut states = ["up"; 3];
    states[place] = state;
    states
}

fn a_drained_backend_keeps_sessions_and_a_disabled_one_stays_disabled() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let (_servers, config) = three(&topology)?;
    let waxwing = start_all_up(&topology, &config)?;
    assert_served_by(&topology, &["1", "2", "3"])?;
    let mut stays = [stay(&topology)?, stay(&topology)?, stay(&topology)?];

    ask(&waxwing, &["backend", "drain", "web", "server-1"])?;
    wait_web(&waxwing, but(0, "draining"))?;
    assert_served_by(&topology, &["2", "3"])?;
    for (connection, place) in &mut stays {
        let answer = query::get(connection, "/")?;
        ensure!(
            server_of(&answer)? == *place + 1,
            "the session moved: {answer}"
        );
    }
    // An operator's command survives a reload.
    waxwing.reload(&config)?;
    assert_served_by(&topology, &["2", "3"])?;
    wait_web(&waxwing, but(0, "draining"))?;

    ask(&waxwing, &["backend", "enable", "web", "server-1"])?;
    wait_web(&waxwing, ["up"; 3])?;
    assert_served_by(&topology, &["1", "2", "3"])?;
    ask(&waxwing, &["backend", "disable", "web", "10.2.0.13:9000"])?;
    wait_web(&waxwing, but(2, "disabled"))?;
    assert_served_by(&topology, &["1", "2"])?;
    ask(&waxwing, &["backend", "enable", "web", "10.2.0.13:9000"])?;
    wait_web(&waxwing, ["up"; 3])?;

    let refused = waxwing.ask(&["backend", "drain", "web", "nonesuch"])?;
    ensure!(!refused.status.success(), "an unknown backend was accepted");
    ensure!(refused.stderr.contains("nonesuch"), "{}", refused.stderr);
    waxwing.stop().map(drop)
}

fn a_drained_backends_sessions_end_at_the_deadline() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let (_servers, mut config) = three(&topology)?;
    config.service_mut("web")?.drain_timeout = Some("1s");
    let waxwing = start_all_up(&topology, &config)?;
    let (mut connection, place) = stay(&topology)?;
    let name = format!("server-{}", place + 1);
    ask(&waxwing, &["backend", "drain", "web", &name])?;
    let drained = Instant::now();
    query::get(&mut connection, "/").context("before the drain deadline")?;
    thread::sleep(Duration::from_millis(1500).saturating_sub(drained.elapsed()));
    assert_reset(&mut connection)?;
    waxwing.stop().map(drop)
}

/// Asserts that the client's next segment is answered with an RST at once.
pub(crate) fn assert_reset(connection: &mut TcpStream) -> Result<()> {
    let sent = Instant::now();
    let error = query::get(connection, "/")
        .err()
        .context("the request was served")?;
    let kinds = [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe];
    ensure!(
        kinds.contains(&error.kind()),
        "the connection was not reset: {error}"
    );
    ensure!(
        sent.elapsed() < PATIENCE,
        "reset only after {:?}",
        sent.elapsed()
    );
    Ok(())
}

fn the_health_command_reports_by_exit_code() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let (mut servers, config) = three(&topology)?;
    let waxwing = start_all_up(&topology, &config)?;
    let code = |service| -> Result<Option<i32>> {
        let finished = waxwing.ask(&["health", "--service", service])?;
        Ok(finished.status.code())
    };
    // The command reports the states that the workers use. They follow the health states within a second.
    let becomes = |wanted, when| {
        retry(Duration::from_secs(1), || {
            let found = code("web")?;
            ensure!(
                found == Some(wanted),
                "the exit code is {found:?} with {when}"
            );
            Ok(())
        })
    };
    ensure!(
        code("web")? == Some(0),
        "the exit code is not 0 with all up"
    );
    servers[0].suffer(Fault::Paused)?;
    wait_web(&waxwing, but(0, "down"))?;
    becomes(3, "two up")?;
    servers[1].suffer(Fault::Paused)?;
    servers[2].suffer(Fault::Paused)?;
    wait_web(&waxwing, ["down"; 3])?;
    becomes(1, "all down")?;
    ensure!(
        code("nonesuch")? != Some(0),
        "the exit code is 0 for an unknown service"
    );
    servers[2].recover(Fault::Paused)?;
    wait_web(&waxwing, ["down", "down", "up"])?;
    becomes(3, "one up")?;
    waxwing.stop().map(drop)
}

/// The server is paused, so that only the balancer can send an RST.
fn sessions_of_a_backend_that_went_down_are_kept_or_reset() -> Result<()> {
    for on_down in ["keep", "reset"] {
        let topology = Topology::new(Layout::default())?;
        let (mut servers, mut config) = three(&topology)?;
        config.service_mut("web")?.on_down = Some(on_down);
        let waxwing = start_all_up(&topology, &config)?;
        let (mut connection, place) = stay(&topology)?;
        servers[place].suffer(Fault::Paused)?;
        wait_web(&waxwing, but(place, "down"))?;
        if on_down == "reset" {
            assert_reset(&mut connection).context("on_down = \"reset\"")?;
        }
        servers[place].recover(Fault::Paused)?;
        wait_web(&waxwing, ["up"; 3])?;
        if on_down == "keep" {
            query::get(&mut connection, "/").context("on_down = \"keep\"")?;
        }
        waxwing.stop()?;
    }
    Ok(())
}

fn datagrams_to_a_down_backend_move_to_another() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let (mut servers, mut config) = three(&topology)?;
    let web = config.service_mut("web")?;
    web.protocol = "udp";
    web.on_down = Some("repick");
    web.health = vec![quick("udp").with("send = '?'\nexpect = 'server='")];
    let waxwing = start_all_up(&topology, &config)?;
    let socket = topology.client.enter(|| query::connect_udp(WEB))??;
    let exchange = || -> Result<usize> {
        socket.send(b"?")?;
        let mut answer = [0; 64];
        let len = socket.recv(&mut answer)?;
        server_of(&String::from_utf8_lossy(&answer[..len]))
    };
    let first = exchange()?;
    ensure!(
        exchange()? == first,
        "datagrams of one socket went to two servers"
    );
    servers[first - 1].suffer(Fault::Paused)?;
    wait_web(&waxwing, but(first - 1, "down"))?;
    let second = exchange().context("on_down = \"repick\"")?;
    ensure!(second != first, "the paused server seems to have answered");
    // The session stays on the second backend when the first recovers.
    servers[first - 1].recover(Fault::Paused)?;
    wait_web(&waxwing, ["up"; 3])?;
    ensure!(exchange()? == second, "the session moved back");
    waxwing.stop().map(drop)
}

fn with_all_down_clients_are_refused_or_ignored() -> Result<()> {
    for (all_down, expected) in [
        ("reject", ErrorKind::ConnectionRefused),
        ("drop", ErrorKind::TimedOut),
    ] {
        let topology = Topology::new(Layout::default())?;
        let (mut servers, mut config) = three(&topology)?;
        config.service_mut("web")?.all_down = Some(all_down);
        let mut datagrams = config.services[0].clone();
        datagrams.name = "datagrams".to_owned();
        datagrams.protocol = "udp";
        let waxwing = Waxwing::start(&topology, &config.with(datagrams))?;
        wait_web(&waxwing, ["up"; 3])?;
        for server in &mut servers {
            server.suffer(Fault::Dropped)?;
        }
        wait_web(&waxwing, ["down"; 3])?;
        waxwing.wait_status("the UDP service to be down too", |status| {
            status.states("datagrams") == ["down"; 3]
        })?;
        let begun = Instant::now();
        let connected = topology.client.enter(|| query::connect(WEB))?;
        let error = connected
            .err()
            .context("connected with all backends down")?;
        ensure!(error.kind() == expected, "{all_down}: {error}");
        if all_down == "reject" {
            let took = begun.elapsed();
            ensure!(took < Duration::from_millis(100), "refused after {took:?}");
            let socket = topology.client.enter(|| query::connect_udp(WEB))??;
            socket.send(b"?")?;
            let error = socket
                .recv(&mut [0; 64])
                .err()
                .context("received an answer with all backends down")?;
            ensure!(error.kind() == expected, "UDP, {all_down}: {error}");
        }
        for server in &mut servers {
            server.recover(Fault::Dropped)?;
        }
        wait_web(&waxwing, ["up"; 3])?;
        assert_served_by(&topology, &["1", "2", "3"])?;
        waxwing.stop()?;
    }
    Ok(())
}

fn a_backup_serves_while_all_main_backends_are_down() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let (mut servers, mut config) = three(&topology)?;
    config.service_mut("web")?.backends[2].backup = true;
    let waxwing = start_all_up(&topology, &config)?;
    assert_served_by(&topology, &["1", "2"])?;
    servers[0].suffer(Fault::Stopped)?;
    wait_web(&waxwing, but(0, "down"))?;
    assert_served_by(&topology, &["2"])?;
    servers[1].suffer(Fault::Stopped)?;
    wait_web(&waxwing, ["down", "down", "up"])?;
    assert_served_by(&topology, &["3"])?;
    servers[1].recover(Fault::Stopped)?;
    wait_web(&waxwing, but(0, "down"))?;
    assert_served_by(&topology, &["2"])?;
    waxwing.stop().map(drop)
}

fn a_recovered_backend_starts_slowly() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let (mut servers, mut config) = three(&topology)?;
    config.service_mut("web")?.slow_start = Some("6s");
    let waxwing = start_all_up(&topology, &config)?;
    servers[0].suffer(Fault::Stopped)?;
    wait_web(&waxwing, but(0, "down"))?;
    servers[0].recover(Fault::Stopped)?;
    wait_web(&waxwing, ["up"; 3])?;
    let mut shares = Vec::new();
    let mut weights = Vec::new();
    for _ in 0..8 {
        shares.push(served(&topology, Duration::from_secs(1))?.share("1"));
        weights.push(waxwing.status()?.health("web", "server-1").weight_percent);
    }
    eprintln!("its shares, second by second: {shares:.2?}; its weights: {weights:?} %");
    ensure!(weights.is_sorted(), "its weight fell: {weights:?}");
    ensure!(
        shares[0] < 0.15,
        "its first share is too high: {shares:.2?}"
    );
    ensure!(
        weights.last() == Some(&100),
        "its last weight is not 100 %: {weights:?}"
    );
    let last = shares.last().context("no shares")?;
    ensure!(
        (last - 1.0 / 3.0).abs() < 0.03,
        "its last share is not a third: {shares:.2?}"
    );
    waxwing.stop().map(drop)
}

/// Without checks, only failures of sessions change a backend's health.
fn failures_of_sessions_eject_a_backend_for_a_time() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let (mut servers, mut config) = three(&topology)?;
    eject_only(config.service_mut("web")?);
    let waxwing = Waxwing::start(&topology, &config)?;
    assert_served_by(&topology, &["1", "2", "3"])?;
    servers[0].suffer(Fault::Rejected)?;
    let load = Load {
        rate: 100,
        ..connections(VIP4, 80, Duration::from_secs(1))
    };
    let tally = actors::load(&topology.client, load)?;
    eprintln!("failures until the ejection: {:?}", tally.failures);
    ensure!(tally.failed() >= 5, "ejected after fewer than 5 failures");
    wait_web(&waxwing, but(0, "ejected"))?;
    assert_served_by(&topology, &["2", "3"])?;
    servers[0].recover(Fault::Rejected)?;
    waxwing.wait_status("the ejected backend to be up", |status| {
        status.health("web", "server-1").state == "up"
    })?;
    assert_served_by(&topology, &["1", "2", "3"])?;

    // Ejecting a second backend would leave fewer than half.
    for server in &mut servers[..2] {
        server.suffer(Fault::Rejected)?;
    }
    actors::load(&topology.client, load)?;
    let status = waxwing.wait_status("one of the two to be ejected", |status| {
        status.states("web").contains(&"ejected")
    })?;
    let states = status.states("web");
    let ejected = states.iter().filter(|state| **state == "ejected").count();
    ensure!(ejected == 1, "not exactly one is ejected: {states:?}");
    waxwing.stop().map(drop)
}

/// A firewall in front of the server answers datagrams by port unreachable, or drops them.
fn an_unreachable_and_a_silent_udp_backend_are_ejected() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let (mut servers, mut config) = three(&topology)?;
    let web = config.service_mut("web")?;
    web.protocol = "udp";
    eject_only(web);
    let waxwing = Waxwing::start(&topology, &config)?;
    let ask_once = || -> Result<Option<usize>> {
        let socket = topology.client.enter(|| query::connect_udp(WEB))??;
        let mut answer = [0; 64];
        let answered = socket.send(b"?").and_then(|_| socket.recv(&mut answer));
        let server = |len| server_of(&String::from_utf8_lossy(&answer[..len]));
        answered.ok().map(server).transpose()
    };
    for (fault, reason) in [
        (
            Fault::Rejected,
            "connections refused, unreachable or not answered",
        ),
        (Fault::Paused, "no reply to"),
    ] {
        for _ in 0..6 {
            ensure!(ask_once()?.is_some(), "a healthy server did not answer");
        }
        servers[0].suffer(fault)?;
        // Each lost question takes the client's patience, half a second.
        let status = waxwing.wait_status("the ejection", |status| {
            let asked = ask_once();
            asked.is_err() || status.states("web")[0] == "ejected"
        })?;
        let shown = status.health("web", "server-1").reason;
        ensure!(shown.contains(reason), "{fault:?}: {shown}");
        // The state comes first, then the workers' snapshot.
        wait_takes_new(&waxwing, [false, true, true])?;
        for _ in 0..6 {
            ensure!(
                ask_once()?.is_some_and(|server| server != 1),
                "{fault:?}: not to the others"
            );
        }
        servers[0].recover(fault)?;
        waxwing.wait_status("its return", |status| status.states("web") == ["up"; 3])?;
    }
    waxwing.stop().map(drop)
}

/// nginx fails only on `/healthz`: the check is broken, not the servers.
fn panic_mode_keeps_a_pool_with_a_broken_check() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let mut servers = (1..=3)
        .map(|number| Server::start(&topology, number, Kind::Nginx))
        .collect::<Result<Vec<_>>>()?;
    let mut service = Service::v4("web", "tcp", (80, Kind::Nginx.port()), 3);
    service.panic_threshold = Some(50);
    let config = waxwing_tests::Config::new(&topology);
    let config = config.with(service.checked(check_of(Kind::Nginx)));
    let waxwing = start_all_up(&topology, &config)?;
    servers[0].suffer(Fault::Failing)?;
    wait_web(&waxwing, but(0, "down"))?;
    assert_served_by(&topology, &["2", "3"])?;
    servers[1].suffer(Fault::Failing)?;
    wait_judged(&waxwing, ["down", "down", "up"])?;
    assert_served_by(&topology, &["1", "2", "3"])?;
    servers[2].suffer(Fault::Failing)?;
    wait_judged(&waxwing, ["down"; 3])?;
    assert_served_by(&topology, &["1", "2", "3"])?;
    waxwing.stop().map(drop)
}
