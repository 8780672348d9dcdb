//! The host's network changes under a running balancer: queues, interfaces, the TAP device, settings.
//!
//! Invariant: what can be followed is followed, and connections survive; all else is a problem in the status
//! that names its remedy, and goes away with its cause.

use std::time::Duration;

use anyhow::{Result, ensure};
use waxwing_tests::actors::{RunningLoad, connections};
use waxwing_tests::topology::{CLIENT4, CLIENT6, VIP4, VIP6, server4};
use waxwing_tests::{Layout, Load, Status, Topology, Waxwing, actors};

use crate::recovery::{Downloads, start_nginx};
use crate::traffic::{assert_both_served, assert_served, await_both_served, curl, host, web};
use crate::{Scenario, scenario};

pub(crate) const SCENARIOS: &[Scenario] = &[
    scenario!(more_queues_lose_no_connection, "nginx", "curl"),
    scenario!(a_port_made_again_is_attached_again, "nginx", "curl"),
    scenario!(a_renamed_port_is_served_and_a_problem, "curl"),
    scenario!(a_deleted_or_downed_tap_is_made_again, "curl"),
    scenario!(a_late_strict_reverse_path_check_is_found, "curl"),
    scenario!(checksum_offload_left_on_is_a_problem, "curl"),
    scenario!(
        unfinished_checksums_of_direct_connections_are_completed,
        "curl"
    ),
    scenario!(a_virtual_mac_of_a_port_is_served),
    scenario!(five_thousand_addresses_fit),
];

/// Returns the problems in a status, as one text.
fn problems(status: &Status) -> String {
    status.0["problems"].to_string()
}

/// Waits until a problem with this text is in the status, or until no problem is.
pub(crate) fn wait_problem(waxwing: &Waxwing<'_>, text: Option<&str>) -> Result<()> {
    let is = |status: &Status| match text {
        Some(text) => problems(status).contains(text),
        None => problems(status) == "[]",
    };
    waxwing
        .wait_status(&format!("the problems to be {text:?}"), is)
        .map(drop)
}

/// Two workers serve two queues of each port, then four, each a quarter of the connections.
fn more_queues_lose_no_connection() -> Result<()> {
    let topology = Topology::new(Layout {
        queues: 2,
        queues_max: 4,
        ..Layout::default()
    })?;
    let servers = start_nginx(&topology)?;
    let waxwing = Waxwing::start(&topology, &web(&topology))?;
    assert_served(&topology, VIP4)?;
    let mut downloads = Downloads::start(&topology, servers, [CLIENT4, CLIENT6])?;
    waxwing.wait_status("the downloads' sessions", |status| status.sessions() >= 8)?;
    let sockets = |count: usize| {
        waxwing.wait_status("a socket for each queue", |status| {
            status.sockets().len() == count
        })
    };
    // One port has more queues than the other.
    topology
        .balancer
        .run("ethtool", &["-L", "back", "rx", "3", "tx", "3"])?;
    sockets(5)?;
    assert_served(&topology, VIP4)?;
    // The other ends send by the new queues before there is a socket, or on a veth even a program.
    let load = Load {
        keep_alive: true,
        rate: 200,
        timeout: Duration::from_secs(20),
        ..connections(VIP4, 80, Duration::from_secs(6))
    };
    let load = RunningLoad::start(&topology.client, load)?;
    for queues in [3, 4] {
        topology.set_queues(queues)?;
        topology.set_far_queues(queues)?;
        let status = sockets(2 * queues as usize)?;
        ensure!(problems(&status) == "[]", "problems: {}", problems(&status));
    }
    assert_both_served(&topology)?;
    downloads.are_under_way()?;
    downloads.finish()?;
    let tally = load.finish()?;
    ensure!(
        tally.failed() == 0,
        "connections broke: {:?}",
        tally.failures
    );
    let frames = &waxwing.status()?.0["frames"];
    let count = |class: &str| frames[class].as_u64();
    ensure!(
        count("service") > Some(0) && count("no_socket").is_some(),
        "frames by class: {frames}"
    );
    waxwing.stop().map(drop)
}

