//! One contender's network: clients on one side, servers on the other, the contender between.
//!
//! Invariant: what generator, clients and servers do is done by the load's processor, and what the contender
//! does by the contender's, softirqs included; only what a NIC would do, handing a frame that arrives to the
//! kernel or to an AF_XDP socket, is done for every contender by the load's.

use std::net::{IpAddr, Ipv4Addr};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use waxwing_tests::topology::{VipRoute, server4};
use waxwing_tests::{Layout, Namespace, Topology};

use crate::cpu::Cores;

/// The port of the service, and of its servers.
pub(crate) const PORT: u16 = 8080;
/// Its address.
pub(crate) const VIP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);

/// Whether segments and checksums are left to interfaces, as real ones take them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Offloads {
    Off,
    On,
}

/// How long the machine may take to come to rest, and what rest is: the most that a processor is busy.
const REST_PATIENCE: Duration = Duration::from_secs(2);
const REST_LOOK: Duration = Duration::from_millis(100);
const REST_BUSY: f64 = 0.1;

/// The network, standing.
#[derive(Debug)]
pub(crate) struct Bed {
    pub(crate) topology: Topology,
    pub(crate) cores: Cores,
}

impl Bed {
    /// Builds it, with so many servers.
    pub(crate) fn new(cores: Cores, servers: u8, offloads: Offloads) -> Result<Self> {
        rest(cores)?;
        let topology = Topology::new(Layout {
            servers,
            vips: VipRoute::Gateway,
            ..Layout::default()
        })?;
        let bed = Self { topology, cores };
        bed.place_softirqs()?;
        bed.prepare_balancer()?;
        if offloads == Offloads::On {
            bed.turn_offloads_on()?;
        }
        Ok(bed)
    }

    /// Receive packet steering: what arrives is handled by the processor of whom it arrives at.
    fn place_softirqs(&self) -> Result<()> {
        let Topology {
            client,
            balancer,
            servers,
            switch,
            ..
        } = &self.topology;
        let Cores { load, contender } = self.cores;
        steer(balancer, "front", Some(contender))?;
        steer(balancer, "back", Some(contender))?;
        for host in servers.iter().chain([client]) {
            steer(host, "eth0", Some(load))?;
        }
        steer(switch, "balancer", Some(load))?;
        (1..=servers.len())
            .try_for_each(|number| steer(switch, &format!("server{number}"), Some(load)))
    }

    /// Leaves what the balancer sends to its own processor, where a sink counts it at less cost than that of
    /// steering it elsewhere.
    pub(crate) fn sink_beside_contender(&self) -> Result<()> {
        steer(&self.topology.switch, "balancer", None)
    }

    fn prepare_balancer(&self) -> Result<()> {
        let balancer = &self.topology.balancer;
        // The generator's sources are on no network of the balancer's. A proxy is a client too.
        balancer.sysctl(&[
            "net.ipv4.conf.all.rp_filter=0",
            "net.ipv4.conf.front.rp_filter=0",
            "net.ipv4.ip_local_port_range=1024 65535",
            "net.ipv4.tcp_tw_reuse=1",
        ])?;
        // Frames that the generator sends are lost, unless the other end polls its wire (NAPI).
        balancer.run("ethtool", &["-K", "front", "gro", "on"])?;
        // Every server's MAC address is known from the start.
        for number in 1..=self.servers() {
            balancer.run("ping", &["-c1", "-W5", &server4(number).to_string()])?;
        }
        balancer.run("ping", &["-c1", "-W5", "10.1.0.2"]).map(drop)
    }

    fn turn_offloads_on(&self) -> Result<()> {
        let Topology {
            client,
            balancer,
            servers,
            switch,
            ..
        } = &self.topology;
        let mut ends: Vec<(&Namespace, String)> = vec![
            (client, "eth0".to_owned()),
            (balancer, "front".to_owned()),
            (balancer, "back".to_owned()),
            (switch, "balancer".to_owned()),
        ];
        for (number, server) in (1..).zip(servers) {
            ends.push((server, "eth0".to_owned()));
            ends.push((switch, format!("server{number}")));
        }
        ends.iter().try_for_each(|(namespace, interface)| {
            let on = ["rx", "tx", "tso", "gso", "gro"].map(|offload| [offload, "on"]);
            let arguments = [&["-K", interface][..], on.as_flattened()].concat();
            namespace.run("ethtool", &arguments).map(drop)
        })
    }

    /// How many servers there are.
    pub(crate) fn servers(&self) -> u8 {
        self.topology.layout().servers
    }

    /// The servers' addresses.
    pub(crate) fn server_addresses(&self) -> impl Iterator<Item = IpAddr> {
        (1..=self.servers()).map(server4)
    }
}

/// Has one processor handle what arrives at an interface, or the one that it is sent by.
fn steer(namespace: &Namespace, interface: &str, core: Option<usize>) -> Result<()> {
    let mask = core.map_or(0, |core| 1_u128 << core);
    let line = format!("echo {mask:x} > /sys/class/net/{interface}/queues/rx-0/rps_cpus");
    namespace
        .run("sh", &["-c", &line])
        .map(drop)
        .with_context(|| format!("no receive packet steering of {interface} to CPU {core:?}"))
}

/// Waits, within bounds, until both processors are idle: a network that was taken down leaves work behind.
/// Says whether they came to be.
pub(crate) fn rest(cores: Cores) -> Result<bool> {
    let deadline = Instant::now() + REST_PATIENCE;
    loop {
        let before = cores.times()?;
        thread::sleep(REST_LOOK);
        let after = cores.times()?;
        let is_busy = (0..2).any(|core| after[core].busy_since(before[core]) > REST_BUSY);
        if !is_busy || Instant::now() >= deadline {
            return Ok(!is_busy);
        }
    }
}
