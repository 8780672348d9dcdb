//! A stop and a start lose no session, whatever the policy; and what they cannot keep is told.

use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use waxwing_tests::actors::{RunningLoad, connections};
use waxwing_tests::echo::{Echo, Pinger};
use waxwing_tests::load::UNTIL_STOPPED;
use waxwing_tests::process::retry;
use waxwing_tests::topology::{CLIENT4, CLIENT6, VIP4};
use waxwing_tests::{Config, Layout, Load, Service, Topology, Waxwing, actors};

use crate::recovery::{Downloads, start_nginx};
use crate::traffic::web;
use crate::{Scenario, scenario};

pub(crate) const SCENARIOS: &[Scenario] = &[
    scenario!(
        connections_go_on_over_stops_and_starts_under_every_kind_of_policy,
        "nginx",
        "curl"
    ),
    scenario!(no_connection_is_lost_under_any_shipped_policy),
    scenario!(what_the_operator_said_goes_on),
    scenario!(a_damaged_state_is_refused_and_read_once),
    scenario!(a_config_without_a_backend_loses_its_sessions_alone),
    scenario!(a_full_disk_ends_no_stop, "mount"),
    scenario!(after_a_stop_the_kernel_has_its_interfaces_back, "tc"),
];

macro_rules! list {
    ($($name:ident :: $policy:ident, $package:literal, $config:literal;)*) => {
        /// Each shipped policy, with a config for backends with the tags 1, 2 and 3.
        const POLICIES: &[(&str, &str)] = &[$((stringify!($name), $config)),*];
    };
}
waxwing_policies::for_each_policy!(list);

/// The connections, and the flows of UDP, to the services of each policy.
const CONNECTIONS: u32 = 4;
const FLOWS: u64 = 2;

/// How long nobody balances between a stop and a start.
const PAUSE: Duration = Duration::from_secs(2);

/// Stops the balancer and starts it again.
pub(crate) fn stop_and_start(waxwing: &mut Waxwing<'_>, pause: Duration) -> Result<()> {
    stop(waxwing)?;
    thread::sleep(pause);
    waxwing.restart().map(drop)
}

pub(crate) fn stop(waxwing: &mut Waxwing<'_>) -> Result<()> {
    waxwing.signal(Signal::SIGTERM)?;
    retry(Duration::from_secs(60), || {
        ensure!(waxwing.has_ended()?, "it did not end");
        Ok(())
    })
}

/// Keeps this many connections to the web service, whose clients send now and then.
pub(crate) fn kept_alive(
    topology: &Topology,
    clients: u32,
    duration: Duration,
) -> Result<RunningLoad> {
    let load = Load {
        clients,
        keep_alive: true,
        rate: 8 * clients,
        timeout: Duration::from_secs(15),
        ..connections(VIP4, 80, duration)
    };
    RunningLoad::start(&topology.client, load)
}

/// Downloads on both families, kept-alive connections and a flow of UDP, over a stop and a start each.
fn connections_go_on_over_stops_and_starts_under_every_kind_of_policy() -> Result<()> {
    for policy in ["round_robin", "least_connections", "random", "maglev"] {
        let topology = Topology::new(Layout::default())?;
        let servers = start_nginx(&topology)?;
        let _echoes = start_echoes(&topology)?;
        let mut config = web(&topology).with(Service::v4("echo", "udp", (7, 7007), 3));
        for service in &mut config.services {
            service.policy = policy.into();
        }
        let mut waxwing = Waxwing::start(&topology, &config)?;
        let mut downloads = Downloads::start(&topology, servers, [CLIENT4, CLIENT6])?;
        let pinger = topology
            .client
            .enter(|| Pinger::new((VIP4, 7).into(), Duration::from_secs(5)))??;
        pinger.send(1)?;
        pinger.wait(1)?;
        let sessions = waxwing.wait_status("the sessions", |status| status.sessions() >= 9)?;
        stop_and_start(&mut waxwing, PAUSE)?;
        waxwing.wait_log("sessions go on")?;
        downloads.are_under_way()?;
        let status = waxwing.status()?;
        ensure!(
            status.sessions() >= sessions.sessions(),
            "{policy}: {sessions} before, {status} after"
        );
        pinger.send(2)?;
        pinger.wait(2)?;
        ensure!(
            waxwing.status()?.sessions() == status.sessions(),
            "{policy}: the flow of UDP has another session"
        );
        downloads.finish()?;
        waxwing.stop()?;
    }
    kept_alive_connections_go_on()
}

