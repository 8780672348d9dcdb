//! The standard network: a client, the balancer, and servers behind it.
//!
//! ```text
//!   client ──── front [balancer] back ──── switch ──┬── server 1
//!   10.1.0.2    10.1.0.1         10.2.0.1           ├── server 2   10.2.0.11 ..
//!   fd00:1::2   fd00:1::1        fd00:2::1          └── server 3   fd00:2::11 ..
//! ```
//!
//! With one arm, the client is on the switch too, and the balancer has only `front`, with both networks on
//! it. The balancer is the servers' default gateway. No interface has the VIPs.
//!
//! Invariant: without a running balancer, the kernel of its namespace routes between client and servers,
//! and the VIPs are unreachable.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::Scratch;
use crate::actors::built_program;
use crate::netns::{Namespace, VethOptions, set_queues, veth};
use crate::process::retry;

/// The service address, IPv4 (RFC 5737's documentation range).
pub const VIP4: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 10));
/// The service address, IPv6 (RFC 3849's documentation range).
pub const VIP6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10));
/// The longest time until a balancer attaches to a port that was made again, on a busy machine.
const ATTACH_MAX: Duration = Duration::from_secs(20);

/// The balancer's own address on the client's network.
pub const FRONT4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 1, 0, 1));
/// The balancer's own address on the client's network, IPv6.
pub const FRONT6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 1));
/// The client's address.
pub const CLIENT4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 1, 0, 2));
/// The client's address, IPv6.
pub const CLIENT6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 2));

/// The balancer's ports.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arms {
    /// `front` faces the client, `back` the servers.
    Two,
    /// `front` only: client and servers on one switch.
    One,
}

/// The links between the balancer, the client and the switch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wires {
    /// veth pairs.
    Veth,
    /// The network cards of this virtual machine; only with two arms.
    Cards,
}

/// How the client reaches the VIPs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VipRoute {
    /// As neighbours, by ARP and NDP.
    OnLink,
    /// Through the balancer's own address as gateway.
    Gateway,
}

/// The shape of a topology.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Number of servers.
    pub servers: u8,
    /// Number of queues of each of the balancer's ports.
    pub queues: u32,
    /// The number to which [`Topology::set_queues`] can raise it; 0 for [`Layout::queues`].
    pub queues_max: u32,
    /// The balancer's ports.
    pub arms: Arms,
    /// How the client reaches the VIPs.
    pub vips: VipRoute,
    /// The links between the namespaces.
    pub wires: Wires,
    /// MTU of every interface, in bytes.
    pub mtu: u32,
}

impl Default for Layout {
    fn default() -> Self {
        Self {
            servers: 3,
            queues: 1,
            queues_max: 0,
            arms: Arms::Two,
            vips: VipRoute::OnLink,
            wires: Wires::Veth,
            mtu: 1500,
        }
    }
}

impl Layout {
    /// The default layout with this many servers.
    pub fn with_servers(servers: u8) -> Self {
        Self {
            servers,
            ..Self::default()
        }
    }

    /// The default layout with this many queues of each of the balancer's ports.
    pub fn with_queues(queues: u32) -> Self {
        Self {
            queues,
            ..Self::default()
        }
    }
}

/// A running network. Dropping it removes the network and its processes.
#[derive(Debug)]
pub struct Topology {
    /// The clients' namespace; its interface is `eth0`.
    pub client: Namespace,
    /// The balancer's namespace; its interfaces are [`Topology::ports`].
    pub balancer: Namespace,
    /// The servers' namespaces, server 1 first; the interface of each is `eth0`.
    pub servers: Vec<Namespace>,
    /// The namespace of the switch between balancer and servers.
    pub switch: Namespace,
    /// The directory of files of the network's processes.
    pub scratch: Scratch,
    layout: Layout,
}

/// Returns the IPv4 address of server `number` (from 1).
pub fn server4(number: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 2, 0, 10 + number))
}

/// Returns the IPv6 address of server `number` (from 1, at most 9).
pub fn server6(number: u8) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(
        0xfd00,
        2,
        0,
        0,
        0,
        0,
        0,
        0x10 + u16::from(number),
    ))
}

