//! The attached ports at start.

use std::sync::Arc;

use waxwing_dataplane::PortId;
use waxwing_dataplane::model::Port;
use waxwing_dataplane::path::SharedState;

use super::StartError;
use crate::config::Config;
use crate::network::bridge;
use crate::network::gateway_failover::session_updater;
use crate::network::host::HostNetwork;
use crate::network::kernel::Kernel;
use crate::network::port::PortLink;
use crate::network::resolver::Resolver;
use crate::network::vlans::with_vlans;

/// What the kernel says of the config's ports, and the task that keeps it up to date.
pub(super) struct Network {
    pub(super) kernel: Kernel,
    pub(super) resolver: Resolver,
    /// The attached ports.
    pub(super) attached: Vec<Port>,
    pub(super) links: Vec<PortLink>,
    /// The attached ports and their VLANs.
    pub(super) ports: Vec<Port>,
}

impl Network {
    pub(super) async fn start(config: &Config, shared: &SharedState) -> Result<Self, StartError> {
        let kernel = Kernel::connect()?;
        let (attached, links) = attached(config, &HostNetwork::read(&kernel).await?)?;
        let on_move = session_updater(&shared.sessions);
        let hops = Arc::clone(&shared.next_hops);
        let resolver = Resolver::start(links.clone(), hops, on_move).await?;
        resolver.set_return_plan(config.return_plan());
        let ports = with_vlans(&attached, &[], &resolver.host().borrow());
        Ok(Self {
            kernel,
            resolver,
            attached,
            links,
            ports,
        })
    }
}

/// Returns the config's ports for the data plane and for the resolver.
fn attached(config: &Config, host: &HostNetwork) -> Result<(Vec<Port>, Vec<PortLink>), StartError> {
    let mut ports = Vec::new();
    let mut links = Vec::new();
    for (id, port) in (0_u8..).zip(&config.ports) {
        let name = &port.interface.value;
        let gone = || StartError::PortGone(name.to_string());
        let link = host.link(name).ok_or_else(gone)?;
        let mac = link.mac.ok_or_else(gone)?;
        let mtu = u16::try_from(link.mtu).unwrap_or(u16::MAX);
        ports.push(Port {
            faces: port.faces,
            ..Port::attached(PortId(id), Arc::clone(name), mac, mtu)
        });
        links.push(PortLink {
            id: PortId(id),
            name: Arc::clone(name),
            link: link.index,
        });
    }
    if config.bridged().is_some() {
        bridge::set_peers(&mut ports, &links, host);
    }
    Ok((ports, links))
}