fn kept_alive_connections_go_on() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let _servers = actors::http_servers(&topology, 8080)?;
    let mut config = web(&topology);
    config.service_mut("web")?.policy = "round_robin".into();
    let mut waxwing = Waxwing::start(&topology, &config)?;
    let load = kept_alive(&topology, 20, Duration::from_secs(20))?;
    waxwing.wait_status("twenty connections", |status| status.sessions() == 20)?;
    for _ in 0..3 {
        stop_and_start(&mut waxwing, Duration::from_millis(500))?;
    }
    let tally = load.finish()?;
    ensure!(
        tally.failed() == 0 && tally.answers() > 100,
        "{} answers, connections broke: {:?}",
        tally.answers(),
        tally.failures
    );
    let opened = waxwing.status()?.counted("sessions_opened");
    ensure!(opened == 0, "{opened} connections were opened again");
    waxwing.stop().map(drop)
}

/// One balancer with a service over TCP and one over UDP for each shipped policy. Clients go on sending while
/// nobody balances, and each connection answers within the time-out of its clients.
fn no_connection_is_lost_under_any_shipped_policy() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let _servers = actors::http_servers(&topology, 8080)?;
    let _echoes = start_echoes(&topology)?;
    let services = || (9000..).zip(POLICIES.iter().copied());
    let mut config = Config::new(&topology);
    for (port, policy) in services() {
        for (protocol, backend_port) in [("tcp", 8080), ("udp", 7007)] {
            config = config.with(service_of(policy, protocol, (port, backend_port))?);
        }
    }
    let mut waxwing = Waxwing::start(&topology, &config)?;
    let mut loads = Vec::new();
    let mut flows = Vec::new();
    for (port, (policy, _)) in services() {
        let load = Load {
            clients: CONNECTIONS,
            keep_alive: true,
            rate: 2 * CONNECTIONS,
            timeout: Duration::from_secs(15),
            ..connections(VIP4, port, UNTIL_STOPPED)
        };
        loads.push((policy, RunningLoad::start(&topology.client, load)?));
        for _ in 0..FLOWS {
            let flow = topology
                .client
                .enter(|| Pinger::new((VIP4, port).into(), Duration::from_secs(5)))??;
            flow.send(1)?;
            flow.wait(1).context(policy)?;
            flows.push((policy, flow));
        }
    }
    let all = POLICIES.len() as u64 * (u64::from(CONNECTIONS) + FLOWS);
    waxwing.wait_status("the sessions", |status| status.sessions() == all)?;

    stop_and_start(&mut waxwing, PAUSE)?;
    for (policy, flow) in &flows {
        flow.send(2)?;
        flow.wait(2).context(*policy)?;
    }
    for (policy, load) in &mut loads {
        goes_on(load).context(*policy)?;
        load.stop()?;
    }
    for (policy, load) in loads {
        let tally = load.finish()?;
        let failures = &tally.failures;
        ensure!(tally.failed() == 0, "{policy}: they broke: {failures:?}");
    }
    let opened = waxwing.status()?.counted("sessions_opened");
    ensure!(opened == 0, "{opened} connections were opened again");
    waxwing.stop().map(drop)
}

/// A service under a policy with this config. Its backends' tags are 1, 2 and 3.
fn service_of(
    (policy, config): (&str, &str),
    protocol: &'static str,
    ports: (u16, u16),
) -> Result<Service> {
    let mut service = Service::v4(&format!("{policy}-{protocol}"), protocol, ports, 3);
    service.policy = policy.to_owned();
    service.policy_config = serde_json::from_str(config)?;
    for (tag, backend) in (1..).zip(&mut service.backends) {
        backend.tag = tag;
    }
    Ok(service)
}

/// Waits until all connections of a load have answered again.
fn goes_on(load: &mut RunningLoad) -> Result<()> {
    load.take_samples()?;
    let mut answers = 0;
    retry(Duration::from_secs(20), || {
        for sample in load.take_samples()? {
            answers += sample.servers.values().sum::<u64>();
        }
        ensure!(answers >= u64::from(2 * CONNECTIONS), "{answers} answers");
        Ok(())
    })
}

fn start_echoes(topology: &Topology) -> Result<Vec<Echo>> {
    let servers = topology.servers.iter();
    servers.map(|server| Echo::start(server, 7007)).collect()
}

fn what_the_operator_said_goes_on() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let _servers = actors::http_servers(&topology, 8080)?;
    let mut waxwing = Waxwing::start(&topology, &web(&topology))?;
    let said = [
        &["backend", "drain", "web", "10.2.0.11:8080"][..],
        &["backend", "disable", "web", "10.2.0.12:8080"],
        &["backend", "signal", "web", "10.2.0.13:8080", "2=77"],
    ];
    for command in said {
        let asked = waxwing.ask(command)?;
        ensure!(asked.status.success(), "{command:?}: {}", asked.stderr);
    }
    for _ in 0..2 {
        stop_and_start(&mut waxwing, Duration::ZERO)?;
        let status = waxwing.status()?;
        let states = status.states("web");
        ensure!(
            states == ["draining", "disabled", "unchecked"],
            "{states:?}"
        );
        let signals = status.0["services"].to_string();
        ensure!(signals.contains(r#""2":77"#), "{signals}");
    }
    waxwing.stop().map(drop)
}

/// Returns a balancer with ten kept-alive connections.
fn with_connections<'a>(
    topology: &'a Topology,
    config: &Config,
) -> Result<(Waxwing<'a>, RunningLoad)> {
    let waxwing = Waxwing::start(topology, config)?;
    let load = kept_alive(topology, 9, Duration::from_secs(3))?;
    waxwing.wait_status("nine connections", |status| status.sessions() == 9)?;
    Ok((waxwing, load))
}

