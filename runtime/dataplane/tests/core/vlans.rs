//! VLANs on either side: a client keeps its tags, a backend gets those of the VLAN
//! of its route.

use std::time::Duration;

use crate::frames::{ACK, SYN, SYN_ACK, error_back, one, ports, reply, request};
use crate::world::{
    BACK, BACKEND_PORT, FRONT, PORT_MACS, Plan, SERVICE_PORT, Settings, V4, V6, World, backend_mac,
};
use waxwing_dataplane::model::Port;
use waxwing_dataplane::{BackendId, DropReason, NextHop, PortId};
use waxwing_packet::ethernet::{TAG_LEN, TPID_CUSTOMER, TPID_SERVICE};
use waxwing_packet::{Mac, Packet, VlanTag, VlanTags, parse};

/// The backends' VLAN, if they are in one.
const BACK_VLAN: PortId = PortId(2);

fn tag(tpid: u16, tci: u16) -> VlanTag {
    VlanTag { tpid, tci }
}

/// Each side may be untagged, in a VLAN, or in a provider's double-tagged VLAN.
fn sides(id: u16) -> [VlanTags; 3] {
    [
        VlanTags::NONE,
        VlanTags::one(tag(TPID_CUSTOMER, id)),
        VlanTags::two(tag(TPID_SERVICE, id + 1), tag(TPID_CUSTOMER, id)),
    ]
}

/// A VLAN on a port.
fn vlan(wire: PortId, tags: VlanTags, mtu: u16, announces: bool) -> Port {
    Port {
        wire,
        tags,
        announces,
        ..Port::attached(wire, "vlan".into(), PORT_MACS[wire.index()], mtu)
    }
}

/// A world with backends behind a VLAN with these tags, or behind the port itself.
fn world(plan: Plan, tags: VlanTags) -> World {
    world_of(Settings::tcp(plan), tags)
}

fn world_of(mut settings: Settings, tags: VlanTags) -> World {
    let mtu = settings.mtu;
    let behind_vlan = tags.count > 0;
    settings.vlans = vec![vlan(BACK, tags, mtu, false)];
    if !behind_vlan {
        settings.vlans.clear();
    }
    let world = World::new(settings);
    for n in 0..world.settings.weights.len() as u32 {
        let hop = NextHop {
            port: if behind_vlan { BACK_VLAN } else { BACK },
            mac: backend_mac(n),
        };
        world.shared.next_hops.set(BackendId(n), Some(hop));
    }
    world
}

/// The frame with these tags inserted.
fn tagged(frame: &[u8], tags: VlanTags) -> Vec<u8> {
    let (addresses, rest) = frame.split_at(12);
    let words = tags.as_slice().iter().flat_map(|tag| [tag.tpid, tag.tci]);
    let tags: Vec<u8> = words.flat_map(u16::to_be_bytes).collect();
    [addresses, &tags, rest].concat()
}

#[test]
fn each_side_has_its_own_tags() {
    for plan in [V4, V6] {
        for front in sides(100) {
            for back in sides(200) {
                let mut world = world(plan, back);
                let way = format!("{front:?} to {back:?}");
                for flags in [SYN, ACK] {
                    let sent = world.frame(FRONT, &tagged(&request(plan, 4000, flags), front));
                    let (port, packet) = one(&sent);
                    assert_eq!(port, BACK, "{way}");
                    assert_eq!(packet.ethernet.tags, back, "{way}");
                    assert_eq!(packet.ethernet.source, PORT_MACS[1], "{way}");
                    assert_eq!(packet.ethernet.destination, backend_mac(0), "{way}");
                    assert_eq!(ports(&packet), (4000, BACKEND_PORT), "{way}");

                    let answer = reply(plan, 0, 4000, flags | SYN_ACK & ACK);
                    let (port, packet) = one(&world.frame(BACK, &tagged(&answer, back)));
                    assert_eq!(port, FRONT, "{way}");
                    assert_eq!(packet.ethernet.tags, front, "{way}");
                    assert_eq!(ports(&packet), (SERVICE_PORT, 4000), "{way}");
                }
                assert_eq!(world.drops(), [], "{way}");
            }
        }
    }
}

#[test]
fn an_icmp_error_leaves_with_the_tags_of_its_side() {
    let [front, back] = [sides(100)[1], sides(200)[2]];
    let mut world = world(V4, back);
    let sent = world.frame(FRONT, &tagged(&request(V4, 4000, SYN), front));
    let header = 14 + 2 * TAG_LEN;
    let error = error_back(V4, V4.backend(0), &sent[0].1[header..]);
    let (port, packet) = one(&world.frame(BACK, &tagged(&error, back)));
    assert_eq!((port, packet.ethernet.tags), (FRONT, front));
}

#[test]
fn a_vlans_own_mtu_applies() {
    let mut settings = Settings::tcp(V6);
    settings.vlans = vec![vlan(BACK, sides(200)[1], 70, false)];
    let mut world = World::new(settings);
    let hop = NextHop {
        port: BACK_VLAN,
        mac: backend_mac(0),
    };
    world.shared.next_hops.set(BackendId(0), Some(hop));
    // 40 or 20 bytes of headers, and one byte of payload too many.
    let mut large = crate::frames::segment(V6, 4000, SYN);
    large.payload = b"eleven byte";
    let (port, _) = one(&world.frame(FRONT, &large.frame()));
    assert_eq!(port, FRONT, "it is reported");
    assert_eq!(world.counters[0].too_big_sent.get(), 1);
}

#[test]
fn a_vlan_unknown_to_the_snapshot_is_a_counted_drop() {
    let mut world = world(V4, VlanTags::NONE);
    let hop = NextHop {
        port: PortId(77),
        mac: backend_mac(0),
    };
    world.shared.next_hops.set(BackendId(0), Some(hop));
    assert!(world.frame(FRONT, &request(V4, 4000, SYN)).is_empty());
    assert_eq!(world.drops(), [(DropReason::PortMissing, 1)]);
}

/// Only on VLANs that the host is in, with their tags.
#[test]
fn vips_are_announced_on_vlans_that_the_host_is_in() {
    let [_, one_tag, two_tags] = sides(300);
    let settings = Settings {
        vlans: vec![
            vlan(FRONT, one_tag, 1500, true),
            vlan(FRONT, sides(400)[1], 1500, false),
            vlan(BACK, two_tags, 1500, true),
        ],
        ..Settings::default()
    };
    let mut world = World::new(settings);
    let before = world.counters[0].announced.get();
    assert_eq!(before, 8, "one VIP, two ports and two VLANs, two rounds");
    // A port's new MAC triggers new announcements, which are checked here.
    world.change(|settings| settings.mtu = 1400);
    world.run(0);
    world.advance(Duration::from_secs(3));
    world.run(0);
    let sent = world.io(0).sent();
    let tags = |(port, frame): &(PortId, Vec<u8>)| match parse(frame) {
        Ok(Packet::Arp(ethernet)) => (*port, ethernet.tags, ethernet.source),
        other => panic!("not an announcement: {other:?}"),
    };
    let round: Vec<(PortId, VlanTags, Mac)> = sent.iter().map(tags).collect();
    let expected = [
        (FRONT, VlanTags::NONE, PORT_MACS[0]),
        (BACK, VlanTags::NONE, PORT_MACS[1]),
        (FRONT, one_tag, PORT_MACS[0]),
        (BACK, two_tags, PORT_MACS[1]),
    ];
    assert_eq!(round, [expected, expected].concat());
}
