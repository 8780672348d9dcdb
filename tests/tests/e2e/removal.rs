//! Backends and services that a reload removes: their sessions, their VIPs and their places.

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::socket::{setsockopt, sockopt};
use waxwing_tests::query::PATIENCE;
use waxwing_tests::topology::{CLIENT4, VIP4, VIP6};
use waxwing_tests::{Fault, Kind, Layout, Service, Topology, Waxwing, actors, query};

use crate::consequences::{WEB, ask, assert_reset, server_of, stay};
use crate::health::{three, wait_web};
use crate::traffic::curl;
use crate::{Scenario, scenario};

pub(crate) const SCENARIOS: &[Scenario] = &[
    scenario!(steady_datagrams_leave_a_removed_server),
    scenario!(a_client_that_reuses_its_port_finds_another_server, "nft"),
    scenario!(a_removed_server_obeys_commands_and_frees_its_place),
    scenario!(a_removed_servers_sessions_end_at_the_deadline),
    scenario!(a_removed_vip_is_left_to_its_new_owner, "curl", "ping"),
];

/// Returns the number of the server that answers a datagram.
fn exchange(socket: &UdpSocket) -> Result<usize> {
    socket.send(b"?")?;
    let mut answer = [0; 64];
    let len = socket.recv(&mut answer)?;
    server_of(&String::from_utf8_lossy(&answer[..len]))
}

/// A flow of datagrams has no end that anyone could wait for.
fn steady_datagrams_leave_a_removed_server() -> Result<()> {
    for drain_timeout in [None, Some("1s")] {
        let topology = Topology::new(Layout::default())?;
        let (_servers, mut config) = three(&topology)?;
        let web = config.service_mut("web")?;
        web.protocol = "udp";
        web.health.clear();
        web.drain_timeout = drain_timeout;
        let waxwing = Waxwing::start(&topology, &config)?;
        let socket = topology.client.enter(|| query::connect_udp(WEB))??;
        let first = exchange(&socket)?;
        config.service_mut("web")?.backends.remove(first - 1);
        waxwing.reload(&config)?;
        if drain_timeout.is_none() {
            ensure!(exchange(&socket)? != first, "it stayed without a deadline");
        }
        waxwing.wait_status("the flow to leave the removed server", |status| {
            exchange(&socket).is_ok_and(|server| server != first) && status.sessions() == 1
        })?;
        waxwing.stop()?;
    }
    Ok(())
}

/// Closes a connection by RST, so that the client's kernel forgets it at once.
fn abort(connection: &std::net::TcpStream) -> Result<()> {
    let linger = nix::libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    Ok(setsockopt(&connection.as_fd(), sockopt::Linger, &linger)?)
}

/// The removed server answers nothing any more.
fn a_client_that_reuses_its_port_finds_another_server() -> Result<()> {
    const PORT: u16 = 50_123;
    let topology = Topology::new(Layout::default())?;
    let (mut servers, mut config) = three(&topology)?;
    config.service_mut("web")?.health.clear();
    let waxwing = Waxwing::start(&topology, &config)?;
    let from = || topology.client.enter(|| query::connect_from(PORT, WEB));
    let mut connection = from()??;
    let answer = query::get(&mut connection, "/")?;
    let place = server_of(&answer)? - 1;
    config.service_mut("web")?.backends.remove(place);
    waxwing.reload(&config)?;
    query::get(&mut connection, "/").context("its sessions stay")?;
    servers[place].suffer(Fault::Dropped)?;
    abort(&connection)?;
    drop(connection);
    let deadline = Instant::now() + 10 * PATIENCE;
    let mut connection = loop {
        match from()? {
            // A process that is just being started has a copy of the old socket for a moment.
            Err(error) if error.kind() == ErrorKind::AddrNotAvailable => {
                ensure!(Instant::now() < deadline, "the old socket stays: {error}");
            }
            connected => break connected.context("from the same port")?,
        }
    };
    let again = query::get(&mut connection, "/")?;
    ensure!(again != answer, "the removed server answered: {again}");
    waxwing.stop().map(drop)
}

