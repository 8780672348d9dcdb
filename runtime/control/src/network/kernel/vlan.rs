//! VLAN and macvlan devices in the kernel's link messages.
//!
//! Invariant: a link counts as a VLAN device only if its message has all of: the kind, the id, the
//! protocol, and a parent in this network namespace.

use rtnetlink::packet_route::link::{
    InfoData, InfoKind, InfoVlan, LinkAttribute, LinkInfo, LinkMessage, VlanProtocol,
};
use waxwing_packet::VlanTag;
use waxwing_packet::ethernet::{TPID_CUSTOMER, TPID_SERVICE};

/// A VLAN device: its parent link, and the tag of its frames there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VlanLink {
    /// The index of the parent link.
    pub parent: u32,
    /// The tag, with priority 0.
    pub tag: VlanTag,
}

/// Returns a link's parent, if it is in this network namespace, and what is known of its kind.
fn parent(message: &LinkMessage) -> Option<(u32, &[LinkInfo])> {
    let mut parent = None;
    let mut infos: &[LinkInfo] = &[];
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Link(index) => parent = Some(*index),
            // The parent is in another network namespace.
            LinkAttribute::LinkNetNsId(_) => return None,
            LinkAttribute::LinkInfo(found) => infos = found,
            _ => {}
        }
    }
    Some((parent?, infos))
}

/// Returns the parent of a device that has MAC addresses of its own on it.
pub(super) fn macvlan(message: &LinkMessage) -> Option<u32> {
    let (parent, infos) = parent(message)?;
    let kinds = [InfoKind::MacVlan, InfoKind::MacVtap];
    let is_one = |info: &LinkInfo| matches!(info, LinkInfo::Kind(kind) if kinds.contains(kind));
    infos.iter().any(is_one).then_some(parent)
}

pub(super) fn vlan(message: &LinkMessage) -> Option<VlanLink> {
    let (parent, infos) = parent(message)?;
    if !infos.contains(&LinkInfo::Kind(InfoKind::Vlan)) {
        return None;
    }
    let data = infos.iter().find_map(|info| match info {
        LinkInfo::Data(InfoData::Vlan(data)) => Some(data),
        _ => None,
    })?;
    let id = data.iter().find_map(|info| match info {
        InfoVlan::Id(id) => Some(*id),
        _ => None,
    })?;
    let tpid = data.iter().find_map(|info| match info {
        InfoVlan::Protocol(VlanProtocol::Ieee8021Q) => Some(TPID_CUSTOMER),
        InfoVlan::Protocol(VlanProtocol::Ieee8021Ad) => Some(TPID_SERVICE),
        _ => None,
    })?;
    Some(VlanLink {
        parent,
        tag: VlanTag { tpid, tci: id },
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use rtnetlink::packet_core::{Emitable, Parseable};
    use rtnetlink::packet_route::link::LinkMessageBuffer;

    use super::super::test_message::attribute;
    use super::*;

    /// `IFLA_LINKINFO` with a kind and its data.
    fn info(kind: &[u8], data: &[u8]) -> Vec<u8> {
        let inner = [attribute(1, kind), attribute(2, data)].concat();
        attribute(18, &inner)
    }

    /// `IFLA_VLAN_ID`, `IFLA_VLAN_FLAGS` and `IFLA_VLAN_PROTOCOL` as the kernel writes them
    /// (net/8021q/vlan_netlink.c): the id in host byte order, the protocol in network byte order.
    fn vlan_data(id: u16, protocol: u16) -> Vec<u8> {
        [
            attribute(5, &protocol.to_be_bytes()),
            attribute(1, &id.to_ne_bytes()),
            attribute(2, &[1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]),
        ]
        .concat()
    }

    /// `RTM_NEWLINK` of interface 7: its name, then these attributes.
    fn message(attributes: &[u8]) -> LinkMessage {
        let header = [0, 0, 1, 0, 7, 0, 0, 0, 0x43, 0x10, 1, 0, 0, 0, 0, 0];
        let name = attribute(3, b"eth0.100\0");
        let bytes = [&header[..], &name, attributes].concat();
        let parsed = LinkMessage::parse(&LinkMessageBuffer::new(&bytes)).unwrap();
        assert_eq!(parsed.buffer_len(), bytes.len());
        parsed
    }

    fn parent(index: u32) -> Vec<u8> {
        attribute(5, &index.to_ne_bytes())
    }

    #[test]
    fn a_vlan_device_is_parsed_to_its_parent_and_tag() {
        for (protocol, id) in [(0x8100, 100), (0x88a8, 4094), (0x8100, 0)] {
            let data = info(b"vlan\0", &vlan_data(id, protocol));
            let link = vlan(&message(&[parent(2), data].concat())).unwrap();
            let tag = VlanTag {
                tpid: protocol,
                tci: id,
            };
            assert_eq!(link, VlanLink { parent: 2, tag });
        }
    }

    #[test]
    fn other_links_are_not_vlan_devices() {
        let good = info(b"vlan\0", &vlan_data(100, 0x8100));
        let other_namespace = attribute(37, &0_i32.to_ne_bytes());
        let scenarios: [(&str, Vec<u8>); 5] = [
            ("no kind", parent(2)),
            ("a veth has a peer, not a parent", {
                [parent(2), attribute(18, &attribute(1, b"veth\0"))].concat()
            }),
            ("no parent", good.clone()),
            ("its parent is in another namespace", {
                [parent(2), other_namespace, good].concat()
            }),
            ("no id", {
                let data = info(b"vlan\0", &attribute(5, &0x8100_u16.to_be_bytes()));
                [parent(2), data].concat()
            }),
        ];
        for (what, attributes) in scenarios {
            assert_eq!(vlan(&message(&attributes)), None, "{what}");
        }
    }
}
