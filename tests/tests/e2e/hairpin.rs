//! Source NAT: clients in the servers' network, servers that are clients of their own VIP, and servers with
//! another gateway; and services on several ports.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use waxwing_tests::config::SourceNat;
use waxwing_tests::process::retry;
use waxwing_tests::query::{self, connect, get};
use waxwing_tests::topology::{CLIENT4, VIP4, VIP6};
use waxwing_tests::{
    Backend, Config, Kind, Layout, Load, Namespace, Server, Service, Topology, Waxwing, actors,
};

use crate::traffic::{assert_download, curl, host, web, who_answers};
use crate::{Scenario, scenario};

pub(crate) const SCENARIOS: &[Scenario] = &[
    scenario!(a_server_meets_itself_at_its_own_vip, "nginx", "curl"),
    scenario!(a_client_in_the_servers_network_is_served, "nginx", "curl"),
    scenario!(servers_with_another_gateway_are_served, "nginx", "curl"),
    scenario!(a_small_pool_holds_as_many_connections_as_ports),
    scenario!(short_connections_share_a_small_pool),
    scenario!(
        all_ports_lead_to_the_servers_own,
        "nginx",
        "redis-server",
        "dnsmasq",
        "curl"
    ),
];

/// Addresses for source NAT, in the servers' network.
const SOURCES: [&str; 2] = ["10.2.0.9", "fd00:2::9"];
/// The servers' networks.
const SERVERS: [&str; 2] = ["10.2.0.0/24", "fd00:2::/64"];

