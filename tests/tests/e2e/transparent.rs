//! Transparent mode, between the servers and their router: packets of services are balanced, all others pass
//! the bridge unchanged.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use waxwing_packet::{Link, Mac, TcpFlags};
use waxwing_testkit::build;
use waxwing_tests::actors::{self, RunningLoad};
use waxwing_tests::inline::{BRIDGE4, BRIDGE6, ROUTER4, ROUTER6};
use waxwing_tests::topology::{CLIENT4, CLIENT6, VIP4, VIP6, server4, server6};
use waxwing_tests::{Capture, Inline, Load, Namespace, Status, Topology, Waxwing, inject, query};

use crate::figure::{QUIET, network, transparent};
use crate::health::quick;
use crate::traffic::{
    assert_both_served, assert_download, assert_served, await_both_served, curl, host, who_answers,
};
use crate::{Scenario, scenario};

pub(crate) const SCENARIOS: &[Scenario] = &[
    scenario!(
        traffic_of_no_service_passes_the_bridge,
        "nginx",
        "curl",
        "ping"
    ),
    scenario!(a_port_that_served_a_session_connects_directly, "nginx"),
    scenario!(a_killed_balancer_stays_a_bridge, "curl", "ping").alone(),
    scenario!(health_checks_pass_the_bridge, "curl"),
    scenario!(a_bridge_that_flaps_or_forgets_serves_on),
    scenario!(frames_to_another_owner_of_the_vip_pass),
];

/// Direct connections to the backends' endpoints (workers receive their replies and find no session), other
/// connections, and ping: between all hosts, in both directions.
fn traffic_of_no_service_passes_the_bridge() -> Result<()> {
    let topology = network(2, 2)?;
    let inline = Inline::new(&topology)?;
    let _servers = actors::nginx_servers(&topology, 8080, 1 << 20)?;
    let _other = actors::http_server(&topology.servers[0], 2222, "other")?;
    let _own = actors::http_server(&topology.balancer, 22, "balancer")?;
    let _world = actors::http_server(&topology.client, 9000, "world")?;
    let waxwing = Waxwing::start(&topology, &transparent(&topology))?;
    assert_both_served(&topology)?;
    let before = waxwing.status()?;
    for from in [&topology.client, &inline.router, &topology.balancer] {
        for (number, address) in [(1, server4(1)), (2, server6(2))] {
            let answer = curl(from, &format!("http://{}:8080/", host(address)))?;
            ensure!(
                answer == format!("server={number}\n"),
                "{address}: {answer}"
            );
        }
    }
    // A megabyte from a server's own address.
    for address in [server6(1), server4(2)] {
        assert_download(&topology, &topology.client, (address, 8080))?;
    }
    everything_else(&topology, &inline)?;
    let after = waxwing.status()?;
    let counted = |name| after.counted(name) - before.counted(name);
    ensure!(
        counted("bridged") > 1000,
        "too few frames were bridged: {after}"
    );
    ensure!(
        counted("to_kernel") == 0,
        "frames went to the kernel: {after}"
    );
    ensure!(
        after.drops().is_empty(),
        "frames were dropped: {:?}",
        after.drops()
    );
    ensure!(after.0["mode"] == "transparent", "the mode: {after}");
    assert_both_served(&topology)?;
    waxwing.stop().map(drop)
}

