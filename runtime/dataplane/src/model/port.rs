//! Ports: the interfaces that frames leave by.

use std::sync::Arc;

use waxwing_packet::{Mac, VlanTags};

use super::PortId;

/// An attached interface, or a VLAN on one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Port {
    /// The interface's name, for people.
    pub name: Arc<str>,
    pub mac: Mac,
    /// The largest IP packet it carries, in bytes.
    pub mtu: u16,
    /// The attached interface whose rings it uses: itself unless it is a VLAN.
    pub wire: PortId,
    /// The VLAN's tags; none for an attached interface. (Replies to tagged frames carry the tags those came
    /// with, whether the VLAN is known here or not.)
    pub tags: VlanTags,
    /// Whether VIPs are announced on it.
    pub announces: bool,
    /// Who is behind it; `None`: servers if a backend is reached by it, else clients alone.
    pub faces: Option<Faces>,
    /// The bridge it belongs to, in transparent mode.
    pub bridge: Option<Bridge>,
}

/// Who is behind a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Faces {
    /// Clients' packets may move their sessions' return hops here from another port.
    Clients,
    /// Of clients' packets only those of sessions that were opened here are believed.
    Servers,
}

/// A bridge as seen from one of its ports (transparent mode).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bridge {
    /// The other port.
    pub peer: PortId,
    /// The balancer's own MAC addresses: both ports' and the bridge's.
    pub macs: [Mac; 3],
}

impl Bridge {
    /// Whether frames to this MAC address are for the balancer itself.
    pub(crate) fn is_own(&self, mac: Mac) -> bool {
        self.macs.contains(&mac)
    }
}

impl Port {
    /// An attached interface that announces VIPs and belongs to no bridge.
    #[must_use]
    pub const fn attached(id: PortId, name: Arc<str>, mac: Mac, mtu: u16) -> Self {
        Self {
            name,
            mac,
            mtu,
            wire: id,
            tags: VlanTags::NONE,
            announces: true,
            faces: None,
            bridge: None,
        }
    }

    /// Whether it is an attached interface rather than a VLAN.
    #[must_use]
    pub const fn is_attached(&self) -> bool {
        self.tags.count == 0
    }
}