fn a_removed_server_obeys_commands_and_frees_its_place() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let (_servers, mut config) = three(&topology)?;
    config.backends_max = Some(2);
    let web = config.service_mut("web")?;
    web.on_down = Some("reset");
    web.health.clear();
    let third = web.backends.remove(2);
    let waxwing = Waxwing::start(&topology, &config)?;
    let (mut connection, place) = stay(&topology)?;
    let name = format!("server-{}", place + 1);
    config.service_mut("web")?.backends.remove(place);
    waxwing.reload(&config)?;
    query::get(&mut connection, "/").context("its sessions stay")?;

    let status = waxwing.status()?;
    let [entry] = &status.0["retired"].as_array().context("a list")?[..] else {
        anyhow::bail!("not one removed backend: {status}");
    };
    ensure!(
        entry["removed_from"] == "web" && entry["name"] == *name,
        "not the removed one: {entry}"
    );
    let sessions = waxwing
        .ask(&["session", "list", "--service", "web"])?
        .stdout;
    ensure!(
        sessions.contains(&CLIENT4.to_string()),
        "the session is not listed: {sessions}"
    );
    let text = waxwing.ask(&["status"])?.stdout;
    ensure!(text.contains("removed from web"), "{text}");

    ask(&waxwing, &["backend", "drain", "web", &name])?;
    query::get(&mut connection, "/").context("while it drains")?;
    ask(&waxwing, &["backend", "disable", "web", &name])?;
    assert_reset(&mut connection)?;
    waxwing.wait_status("the removed backend to be gone", |status| {
        status.0["retired"].as_array().is_some_and(Vec::is_empty)
    })?;
    let unknown = waxwing.ask(&["backend", "drain", "web", &name])?;
    ensure!(!unknown.status.success(), "it is still there");

    // Its place is free.
    config.service_mut("web")?.backends.push(third);
    waxwing.reload(&config)?;
    waxwing.stop().map(drop)
}

fn a_removed_servers_sessions_end_at_the_deadline() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let (_servers, mut config) = three(&topology)?;
    config.service_mut("web")?.drain_timeout = Some("2s");
    let waxwing = Waxwing::start(&topology, &config)?;
    wait_web(&waxwing, ["up"; 3])?;
    let (mut connection, place) = stay(&topology)?;
    let (_idle, idle_place) = stay(&topology)?;
    let backends = &mut config.service_mut("web")?.backends;
    let mut number = 0;
    backends.retain(|_| {
        number += 1;
        number != place + 1 && number != idle_place + 1
    });
    waxwing.reload(&config)?;
    query::get(&mut connection, "/").context("before the deadline")?;
    // Its client asks on until it is told.
    while query::get(&mut connection, "/").is_ok() {
        std::thread::sleep(Duration::from_millis(20));
    }
    ensure!(
        waxwing.status()?.counted("sessions_reset") == 1,
        "it was not reset"
    );
    waxwing.wait_status("the idle session to end too", |status| {
        status.sessions() == 0 && status.0["retired"].as_array().is_some_and(Vec::is_empty)
    })?;
    waxwing.stop().map(drop)
}

/// The balancer's own kernel is the new owner. The old session's packets still come by the client's entry for
/// the balancer.
fn a_removed_vip_is_left_to_its_new_owner() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let (_servers, mut config) = three(&topology)?;
    config.service_mut("web")?.health.clear();
    let other = Service {
        vip: VIP6,
        ..Service::v6("other", "tcp", (80, Kind::Moody.port()), 3)
    };
    let waxwing = Waxwing::start(&topology, &config.clone().with(other.clone()))?;
    let (mut connection, _) = stay(&topology)?;
    config.services = vec![other];
    waxwing.reload(&config)?;

    let vip = VIP4.to_string();
    let answers = || {
        let ping = topology
            .client
            .run("ping", &["-n", "-c", "1", "-W", "1", &vip]);
        ping.is_ok()
    };
    ensure!(!answers(), "the removed VIP answers ping");
    query::get(&mut connection, "/").context("its session goes on")?;

    topology
        .balancer
        .ip(&format!("addr add {vip}/32 dev front\n"))?;
    let _owner = actors::http_server(&topology.balancer, 80, "owner")?;
    topology.client.ip("neigh flush dev eth0\n")?;
    ensure!(answers(), "its new owner does not answer ping");
    let answer = curl(&topology.client, &format!("http://{vip}/"))?;
    ensure!(answer == "server=owner\n", "not the new owner: {answer}");
    query::get(&mut connection, "/").context("beside the new owner")?;
    waxwing.stop().map(drop)
}