fn a_port_made_again_is_attached_again() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let servers = start_nginx(&topology)?;
    let waxwing = Waxwing::start(&topology, &web(&topology))?;
    let mut downloads = Downloads::start(&topology, servers, [CLIENT4, CLIENT6])?;
    waxwing.wait_status("the downloads' sessions", |status| status.sessions() >= 8)?;
    let before = topology.balancer.mac("back")?;
    topology.balancer.ip("link del back\n")?;
    wait_problem(&waxwing, Some("back is gone; it is attached again"))?;
    topology.plug_back()?;
    ensure!(
        topology.balancer.mac("back")? != before,
        "the same MAC address"
    );
    wait_problem(&waxwing, None)?;
    await_both_served(&topology)?;
    downloads.are_under_way()?;
    downloads.finish()?;
    // Deleted and made again before anyone looks. A reply that the kernel routes meanwhile would make the
    // client reset its server.
    let load = Load {
        keep_alive: true,
        rate: 200,
        timeout: Duration::from_secs(20),
        ..connections(VIP4, 80, Duration::from_secs(8))
    };
    let load = RunningLoad::start(&topology.client, load)?;
    for _ in 0..5 {
        topology.replug_back()?;
        await_both_served(&topology)?;
    }
    let tally = load.finish()?;
    ensure!(
        tally.failed() == 0,
        "connections broke: {:?}",
        tally.failures
    );
    wait_problem(&waxwing, None)?;
    waxwing.stop().map(drop)
}

fn a_renamed_port_is_served_and_a_problem() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let _servers = actors::http_servers(&topology, 8080)?;
    let waxwing = Waxwing::start(&topology, &web(&topology))?;
    // By default the kernel removes IPv6 addresses of an interface that goes down.
    topology
        .balancer
        .sysctl(&["net.ipv6.conf.back.keep_addr_on_down=1"])?;
    let rename = |from: &str, to: &str| {
        topology.balancer.ip(&format!(
            "link set {from} down\nlink set {from} name {to}\nlink set {to} up\n"
        ))
    };
    rename("back", "wan0")?;
    wait_problem(&waxwing, Some("`ip link set wan0 name back`"))?;
    await_both_served(&topology)?;
    rename("wan0", "back")?;
    wait_problem(&waxwing, None)?;
    await_both_served(&topology)?;
    waxwing.stop().map(drop)
}

/// Replies of a direct connection to a server reach the kernel by the TAP device.
fn a_deleted_or_downed_tap_is_made_again() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let _servers = actors::http_servers(&topology, 8080)?;
    let waxwing = Waxwing::start(&topology, &web(&topology))?;
    let direct = format!("http://{}:8080/", host(server4(1)));
    curl(&topology.client, &direct)?;
    for change in ["link del waxwing0\n", "link set waxwing0 down\n"] {
        for _ in 0..2 {
            topology.balancer.ip(change)?;
            let is_up = || {
                topology
                    .balancer
                    .run("ip", &["link", "show", "up", "dev", "waxwing0"])
            };
            waxwing.wait_status("the TAP device to be up again", |_| {
                is_up().is_ok_and(|shown| shown.contains("waxwing0"))
            })?;
            curl(&topology.client, &direct)?;
            assert_served(&topology, VIP4)?;
        }
    }
    wait_problem(&waxwing, None)?;
    waxwing.stop().map(drop)
}

