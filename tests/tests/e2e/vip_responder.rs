//! VIPs answer ARP, NDP and ping like a host's addresses, and traffic of no service goes to the kernel.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use waxwing_tests::process::retry;
use waxwing_tests::topology::{self, CLIENT4, CLIENT6, FRONT4, FRONT6, VIP4, VIP6};
use waxwing_tests::{Layout, Topology, Waxwing, actors};

use crate::traffic::{
    assert_both_served, assert_download, assert_served, await_both_served, curl, host, web,
};
use crate::{Scenario, scenario};

pub(crate) const SCENARIOS: &[Scenario] = &[
    scenario!(vips_answer_ping_arp_and_ndp, "ping"),
    scenario!(vips_are_announced),
    scenario!(the_balancers_own_address_stays_its_own, "curl"),
    scenario!(servers_reach_the_world_by_the_kernel, "curl"),
    scenario!(a_direct_connection_to_a_backend_works, "nginx", "curl"),
    scenario!(the_balancer_itself_reaches_a_backend, "curl"),
    scenario!(a_port_with_a_new_mac_serves_on),
    scenario!(a_link_that_flaps_serves_on),
];

fn vips_answer_ping_arp_and_ndp() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let config = web(&topology);
    let waxwing = Waxwing::start(&topology, &config)?;
    topology.client.ip("neigh flush dev eth0\n")?;
    let mac = topology.balancer.mac("front")?;
    for vip in [VIP4, VIP6] {
        // ping exits with 0 even if only one of five requests was answered.
        let vip = vip.to_string();
        let report = topology
            .client
            .run("ping", &["-n", "-c", "5", "-i", "0.2", "-W", "2", &vip])?;
        ensure!(
            report.contains("5 received"),
            "{vip} did not answer every ping:\n{report}"
        );
        // Much larger than the default. ping verifies the payload.
        let report = topology
            .client
            .run("ping", &["-n", "-c", "2", "-i", "0.2", "-s", "1400", &vip])?;
        ensure!(
            report.contains("2 received"),
            "{vip} did not answer a large ping:\n{report}"
        );
        ensure!(
            neighbour(&topology, &vip)? == Some(mac),
            "{vip} does not resolve to the balancer's MAC address"
        );
    }
    waxwing.stop().map(drop)
}

fn vips_are_announced() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    // The client's neighbour entries name another MAC address, as after a fail-over of balancers.
    let elsewhere = "02:00:00:00:00:99";
    topology.client.ip(&format!(
        "neigh replace {VIP4} lladdr {elsewhere} dev eth0 nud reachable\n\
         neigh replace {VIP6} lladdr {elsewhere} dev eth0 nud reachable\n"
    ))?;
    // Linux accepts a gratuitous ARP only for an entry that is older than a second (`locktime`).
    std::thread::sleep(Duration::from_millis(1200));
    let waxwing = Waxwing::start(&topology, &web(&topology))?;
    let mac = topology.balancer.mac("front")?;
    for vip in [VIP4, VIP6] {
        retry(Duration::from_secs(10), || {
            let known = neighbour(&topology, &vip.to_string())?;
            ensure!(known == Some(mac), "{vip} was not announced: {known:?}");
            Ok(())
        })?;
    }
    waxwing.stop().map(drop)
}

/// Returns the MAC address in the client's neighbour entry for an address.
fn neighbour(topology: &Topology, address: &str) -> Result<Option<[u8; 6]>> {
    let line = topology.client.run("ip", &["neigh", "show", address])?;
    let mac = line
        .split_whitespace()
        .skip_while(|word| *word != "lladdr")
        .nth(1);
    let Some(mac) = mac else { return Ok(None) };
    let octets: Vec<u8> = mac
        .split(':')
        .map(|octet| u8::from_str_radix(octet, 16))
        .collect::<Result<_, _>>()?;
    Ok(Some(
        octets
            .try_into()
            .ok()
            .with_context(|| format!("not a MAC address: {mac}"))?,
    ))
}

