//! Links, ports, MTUs, MAC addresses, neighbours and routes fail and recover: the balancer continues without
//! a restart, and connections survive.
//!
//! Invariant: each scenario has downloads in progress on both families, each over a single connection, and
//! every byte must arrive. Frames may be dropped only for the reasons that the scenario names.

use std::net::IpAddr;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use waxwing_tests::topology::{CLIENT4, CLIENT6, VIP4, VIP6};
use waxwing_tests::{Layout, Process, Topology, Waxwing, actors};

use crate::traffic::{await_both_served, host, web};
use crate::{Scenario, scenario};

pub(crate) const SCENARIOS: &[Scenario] = &[
    scenario!(the_other_end_of_a_link_flaps, "nginx", "curl"),
    scenario!(the_balancers_own_ports_go_down_and_up, "nginx", "curl"),
    scenario!(the_mtu_of_a_port_changes, "nginx", "curl"),
    scenario!(a_server_comes_back_with_another_mac, "nginx", "curl"),
    scenario!(
        the_neighbour_table_is_flushed_again_and_again,
        "nginx",
        "curl"
    ),
    scenario!(routes_to_the_servers_go_and_come_back, "nginx", "curl"),
];

/// Bytes per download: at the servers' rate limit it takes about eight seconds.
const DATA_LEN: usize = 4 << 20;
/// Longest duration of a download, including outages and retransmissions.
const DOWNLOAD_MAX: Duration = Duration::from_secs(40);
/// Number of parallel downloads per family.
pub(crate) const DOWNLOADS: usize = 4;

/// Downloads in progress.
pub(crate) struct Downloads<'a> {
    topology: &'a Topology,
    running: Vec<(Process, PathBuf)>,
    _servers: Vec<Process>,
}

/// Starts nginx on every server, each with the same data.
pub(crate) fn start_nginx(topology: &Topology) -> Result<Vec<Process>> {
    actors::nginx_servers(topology, 8080, DATA_LEN)
}

impl<'a> Downloads<'a> {
    /// Starts downloads from these addresses of the client, one per family.
    pub(crate) fn start(
        topology: &'a Topology,
        servers: Vec<Process>,
        from: [IpAddr; 2],
    ) -> Result<Self> {
        let mut running = Vec::new();
        for (vip, from) in [VIP4, VIP6].into_iter().zip(from) {
            for _ in 0..DOWNLOADS {
                let copy = format!("copy{}", running.len());
                let copy = topology.scratch.path().join(copy);
                let url = format!("http://{}/slow/data", host(vip));
                let time_max = DOWNLOAD_MAX.as_secs().to_string();
                let arguments = [
                    "-sS",
                    "--fail",
                    "--globoff",
                    "--max-time",
                    &time_max,
                    "--interface",
                    &from.to_string(),
                    "-o",
                    copy.to_str().context("the path is not UTF-8")?,
                    &url,
                ];
                running.push((topology.client.spawn("curl", &arguments)?, copy));
            }
        }
        Ok(Self {
            topology,
            running,
            _servers: servers,
        })
    }

    /// Asserts that all downloads are in progress.
    pub(crate) fn are_under_way(&mut self) -> Result<()> {
        for (number, (curl, _)) in self.running.iter_mut().enumerate() {
            let status = curl.try_wait()?;
            ensure!(
                status.is_none(),
                "download {number} ended too early: {status:?} {}",
                curl.stderr()
            );
        }
        Ok(())
    }

    /// Waits until all downloads end, and asserts that each has every byte.
    pub(crate) fn finish(self) -> Result<()> {
        let data = self.topology.scratch.path().join("nginx1/www/data");
        let data = std::fs::read(data)?;
        for (number, (curl, copy)) in self.running.into_iter().enumerate() {
            let finished = curl.finish(DOWNLOAD_MAX + Duration::from_secs(5))?;
            ensure!(
                finished.status.success(),
                "download {number} failed: {}",
                finished.stderr
            );
            ensure!(
                std::fs::read(copy)? == data,
                "download {number}: the data was altered"
            );
        }
        Ok(())
    }
}

