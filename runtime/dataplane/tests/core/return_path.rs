//! Replies along the kernel's routes: to a gateway other than the last hop, with its
//! VLAN tags, at once when a route changes; and unusable routes.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::frames::{
    ACK, SYN, SYN_ACK, error_back, establish, ip, one, reply, reply_segment, request, segment,
};
use crate::world::{BACK, CLIENT_MAC, FRONT, PORT_MACS, Settings, V4, V6, World};
use waxwing_dataplane::egress::routes::{Path, Routes};
use waxwing_dataplane::model::Port;
use waxwing_dataplane::{DropReason, NextHop, PortId};
use waxwing_packet::{Mac, Prefix, VlanTag, VlanTags};

const GATEWAY: Mac = Mac([2, 0, 0, 0, 7, 1]);
const UPLINK: PortId = PortId(2);
const UPLINK_TAGS: VlanTags = VlanTags::one(VlanTag {
    tpid: 0x8100,
    tci: 500,
});

/// A world with an uplink in a VLAN on the servers' port, for clients' replies.
fn world(settings: Settings) -> World {
    let uplink = Port {
        tags: UPLINK_TAGS,
        announces: false,
        ..Port::attached(BACK, "uplink".into(), PORT_MACS[1], 1400)
    };
    World::new(Settings {
        vlans: vec![uplink],
        ..settings
    })
}

fn all(path: &Path) -> BTreeMap<Prefix, Path> {
    let prefix = |text: &str| {
        let base: IpAddr = text.parse().expect("an address");
        Prefix::new(base.into(), 0)
    };
    ["0.0.0.0", "::"]
        .map(|base| (prefix(base), path.clone()))
        .into()
}

/// Publishes one default route; `gateway` is the only gateway.
fn route(world: &World, path: &Path, gateway: Option<NextHop>) {
    let routes = Routes::new(&all(path), 1);
    routes.set_gateway(0, gateway);
    let routes = Some(Arc::new(routes));
    world.shared.next_hops.routes().replace(routes);
}

fn by_gateway() -> Path {
    Path::Gateways([0].into())
}

fn gateway(port: PortId) -> NextHop {
    NextHop { port, mac: GATEWAY }
}

#[test]
fn a_reply_follows_the_route_rather_than_the_last_hop() {
    for plan in [V4, V6] {
        for (port, wire, tags) in [(BACK, BACK, VlanTags::NONE), (UPLINK, BACK, UPLINK_TAGS)] {
            let mut world = world(Settings::tcp(plan));
            route(&world, &by_gateway(), Some(gateway(port)));
            one(&world.frame(FRONT, &request(plan, 4000, SYN)));
            let (left_by, packet) = one(&world.frame(BACK, &reply(plan, 0, 4000, SYN_ACK)));
            assert_eq!(left_by, wire);
            assert_eq!(packet.ethernet.destination, GATEWAY);
            assert_eq!(packet.ethernet.source, PORT_MACS[wire.index()]);
            assert_eq!(packet.ethernet.tags, tags);
            assert_eq!(world.session().hop.mac, CLIENT_MAC, "it is still known");
            assert_eq!(world.counters[0].last_hop_fallbacks.get(), 0);
        }
    }
}

#[test]
fn a_route_change_moves_replies_at_once() {
    let mut world = world(Settings::default());
    establish(&mut world, 4000, 0);
    let (port, packet) = one(&world.frame(BACK, &reply(V4, 0, 4000, ACK)));
    assert_eq!((port, packet.ethernet.destination), (FRONT, CLIENT_MAC));

    route(&world, &by_gateway(), Some(gateway(BACK)));
    let (port, packet) = one(&world.frame(BACK, &reply(V4, 0, 4000, ACK)));
    assert_eq!((port, packet.ethernet.destination), (BACK, GATEWAY));

    let failed_over = NextHop {
        mac: Mac([2, 0, 0, 0, 7, 2]),
        ..gateway(FRONT)
    };
    route(&world, &by_gateway(), Some(failed_over));
    let (port, packet) = one(&world.frame(BACK, &reply(V4, 0, 4000, ACK)));
    assert_eq!(
        (port, packet.ethernet.destination),
        (FRONT, failed_over.mac)
    );

    world.shared.next_hops.routes().replace(None);
    let (port, packet) = one(&world.frame(BACK, &reply(V4, 0, 4000, ACK)));
    assert_eq!((port, packet.ethernet.destination), (FRONT, CLIENT_MAC));
    assert_eq!(world.sessions().len(), 1);
}

/// The route; how many replies fell back to the last hop; where they went.
type Scenario = (
    &'static str,
    Path,
    Option<NextHop>,
    (u64, Result<PortId, DropReason>),
);

