//! A router between the clients and a balancer in transparent mode: the servers' gateway.
//!
//! ```text
//!   client ─────── hosts [router] balancer ─────── front [balancer] back ───── switch ─── servers
//!   10.1.0.2    10.1.0.1         10.2.0.1             bridge 10.2.0.5                  10.2.0.11 ..
//!   fd00:1::2   fd00:1::1        fd00:2::1                   fd00:2::5                 fd00:2::11 ..
//! ```
//!
//! Invariant: hosts keep their addresses and routes. The router takes the balancer's addresses, and the VIPs
//! are in its network to the servers, so clients need the layout [`VipRoute::Gateway`]. The balancer's
//! kernel bridges packets and does not route them.
//!
//! [`VipRoute::Gateway`]: crate::topology::VipRoute::Gateway

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;

use crate::netns::{Namespace, VethOptions, veth};
use crate::topology::{Topology, VIP4, VIP6};

/// The balancer's own address, on its bridge.
pub const BRIDGE4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 2, 0, 5));
/// The balancer's own address, IPv6.
pub const BRIDGE6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, 5));
/// The router's address on the servers' network.
pub const ROUTER4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 2, 0, 1));
/// The router's address on the servers' network, IPv6.
pub const ROUTER6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, 1));

/// The router. Drop it before its topology.
#[derive(Debug)]
pub struct Inline {
    /// The clients' and the servers' gateway.
    pub router: Namespace,
}

impl Inline {
    /// Inserts it in front of a two-armed balancer that is not running, and makes the arms ports of a bridge.
    pub fn new(topology: &Topology) -> Result<Self> {
        let balancer = &topology.balancer;
        let router = Namespace::new("router")?;
        router.sysctl(&["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"])?;
        balancer.sysctl(&["net.ipv4.ip_forward=0", "net.ipv6.conf.all.forwarding=0"])?;
        // Moves the balancer's end of the client's link to the router; the client's end stays.
        let moved = format!(
            "link set front down\nlink set front netns {} name hosts\naddr flush dev back\n",
            router.name()
        );
        balancer.ip(&moved)?;
        let wide = VethOptions {
            queues: topology.layout().queues,
            ..VethOptions::default()
        };
        veth((balancer, "front"), (&router, "balancer"), wide)?;
        balancer.ip(&format!(
            "link add bridge type bridge mcast_snooping 0\n\
             link set front master bridge\n\
             link set back master bridge\n\
             link set bridge up\n\
             addr add {BRIDGE4}/24 dev bridge\n\
             addr add {BRIDGE6}/64 dev bridge nodad\n\
             route add default via {ROUTER4}\n\
             route add ::/0 via {ROUTER6}\n"
        ))?;
        router.ip(&format!(
            "link set hosts up\n\
             addr add 10.1.0.1/24 dev hosts\n\
             addr add fd00:1::1/64 dev hosts nodad\n\
             addr add {ROUTER4}/24 dev balancer\n\
             addr add {ROUTER6}/64 dev balancer nodad\n\
             route add {VIP4}/32 dev balancer\n\
             route add {VIP6}/128 dev balancer\n"
        ))?;
        Ok(Self { router })
    }
}
