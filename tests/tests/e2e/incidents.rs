//! The incidents of `docs/incidents.md`: the command there names the cause, within a minute.
//!
//! Invariant: command and words are read from the document, so that it cannot say otherwise.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use waxwing_packet::{Link, Mac, Protocol, TcpFlags};
use waxwing_testkit::build::Tcp;
use waxwing_tests::actors::{self, RunningLoad, connections};
use waxwing_tests::inject::Wire;
use waxwing_tests::load::UNTIL_STOPPED;
use waxwing_tests::moody_server::Mood;
use waxwing_tests::process::retry;
use waxwing_tests::topology::{VIP4, server4};
use waxwing_tests::wat::Wat;
use waxwing_tests::waxwing::Copy;
use waxwing_tests::{Config, Layout, Load, Server, Service, Status, Topology, Waxwing, query};

use crate::consequences::WEB;
use crate::floods;
use crate::health::quick;
use crate::traffic::{assert_served, web};
use crate::{Scenario, scenario};

pub(crate) const SCENARIOS: &[Scenario] = &[
    scenario!(a_backend_hangs),
    scenario!(a_backend_is_slow),
    scenario!(a_backend_refuses),
    scenario!(a_syn_flood, "nginx"),
    scenario!(everything_goes_to_one_backend),
    scenario!(a_backend_answers_no_arp),
    scenario!(a_router_has_a_stale_mac),
    scenario!(the_session_table_is_full),
    scenario!(large_packets_are_lost, "nginx", "curl", "nft"),
    scenario!(a_module_is_refused),
    scenario!(a_servers_gateway_is_wrong),
    scenario!(offloads_are_on),
    scenario!(a_sound_balancer_names_none),
    scenario!(every_incident_has_a_scenario),
];

/// The time in which the command names the cause.
const MINUTE: Duration = Duration::from_secs(60);

fn document() -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/incidents.md");
    fs::read_to_string(&path).with_context(|| path.display().to_string())
}

/// The command and the words of an incident, by its title.
fn entry(title: &str) -> Result<(Vec<String>, String)> {
    let document = document()?;
    let heading = format!("\n## {title}\n");
    let (_, section) = document.split_once(&heading).context(heading)?;
    let section = section.split_once("\n## ").map_or(section, |(it, _)| it);
    let command = section
        .lines()
        .find_map(|line| line.strip_prefix("waxwing "));
    let words = section
        .split_once("Look for `")
        .and_then(|(_, it)| it.split_once('`'));
    let command = command.context("no command")?.split(' ').map(str::to_owned);
    Ok((command.collect(), words.context("no words")?.0.to_owned()))
}

/// What the incident's command says, and whether its words are there.
fn said(waxwing: &Waxwing<'_>, title: &str) -> Result<(String, bool)> {
    let (command, words) = entry(title)?;
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    let said = waxwing.ask(&command)?;
    let said = format!("{command:?}\n{}{}", said.stdout, said.stderr);
    // A table breaks its lines.
    let flat = said.split_whitespace().collect::<Vec<_>>().join(" ");
    let is_named = flat.contains(&words);
    Ok((said, is_named))
}

/// Asserts that the incident's command names its cause.
fn assert_named(waxwing: &Waxwing<'_>, title: &str) -> Result<()> {
    retry(MINUTE, || {
        let (said, is_named) = said(waxwing, title)?;
        ensure!(is_named, "{title}: not named by {said}");
        Ok(())
    })
}

fn a_sound_balancer_names_none() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let _servers = actors::http_servers(&topology, 8080)?;
    let waxwing = Waxwing::start(&topology, &web(&topology))?;
    let mut load = under_load(&topology, Duration::from_secs(5))?;
    waxwing.wait_status("some sessions", |it| it.counted("sessions_opened") > 200)?;
    for title in document()?
        .lines()
        .filter_map(|line| line.strip_prefix("## "))
    {
        let (said, is_named) = said(&waxwing, title)?;
        // A sound backend's first byte is shown, too.
        let is_shown = title == "A backend is slow";
        ensure!(!is_named || is_shown, "{title}: named by {said}");
    }
    load.stop()?;
    waxwing.stop().map(drop)
}