#[test]
fn an_unusable_route_falls_back_to_the_last_hop_or_drops() {
    let scenarios: [Scenario; 6] = [
        (
            "the gateway does not answer",
            by_gateway(),
            None,
            (1, Ok(FRONT)),
        ),
        (
            "it leaves by no port",
            Path::Elsewhere,
            None,
            (1, Ok(FRONT)),
        ),
        (
            "the client is a neighbour, where its packets come from",
            Path::OnLink(FRONT),
            None,
            (0, Ok(FRONT)),
        ),
        (
            "the client is a neighbour, but its packets come from elsewhere",
            Path::OnLink(UPLINK),
            None,
            (1, Ok(FRONT)),
        ),
        (
            "it is refused",
            Path::Refused,
            None,
            (0, Err(DropReason::NoRoute)),
        ),
        (
            "the port is not known yet",
            by_gateway(),
            Some(gateway(PortId(99))),
            (0, Err(DropReason::PortMissing)),
        ),
    ];
    for (what, path, gateway, (last_hop_fallbacks, outcome)) in scenarios {
        let mut world = world(Settings::default());
        one(&world.frame(FRONT, &request(V4, 4000, SYN)));
        route(&world, &path, gateway);
        let sent = world.frame(BACK, &reply(V4, 0, 4000, SYN_ACK));
        match outcome {
            Ok(port) => {
                let (left_by, packet) = one(&sent);
                assert_eq!(left_by, port, "{what}");
                assert_eq!(packet.ethernet.destination, CLIENT_MAC, "{what}");
                assert_eq!(world.drops(), [], "{what}");
            }
            Err(reason) => {
                assert!(sent.is_empty(), "{what}");
                assert_eq!(world.drops(), [(reason, 1)], "{what}");
            }
        }
        let counted = world.counters[0].last_hop_fallbacks.get();
        assert_eq!(counted, last_hop_fallbacks, "{what}");
    }
}

#[test]
fn a_table_without_a_route_drops_replies_and_keeps_the_session() {
    let mut world = world(Settings::default());
    one(&world.frame(FRONT, &request(V4, 4000, SYN)));
    let published = world.shared.next_hops.routes();
    published.replace(Some(Arc::default()));
    assert!(world.frame(BACK, &reply(V4, 0, 4000, SYN_ACK)).is_empty());
    assert_eq!(world.dropped(DropReason::NoRoute), 1);
    // Requests continue; with a route so do replies.
    one(&world.frame(FRONT, &request(V4, 4000, SYN)));
    route(&world, &by_gateway(), Some(gateway(FRONT)));
    one(&world.frame(BACK, &reply(V4, 0, 4000, SYN_ACK)));
    assert_eq!(world.sessions().len(), 1);
}

#[test]
fn an_error_from_the_servers_side_follows_the_route() {
    let mut world = world(Settings::default());
    let sent = world.frame(FRONT, &request(V4, 4000, SYN));
    route(&world, &by_gateway(), Some(gateway(UPLINK)));
    let error = error_back(V4, V4.backend(0), &sent[0].1[14..]);
    let (port, packet) = one(&world.frame(BACK, &error));
    assert_eq!((port, packet.ethernet.tags), (BACK, UPLINK_TAGS));
    assert_eq!(packet.ethernet.destination, GATEWAY);
}

/// An answer returns to the ingress, whatever the routes say.
#[test]
fn the_balancers_own_answers_return_to_the_ingress() {
    let mut world = world(Settings::default());
    route(&world, &by_gateway(), Some(gateway(BACK)));
    let mut used_up = segment(V4, 4000, SYN);
    used_up.hop_limit = 1;
    let (port, packet) = one(&world.frame(FRONT, &used_up.frame()));
    assert_eq!((port, packet.ethernet.destination), (FRONT, CLIENT_MAC));
}

#[test]
fn the_mtu_of_the_reply_route_applies() {
    let mut world = world(Settings::tcp(V6));
    one(&world.frame(FRONT, &request(V6, 4000, SYN)));
    route(&world, &by_gateway(), Some(gateway(UPLINK)));
    let payload = [0; 1400];
    let large = waxwing_testkit::build::Tcp {
        payload: &payload,
        ..reply_segment(V6, 0, 4000, ACK)
    };
    let sent = world.frame(BACK, &large.frame());
    let (port, packet) = one(&sent);
    assert_eq!(port, BACK);
    assert_eq!(packet.destination, V6.backend(0), "reported to the server");
    assert_eq!(ip(&sent[0].1).source, V6.vip);
}
