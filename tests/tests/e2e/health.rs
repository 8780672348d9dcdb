//! Health checks against real servers with injected faults: which fault is detected, and how soon.

use std::fs;
use std::ops::RangeInclusive;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use waxwing_tests::actors::{RunningLoad, connections};
use waxwing_tests::config::Ejection;
use waxwing_tests::load::{Failure, UNTIL_STOPPED};
use waxwing_tests::query::DNS_NAME;
use waxwing_tests::topology::{VIP4, server4, server6};
use waxwing_tests::{
    Backend, Config, Fault, HealthCheck, Kind, Layout, Load, Server, Service, Status, Topology,
    Waxwing, process,
};

use crate::{Scenario, scenario};

pub(crate) const SCENARIOS: &[Scenario] = &[
    scenario!(
        every_fault_is_detected_in_time_with_its_reason,
        "nginx",
        "openssl",
        "redis-server",
        "dnsmasq",
        "pg_ctlcluster",
        "mariadbd",
        "nft"
    )
    .alone(),
    scenario!(a_killed_server_fails_only_what_was_open_to_it).alone(),
    scenario!(two_thousand_backends_are_checked_on_time, "taskset").alone(),
];

/// Short, so that a scenario takes seconds. A check ends before the next one is due.
const INTERVAL: Duration = Duration::from_millis(300);
const TIMEOUT: Duration = Duration::from_millis(200);
const FALL: u32 = 3;
const RISE: u32 = 2;

/// Tolerance above the schedule: reading the status starts a process, on a machine that runs seven servers
/// and an unoptimised balancer; and servers fail one after another, but are observed after the last.
const SLACK: Duration = Duration::from_millis(500);

/// Returns a check with the times above.
pub(crate) fn quick(check: &str) -> HealthCheck {
    HealthCheck {
        interval: Some("300ms"),
        fast_interval: Some("300ms"),
        timeout: Some("200ms"),
        rise: Some(RISE),
        fall: Some(FALL),
        jitter: Some(0),
        ..HealthCheck::new(check)
    }
}

/// Returns the shipped check for a kind of server.
pub(crate) fn check_of(kind: Kind) -> HealthCheck {
    match kind {
        Kind::Nginx | Kind::Moody => quick("http").with("path = '/healthz'"),
        Kind::Redis => quick("redis"),
        Kind::Dnsmasq => quick("dns").with(&format!("name = '{DNS_NAME}'")),
        Kind::Postgres => quick("postgres"),
        Kind::Mariadb => quick("mysql"),
    }
}

/// The longest time from a fault to its detection.
pub(crate) const FOUND: Duration = INTERVAL.saturating_mul(FALL).saturating_add(TIMEOUT);
/// The longest time from a recovery to its detection.
pub(crate) const RECOVERED: Duration = INTERVAL.saturating_mul(RISE).saturating_add(TIMEOUT);

/// A kind of server, and the time of its fault or recovery.
type Moment = (Kind, Instant);

/// Returns the names of the services of a kind of server, IPv4 and IPv6.
fn services_of(kind: Kind) -> [String; 2] {
    [kind.name().to_owned(), format!("{}6", kind.name())]
}

