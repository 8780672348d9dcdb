//! Changes of the host's links and addresses.

use super::Controller;
use crate::health::Reach;
use crate::network::bridge;
use crate::network::hop_state::{Condition, HopState};
use crate::network::host::HostNetwork;
use crate::network::vlans::with_vlans;

impl Controller {
    /// Tells the backends' health whether packets can be sent to them. Call it when the resolver has had its
    /// time for new backends ([`Controller::resolve_next_hops`]).
    pub(crate) fn record_reach(&self) {
        let states = self.resolver.states();
        self.health
            .record_reach(|address| states.get(&address).map(reach));
    }

    /// Applies a change of the host's links or addresses.
    pub(crate) async fn network_changed(&mut self) {
        self.follow_ports().await;
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
        let mut own = [host.never_sources(), self.snapshot.vips().to_vec()].concat();
        own.sort_unstable();
        own.dedup();
        if ports != self.ports || own != self.snapshot.own() {
            self.ports = ports;
            self.republish().await;
        }
        self.update_steering();
        self.update_view();
    }

    /// Has the adapter follow the ports' interfaces. If it attached to them again, next hops are looked up
    /// on their new indices; the resolver's answer is the next network change.
    pub(crate) async fn follow_ports(&mut self) {
        let followed = self.port_report.follow();
        for problem in &followed.problems {
            if !self.port_problems.contains(problem) {
                tracing::error!("{problem}");
            }
        }
        self.port_problems = followed.problems;
        if !followed.attached_again {
            return;
        }
        match HostNetwork::read(&self.kernel).await {
            Ok(host) => {
                for port in &mut self.links {
                    port.link = host.link(&port.name).map_or(port.link, |link| link.index);
                }
                self.resolver.set_ports(self.links.clone());
            }
            Err(error) => tracing::error!("cannot read the kernel's links (rtnetlink): {error}"),
        }
    }
}

fn reach(hop: &HopState) -> Reach {
    match (&hop.condition, hop.via) {
        _ if hop.is_resolved() => Reach::Reachable,
        (Condition::Resolving, Some(via)) => {
            Reach::Resolving(format!("{via} has not answered yet"))
        }
        (why @ (Condition::NoAnswer { .. } | Condition::Refused(_)), _) => {
            Reach::Unreachable(why.to_string())
        }
        (why, _) => Reach::CutOff(why.to_string()),
    }
}