fn sources(clients: &[&'static str], ports: &'static str) -> Vec<SourceNat> {
    vec![SourceNat {
        clients: clients.to_vec(),
        addresses: SOURCES.to_vec(),
        ports,
    }]
}

fn network(servers: u8) -> Result<Topology> {
    Topology::new(Layout::with_servers(servers))
}

fn a_server_meets_itself_at_its_own_vip() -> Result<()> {
    let topology = network(1)?;
    let _servers = actors::nginx_servers(&topology, 8080, 8 << 20)?;
    let server = &topology.servers[0];
    let without = web(&topology);
    let config = without.clone().with_sources(sources(&[], "1024-65535"));
    let waxwing = Waxwing::start(&topology, &config)?;
    for vip in [VIP4, VIP6] {
        ensure!(who_answers(server, vip, 5)? == ["server=1\n"], "{vip}");
        // Eight megabytes, from the server to itself.
        assert_download(&topology, server, (vip, 80))?;
    }
    // Without a source NAT address the server cannot reach itself; the drop is counted with that reason.
    waxwing.reload(&without)?;
    let refused = curl_briefly(server, VIP4);
    ensure!(refused.is_err(), "the server answered itself: {refused:?}");
    let status = waxwing.wait_status("the drop to be counted", |status| {
        status.dropped("no_source_address") > 0
    })?;
    ensure!(status.dropped("source_ports") == 0, "{status}");
    ensure!(who_answers(&topology.client, VIP4, 3)? == ["server=1\n"]);
    waxwing.stop().map(drop)
}

/// Sends one request with a short timeout, for requests that should fail.
fn curl_briefly(from: &Namespace, vip: IpAddr) -> Result<String> {
    let url = format!("http://{}/", host(vip));
    from.run("curl", &["-sS", "--globoff", "--max-time", "2", &url])
}

fn a_client_in_the_servers_network_is_served() -> Result<()> {
    let topology = network(3)?;
    let _servers = actors::nginx_servers(&topology, 8080, 8 << 20)?;
    let without = web(&topology);
    let config = without
        .clone()
        .with_sources(sources(&SERVERS, "1024-65535"));
    // The client is server 3, so that one of its backends is the client itself.
    let neighbour = &topology.servers[2];
    let all = ["server=1\n", "server=2\n", "server=3\n"];
    let waxwing = Waxwing::start(&topology, &without)?;
    let direct = who_answers(neighbour, VIP4, 3);
    ensure!(direct.is_err(), "without source NAT: {direct:?}");
    waxwing.reload(&config)?;
    for vip in [VIP4, VIP6] {
        for from in [neighbour, &topology.client] {
            let answered = who_answers(from, vip, 9)?;
            ensure!(answered == all, "{vip}: {answered:?}");
        }
    }
    let listed = waxwing.ask(&["session", "list"])?.stdout;
    let [v4, v6] = SOURCES;
    for seen in [format!(" as {v4}:"), format!(" as [{v6}]:")] {
        ensure!(listed.contains(&seen), "no{seen} in:\n{listed}");
    }
    let outside = format!("{CLIENT4}:");
    let mut lines = listed.lines().filter(|line| line.contains(&outside));
    ensure!(
        lines.all(|line| !line.contains(" as ")),
        "a client outside the servers' networks has a source NAT address:\n{listed}"
    );
    let status = waxwing.ask(&["status"])?.stdout;
    let has_source = status.lines().any(|line| {
        let mut words = line.split_whitespace();
        words.next() == Some(v4) && words.next() == Some("1024-65535")
    });
    ensure!(has_source, "{status}");
    waxwing.stop().map(drop)
}

/// The servers' default gateway is not the balancer: without source NAT their replies do not reach it.
fn servers_with_another_gateway_are_served() -> Result<()> {
    let topology = network(2)?;
    let _servers = actors::nginx_servers(&topology, 8080, 8 << 20)?;
    for server in &topology.servers {
        server.ip("route replace default via 10.2.0.99\nroute replace ::/0 via fd00:2::99\n")?;
    }
    let mut config = web(&topology).with_sources(sources(&[], "1024-65535"));
    let waxwing = Waxwing::start(&topology, &config)?;
    let direct = curl_briefly(&topology.client, VIP4);
    ensure!(direct.is_err(), "without source NAT: {direct:?}");
    for service in &mut config.services {
        service.source_nat = Some("always");
    }
    waxwing.reload(&config)?;
    for vip in [VIP4, VIP6] {
        let answered = who_answers(&topology.client, vip, 6)?;
        ensure!(
            answered == ["server=1\n", "server=2\n"],
            "{vip}: {answered:?}"
        );
    }
    waxwing.stop().map(drop)
}

/// Eight ports carry eight connections to a server. The ninth is dropped and counted, and the eight continue.
fn a_small_pool_holds_as_many_connections_as_ports() -> Result<()> {
    let topology = network(2)?;
    let _server = Server::moody(&topology, 1, 9000..=9000)?;
    let config = Config::new(&topology)
        .with(Service::v4("web", "tcp", (80, 9000), 1))
        .with_sources(sources(&SERVERS, "5000-5007"));
    let waxwing = Waxwing::start(&topology, &config)?;
    let vip = SocketAddr::new(VIP4, 80);
    let ask = |connection: &mut TcpStream| get(connection, "/healthz");
    let ask_all = |all: &mut [TcpStream]| all.iter_mut().try_for_each(|it| ask(it).map(drop));
    topology.servers[1].enter(|| -> Result<()> {
        let mut connections = (0..8)
            .map(|_| connect(vip))
            .collect::<std::io::Result<Vec<_>>>()?;
        ask_all(&mut connections)?;
        ensure!(connect(vip).is_err(), "the ninth connection was served");
        ask_all(&mut connections)?;
        drop(connections.pop());
        // A port is free as soon as both ends have closed.
        let again = || connect(vip).context("no port came free");
        let mut ninth = retry(Duration::from_secs(20), again)?;
        ask(&mut ninth)?;
        ask_all(&mut connections)?;
        Ok(())
    })??;
    let status = waxwing.status()?;
    ensure!(status.dropped("source_ports") > 0, "{status}");
    ensure!(status.dropped("tuple_clash") == 0, "{status}");
    waxwing.stop().map(drop)
}

/// A new connection takes the port of a closed session at once, although closed sessions last for minutes.
fn short_connections_share_a_small_pool() -> Result<()> {
    let topology = network(3)?;
    let _servers = actors::http_servers(&topology, 8080)?;
    let config = web(&topology).with_sources(sources(&SERVERS, "5000-5063"));
    let waxwing = Waxwing::start(&topology, &config)?;
    for vip in [VIP4, VIP6] {
        let load = Load {
            // More than two connections per second and port.
            rate: 150,
            ..actors::connections(vip, 80, Duration::from_secs(3))
        };
        let tally = actors::load(&topology.servers[2], load)?;
        ensure!(
            tally.failed() == 0 && tally.answers() > 192,
            "{vip}: {} answers, {:?}",
            tally.answers(),
            tally.failures
        );
        ensure!(tally.servers.len() == 3, "{:?}", tally.servers);
    }
    waxwing.stop().map(drop)
}

/// Services on all TCP ports and on a range of UDP ports of a VIP lead to the same ports of server 1; a
/// service on TCP port 80 of the VIP leads to server 2.
fn all_ports_lead_to_the_servers_own() -> Result<()> {
    let topology = network(2)?;
    let first = [Kind::Nginx, Kind::Redis, Kind::Dnsmasq]
        .into_iter()
        .map(|kind| Server::start(&topology, 1, kind))
        .collect::<Result<Vec<_>>>()?;
    let _second = actors::nginx(&topology, 2, 8080, 1024)?;
    let mut web = Service::v4("web", "tcp", (80, 8080), 2);
    web.backends.remove(0);
    let config = Config::new(&topology)
        .with(Service::v4("tcp", "tcp", (1, 1), 1).on_ports("all"))
        .with(Service::v4("udp", "udp", (1, 1), 1).on_ports("50-59"))
        .with(web)
        .with_sources(sources(&SERVERS, "1024-65535"));
    let waxwing = Waxwing::start(&topology, &config)?;
    for from in [&topology.client, &topology.servers[0], &topology.servers[1]] {
        for server in &first {
            let (kind, port) = (server.kind(), server.address().port());
            let answer = from.enter(|| query::ask(kind, SocketAddr::new(VIP4, port)))?;
            answer.with_context(|| format!("{kind:?} on port {port}, from {}", from.name()))?;
        }
        ensure!(who_answers(from, VIP4, 3)? == ["server=2\n"], "port 80");
    }
    // Other traffic of such a server still goes to the kernel.
    let _elsewhere = actors::http_server(&topology.client, 8080, "client")?;
    let answer = curl(&topology.servers[0], &format!("http://{CLIENT4}:8080/"))?;
    ensure!(answer.contains("client"), "{answer}");
    let status = waxwing.ask(&["status"])?.stdout;
    for line in ["tcp 203.0.113.10 port all", "udp 203.0.113.10 port 50-59"] {
        ensure!(status.contains(line), "no {line:?} in:\n{status}");
    }
    drained(&waxwing, &Backend::new(first[0].address().ip(), 0))?;
    waxwing.stop().map(drop)
}

/// Asserts that an address alone names a backend without a port: drains it, the only backend of its service.
fn drained(waxwing: &Waxwing<'_>, backend: &Backend) -> Result<()> {
    let address = backend.address.to_string();
    let said = waxwing.ask(&["backend", "drain", "tcp", &address])?;
    ensure!(said.status.success(), "{}{}", said.stdout, said.stderr);
    let health = waxwing.ask(&["health", "--service", "tcp"])?;
    ensure!(
        !health.status.success(),
        "the service is healthy although its only server drains: {}",
        health.stdout
    );
    Ok(())
}