fn a_late_strict_reverse_path_check_is_found() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let _servers = actors::http_servers(&topology, 8080)?;
    let waxwing = Waxwing::start(&topology, &web(&topology))?;
    let direct = format!("http://{}:8080/", host(server4(1)));
    let set = |interface: &str, value: u8| {
        let setting = format!("net.ipv4.conf.{interface}.rp_filter={value}");
        topology.balancer.sysctl(&[&setting])
    };
    set("all", 1)?;
    wait_problem(&waxwing, Some("`sysctl -w net.ipv4.conf.all.rp_filter=2`"))?;
    set("all", 0)?;
    wait_problem(&waxwing, None)?;
    // The check of the device itself is turned off again.
    set("waxwing0", 1)?;
    let strict = || -> Result<bool> {
        let path = "/proc/sys/net/ipv4/conf/waxwing0/rp_filter";
        let value = topology
            .balancer
            .enter(|| std::fs::read_to_string(path))??;
        Ok(value.trim() == "1")
    };
    waxwing.wait_status("the check of the TAP device to be off", |_| {
        strict().is_ok_and(|strict| !strict)
    })?;
    curl(&topology.client, &direct)?;
    waxwing.stop().map(drop)
}

/// The client's kernel leaves checksums to its veth, which computes none.
fn checksum_offload_left_on_is_a_problem() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let _servers = actors::http_servers(&topology, 8080)?;
    let waxwing = Waxwing::start(&topology, &web(&topology))?;
    assert_served(&topology, VIP4)?;
    let offload = |state: &str| topology.client.run("ethtool", &["-K", "eth0", "tx", state]);
    offload("on")?;
    for vip in [VIP4, VIP6] {
        let url = format!("http://{}/", host(vip));
        let fetch = ["-sS", "--globoff", "--max-time", "4", &url];
        ensure!(
            topology.client.run("curl", &fetch).is_err(),
            "{vip} was served"
        );
    }
    wait_problem(
        &waxwing,
        Some("front receives packets with unfinished checksums"),
    )?;
    wait_problem(&waxwing, Some("`ethtool -K INTERFACE tx off`"))?;
    offload("off")?;
    assert_both_served(&topology)?;
    waxwing.stop().map(drop)
}

/// A server's replies that pass through a worker and the TAP device; all links up to there leave checksums.
fn unfinished_checksums_of_direct_connections_are_completed() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let _servers = actors::http_servers(&topology, 8080)?;
    let ends = [
        (&topology.servers[0], "eth0"),
        (&topology.switch, "balancer"),
    ];
    for (namespace, name) in ends {
        namespace.run("ethtool", &["-K", name, "tx", "on"])?;
    }
    let direct = format!("http://{}:8080/", host(server4(1)));
    curl(&topology.client, &direct)?;
    let waxwing = Waxwing::start(&topology, &web(&topology))?;
    for _ in 0..3 {
        curl(&topology.client, &direct)?;
    }
    wait_problem(
        &waxwing,
        Some("back receives packets with unfinished checksums"),
    )?;
    waxwing.stop().map(drop)
}

/// The client's gateway is a VRRP address with a virtual MAC address, on a macvlan device.
fn a_virtual_mac_of_a_port_is_served() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let _servers = actors::http_servers(&topology, 8080)?;
    let waxwing = Waxwing::start(&topology, &web(&topology))?;
    topology.balancer.ip(
        "link add vrrp7 link front address 00:00:5e:00:01:07 type macvlan mode private\n\
         link set vrrp7 up\n",
    )?;
    for vip in [VIP4, VIP6] {
        topology.client.ip(&format!(
            "neigh replace {vip} lladdr 00:00:5e:00:01:07 dev eth0 nud permanent\n"
        ))?;
    }
    await_both_served(&topology)?;
    waxwing.stop().map(drop)
}

fn five_thousand_addresses_fit() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let _servers = actors::http_servers(&topology, 8080)?;
    let addresses = (0..5000_u32).map(|n| {
        let [.., high, low] = n.to_be_bytes();
        format!("addr add 10.99.{high}.{low}/32 dev lo\n")
    });
    topology.balancer.ip(&addresses.collect::<String>())?;
    let waxwing = Waxwing::start(&topology, &web(&topology))?;
    assert_served(&topology, VIP4)?;
    waxwing.stop().map(drop)
}
