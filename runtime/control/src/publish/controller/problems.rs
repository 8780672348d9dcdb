//! The view that the controller publishes, with the current problems.

use std::sync::Arc;

use super::Controller;
use crate::network::bridge;
use crate::network::host::HostNetwork;
use crate::network::port::PortLink;
use crate::publish::preflight;
use crate::publish::view::View;

impl Controller {
    /// Publishes the current state to status and health checks.
    pub(crate) fn update_view(&self) {
        self.view.set(View {
            config: Arc::clone(&self.config),
            loaded_at: self.loaded_at,
            snapshot: Arc::clone(&self.snapshot),
            modules: self.modules.clone(),
            last_reload: self.last_reload.clone(),
            reloads: self.reloads,
            problems: self.problems(),
        });
    }

    /// Returns the current problems, for the operator.
    fn problems(&self) -> Vec<String> {
        let recorded = self.steering_problem.iter().chain(&self.worker_problem);
        let recorded = recorded.chain(&self.port_problems);
        let mut problems: Vec<String> = recorded.cloned().collect();
        let host = self.resolver.host().borrow().clone();
        problems.extend(self.link_problems(&host));
        problems.extend(self.bridge_problems(&host));
        problems.extend(host.vlans.values().filter_map(|vlan| vlan.problem.clone()));
        problems.extend(self.resolver.return_state().problem.clone());
        for vip in self.snapshot.vips() {
            if let Some(holder) = host.holder_of(*vip) {
                let mut sources = self.snapshot.sources().iter();
                let what = match sources.any(|(_, address)| address == *vip) {
                    true => "source address",
                    false => "VIP",
                };
                problems.push(preflight::on_link(what, *vip, &holder));
            }
        }
        problems
    }

    fn link_problems(&self, host: &HostNetwork) -> Vec<String> {
        let problem = |port: &PortLink| {
            let name = &port.name;
            match host.links.get(&port.link) {
                Some(link) if *link.name != **name => Some(format!(
                    "{name} was renamed to {0}; it is still served, but not after a restart: `ip link set \
                     {0} name {name}`, or name {0} in its [[port]]",
                    link.name
                )),
                Some(link) if link.up && link.carrier => self.mtu_problem(name, link.mtu),
                Some(_) => Some(format!("{name} is down; `ip link set {name} up`")),
                // Until it is attached again, a moment later.
                None if host.link(name).is_some() => None,
                None => Some(format!(
                    "{name} is gone; it is attached again as soon as there is an interface of this name"
                )),
            }
        };
        self.links.iter().filter_map(problem).collect()
    }

    /// Returns a problem if an MTU exceeds the frame memory, which is sized at start.
    pub(super) fn mtu_problem(&self, name: &str, mtu: u32) -> Option<String> {
        let mtu_max = self.port_report.mtu_max();
        (mtu > mtu_max).then(|| {
            format!(
                "{name}: MTU {mtu} is more than the {mtu_max} that memory was sized for at start; longer \
                 frames are lost. Restart waxwing, or lower the MTU (`ip link set dev {name} mtu \
                 {mtu_max}`)"
            )
        })
    }

    /// Returns where the bridge does not fit transparent mode.
    fn bridge_problems(&self, host: &HostNetwork) -> Vec<String> {
        match &self.ports[..] {
            [first, second] if first.bridge.is_some() => {
                let names = [&*first.name, &*second.name];
                let errors = bridge::errors(host, names).into_iter();
                let warnings = bridge::warnings(host, names).into_iter();
                errors.chain(warnings).map(|(_, text)| text).collect()
            }
            _ => Vec::new(),
        }
    }
}