/// Asserts that other traffic passes: ping through the bridge in both directions, and to and from its own
/// addresses; connections to another port of a server and to the balancer; and a server's connection to the
/// client.
fn everything_else(topology: &Topology, inline: &Inline) -> Result<()> {
    let [server, ..] = &topology.servers[..] else {
        unreachable!("there is a server")
    };
    let pings: [(&Namespace, [IpAddr; 2]); 5] = [
        (&inline.router, [server4(1), server6(1)]),
        (&inline.router, [BRIDGE4, BRIDGE6]),
        (server, [ROUTER4, ROUTER6]),
        (server, [BRIDGE4, BRIDGE6]),
        (&topology.balancer, [server4(1), server6(1)]),
    ];
    for (from, addresses) in pings {
        for to in addresses.map(|address| address.to_string()) {
            from.run("ping", &["-n", "-c", "2", "-i", "0.2", "-W", "2", &to])?;
        }
    }
    for (from, to, port, name) in [
        (&topology.client, server4(1), 2222, "other"),
        (&topology.client, server6(1), 2222, "other"),
        (&topology.client, BRIDGE4, 22, "balancer"),
        (&topology.client, BRIDGE6, 22, "balancer"),
        (server, BRIDGE4, 22, "balancer"),
        (server, CLIENT4, 9000, "world"),
        (server, CLIENT6, 9000, "world"),
    ] {
        let answer = curl(from, &format!("http://{}:{port}/", host(to)))?;
        ensure!(
            answer == format!("server={name}\n"),
            "{to} answered: {answer}"
        );
    }
    Ok(())
}

/// A client's system may reuse the source port of a closed connection for a connection to another address,
/// here directly to the session's server.
fn a_port_that_served_a_session_connects_directly() -> Result<()> {
    let topology = network(2, 2)?;
    let _inline = Inline::new(&topology)?;
    let _servers = actors::nginx_servers(&topology, 8080, 1 << 10)?;
    let waxwing = Waxwing::start(&topology, &transparent(&topology))?;
    let server: [fn(u8) -> IpAddr; 2] = [server4, server6];
    for ((vip, server), port) in [VIP4, VIP6].into_iter().zip(server).zip([41000, 42000]) {
        for port in port..port + 8 {
            let ask = |to: SocketAddr| -> Result<String> {
                let mut connection = query::connect_from(port, to)?;
                let answer = query::get(&mut connection, "/")?;
                query::close(connection)?;
                Ok(answer)
            };
            let answer = topology.client.enter(|| ask((vip, 80).into()))??;
            let number: u8 = answer.trim_start_matches("server=").parse()?;
            let direct = SocketAddr::new(server(number), 8080);
            let again = topology.client.enter(|| ask(direct))?;
            let again = again.with_context(|| format!("{direct} from port {port}"))?;
            ensure!(again == answer, "{direct} answered {again}, not {answer}");
        }
    }
    waxwing.stop().map(drop)
}

fn a_killed_balancer_stays_a_bridge() -> Result<()> {
    let topology = network(2, 1)?;
    let inline = Inline::new(&topology)?;
    let _servers = actors::http_servers(&topology, 8080)?;
    let _other = actors::http_server(&topology.servers[0], 2222, "other")?;
    let _own = actors::http_server(&topology.balancer, 22, "balancer")?;
    let _world = actors::http_server(&topology.client, 9000, "world")?;
    let mut waxwing = Waxwing::start(&topology, &transparent(&topology))?;
    assert_served(&topology, VIP4)?;
    // Direct connections to a backend's endpoint, from before the kill until after it. None may fail, whether
    // a worker or the kernel forwards its replies.
    let direct = Load {
        rate: 200,
        ..actors::connections(server4(1), 8080, Duration::from_secs(4))
    };
    let running = RunningLoad::start(&topology.client, direct)?;
    std::thread::sleep(Duration::from_secs(1));
    waxwing.kill();
    let killed = Instant::now();
    everything_else(&topology, &inline)?;
    ensure!(
        killed.elapsed() < Duration::from_secs(15),
        "the bridge took {:?}",
        killed.elapsed()
    );
    let tally = running.finish()?;
    ensure!(
        tally.failed() == 0,
        "direct connections failed: {:?}",
        tally.failures
    );
    waxwing.restart()?;
    assert_both_served(&topology)?;
    waxwing.stop().map(drop)
}

fn health_checks_pass_the_bridge() -> Result<()> {
    let topology = network(2, 1)?;
    let _inline = Inline::new(&topology)?;
    let mut servers = actors::http_servers(&topology, 8080)?;
    let mut config = transparent(&topology);
    for service in &mut config.services {
        service.health.push(quick("http"));
    }
    let waxwing = Waxwing::start(&topology, &config)?;
    for service in ["web", "web6"] {
        waxwing.wait_status("both servers to be up", |status| up(status, service) == 2)?;
    }
    servers.remove(0).kill();
    for service in ["web", "web6"] {
        waxwing.wait_status("one server to be down", |status| up(status, service) == 1)?;
    }
    let answers = who_answers(&topology.client, VIP6, 4)?;
    ensure!(answers == ["server=2\n"], "{answers:?}");
    waxwing.stop().map(drop)
}

