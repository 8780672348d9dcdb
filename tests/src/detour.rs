//! Two routers between one of the balancer's ports and the hosts behind it. The link between them may have
//! the smallest MTU of the path.
//!
//! ```text
//!   [balancer] port ───────── near ═════════ far ───────── hosts
//!              10.8.0.1   10.8.0.2        10.9.0.2    10.1.0.1 or 10.2.0.1
//!              fd00:8::1  10.9.0.1        fd00:9::2   fd00:1::1 or fd00:2::1
//! ```
//!
//! Invariant: hosts keep their addresses and routes. The far router takes the balancer's address on the
//! hosts' network, so clients need the layout [`VipRoute::Gateway`].
//!
//! [`VipRoute::Gateway`]: crate::topology::VipRoute::Gateway

use anyhow::{Result, bail};

use crate::netns::{Namespace, VethOptions, veth};
use crate::topology::Topology;

/// The two routers. Drop them before their topology.
#[derive(Debug)]
pub struct Detour {
    /// The balancer's neighbour.
    pub near: Namespace,
    /// The hosts' gateway.
    pub far: Namespace,
}

impl Detour {
    /// Inserts them behind the port `front` or `back` of a two-armed balancer that is not running. `mtu`
    /// is that of the link between them, in bytes.
    pub fn new(topology: &Topology, port: &str, mtu: u32) -> Result<Self> {
        let hosts = match port {
            "front" => 1,
            "back" => 2,
            _ => bail!("a balancer with two arms has no port {port}"),
        };
        let balancer = &topology.balancer;
        let near = Namespace::new(&format!("near-{port}"))?;
        let far = Namespace::new(&format!("far-{port}"))?;
        for router in [&near, &far] {
            router.sysctl(&["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"])?;
        }
        // Moves the balancer's end of the hosts' link to the far router; the hosts' ends stay.
        let moved = format!(
            "link set {port} down\nlink set {port} netns {} name hosts\n",
            far.name()
        );
        balancer.ip(&moved)?;
        let wide = VethOptions {
            queues: topology.layout().queues,
            ..VethOptions::default()
        };
        veth((balancer, port), (&near, "balancer"), wide)?;
        veth(
            (&near, "between"),
            (&far, "between"),
            VethOptions {
                mtu,
                ..VethOptions::default()
            },
        )?;
        balancer.ip(&format!(
            "addr add 10.8.0.1/24 dev {port}\n\
             addr add fd00:8::1/64 dev {port} nodad\n\
             route add 10.{hosts}.0.0/24 via 10.8.0.2\n\
             route add fd00:{hosts}::/64 via fd00:8::2\n"
        ))?;
        near.ip(&format!(
            "addr add 10.8.0.2/24 dev balancer\n\
             addr add fd00:8::2/64 dev balancer nodad\n\
             addr add 10.9.0.1/24 dev between\n\
             addr add fd00:9::1/64 dev between nodad\n\
             route add default via 10.8.0.1\n\
             route add ::/0 via fd00:8::1\n\
             route add 10.{hosts}.0.0/24 via 10.9.0.2\n\
             route add fd00:{hosts}::/64 via fd00:9::2\n"
        ))?;
        far.ip(&format!(
            "link set hosts up\n\
             addr add 10.{hosts}.0.1/24 dev hosts\n\
             addr add fd00:{hosts}::1/64 dev hosts nodad\n\
             addr add 10.9.0.2/24 dev between\n\
             addr add fd00:9::2/64 dev between nodad\n\
             route add default via 10.9.0.1\n\
             route add ::/0 via fd00:9::1\n"
        ))?;
        Ok(Self { near, far })
    }
}
