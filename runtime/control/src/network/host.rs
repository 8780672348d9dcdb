//! What the host's network is at the moment: links, addresses, forwarding.
//!
//! Invariant: a value of [`HostNetwork`] is what the kernel said, at one time; it decides nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;

use waxwing_packet::{Address, Family, VlanTags};

use crate::network::kernel::{Kernel, Link, LocalAddress};
use crate::network::port::VlanPort;

/// Links and addresses of the host.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct HostNetwork {
    /// Links by their index.
    pub links: BTreeMap<u32, Link>,
    /// The host's addresses.
    pub addresses: BTreeSet<LocalAddress>,
    /// The VLAN devices on our ports, by their index; the resolver's to fill in.
    pub vlans: BTreeMap<u32, VlanPort>,
}

impl HostNetwork {
    /// Reads them.
    ///
    /// # Errors
    /// The kernel's answer.
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

    /// A link by its name.
    #[must_use]
    pub fn link(&self, name: &str) -> Option<&Link> {
        self.links.values().find(|link| link.name == name)
    }

    /// The bridge that a link is a port of.
    #[must_use]
    pub fn bridge_of(&self, port: &Link) -> Option<&Link> {
        let master = self.links.get(&port.master?)?;
        master.bridge.then_some(master)
    }

    /// A link's name, or its index where it has none any more.
    #[must_use]
    pub fn link_name(&self, index: u32) -> String {
        self.links
            .get(&index)
            .map_or_else(|| format!("interface {index}"), |l| l.name.clone())
    }

    /// Where a VLAN device's frames leave: a link that is one of ours, and the tags that they have there.
    /// `None` for any other link, and where there would be more tags than two.
    pub fn vlan_on(&self, link: u32, is_ours: impl Fn(u32) -> bool) -> Option<(u32, VlanTags)> {
        let inner = self.links.get(&link)?.vlan?;
        if is_ours(inner.parent) {
            return Some((inner.parent, VlanTags::one(inner.tag)));
        }
        let outer = self.links.get(&inner.parent)?.vlan?;
        is_ours(outer.parent).then(|| (outer.parent, VlanTags::two(outer.tag, inner.tag)))
    }

    /// The addresses of a link.
    pub fn addresses_of(&self, link: u32) -> impl Iterator<Item = Address> {
        self.addresses
            .iter()
            .filter(move |a| a.link == link)
            .map(|a| a.address)
    }

    /// Every address of the host, once: what is sent to one of them is the kernel's.
    #[must_use]
    pub fn locals(&self) -> BTreeSet<Address> {
        self.addresses.iter().map(|a| a.address).collect()
    }

    /// The name of the link that holds an address, where it is the host's.
    #[must_use]
    pub fn holder_of(&self, address: Address) -> Option<String> {
        self.addresses
            .iter()
            .find(|a| a.address == address)
            .map(|a| self.link_name(a.link))
    }
}

/// Whether the kernel routes packets of this family that arrive on this interface. `None` where
/// it does not say (no such interface, or the family is not built in).
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

/// The setting that turns forwarding on for a family, as `sysctl -w` takes it.
#[must_use]
pub const fn forwarding_setting(family: Family) -> &'static str {
    match family {
        Family::V4 => "net.ipv4.ip_forward=1",
        Family::V6 => "net.ipv6.conf.all.forwarding=1",
    }
}
