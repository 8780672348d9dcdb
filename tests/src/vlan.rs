//! The servers' network as a VLAN, by VLAN devices at both ends: for kernels that have them.

use anyhow::Result;

use crate::topology::{Topology, server4, server6};

/// The VLAN's number.
pub const ID: u16 = 100;

/// Moves the balancer's and the servers' addresses from their interfaces to VLAN devices on them.
///
/// # Errors
/// The kernel refuses; it may have no VLAN devices.
pub fn move_servers(topology: &Topology) -> Result<()> {
    let add = |dev: &str| format!("link add link {dev} name vlan{ID} type vlan id {ID}\n");
    // What the card takes off a frame, nobody here sees.
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
