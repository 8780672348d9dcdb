//! The kernel's own balancers.

use anyhow::{Context as _, Result};
use waxwing_tests::topology::VipRoute;

use crate::network::{Network, Protocol, Service, VIP};

/// IPVS with NAT, scheduler `rr`. It needs the VIP on the host.
pub(super) fn ipvs(network: &Network, services: &[Service]) -> Result<()> {
    add_vip(network)?;
    let balancer = &network.topology.balancer;
    for service in services {
        let kind = match service.protocol {
            Protocol::Tcp => "-t",
            Protocol::Udp => "-u",
        };
        let virtual_service = format!("{VIP}:{}", service.port);
        balancer.run("ipvsadm", &["-A", kind, &virtual_service, "-s", "rr"])?;
        for address in network.server_addresses() {
            let server = format!("{address}:{}", service.backend_port);
            let arguments = ["-a", kind, &virtual_service, "-r", &server, "-m"];
            balancer.run("ipvsadm", &arguments)?;
        }
    }
    Ok(())
}

/// One `dnat` rule per service, which takes the servers in turn.
pub(crate) fn nftables(network: &Network, services: &[Service]) -> Result<()> {
    if network.topology.layout().vips == VipRoute::OnLink {
        // The host must answer ARP requests for the VIP.
        add_vip(network)?;
    }
    let rule = |service: &Service| {
        let Service {
            protocol,
            port,
            backend_port,
            ..
        } = *service;
        let protocol = protocol.label();
        let servers: Vec<String> = (0..)
            .zip(network.server_addresses())
            .map(|(number, address): (u8, _)| format!("{number} : {address} . {backend_port}"))
            .collect();
        format!(
            "ip daddr {VIP} {protocol} dport {port} dnat ip to numgen inc mod {} map {{ {} }}\n",
            servers.len(),
            servers.join(", ")
        )
    };
    let rules: String = services.iter().map(rule).collect();
    let rules = format!(
        "table ip bench {{\nchain prerouting {{\n\
         type nat hook prerouting priority dstnat;\n{rules}}}\n}}\n"
    );
    let file = network.topology.scratch.write("bench.nft", rules)?;
    let file = file.to_str().context("the path is not UTF-8")?;
    network
        .topology
        .balancer
        .run("nft", &["-f", file])
        .map(drop)
}

fn add_vip(network: &Network) -> Result<()> {
    let balancer = &network.topology.balancer;
    balancer.ip(&format!("addr add {VIP}/32 dev front\n"))
}