fn a_damaged_state_is_refused_and_read_once() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let _servers = actors::http_servers(&topology, 8080)?;
    let config = web(&topology);
    let file = config.state.join("sessions.state");
    let (mut waxwing, _load) = with_connections(&topology, &config)?;
    stop(&mut waxwing)?;
    let good = fs::read(&file)?;
    waxwing.restart()?;
    ensure!(waxwing.status()?.sessions() >= 9, "nothing went on");
    ensure!(!file.exists(), "a second start would read it again");

    let mut damaged = good.clone();
    let at = damaged.len() / 2;
    damaged[at] ^= 1;
    let cut = good[..at].to_vec();
    for (bytes, why) in [
        (damaged, "its checksum is wrong"),
        (cut, "its checksum is wrong"),
        (Vec::new(), "it is truncated"),
    ] {
        // What this run keeps is replaced.
        stop(&mut waxwing)?;
        fs::write(&file, bytes)?;
        waxwing.restart()?;
        let log = waxwing.log();
        let said = "no session of an earlier run goes on";
        ensure!(log.contains(why) && log.contains(said), "{why}: {log}");
    }
    waxwing.stop().map(drop)
}

fn a_config_without_a_backend_loses_its_sessions_alone() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let _servers = actors::http_servers(&topology, 8080)?;
    let mut config = web(&topology);
    config.service_mut("web")?.policy = "round_robin".into();
    let (mut waxwing, _load) = with_connections(&topology, &config)?;
    stop(&mut waxwing)?;
    config.service_mut("web")?.backends.remove(1);
    waxwing.write_config(&config.to_toml()?)?;
    waxwing.restart()?;
    waxwing.wait_log(
        "3 sessions of backend 10.2.0.12 port 8080 of service \"web\" do not go on: \
         the config does not have their backend",
    )?;
    waxwing.wait_log("6 sessions go on")?;
    waxwing.stop().map(drop)
}

fn a_full_disk_ends_no_stop() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let _servers = actors::http_servers(&topology, 8080)?;
    let config = web(&topology);
    fs::create_dir_all(&config.state)?;
    // In a mount namespace of its own, the state folder has no room.
    let script = format!(
        "mount -t tmpfs -o size=4k,mode=700 none {0} && head -c 4096 /dev/zero > {0}/full; \
         exec \"$0\" \"$@\"",
        config.state.display()
    );
    let wrapper = ["unshare", "--mount", "sh", "-c", &script];
    let waxwing = Waxwing::start_under(&topology, &config, &wrapper)?;
    let _load = kept_alive(&topology, 9, Duration::from_secs(3))?;
    waxwing.wait_status("nine connections", |status| status.sessions() == 9)?;
    let log = waxwing.stop()?;
    ensure!(
        log.contains("the next start knows none of the 9 sessions")
            && log.contains("No space left"),
        "{log}"
    );
    Ok(())
}

/// With sessions, for ten seconds none of their replies gets past NAT; without, at once.
fn after_a_stop_the_kernel_has_its_interfaces_back() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let _servers = actors::http_servers(&topology, 8080)?;
    let config = web(&topology);
    let filters = || {
        topology
            .balancer
            .run("tc", &["filter", "show", "dev", "back", "ingress"])
    };
    let reaches = || {
        let load = Load {
            clients: 1,
            rate: 1,
            timeout: Duration::from_secs(1),
            ..connections([10, 2, 0, 11].into(), 8080, Duration::from_millis(100))
        };
        actors::load(&topology.client, load).map(|tally| tally.failed() == 0)
    };
    let mut waxwing = Waxwing::start(&topology, &config)?;
    stop(&mut waxwing)?;
    ensure!(filters()?.is_empty() && reaches()?, "without a session");

    waxwing.restart()?;
    let _load = kept_alive(&topology, 9, Duration::from_secs(3))?;
    waxwing.wait_status("nine connections", |status| status.sessions() == 9)?;
    stop(&mut waxwing)?;
    ensure!(
        filters()?.contains("waxwing_guard"),
        "no guard: {}",
        filters()?
    );
    ensure!(!reaches()?, "a server's replies pass");
    retry(Duration::from_secs(20), || {
        ensure!(reaches()?, "the guard does not end");
        Ok(())
    })?;
    waxwing.restart()?;
    // It answers a moment before it removes it.
    retry(Duration::from_secs(20), || {
        let left = filters()?;
        ensure!(left.is_empty(), "left over: {left}");
        Ok(())
    })?;
    waxwing.stop().map(drop)
}
