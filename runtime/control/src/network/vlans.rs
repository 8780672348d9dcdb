//! VLAN devices on our ports: each is a port to leave by, with an id of its own.
//!
//! Invariant: an id means one device as long as that exists, and is not given to another soon after: a
//! worker may still send by what a next hop said a moment ago.

use std::collections::BTreeMap;

use waxwing_dataplane::PortId;
use waxwing_dataplane::snapshot::Port;
use waxwing_packet::{Address, Family, VlanTag, VlanTags};

use crate::network::host::HostNetwork;
use crate::network::port::{PortLink, VlanPort};

/// The last id that a VLAN may have: the one behind it is no port's.
const ID_MAX: u8 = u8::MAX - 1;

/// All of them, by the kernel's index.
pub(crate) struct Vlans {
    ports: Vec<PortLink>,
    known: BTreeMap<u32, VlanPort>,
    /// The id to be tried first for the next one.
    next: u8,
}

impl Vlans {
    /// None yet, on these ports.
    pub(crate) fn new(ports: Vec<PortLink>) -> Self {
        let next = u8::try_from(ports.len()).unwrap_or(u8::MAX);
        Self {
            ports,
            known: BTreeMap::new(),
            next,
        }
    }

    /// Brings them up to what the kernel has now.
    pub(crate) fn update(&mut self, facts: &HostNetwork) -> &BTreeMap<u32, VlanPort> {
        let mut before = std::mem::take(&mut self.known);
        let found = facts.links.keys().filter_map(|index| {
            let (parent, tags) = facts.vlan_on(*index, |link| self.wire(link).is_some())?;
            Some((*index, self.wire(parent)?.clone(), tags))
        });
        for (index, wire, tags) in found.collect::<Vec<_>>() {
            // A device that is another now has another id.
            let same = before
                .remove(&index)
                .filter(|known| known.tags == tags && known.wire == wire.id);
            let id = match same {
                Some(known) => known.id,
                None => match self.free_id(&before) {
                    Some(id) => id,
                    None => {
                        tracing::warn!(
                            "{} is one VLAN device too many; there may be {} ports and VLAN devices \
                             on them",
                            facts.link_name(index),
                            u32::from(ID_MAX) + 1
                        );
                        continue;
                    }
                },
            };
            let problem = problem(facts, index, &wire);
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

    /// A port's link.
    fn wire(&self, link: u32) -> Option<&PortLink> {
        self.ports.iter().find(|port| port.link == link)
    }

    /// The next id, in turn, that is not in use and was not until now.
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

/// Why frames cannot leave by a VLAN device. The program takes frames to a port's own MAC, so what is
/// sent back to another one would not come to the workers.
fn problem(facts: &HostNetwork, index: u32, wire: &PortLink) -> Option<String> {
    let mac = |link: u32| facts.links.get(&link).and_then(|link| link.mac);
    let (name, own, ports) = (facts.link_name(index), mac(index), mac(wire.link)?);
    (own != Some(ports)).then(|| {
        format!(
            "{name} has another MAC address than {}; give it the same: `ip link set {name} address \
             {ports}`",
            wire.name
        )
    })
}

/// The ports as they are, with the VLANs on them behind: an id that is none's at the moment keeps the
/// place of the device that had it, by which nothing is sent.
pub(crate) fn with_vlans(attached: &[Port], before: &[Port], facts: &HostNetwork) -> Vec<Port> {
    let mut ports = attached.to_vec();
    let by_id: BTreeMap<PortId, (u32, &VlanPort)> = facts
        .vlans
        .iter()
        .map(|(index, vlan)| (vlan.id, (*index, vlan)))
        .collect();
    let last = by_id.keys().next_back().map_or(0, |id| id.index() + 1);
    for at in attached.len()..last.max(before.len()) {
        let vlan = u8::try_from(at).ok().and_then(|id| by_id.get(&PortId(id)));
        let port = match vlan {
            Some((index, vlan)) => port(*index, vlan, facts, attached),
            None => before.get(at).cloned(),
        };
        let Some(port) = port.or_else(|| attached.first().map(nobodys)) else {
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

/// The place of an id that was given and taken back before anybody saw it.
fn nobodys(attached: &Port) -> Port {
    Port {
        tags: VlanTags::one(VlanTag::default()),
        ..attached.clone()
    }
}

fn port(index: u32, vlan: &VlanPort, facts: &HostNetwork, attached: &[Port]) -> Option<Port> {
    let wire = attached.get(vlan.wire.index())?;
    let link = facts.links.get(&index)?;
    Some(Port {
        name: link.name.as_str().into(),
        mac: wire.mac,
        mtu: u16::try_from(link.mtu).unwrap_or(u16::MAX).min(wire.mtu),
        wire: vlan.wire,
        tags: vlan.tags,
        announces: vlan.problem.is_none()
            && link.up
            && facts.addresses_of(index).any(|a| !is_link_local(a)),
        bridge: wire.bridge,
    })
}

/// An IPv6 address that every interface has by itself, and that says nothing about what it is for.
fn is_link_local(address: Address) -> bool {
    address.family() == Family::V6 && address.octets()[..2] == [0xfe, 0x80]
}

#[cfg(test)]
mod tests;
