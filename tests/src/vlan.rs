//! Makes the servers' network a VLAN, with VLAN devices on the balancer and the servers.

use anyhow::Result;

use crate::topology::{Topology, server4, server6};

/// The VLAN id.
pub const ID: u16 = 100;

/// Moves the balancer's and the servers' addresses from their interfaces to VLAN devices on them.
pub fn move_servers(topology: &Topology) -> Result<()> {
    let add = |dev: &str| format!("link add link {dev} name vlan{ID} type vlan id {ID}\n");
    // If the card strips the tag, AF_XDP does not see it.
    let keep_tags = |dev| ["-K", dev, "rxvlan", "off", "txvlan", "off"];
    let balancer = &topology.balancer;
    balancer.ip(&add("back"))?;
    balancer.ip(&format!(
        "addr del 10.2.0.1/24 dev back\naddr del fd00:2::1/64 dev back\n\
         link set vlan{ID} up\n\
         addr add 10.2.0.1/24 dev vlan{ID}\naddr add fd00:2::1/64 dev vlan{ID} nodad\n"
    ))?;
    balancer.run("ethtool", &keep_tags("back"))?;
    for (number, server) in (1..).zip(&topology.servers) {
        server.ip(&add("eth0"))?;
        server.run("ethtool", &keep_tags("eth0"))?;
        let (v4, v6) = (server4(number), server6(number));
        server.ip(&format!(
            "addr flush dev eth0\nlink set vlan{ID} up\n\
             addr add {v4}/24 dev vlan{ID}\naddr add {v6}/64 dev vlan{ID} nodad\n\
             route replace default via 10.2.0.1\nroute replace ::/0 via fd00:2::1\n"
        ))?;
    }
    Ok(())
}