/// Waits until the services of these kinds have a state, each within a bound after its moment.
fn wait_states(
    waxwing: &Waxwing<'_>,
    state: &str,
    bound: Duration,
    moments: &[Moment],
) -> Result<Status> {
    let waiting = |(kind, moment): &Moment| services_of(*kind).map(|service| (service, *moment));
    let mut waiting: Vec<_> = moments.iter().flat_map(waiting).collect();
    loop {
        let status = waxwing.status()?;
        let now = Instant::now();
        waiting.retain(|(service, _)| status.health(service, 0).state != state);
        if waiting.is_empty() {
            return Ok(status);
        }
        for (service, moment) in &waiting {
            let (took, health) = (now - *moment, status.health(service, 0));
            ensure!(
                took < bound + SLACK,
                "{service} is not {state} after {took:?}, the bound is {bound:?}: {health:#?}"
            );
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// Returns a part of the reason that a check gives for a fault.
fn word(fault: Fault) -> &'static str {
    match fault {
        Fault::Stopped | Fault::Killed | Fault::Rejected => "refused",
        Fault::Failing => "500",
        Fault::Paused | Fault::Dropped | Fault::Late | Fault::Hanging => "no answer",
    }
}

/// Starts a server of each kind, each behind its own services.
fn one_of_each(topology: &Topology) -> Result<(Vec<Server<'_>>, Config)> {
    let mut config = Config::new(topology);
    let mut servers = Vec::new();
    for (number, kind) in (1..=3).cycle().zip(Kind::ALL) {
        servers.push(Server::start(topology, number, kind)?);
        let [name, name6] = services_of(kind);
        let ports = (kind.port(), kind.port());
        let mut service = Service::v4(&name, kind.protocol(), ports, 1);
        service.backends[0].address = server4(number);
        let mut service6 = Service::v6(&name6, kind.protocol(), ports, 1);
        service6.backends[0].address = server6(number);
        for service in [service, service6] {
            config = config.with(service.checked(check_of(kind)));
        }
    }
    Ok((servers, config))
}

/// Applies `act` to each server that can have the fault, and returns the times.
fn to_each(
    servers: &mut [Server<'_>],
    fault: Fault,
    act: impl Fn(&mut Server<'_>) -> Result<()>,
) -> Result<Vec<Moment>> {
    let affected = servers.iter_mut().filter(|s| fault.applies_to(s.kind()));
    affected
        .map(|server| {
            act(server)?;
            Ok((server.kind(), Instant::now()))
        })
        .collect()
}

/// Each fault is injected into all servers at once.
fn every_fault_is_detected_in_time_with_its_reason() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let (mut servers, config) = one_of_each(&topology)?;
    let waxwing = Waxwing::start(&topology, &config)?;
    let started = Kind::ALL.map(|kind| (kind, Instant::now()));
    wait_states(&waxwing, "up", Duration::from_secs(5), &started)?;
    for fault in Fault::ALL {
        let moments = to_each(&mut servers, fault, |server| server.suffer(fault))?;
        let begun = Instant::now();
        let status = wait_states(&waxwing, "down", FOUND, &moments)?;
        let found = begun.elapsed();
        for kind in Kind::ALL {
            for service in services_of(kind) {
                let health = status.health(&service, 0);
                // Servers that cannot have the fault stay up.
                let (state, word) = match fault.applies_to(kind) {
                    true => ("down", word(fault)),
                    false => ("up", ""),
                };
                let is_so = health.state == state && health.reason.contains(word);
                ensure!(is_so, "{service}, {fault:?}: {health:#?}");
            }
        }
        let moments = to_each(&mut servers, fault, |server| server.recover(fault))?;
        let begun = Instant::now();
        wait_states(&waxwing, "up", RECOVERED, &moments)?;
        let recovered = begun.elapsed();
        eprintln!("{fault:?}: all detected after {found:?}, all up again after {recovered:?}");
    }
    let history = waxwing.status()?.health("redis", 0).history;
    ensure!(
        history.iter().any(|change| change.state == "down"),
        "the history has no change: {history:#?}"
    );
    waxwing.stop().map(drop)
}

/// Starts three of our servers behind the service `web`, with checks.
pub(crate) fn three<'a>(topology: &'a Topology) -> Result<(Vec<Server<'a>>, Config)> {
    let servers = (1..=3).map(|number| Server::start(topology, number, Kind::Moody));
    let servers = servers.collect::<Result<_>>()?;
    let mut service = Service::v4("web", "tcp", (80, Kind::Moody.port()), 3);
    for (number, backend) in (1..).zip(&mut service.backends) {
        backend.name = Some(format!("server-{number}"));
    }
    let config = Config::new(topology).with(service.checked(check_of(Kind::Moody)));
    Ok((servers, config))
}

/// Removes checks from a service: five failed client connections eject a backend, for three seconds at
/// first.
pub(crate) fn eject_only(service: &mut Service) {
    service.health.clear();
    service.ejection = Some(Ejection {
        failures: 5,
        window: "10s",
        time: "3s",
        time_max: "60s",
        min_healthy: 50,
    });
}

/// Waits for states only: below the panic threshold the workers use all backends.
pub(crate) fn wait_judged(waxwing: &Waxwing<'_>, states: [&str; 3]) -> Result<Status> {
    let what = format!("`web` to be judged {states:?}");
    waxwing.wait_status(&what, |status| status.states("web") == states)
}

/// Waits for states, and until the workers apply them.
pub(crate) fn wait_web(waxwing: &Waxwing<'_>, states: [&str; 3]) -> Result<Status> {
    let what = format!("`web` to be {states:?}, and the workers to apply it");
    waxwing.wait_status(&what, |status| {
        let healthy = status.healthy("web");
        let known = states
            .iter()
            .zip(&healthy)
            .all(|(state, healthy)| match *state {
                "down" | "ejected" | "disabled" => !healthy,
                "up" | "draining" => *healthy,
                _ => true,
            });
        status.states("web") == states && known
    })
}

/// Starts the balancer, and waits until all three backends of `web` are up.
pub(crate) fn start_all_up<'a>(topology: &'a Topology, config: &Config) -> Result<Waxwing<'a>> {
    let waxwing = Waxwing::start(topology, config)?;
    wait_web(&waxwing, ["up"; 3])?;
    Ok(waxwing)
}

/// Waits until the workers give new sessions of `web` to these backends only.
pub(crate) fn wait_takes_new(waxwing: &Waxwing<'_>, backends: [bool; 3]) -> Result<Status> {
    let what = format!("`web` to take new sessions on {backends:?}");
    waxwing.wait_status(&what, |status| status.takes_new("web") == backends)
}