/// Three servers, of which the second one has a mood, behind a service without checks.
fn moody(mood: &Mood, title: &str) -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let _others = [0, 2].map(|at| actors::http_server(&topology.servers[at], 8080, "other"));
    let server = Server::moody(&topology, 2, 8080..=8080)?;
    server.set_mood(mood)?;
    let waxwing = Waxwing::start(&topology, &web(&topology))?;
    let mut load = under_load(&topology, Duration::from_secs(3))?;
    assert_named(&waxwing, title)?;
    if *mood == Mood::Late {
        let is_late = |status: &Status, at: usize| {
            status.0["services"][0]["backends"][at]["first_byte_us"].as_u64() >= Some(900_000)
        };
        waxwing.wait_status("the slow one's first byte", |status| {
            is_late(status, 1) && !is_late(status, 0) && !is_late(status, 2)
        })?;
    }
    load.stop()?;
    waxwing.stop().map(drop)
}

/// A few connections a second, each with a request.
fn under_load(topology: &Topology, timeout: Duration) -> Result<RunningLoad> {
    let load = Load {
        rate: 30,
        clients: 60,
        timeout,
        ..connections(VIP4, 80, UNTIL_STOPPED)
    };
    RunningLoad::start(&topology.client, load)
}

fn a_backend_hangs() -> Result<()> {
    moody(&Mood::Hanging, "A backend hangs")
}

fn a_backend_is_slow() -> Result<()> {
    moody(&Mood::Late, "A backend is slow")
}

fn a_backend_refuses() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let _others = [0, 2].map(|at| actors::http_server(&topology.servers[at], 8080, "other"));
    let waxwing = Waxwing::start(&topology, &web(&topology))?;
    let mut load = under_load(&topology, Duration::from_secs(3))?;
    assert_named(&waxwing, "A backend refuses")?;
    load.stop()?;
    waxwing.stop().map(drop)
}

/// Sends SYNs of many clients while `run` runs.
fn with_strangers(topology: &Topology, run: impl FnOnce() -> Result<()>) -> Result<()> {
    let wire = topology.client.enter(|| Wire::open("eth0"))??;
    let link = Link {
        source: Mac(topology.client.mac("eth0")?),
        destination: Mac(topology.balancer.mac("front")?),
    };
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let sending = scope.spawn(|| {
            for n in 0.. {
                if is_over.load(Ordering::Relaxed) {
                    break;
                }
                let segment = Tcp {
                    link,
                    source: (floods::stranger(n).into(), 5000),
                    destination: (VIP4.into(), WEB.port()),
                    flags: TcpFlags(TcpFlags::SYN),
                    ..Tcp::default()
                };
                wire.send(&segment.frame_of(Protocol::Tcp))?;
                if n % 10 == 9 {
                    thread::sleep(Duration::from_millis(5));
                }
            }
            Ok(())
        });
        let outcome = run();
        is_over.store(true, Ordering::Relaxed);
        let sent: Result<()> = sending.join().map_err(|_| anyhow!("sending panicked"))?;
        outcome.and(sent)
    })
}

fn a_syn_flood() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    // The servers answer the strangers' SYNs, and these never the servers.
    let _servers = actors::http_servers(&topology, 8080)?;
    topology.client.sysctl(&["net.ipv4.ip_forward=0"])?;
    let mut config = web(&topology);
    config.sessions_max = 1000;
    let waxwing = Waxwing::start(&topology, &config)?;
    with_strangers(&topology, || assert_named(&waxwing, "A SYN flood"))?;
    waxwing.stop().map(drop)
}

fn everything_goes_to_one_backend() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let _servers = actors::http_servers(&topology, 8080)?;
    let mut config = web(&topology);
    config.canary.time = "0s";
    config.service_mut("web")?.policy = "favourite-of-tests".to_owned();
    fs::create_dir_all(&config.modules)?;
    let first = "(i32.store (i32.const 0x4000) (i32.const 0)) (local.get 1)";
    let module = Wat::picking(first).bytes();
    fs::write(config.modules.join("favourite-of-tests.wasm"), module)?;
    let waxwing = Waxwing::start(&topology, &config)?;
    with_strangers(&topology, || {
        assert_named(&waxwing, "Everything goes to one backend")
    })?;
    waxwing.stop().map(drop)
}

fn a_backend_answers_no_arp() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let _servers = actors::http_servers(&topology, 8080)?;
    topology.switch.ip("link set server2 down\n")?;
    let waxwing = Waxwing::start(&topology, &web(&topology))?;
    assert_named(&waxwing, "A backend's neighbour is unresolved")?;
    waxwing.stop().map(drop)
}

