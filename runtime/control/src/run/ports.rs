//! The attached ports at start.

use std::sync::Arc;

use waxwing_dataplane::PortId;
use waxwing_dataplane::model::Port;

use super::StartError;
use crate::config::Config;
use crate::network::bridge;
use crate::network::host::HostNetwork;
use crate::network::port::PortLink;

/// Returns the config's ports for the data plane and for the resolver.
pub(super) fn attached(
    config: &Config,
    host: &HostNetwork,
) -> Result<(Vec<Port>, Vec<PortLink>), StartError> {
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