/// Runs `happens` during downloads, and asserts that the services work afterwards. Frames may be dropped only
/// for the reasons in `drops`.
fn through(
    topology: &Topology,
    drops: &[&str],
    happens: impl FnOnce(&Topology, &Waxwing<'_>) -> Result<()>,
) -> Result<()> {
    let servers = start_nginx(topology)?;
    let waxwing = Waxwing::start(topology, &web(topology))?;
    let mut downloads = Downloads::start(topology, servers, [CLIENT4, CLIENT6])?;
    waxwing.wait_status("the downloads' sessions", |status| {
        status.sessions() == 2 * DOWNLOADS as u64
    })?;
    happens(topology, &waxwing)?;
    downloads.are_under_way()?;
    await_both_served(topology)?;
    downloads.finish()?;
    let status = waxwing.status()?;
    let others: Vec<_> = status
        .drops()
        .into_iter()
        .filter(|(reason, _)| !drops.contains(&reason.as_str()))
        .collect();
    ensure!(others.is_empty(), "dropped for other reasons: {others:?}");
    waxwing.stop().map(drop)
}

/// Waits long enough for packets to be lost.
fn a_while() {
    thread::sleep(Duration::from_millis(700));
}

/// Waits until the status shows a port's link as up or down.
fn link_is(waxwing: &Waxwing<'_>, port: &str, up: bool) -> Result<()> {
    waxwing
        .wait_status(&format!("the link of {port} to be up: {up}"), |status| {
            status.port(port)["link_up"] == up
        })
        .map(drop)
}

fn the_other_end_of_a_link_flaps() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    through(
        &topology,
        &["neighbor_unresolved", "transmit_ring_full"],
        |topology, waxwing| {
            for _ in 0..2 {
                topology.switch.ip("link set balancer down\n")?;
                link_is(waxwing, "back", false)?;
                a_while();
                topology.switch.ip("link set balancer up\n")?;
                link_is(waxwing, "back", true)?;
            }
            Ok(())
        },
    )
}

fn the_balancers_own_ports_go_down_and_up() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    // By default the kernel removes IPv6 addresses of an interface that goes down.
    topology.balancer.sysctl(&[
        "net.ipv6.conf.front.keep_addr_on_down=1",
        "net.ipv6.conf.back.keep_addr_on_down=1",
    ])?;
    through(
        &topology,
        &["neighbor_unresolved", "transmit_ring_full"],
        |topology, waxwing| {
            for port in ["front", "back"] {
                topology.balancer.ip(&format!("link set {port} down\n"))?;
                link_is(waxwing, port, false)?;
                a_while();
                topology.balancer.ip(&format!("link set {port} up\n"))?;
                link_is(waxwing, port, true)?;
            }
            Ok(())
        },
    )
}

fn the_mtu_of_a_port_changes() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    // ICMP errors are rate-limited, and a burst of large packets exceeds the limit.
    through(&topology, &["answer_limit"], |topology, waxwing| {
        topology.balancer.ip("link set front mtu 1400\n")?;
        // Servers learn the smaller path MTU, and continue.
        waxwing.wait_status("ICMP errors about packets that are too big", |status| {
            status.port("front")["mtu"] == 1400 && status.counted("too_big_sent") > 0
        })?;
        topology.balancer.ip("link set front mtu 1500\n")?;
        waxwing
            .wait_status("the previous MTU", |status| {
                status.port("front")["mtu"] == 1500
            })
            .map(drop)
    })
}

/// The server does not announce its new MAC address: the kernel must detect it.
fn a_server_comes_back_with_another_mac() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    topology.balancer.sysctl(&[
        "net.ipv4.neigh.back.base_reachable_time_ms=1000",
        "net.ipv6.neigh.back.base_reachable_time_ms=1000",
        "net.ipv4.neigh.back.delay_first_probe_time=1",
        "net.ipv6.neigh.back.delay_first_probe_time=1",
        "net.ipv4.neigh.back.retrans_time_ms=200",
        "net.ipv6.neigh.back.retrans_time_ms=200",
    ])?;
    through(&topology, &["neighbor_unresolved"], |topology, waxwing| {
        let server = waxwing_tests::topology::server4(1);
        let resolved =
            |status: &waxwing_tests::Status| status.next_hop("web", server)["resolved"] == true;
        topology.switch.ip("link set server1 down\n")?;
        waxwing.wait_status("the server to be unresolved", |status| !resolved(status))?;
        topology.servers[0].ip("link set eth0 address 02:00:00:00:55:01\n")?;
        topology.switch.ip("link set server1 up\n")?;
        waxwing
            .wait_status("the server's new MAC address", |status| {
                resolved(status) && status.next_hop("web", server)["mac"] == "02:00:00:00:55:01"
            })
            .map(drop)
    })
}

fn the_neighbour_table_is_flushed_again_and_again() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    through(&topology, &[], |topology, _| {
        for _ in 0..10 {
            topology.balancer.ip("neigh flush all\n")?;
            thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    })
}

fn routes_to_the_servers_go_and_come_back() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    through(&topology, &["neighbor_unresolved"], |topology, waxwing| {
        topology
            .balancer
            .ip("route del 10.2.0.0/24 dev back\nroute del fd00:2::/64 dev back\n")?;
        waxwing.wait_status("packets without a route to be dropped", |status| {
            status.dropped("neighbor_unresolved") > 0
        })?;
        a_while();
        topology
            .balancer
            .ip("route add 10.2.0.0/24 dev back src 10.2.0.1\nroute add fd00:2::/64 dev back\n")
    })
}