fn a_killed_server_fails_only_what_was_open_to_it() -> Result<()> {
    const RATE: u32 = 200;
    let topology = Topology::new(Layout::default())?;
    let (mut servers, mut config) = three(&topology)?;
    // Until detection, the killed server refuses new connections, which are retried on another backend.
    config.service_mut("web")?.on_refused = Some("retry");
    let waxwing = start_all_up(&topology, &config)?;
    let load = Load {
        rate: RATE,
        // A repeated SYN takes one second, the next three.
        timeout: Duration::from_secs(15),
        ..connections(VIP4, 80, UNTIL_STOPPED)
    };
    let mut running = RunningLoad::start(&topology.client, load)?;
    thread::sleep(Duration::from_secs(2));
    let failed = |running: &mut RunningLoad| -> Result<u64> {
        let samples = running.take_samples()?;
        Ok(samples.iter().flat_map(|s| s.failures.values()).sum())
    };
    ensure!(
        failed(&mut running)? == 0,
        "requests failed before the kill"
    );

    servers[0].suffer(Fault::Killed)?;
    let killed = Instant::now();
    wait_web(&waxwing, ["down", "up", "up"])?;
    let found = killed.elapsed();
    ensure!(found < FOUND + SLACK, "detected only after {found:?}");
    // Requests in flight end, and their sample is written.
    thread::sleep(load.interval * 2);
    let before = failed(&mut running)?;
    thread::sleep(Duration::from_secs(5));
    let after = failed(&mut running)?;
    running.stop()?;
    let tally = running.finish()?;
    let retried = waxwing.status()?.dropped("refused_retried");
    eprintln!(
        "detected after {found:?}: {before} requests failed, then {after}; {retried} refused \
         connections were retried on another backend"
    );
    ensure!(after == 0, "{after} requests failed after the detection");
    ensure!(retried > 0, "no refused connection was retried");
    // A request takes about a millisecond: of 200 per second few are in flight at once.
    ensure!(
        tally.failed() <= 5 && !tally.failures.contains_key(&Failure::Refused),
        "more requests failed than were in flight: {:?}",
        tally.failures
    );

    servers[0].recover(Fault::Killed)?;
    wait_web(&waxwing, ["up"; 3])?;
    waxwing.stop().map(drop)
}

/// Returns the processor time of a process (proc(5): `utime` and `stime`, in hundredths of a second).
fn cpu_time(pid: u64) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = stat.rsplit_once(')').context("no name in /proc/PID/stat")?;
    let ticks = fields.split_whitespace().skip(11).take(2);
    let ticks: u64 = ticks.filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(Duration::from_millis(ticks * 10))
}

/// Times are printed, not asserted: the build is not optimised.
fn two_thousand_backends_are_checked_on_time() -> Result<()> {
    const PORTS: RangeInclusive<u16> = 10_000..=10_499;
    const SECONDS: u64 = 10;
    let topology = Topology::new(Layout::with_servers(4))?;
    let mut servers = Vec::new();
    let mut service = Service::v4("web", "tcp", (80, 0), 0);
    for number in 1..=4 {
        servers.push(Server::moody(&topology, number, PORTS)?);
        let backends = PORTS.map(|port| Backend::new(server4(number), port));
        service.backends.extend(backends);
    }
    let check = HealthCheck {
        interval: Some("2s"),
        timeout: Some("1s"),
        ..HealthCheck::new("http").with("path = '/healthz'")
    };
    let config = Config::new(&topology).with(service.checked(check));
    let waxwing = Waxwing::start(&topology, &config)?;
    let is_up = |status: &Status| status.states("web").iter().all(|state| *state == "up");
    let before = waxwing.wait_status("all to be up", is_up)?;
    let pid = before.0["pid"].as_u64().context("no pid in the status")?;
    let mut pin = Command::new("taskset");
    process::run(pin.args(["-a", "-c", "-p", "0", &pid.to_string()]))?;
    let (before, used) = (waxwing.status()?, cpu_time(pid)?);
    thread::sleep(Duration::from_secs(SECONDS));
    let (after, used) = (waxwing.status()?, cpu_time(pid)?.saturating_sub(used));
    ensure!(is_up(&after), "a backend went down");
    let (before, after) = (before.punctuality(), after.punctuality());
    let checks = after.runs.saturating_sub(before.runs);
    let expected = 2000 * SECONDS / 2;
    eprintln!(
        "{checks} checks in {SECONDS} s, {expected} due: late by {} ms (p99), {} ms (most); \
         {:.0} % of one processor",
        after.late_p99_ms,
        after.late_max_ms,
        used.as_secs_f64() / SECONDS as f64 * 100.0
    );
    ensure!(checks > 0, "no check was counted");
    let lines = waxwing.stop()?.lines().count();
    ensure!(lines < 200, "the log has {lines} lines for 2,000 backends");
    Ok(())
}