/// A server on the balancer's own address is reachable even on the port number and interface of a service.
/// (In practice that is ssh; here it is HTTP.)
fn the_balancers_own_address_stays_its_own() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let _servers = actors::http_servers(&topology, 8080)?;
    let waxwing = Waxwing::start(&topology, &web(&topology))?;
    let _own = actors::http_server(&topology.balancer, 80, "balancer")?;
    for (own, vip) in [(FRONT4, VIP4), (FRONT6, VIP6)] {
        for _ in 0..5 {
            let answer = curl(&topology.client, &format!("http://{}/", host(own)))?;
            ensure!(answer == "server=balancer\n", "{own} answered: {answer}");
        }
        assert_served(&topology, vip)?;
    }
    waxwing.stop().map(drop)
}

fn servers_reach_the_world_by_the_kernel() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let _servers = actors::http_servers(&topology, 8080)?;
    let _world = actors::http_server(&topology.client, 9000, "world")?;
    let waxwing = Waxwing::start(&topology, &web(&topology))?;
    for world in [CLIENT4, CLIENT6] {
        for server in &topology.servers {
            let answer = curl(server, &format!("http://{}:9000/", host(world)))?;
            ensure!(answer == "server=world\n", "{world} answered: {answer}");
        }
    }
    waxwing.stop().map(drop)
}

/// Replies of a direct connection come from a backend's endpoint, like replies of sessions. The workers find
/// no session for them and pass them to the kernel, which routes them.
fn a_direct_connection_to_a_backend_works() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let _servers = actors::nginx_servers(&topology, 8080, 1 << 20)?;
    let waxwing = Waxwing::start(&topology, &web(&topology))?;
    for (number, address) in
        (1..=3).flat_map(|n| [(n, topology::server4(n)), (n, topology::server6(n))])
    {
        let answer = curl(&topology.client, &format!("http://{}:8080/", host(address)))?;
        ensure!(
            answer == format!("server={number}\n"),
            "{address} answered: {answer}"
        );
        assert_download(&topology, &topology.client, (address, 8080))?;
    }
    assert_both_served(&topology)?;
    waxwing.stop().map(drop)
}

fn the_balancer_itself_reaches_a_backend() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let _servers = actors::http_servers(&topology, 8080)?;
    let waxwing = Waxwing::start(&topology, &web(&topology))?;
    for address in [topology::server4(1), topology::server6(1)] {
        let answer = curl(
            &topology.balancer,
            &format!("http://{}:8080/", host(address)),
        )?;
        ensure!(answer == "server=1\n", "{address} answered: {answer}");
    }
    waxwing.stop().map(drop)
}

/// A port's MAC address changes after the fail-over of a bond, or by an operator's command.
fn a_port_with_a_new_mac_serves_on() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let _servers = actors::http_servers(&topology, 8080)?;
    let waxwing = Waxwing::start(&topology, &web(&topology))?;
    assert_served(&topology, VIP4)?;
    for port in topology.ports() {
        topology.balancer.ip(&format!(
            "link set {port} address 02:00:00:00:77:{:02x}\n",
            port.len()
        ))?;
    }
    await_both_served(&topology)?;
    waxwing.stop().map(drop)
}

fn a_link_that_flaps_serves_on() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let _servers = actors::http_servers(&topology, 8080)?;
    let waxwing = Waxwing::start(&topology, &web(&topology))?;
    // The kernel removes an interface's IPv6 address and its routes when the link goes down.
    topology.client.ip(&format!(
        "link set eth0 down\nlink set eth0 up\naddr replace {CLIENT6}/64 dev eth0 nodad\n\
         route replace {VIP4} dev eth0\nroute replace {VIP6} dev eth0\n"
    ))?;
    await_both_served(&topology)?;
    waxwing.stop().map(drop)
}
