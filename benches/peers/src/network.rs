//! The network of one run: a client on one side, servers on the other, the contender between.
//!
//! Invariant of a pinned network: the load's CPU runs the generator, clients and servers; the contender's
//! CPU runs the contender and its softirqs. The exception holds for every contender alike: the load's CPU
//! hands arriving frames to the kernel or to an AF_XDP socket, which is work of a NIC.

use std::net::{IpAddr, Ipv4Addr};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use waxwing_tests::topology::{VIP4, VipRoute, Wires, server4};
use waxwing_tests::{Layout, Namespace, Topology};

use crate::cpu::Cores;

/// The address of every service.
pub(crate) const VIP: Ipv4Addr = match VIP4 {
    IpAddr::V4(vip) => vip,
    IpAddr::V6(_) => panic!("VIP4 is an IPv4 address"),
};

/// A service that contenders provide.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Service {
    pub(crate) name: &'static str,
    pub(crate) protocol: Protocol,
    /// The port at the VIP.
    pub(crate) port: u16,
    /// The port of each server.
    pub(crate) backend_port: u16,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// Segmentation and checksum offloads of all interfaces.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Offloads {
    Off,
    On,
}

/// The longest wait for idle CPUs, the time between two checks, and the highest busy share that counts as
/// idle.
const IDLE_WAIT_MAX: Duration = Duration::from_secs(2);
const IDLE_CHECK: Duration = Duration::from_millis(100);
const IDLE_BUSY_MAX: f64 = 0.1;

/// A network; dropping it removes its namespaces.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) topology: Topology,
    /// The CPUs that load and contender are pinned to, if they are.
    pub(crate) cores: Option<Cores>,
}

/// One end of a link.
struct LinkEnd<'a> {
    namespace: &'a Namespace,
    interface: String,
    /// Whether the balancer's host is at this end.
    is_balancers: bool,
}

impl Network {
    /// Builds a network of veth pairs whose softirqs are pinned to CPUs, once the CPUs are idle.
    pub(crate) fn pinned(cores: Cores, servers: u8, offloads: Offloads) -> Result<Self> {
        wait_idle(cores)?;
        let topology = Topology::new(Layout {
            servers,
            vips: VipRoute::Gateway,
            ..Layout::default()
        })?;
        let network = Self {
            topology,
            cores: Some(cores),
        };
        network.pin_softirqs(cores)?;
        network.prepare_balancer()?;
        if offloads == Offloads::On {
            network.turn_offloads_on()?;
        }
        Ok(network)
    }

    /// Builds a network between the virtual machine's cards; nothing is pinned.
    pub(crate) fn of_cards(servers: u8) -> Result<Self> {
        let topology = Topology::new(Layout {
            servers,
            wires: Wires::Cards,
            ..Layout::default()
        })?;
        Ok(Self {
            topology,
            cores: None,
        })
    }

    /// Calls `start`; processes that it spawns stay on the contender's CPU.
    pub(crate) fn as_contender<T>(&self, start: impl FnOnce() -> Result<T>) -> Result<T> {
        match self.cores {
            Some(cores) => cores.as_contender(start),
            None => start(),
        }
    }

    /// The number of servers.
    pub(crate) fn servers(&self) -> u8 {
        self.topology.layout().servers
    }

    pub(crate) fn server_addresses(&self) -> impl Iterator<Item = IpAddr> {
        (1..=self.servers()).map(server4)
    }

    /// Handles frames that the balancer sends on the CPU that sent them. There, the sink counts them at less
    /// cost than steering them to another CPU would have.
    pub(crate) fn sink_on_contenders_cpu(&self) -> Result<()> {
        steer(&self.topology.switch, "balancer", None)
    }

    /// Configures receive packet steering: frames that arrive at the balancer are handled by the contender's
    /// CPU, all others by the load's.
    fn pin_softirqs(&self, cores: Cores) -> Result<()> {
        self.link_ends().iter().try_for_each(|end| {
            let core = match end.is_balancers {
                true => cores.contender,
                false => cores.load,
            };
            steer(end.namespace, &end.interface, Some(core))
        })
    }

    fn prepare_balancer(&self) -> Result<()> {
        let balancer = &self.topology.balancer;
        // The balancer has no route to the generator's source addresses. A proxy also is a client.
        balancer.sysctl(&[
            "net.ipv4.conf.all.rp_filter=0",
            "net.ipv4.conf.front.rp_filter=0",
            "net.ipv4.ip_local_port_range=1024 65535",
            "net.ipv4.tcp_tw_reuse=1",
        ])?;
        // The generator's frames are lost unless the other end of the veth pair uses NAPI.
        balancer.run("ethtool", &["-K", "front", "gro", "on"])?;
        // Resolves the servers' and the client's MAC addresses in advance.
        for number in 1..=self.servers() {
            balancer.run("ping", &["-c1", "-W5", &server4(number).to_string()])?;
        }
        balancer.run("ping", &["-c1", "-W5", "10.1.0.2"]).map(drop)
    }

    fn turn_offloads_on(&self) -> Result<()> {
        let on = ["rx", "tx", "tso", "gso", "gro"].map(|offload| [offload, "on"]);
        self.link_ends().iter().try_for_each(|end| {
            let arguments = [&["-K", &end.interface][..], on.as_flattened()].concat();
            end.namespace.run("ethtool", &arguments).map(drop)
        })
    }

    fn link_ends(&self) -> Vec<LinkEnd<'_>> {
        let Topology {
            client,
            balancer,
            servers,
            switch,
            ..
        } = &self.topology;
        let end = |namespace, interface: &str| LinkEnd {
            namespace,
            interface: interface.to_owned(),
            is_balancers: std::ptr::eq(namespace, balancer),
        };
        let mut ends = vec![
            end(client, "eth0"),
            end(balancer, "front"),
            end(balancer, "back"),
            end(switch, "balancer"),
        ];
        for (number, server) in (1..).zip(servers) {
            ends.push(end(server, "eth0"));
            ends.push(end(switch, &format!("server{number}")));
        }
        ends
    }
}

/// Sets the CPU that handles frames arriving at an interface; `None`: the CPU that sent them.
fn steer(namespace: &Namespace, interface: &str, core: Option<usize>) -> Result<()> {
    let mask = core.map_or(0, |core| 1_u128 << core);
    let line = format!("echo {mask:x} > /sys/class/net/{interface}/queues/rx-0/rps_cpus");
    namespace
        .run("sh", &["-c", &line])
        .map(drop)
        .with_context(|| format!("cannot steer received packets of {interface} to CPU {core:?}"))
}

/// Waits until both CPUs are idle: removing a network leaves work behind. Returns whether they became idle.
pub(crate) fn wait_idle(cores: Cores) -> Result<bool> {
    let deadline = Instant::now() + IDLE_WAIT_MAX;
    loop {
        let before = cores.times()?;
        thread::sleep(IDLE_CHECK);
        let after = cores.times()?;
        let is_busy = (0..2).any(|core| after[core].busy_since(before[core]) > IDLE_BUSY_MAX);
        if !is_busy || Instant::now() >= deadline {
            return Ok(!is_busy);
        }
    }
}
