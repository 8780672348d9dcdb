//! The attached interfaces, and the VLAN devices on them.

use std::sync::Arc;

use waxwing_dataplane::PortId;
use waxwing_packet::{Address, Mac, VlanTags};

/// An attached interface and its index in the kernel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortLink {
    /// The port's id.
    pub id: PortId,
    /// The interface's name.
    pub name: Arc<str>,
    /// The kernel's index of the interface.
    pub link: u32,
}

/// A VLAN device on a port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VlanPort {
    /// Its own port id.
    pub id: PortId,
    /// The attached port that it is on.
    pub wire: PortId,
    /// The tags of its frames there.
    pub tags: VlanTags,
    /// Why no frame can leave through it; `None` if frames can.
    pub problem: Option<String>,
}

/// A neighbour whose MAC changed: a gateway that failed over, or a client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MovedNeighbour {
    /// The port that it is behind.
    pub wire: PortId,
    /// The tags of its VLAN there.
    pub tags: VlanTags,
    /// Its address, if it is no gateway or backend: then it is at most a client, with sessions of its own.
    pub client: Option<Address>,
    /// The old MAC.
    pub from: Mac,
    /// The new MAC.
    pub to: Mac,
}