/// Returns how many backends of a service are up.
fn up(status: &Status, service: &str) -> usize {
    let services = status.0["services"].as_array().into_iter().flatten();
    let of_service = services.filter(|entry| entry["name"] == service);
    let backends = of_service.filter_map(|entry| entry["backends"].as_array());
    backends
        .flatten()
        .filter(|backend| backend["health"]["state"] == "up")
        .count()
}

/// Ports that go down and up, and a bridge whose forwarding database is flushed: the balancer continues
/// without a restart, and after a flush no request fails.
fn a_bridge_that_flaps_or_forgets_serves_on() -> Result<()> {
    let topology = network(2, 1)?;
    let inline = Inline::new(&topology)?;
    let _servers = actors::http_servers(&topology, 8080)?;
    let waxwing = Waxwing::start(&topology, &transparent(&topology))?;
    let load = Load {
        rate: 200,
        ..actors::connections(VIP4, 80, Duration::from_secs(2))
    };
    let running = RunningLoad::start(&topology.client, load)?;
    for _ in 0..20 {
        topology
            .balancer
            .ip("link set bridge type bridge fdb_flush\n")?;
        std::thread::sleep(Duration::from_millis(50));
    }
    let tally = running.finish()?;
    ensure!(
        tally.failed() == 0,
        "requests failed after a flush: {:?}",
        tally.failures
    );
    // Both ends of each port's link go down and up. The router loses its routes with its link, and needs them
    // again.
    let routes = format!("route replace {VIP4} dev balancer\nroute replace {VIP6} dev balancer\n");
    let flaps: [(&Namespace, &str, &str); 4] = [
        (&topology.balancer, "back", ""),
        (&topology.switch, "balancer", ""),
        (&topology.balancer, "front", ""),
        (&inline.router, "balancer", &routes),
    ];
    for (namespace, interface, after) in flaps {
        namespace.ip(&format!("link set {interface} down\n"))?;
        waxwing.wait_status("a port to be down", |status| {
            status.0["problems"].to_string().contains("is down")
        })?;
        // The router loses its IPv6 addresses with its link.
        let six = match interface {
            "balancer" if std::ptr::eq(namespace, &raw const inline.router) => {
                format!("addr replace {ROUTER6}/64 dev balancer nodad\n")
            }
            _ => String::new(),
        };
        namespace.ip(&format!("link set {interface} up\n{six}{after}"))?;
        await_both_served(&topology)?;
    }
    waxwing.stop().map(drop)
}

/// The frame's destination MAC address is another host's, as with two balancers in a row when the other one
/// owns the VIP.
fn frames_to_another_owner_of_the_vip_pass() -> Result<()> {
    let topology = network(1, 1)?;
    let inline = Inline::new(&topology)?;
    let waxwing = Waxwing::start(&topology, &transparent(&topology))?;
    let server = &topology.servers[0];
    let at_server = Capture::of_wire(server, "eth0")?;
    let syn = build::Tcp {
        link: Link {
            source: Mac(inline.router.mac("balancer")?),
            destination: Mac(server.mac("eth0")?),
        },
        source: (CLIENT4.into(), 5555),
        destination: (VIP4.into(), 80),
        flags: TcpFlags(TcpFlags::SYN),
        ..build::Tcp::default()
    }
    .frame();
    let wire = inline.router.enter(|| inject::Wire::open("balancer"))??;
    wire.send(&syn)?;
    let seen = at_server.take(QUIET)?;
    ensure!(seen.contains(&syn), "the frame did not pass: {seen:02x?}");
    let sessions = waxwing.status()?.sessions();
    ensure!(sessions == 0, "the frame opened a session");
    waxwing.stop().map(drop)
}