impl Topology {
    /// Builds a topology.
    pub fn new(layout: Layout) -> Result<Self> {
        let topology = Self {
            client: Namespace::new("client")?,
            balancer: Namespace::new("balancer")?,
            switch: Namespace::new("switch")?,
            servers: (1..=layout.servers)
                .map(|number| Namespace::new(&format!("server{number}")))
                .collect::<Result<_>>()?,
            scratch: Scratch::new()?,
            layout,
        };
        topology
            .switch
            .ip("link add bridge type bridge mcast_snooping 0\nlink set bridge up\n")?;
        topology.wire()?;
        topology.address()?;
        Ok(topology)
    }

    /// Returns the names of the balancer's interfaces.
    pub fn ports(&self) -> &'static [&'static str] {
        match self.layout.arms {
            Arms::Two => &["front", "back"],
            Arms::One => &["front"],
        }
    }

    /// Returns the layout from which the topology was built.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Returns a command that runs the balancer's program in its namespace; `wrapper` is a command line that
    /// runs before it.
    ///
    /// # Errors
    /// The program has not been built.
    pub fn balancer_command(&self, wrapper: &[&str]) -> Result<Command> {
        let program = built_program("waxwing")?;
        let mut command = match wrapper {
            [] => self.balancer.command(program),
            [first, args @ ..] => {
                let mut command = self.balancer.command(first);
                command.args(args).arg(program);
                command
            }
        };
        // Not the host's: a kept module would be compiled by no other scenario.
        command.env("CACHE_DIRECTORY", self.scratch.path().join("cache"));
        Ok(command)
    }

    fn wire(&self) -> Result<()> {
        let wide = self.wide();
        let narrow = VethOptions {
            queues: 1,
            queues_max: 0,
            ..wide
        };
        match self.layout.arms {
            Arms::Two if self.layout.wires == Wires::Cards => self.wire_cards()?,
            Arms::Two => {
                veth((&self.client, "eth0"), (&self.balancer, "front"), wide)?;
                self.plug((&self.balancer, "back"), wide)?;
            }
            Arms::One => {
                self.plug((&self.client, "eth0"), narrow)?;
                self.plug((&self.balancer, "front"), wide)?;
            }
        }
        self.servers
            .iter()
            .try_for_each(|server| self.plug((server, "eth0"), narrow))
    }

    fn wide(&self) -> VethOptions {
        let Layout {
            queues,
            queues_max,
            mtu,
            ..
        } = self.layout;
        VethOptions {
            queues,
            queues_max,
            mtu,
        }
    }

    /// Sets the number of queues of the balancer's two ports.
    ///
    /// # Errors
    /// More than [`Layout::queues_max`], fewer than the other ends have, or `ethtool` is missing.
    pub fn set_queues(&self, queues: u32) -> Result<()> {
        set_queues(&self.balancer, "front", queues)?;
        set_queues(&self.balancer, "back", queues)
    }

    /// Sets the number of queues at the other ends of the balancer's ports, which use as many of its queues.
    ///
    /// # Errors
    /// More than the balancer's ports have, or `ethtool` is missing.
    pub fn set_far_queues(&self, queues: u32) -> Result<()> {
        set_queues(&self.client, "eth0", queues)?;
        set_queues(&self.switch, "balancer", queues)
    }

    /// Deletes the balancer's port `back` and creates it again, with another MAC address and index and the
    /// addresses that it had. The servers look for the new MAC address at once.
    ///
    /// # Errors
    /// `ip` failed.
    pub fn replug_back(&self) -> Result<()> {
        self.balancer.ip("link del back\n")?;
        self.plug_back()
    }

    /// Creates the balancer's port `back` after it was deleted; see [`Topology::replug_back`]. It gets its
    /// addresses when the balancer has attached to it: a reply that the kernel routes before that reaches the
    /// client with the server's address, and the client resets the connection.
    ///
    /// # Errors
    /// `ip` failed, or the balancer does not attach.
    pub fn plug_back(&self) -> Result<()> {
        self.plug((&self.balancer, "back"), self.wide())?;
        retry(ATTACH_MAX, || {
            ensure!(
                self.balancer.has_xdp("back")?,
                "no program is attached to back"
            );
            Ok(())
        })?;
        self.balancer.ip("addr add 10.2.0.1/24 dev back\n\
             addr add fd00:2::1/64 dev back nodad\n")?;
        let flush = |server: &Namespace| server.ip("neigh flush dev eth0\n");
        self.servers.iter().try_for_each(flush)
    }

    /// Returns namespace and interface of each card, by number. The machine's hubs join cards 0 and 2, and
    /// cards 1 and 3.
    fn cards(&self) -> [(&Namespace, &'static str); 4] {
        [
            (&self.client, "eth0"),
            (&self.switch, "uplink"),
            (&self.balancer, "front"),
            (&self.balancer, "back"),
        ]
    }

    fn wire_cards(&self) -> Result<()> {
        for (number, (namespace, name)) in (0..).zip(self.cards()) {
            namespace.adopt_card(number, name)?;
        }
        self.switch.ip("link set uplink master bridge\n")
    }

    /// Connects an interface to the switch.
    fn plug(&self, end: (&Namespace, &str), options: VethOptions) -> Result<()> {
        // The role is the last part of a namespace's name, and unique in a topology.
        let role = end.0.name().rsplit('-').next().unwrap_or("port");
        veth(end, (&self.switch, role), options)?;
        self.switch.ip(&format!("link set {role} master bridge\n"))
    }

    fn address(&self) -> Result<()> {
        let back = match self.layout.arms {
            Arms::Two => "back",
            Arms::One => "front",
        };
        self.balancer.sysctl(&[
            "net.ipv4.ip_forward=1",
            "net.ipv6.conf.all.forwarding=1",
            "net.ipv4.conf.all.send_redirects=0",
            "net.ipv4.conf.default.send_redirects=0",
            &format!("net.ipv4.conf.{back}.send_redirects=0"),
        ])?;
        self.balancer.ip(&format!(
            "addr add 10.1.0.1/24 dev front\n\
             addr add fd00:1::1/64 dev front nodad\n\
             addr add 10.2.0.1/24 dev {back}\n\
             addr add fd00:2::1/64 dev {back} nodad\n"
        ))?;
        let (to4, to6) = match self.layout.vips {
            VipRoute::OnLink => ("dev eth0".to_owned(), "dev eth0".to_owned()),
            VipRoute::Gateway => (format!("via {FRONT4}"), format!("via {FRONT6}")),
        };
        self.client.ip(&format!(
            "addr add {CLIENT4}/24 dev eth0\n\
             addr add {CLIENT6}/64 dev eth0 nodad\n\
             route add default via {FRONT4}\n\
             route add ::/0 via {FRONT6}\n\
             route add {VIP4}/32 {to4}\n\
             route add {VIP6}/128 {to6}\n"
        ))?;
        if self.layout.arms == Arms::One {
            // Otherwise the kernel redirects hosts on one link, so that they bypass the balancer.
            for host in self.servers.iter().chain([&self.client]) {
                host.sysctl(&["net.ipv6.conf.eth0.accept_redirects=0"])?;
            }
        }
        // A load of short connections must not exhaust the ports, nor wait a minute for TIME-WAIT.
        self.client.sysctl(&[
            "net.ipv4.ip_local_port_range=1024 65535",
            "net.ipv4.tcp_tw_reuse=1",
        ])?;
        for (number, server) in (1..).zip(&self.servers) {
            server.ip(&format!(
                "addr add {}/24 dev eth0\n\
                 addr add {}/64 dev eth0 nodad\n\
                 route add default via 10.2.0.1\n\
                 route add ::/0 via fd00:2::1\n",
                server4(number),
                server6(number)
            ))?;
        }
        Ok(())
    }
}

impl Drop for Topology {
    fn drop(&mut self) {
        if self.layout.wires == Wires::Cards {
            for (number, (namespace, name)) in (0..).zip(self.cards()) {
                // It fails only if the card was never moved to the namespace.
                drop(namespace.return_card(number, name));
            }
        }
    }
}
