//! VLAN devices on our ports: each is a port of its own for outgoing frames.
//!
//! Invariant: a port id belongs to one device while that exists, and is not reused soon after: a worker
//! may still use a next hop that it read a moment ago.

use std::collections::BTreeMap;

use waxwing_dataplane::PortId;
use waxwing_dataplane::model::Port;
use waxwing_packet::{VlanTag, VlanTags};

use crate::network::host::{HostNetwork, is_link_local};
use crate::network::port::{PortLink, VlanPort};

/// The last id of a VLAN device; the id after it is reserved.
const ID_MAX: u8 = u8::MAX - 1;

/// The VLAN devices on our ports, by the kernel's index.
pub(crate) struct VlanPorts {
    ports: Vec<PortLink>,
    known: BTreeMap<u32, VlanPort>,
    /// The first id to try for the next device.
    next: u8,
}

impl VlanPorts {
    pub(crate) fn new(ports: Vec<PortLink>) -> Self {
        let next = u8::try_from(ports.len()).unwrap_or(u8::MAX);
        Self {
            ports,
            known: BTreeMap::new(),
            next,
        }
    }

    /// Replaces the ports' links.
    pub(crate) fn set_ports(&mut self, ports: Vec<PortLink>) {
        self.ports = ports;
    }

    /// Updates the devices to the kernel's links.
    pub(crate) fn update(&mut self, host: &HostNetwork) -> &BTreeMap<u32, VlanPort> {
        let mut before = std::mem::take(&mut self.known);
        let found = host.links.keys().filter_map(|index| {
            let (parent, tags) = host.vlan_on(*index, |link| self.wire(link).is_some())?;
            Some((*index, self.wire(parent)?.clone(), tags))
        });
        for (index, wire, tags) in found.collect::<Vec<_>>() {
            // A device with other tags or another parent is a new device.
            let same = before
                .remove(&index)
                .filter(|known| known.tags == tags && known.wire == wire.id);
            let id = match same {
                Some(known) => known.id,
                None => match self.free_id(&before) {
                    Some(id) => id,
                    None => {
                        tracing::warn!(
                            "VLAN device {} is ignored: at most {} ports and VLAN devices on them are \
                             supported",
                            host.link_name(index),
                            u32::from(ID_MAX) + 1
                        );
                        continue;
                    }
                },
            };
            let problem = problem(host, index, &wire);
            let vlan = VlanPort {
                id,
                wire: wire.id,
                tags,
                problem,
            };
            self.known.insert(index, vlan);
        }
        &self.known
    }

    fn wire(&self, link: u32) -> Option<&PortLink> {
        self.ports.iter().find(|port| port.link == link)
    }

    /// Returns the next id in rotation that is neither in use nor was before this update.
    fn free_id(&mut self, before: &BTreeMap<u32, VlanPort>) -> Option<PortId> {
        let first = u8::try_from(self.ports.len()).ok()?;
        let used = |id| {
            let mut vlans = self.known.values().chain(before.values());
            vlans.any(|vlan| vlan.id == PortId(id))
        };
        let id = (self.next..=ID_MAX)
            .chain(first..self.next)
            .find(|id| !used(*id))?;
        self.next = id.checked_add(1).unwrap_or(first);
        Some(PortId(id))
    }
}

/// Returns why frames cannot use a VLAN device. The XDP program takes only frames to the port's own
/// MAC, so replies to another MAC would miss the workers.
fn problem(host: &HostNetwork, index: u32, wire: &PortLink) -> Option<String> {
    let mac = |link: u32| host.links.get(&link).and_then(|link| link.mac);
    let (name, own, ports) = (host.link_name(index), mac(index), mac(wire.link)?);
    (own != Some(ports)).then(|| {
        format!(
            "{name} has a different MAC address than its port {}; give it the same one: `ip link set \
             {name} address {ports}`",
            wire.name
        )
    })
}

/// Returns the attached ports followed by the VLAN devices on them, each at the index of its id. The
/// place of an unused id keeps the last device that had it; nothing is sent through it.
pub(crate) fn with_vlans(attached: &[Port], before: &[Port], host: &HostNetwork) -> Vec<Port> {
    let mut ports = attached.to_vec();
    let by_id: BTreeMap<PortId, (u32, &VlanPort)> = host
        .vlans
        .iter()
        .map(|(index, vlan)| (vlan.id, (*index, vlan)))
        .collect();
    let last = by_id.keys().next_back().map_or(0, |id| id.index() + 1);
    for at in attached.len()..last.max(before.len()) {
        let vlan = u8::try_from(at).ok().and_then(|id| by_id.get(&PortId(id)));
        let port = match vlan {
            Some((index, vlan)) => port(*index, vlan, host, attached),
            None => before.get(at).cloned(),
        };
        let Some(port) = port.or_else(|| attached.first().map(placeholder)) else {
            break;
        };
        let here = vlan.is_some();
        ports.push(Port {
            announces: here && port.announces,
            ..port
        });
    }
    ports
}

/// Fills the place of an id that was assigned and freed before anyone saw it.
fn placeholder(attached: &Port) -> Port {
    Port {
        tags: VlanTags::one(VlanTag::default()),
        ..attached.clone()
    }
}

fn port(index: u32, vlan: &VlanPort, host: &HostNetwork, attached: &[Port]) -> Option<Port> {
    let wire = attached.get(vlan.wire.index())?;
    let link = host.links.get(&index)?;
    Some(Port {
        name: link.name.as_str().into(),
        mac: wire.mac,
        mtu: u16::try_from(link.mtu).unwrap_or(u16::MAX).min(wire.mtu),
        wire: vlan.wire,
        tags: vlan.tags,
        announces: vlan.problem.is_none()
            && link.up
            && host.addresses_of(index).any(|a| !is_link_local(a)),
        faces: wire.faces,
        bridge: wire.bridge,
    })
}

#[cfg(test)]
mod tests;
