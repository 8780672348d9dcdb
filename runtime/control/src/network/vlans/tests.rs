#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::net::IpAddr;

use waxwing_packet::{Mac, VlanTag};

use super::*;
use crate::network::kernel::{Link, LocalAddress, VlanLink};

const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);

/// `vlan`: the parent, TPID and VLAN id of a VLAN device.
fn link(index: u32, name: &str, vlan: Option<(u32, u16, u16)>) -> Link {
    Link {
        index,
        name: name.into(),
        mac: Some(MAC),
        mtu: 1500,
        up: true,
        carrier: true,
        master: None,
        bridge: false,
        spanning_tree: false,
        macvlan: None,
        vlan: vlan.map(|(parent, tpid, tci)| VlanLink {
            parent,
            tag: VlanTag { tpid, tci },
        }),
    }
}

fn host(links: impl IntoIterator<Item = Link>) -> HostNetwork {
    HostNetwork {
        links: links.into_iter().map(|link| (link.index, link)).collect(),
        ..HostNetwork::default()
    }
}

fn vlans() -> VlanPorts {
    let port = |id, link| PortLink {
        id: PortId(id),
        name: format!("eth{id}").into(),
        link,
    };
    VlanPorts::new(vec![port(0, 2), port(1, 3)])
}

fn ports() -> Vec<Port> {
    let port = |id| Port::attached(PortId(id), format!("eth{id}").into(), MAC, 1500);
    vec![port(0), port(1)]
}

/// Two ports; on `eth1` a VLAN, a service VLAN, a VLAN inside it, and devices that do not qualify.
fn trunk() -> Vec<Link> {
    vec![
        link(2, "eth0", None),
        link(3, "eth1", None),
        link(4, "eth1.100", Some((3, 0x8100, 100))),
        link(5, "eth1.7", Some((3, 0x88a8, 7))),
        link(6, "eth1.7.200", Some((5, 0x8100, 200))),
        link(7, "eth1.7.200.9", Some((6, 0x8100, 9))),
        link(8, "eth9.100", Some((9, 0x8100, 100))),
        link(9, "eth9", None),
    ]
}

#[test]
fn vlan_devices_on_ports_get_ids_and_tags_outermost_first() {
    let mut vlans = vlans();
    let known = vlans.update(&host(trunk()));
    let tags = |index| known.get(&index).map(|vlan: &VlanPort| vlan.tags);
    let tag = |tpid, tci| VlanTag { tpid, tci };
    assert_eq!(tags(4), Some(VlanTags::one(tag(0x8100, 100))));
    assert_eq!(tags(5), Some(VlanTags::one(tag(0x88a8, 7))));
    let two = VlanTags::two(tag(0x88a8, 7), tag(0x8100, 200));
    assert_eq!(tags(6), Some(two));
    assert_eq!(tags(7), None, "three tags are not supported");
    assert_eq!(tags(8), None, "not on a port");
    let ids: Vec<u8> = known.values().map(|vlan| vlan.id.0).collect();
    assert_eq!(ids, [2, 3, 4]);
    assert!(known.values().all(|vlan| vlan.wire == PortId(1)));
}

#[test]
fn an_id_stays_with_its_device_and_is_not_reused_at_once() {
    let mut vlans = vlans();
    vlans.update(&host(trunk()));
    let mut links = trunk();
    links.retain(|link| link.index != 4);
    assert_eq!(vlans.update(&host(links.clone()))[&6].id, PortId(4));
    // The same VLAN created again is a new device and gets a new id while there are free ones.
    links.push(link(10, "eth1.100", Some((3, 0x8100, 100))));
    assert_eq!(vlans.update(&host(links.clone()))[&10].id, PortId(5));
    for index in 11..2000 {
        links.retain(|link| link.index != index - 1);
        links.push(link(index, "eth1.100", Some((3, 0x8100, 100))));
        let known = vlans.update(&host(links.clone()));
        assert_eq!(known[&6].id, PortId(4));
        assert!(!(0..2).contains(&known[&index].id.0));
    }
}

#[test]
fn vlan_devices_beyond_the_last_id_are_ignored() {
    let mut links = vec![link(2, "eth0", None), link(3, "eth1", None)];
    let more = 0..300_u16;
    links.extend(more.map(|n| link(10 + u32::from(n), "eth0.n", Some((2, 0x8100, n)))));
    assert_eq!(vlans().update(&host(links)).len(), 253);
}

#[test]
fn a_vlan_device_with_a_different_mac_is_a_problem_with_a_remedy() {
    let mut links = trunk();
    links[2].mac = Some(Mac([2, 0, 0, 0, 0, 0x99]));
    let mut vlans = vlans();
    let known = vlans.update(&host(links));
    let problem = known[&4].problem.clone().unwrap();
    assert!(problem.contains("ip link set eth1.100 address 02:00:00:00:00:01"));
    assert_eq!(known[&5].problem, None);
}

#[test]
fn vlan_devices_follow_the_ports_with_their_own_mtu() {
    let mut links = trunk();
    links[2].mtu = 1400;
    let mut host = host(links);
    let own = |link, text: &str| LocalAddress {
        prefix_len: 24,
        link,
        address: text.parse::<IpAddr>().unwrap().into(),
    };
    host.addresses = [own(4, "10.9.0.1"), own(5, "fe80::1")].into();
    let mut vlans = vlans();
    host.vlans = vlans.update(&host).clone();
    let before = with_vlans(&ports(), &[], &host);
    let seen: Vec<_> = before
        .iter()
        .map(|port| (&*port.name, port.wire.0, port.mtu, port.announces))
        .collect();
    assert_eq!(
        seen,
        [
            ("eth0", 0, 1500, true),
            ("eth1", 1, 1500, true),
            ("eth1.100", 1, 1400, true),
            ("eth1.7", 1, 1500, false),
            ("eth1.7.200", 1, 1500, false),
        ]
    );
    // A removed device keeps its place and no longer announces.
    host.links.remove(&4);
    host.vlans = vlans.update(&host).clone();
    let after = with_vlans(&ports(), &before, &host);
    assert_eq!((&*after[2].name, after[2].announces), ("eth1.100", false));
    assert_eq!(after[4], before[4]);
}