fn a_router_has_a_stale_mac() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let _servers = actors::http_servers(&topology, 8080)?;
    let waxwing = Waxwing::start(&topology, &web(&topology))?;
    assert_served(&topology, VIP4)?;
    let stale = format!("neigh replace {VIP4} lladdr 02:00:00:00:00:99 dev eth0 nud permanent\n");
    topology.client.ip(&stale)?;
    let mut load = under_load(&topology, Duration::from_secs(3))?;
    assert_named(&waxwing, "A router has a stale MAC address")?;
    load.stop()?;
    waxwing.stop().map(drop)
}

fn the_session_table_is_full() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let _servers = actors::http_servers(&topology, 8080)?;
    let mut config = web(&topology);
    config.sessions_max = 30;
    let waxwing = Waxwing::start(&topology, &config)?;
    let mut held = Vec::new();
    for _ in 0..30 {
        let mut connection = topology.client.enter(|| query::connect(WEB))??;
        query::get(&mut connection, "/")?;
        held.push(connection);
    }
    let mut load = under_load(&topology, Duration::from_secs(1))?;
    assert_named(&waxwing, "The session table is full")?;
    load.stop()?;
    waxwing.stop().map(drop)
}

/// A link behind the client's router takes no packets of more than 1,400 bytes, and says nothing.
fn large_packets_are_lost() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let _servers = actors::nginx_servers(&topology, 8080, 100_000)?;
    let waxwing = Waxwing::start(&topology, &web(&topology))?;
    let rules = "add table netdev link; \
                 add chain netdev link in { type filter hook ingress device eth0 priority 0; }; \
                 add rule netdev link in ip length > 1400 drop";
    topology.client.run("nft", &[rules])?;
    let url = format!("http://{VIP4}/data");
    let _fetches = (0..3)
        .map(|_| {
            topology
                .client
                .spawn("curl", &["-sS", "--max-time", "60", &url])
        })
        .collect::<Result<Vec<_>>>()?;
    assert_named(&waxwing, "Large packets are lost")?;
    waxwing.stop().map(drop)
}

fn a_module_is_refused() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let _servers = actors::http_servers(&topology, 8080)?;
    let mut config = web(&topology);
    config.service_mut("web")?.policy = "mine".to_owned();
    fs::create_dir_all(&config.modules)?;
    fs::write(config.modules.join("mine.wasm"), Wat::GOOD.bytes())?;
    let waxwing = Waxwing::start(&topology, &config)?;
    waxwing.drop_in("mine.wasm", b"half a fi", Copy::Atomic)?;
    assert_named(&waxwing, "A module is refused")?;
    waxwing.stop().map(drop)
}

/// The checks come from the balancer's own address, which is the server's neighbour.
fn a_servers_gateway_is_wrong() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let _servers = actors::http_servers(&topology, 8080)?;
    let nowhere = "route replace default via 10.2.0.250\n";
    topology.servers[1].ip(nowhere)?;
    let mut config: Config = web(&topology);
    let service: &mut Service = config.service_mut("web")?;
    *service = service.clone().checked(quick("tcp"));
    let waxwing = Waxwing::start(&topology, &config)?;
    let mut load = under_load(&topology, Duration::from_secs(3))?;
    assert_named(&waxwing, "A server's gateway is wrong")?;
    load.stop()?;
    let said = waxwing.status()?.0["problems"].to_string();
    ensure!(said.contains(&server4(2).to_string()), "{said}");
    waxwing.stop().map(drop)
}

fn offloads_are_on() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let _servers = actors::http_servers(&topology, 8080)?;
    let waxwing = Waxwing::start(&topology, &web(&topology))?;
    topology
        .client
        .run("ethtool", &["-K", "eth0", "tx", "on"])?;
    let mut load = under_load(&topology, Duration::from_secs(3))?;
    assert_named(&waxwing, "Offloads are on")?;
    load.stop()?;
    waxwing.stop().map(drop)
}

fn every_incident_has_a_scenario() -> Result<()> {
    let document = document()?;
    let source = include_str!("incidents.rs");
    for title in document.lines().filter_map(|line| line.strip_prefix("## ")) {
        ensure!(source.contains(&format!("\"{title}\"")), "{title}");
        entry(title).with_context(|| title.to_owned())?;
    }
    Ok(())
}
