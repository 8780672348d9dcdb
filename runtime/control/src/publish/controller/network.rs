//! Changes of the host's links and addresses.

use super::Controller;
use crate::network::bridge;
use crate::network::vlans::with_vlans;

impl Controller {
    /// Applies a change of the host's links or addresses.
    pub(crate) async fn network_changed(&mut self) {
        let host = self.resolver.host().borrow().clone();
        let mut grown = Vec::new();
        for (port, link) in self.attached.iter_mut().zip(&self.links) {
            if let Some(now) = host.links.get(&link.link) {
                port.mac = now.mac.unwrap_or(port.mac);
                let mtu = u16::try_from(now.mtu).unwrap_or(u16::MAX);
                if mtu > std::mem::replace(&mut port.mtu, mtu) {
                    grown.push((&link.name, now.mtu));
                }
            }
        }
        for (name, mtu) in grown {
            if let Some(problem) = self.mtu_problem(name, mtu) {
                tracing::warn!("{problem}");
            }
        }
        if self.attached.iter().any(|port| port.bridge.is_some()) {
            bridge::set_peers(&mut self.attached, &self.links, &host);
        }
        let ports = with_vlans(&self.attached, &self.ports, &host);
        if ports != self.ports {
            self.ports = ports;
            self.republish().await;
        }
        self.update_steering();
        self.update_view();
    }
}
