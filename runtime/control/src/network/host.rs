//! The host's links, addresses and forwarding settings.
//!
//! Invariant: a [`HostNetwork`] is what the kernel reported at one time; it decides nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;

use waxwing_dataplane::PortId;
use waxwing_packet::{Address, Family, Mac, VlanTags};

use crate::network::kernel::{Kernel, Link, LocalAddress};
use crate::network::port::{PortLink, VlanPort};

/// The host's links and addresses.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct HostNetwork {
    /// By index.
    pub links: BTreeMap<u32, Link>,
    /// With the link that each is on.
    pub addresses: BTreeSet<LocalAddress>,
    /// The VLAN devices on our ports, by index; filled in by the resolver.
    pub vlans: BTreeMap<u32, VlanPort>,
}

impl HostNetwork {
    /// Reads links and addresses; `vlans` stays empty.
    ///
    /// # Errors
    /// The kernel refused, or the socket failed.
    pub async fn read(kernel: &Kernel) -> io::Result<Self> {
        let links = kernel
            .links()
            .await?
            .into_iter()
            .map(|link| (link.index, link))
            .collect();
        let addresses = kernel.addresses().await?.into_iter().collect();
        Ok(Self {
            links,
            addresses,
            vlans: BTreeMap::new(),
        })
    }

    /// Returns a link by its name.
    #[must_use]
    pub fn link(&self, name: &str) -> Option<&Link> {
        self.links.values().find(|link| link.name == name)
    }

    /// Returns the bridge that a link is a port of.
    #[must_use]
    pub fn bridge_of(&self, port: &Link) -> Option<&Link> {
        let master = self.links.get(&port.master?)?;
        master.bridge.then_some(master)
    }

    /// Returns a link's name; "interface INDEX" if it is gone.
    #[must_use]
    pub fn link_name(&self, index: u32) -> String {
        self.links
            .get(&index)
            .map_or_else(|| format!("interface {index}"), |l| l.name.clone())
    }

    /// Returns the link among ours that a VLAN device's frames leave through, and their tags there.
    /// `None` for any other link, and for more than two tags.
    pub fn vlan_on(&self, link: u32, is_ours: impl Fn(u32) -> bool) -> Option<(u32, VlanTags)> {
        let inner = self.links.get(&link)?.vlan?;
        if is_ours(inner.parent) {
            return Some((inner.parent, VlanTags::one(inner.tag)));
        }
        let outer = self.links.get(&inner.parent)?.vlan?;
        is_ours(outer.parent).then(|| (outer.parent, VlanTags::two(outer.tag, inner.tag)))
    }

    /// Returns the MAC addresses, besides their own, that these ports receive for the host: those of macvlan
    /// devices on them or on their VLAN devices, as VRRP uses.
    pub(crate) fn further_macs(&self, ports: &[PortLink]) -> BTreeSet<(PortId, Mac)> {
        let wire = |link: u32| ports.iter().find(|port| port.link == link);
        let found = self.links.values().filter_map(|link| {
            let parent = link.macvlan.filter(|_| link.up)?;
            let tagged = || self.vlan_on(parent, |link| wire(link).is_some());
            let wire = wire(parent).or_else(|| wire(tagged()?.0))?;
            Some((wire.id, link.mac?))
        });
        found.collect()
    }

    /// Returns the addresses of a link.
    pub fn addresses_of(&self, link: u32) -> impl Iterator<Item = Address> {
        self.addresses
            .iter()
            .filter(move |a| a.link == link)
            .map(|a| a.address)
    }

    /// Returns the host's addresses. Packets to them belong to the kernel.
    #[must_use]
    pub fn locals(&self) -> BTreeSet<Address> {
        self.addresses.iter().map(|a| a.address).collect()
    }

    /// Returns the addresses that no other host may send from: the host's own, and the broadcast addresses of
    /// its subnets.
    pub(crate) fn never_sources(&self) -> Vec<Address> {
        let broadcasts = self.addresses.iter().filter_map(LocalAddress::broadcast);
        broadcasts.chain(self.locals()).collect()
    }

    /// Returns the name of the link that has an address, if the host has it.
    #[must_use]
    pub fn holder_of(&self, address: Address) -> Option<String> {
        self.addresses
            .iter()
            .find(|a| a.address == address)
            .map(|a| self.link_name(a.link))
    }
}

/// Returns whether the kernel forwards packets of this family that arrive on this interface. `None` if
/// the interface does not exist or the kernel lacks the family.
#[must_use]
pub fn forwards(interface: &str, family: Family) -> Option<bool> {
    let family = match family {
        Family::V4 => "ipv4",
        Family::V6 => "ipv6",
    };
    let path: PathBuf = ["/proc/sys/net", family, "conf", interface, "forwarding"]
        .iter()
        .collect();
    let value = std::fs::read_to_string(path).ok()?;
    Some(value.trim() != "0")
}

/// Returns the argument of `sysctl -w` that turns forwarding on.
#[must_use]
pub const fn forwarding_setting(family: Family) -> &'static str {
    match family {
        Family::V4 => "net.ipv4.ip_forward=1",
        Family::V6 => "net.ipv6.conf.all.forwarding=1",
    }
}

/// Returns whether an address is IPv6 link-local (RFC 4291 section 2.5.6). Every interface has one, so it
/// does not mean that the interface is in use.
pub(crate) fn is_link_local(address: Address) -> bool {
    address.family() == Family::V6 && address.bits() >> 118 == 0xfe80 >> 6
}
