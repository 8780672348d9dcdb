//! Packets in another's name: from the wrong side, no session changes and nobody reads what is not theirs.

use std::time::Duration;

use waxwing_dataplane::model::{Faces, Port};
use waxwing_dataplane::{DropReason, PortId};
use waxwing_packet::{Address, Family, Link, Mac, Protocol, VlanTag, VlanTags};
use waxwing_testkit::build;
use waxwing_testkit::fragmenter::fragment;

use crate::frames::{
    ACK, FIN_ACK, FROM_CLIENT, RST, SYN, SYN_ACK, damaged, datagram, datagram_back, establish,
    from_server, one, ping, port_unreachable, reply, reply_segment, request, segment,
};
use crate::world::{
    BACK, CLIENT_MAC, EACH, FRONT, PORT_MACS, Plan, Settings, V4, V6, World, backend_mac,
};

const ATTACKER: Mac = Mac([2, 0, 0, 0, 66, 66]);
const TAGS: VlanTags = VlanTags::one(VlanTag {
    tpid: 0x8100,
    tci: 300,
});

fn link(port: PortId) -> Link {
    Link {
        source: ATTACKER,
        destination: PORT_MACS[port.index()],
    }
}

/// A world with one session of the protocol, whose last packets were its own.
fn with_session(plan: Plan, protocol: Protocol) -> World {
    let mut world = World::new(Settings::new(plan, protocol));
    match protocol {
        Protocol::Tcp => establish(&mut world, 4000, 0),
        Protocol::Udp => {
            one(&world.frame(FRONT, &datagram(plan, 4000, b"?")));
            one(&world.frame(BACK, &datagram_back(plan, 0, 4000)));
        }
    }
    world
}

/// Every kind of packet of a session, in the name of its client or its server.
fn kinds(segment: &build::Tcp<'_>, protocol: Protocol) -> Vec<(String, Vec<u8>)> {
    let flags = [SYN, SYN_ACK, ACK, 0, FIN_ACK, RST, RST | ACK];
    let of = |flags, payload| build::Tcp {
        flags: waxwing_packet::TcpFlags(flags),
        payload,
        ..*segment
    };
    let mut kinds: Vec<_> = match protocol {
        Protocol::Tcp => flags
            .iter()
            .flat_map(|flags| [b"".as_slice(), b"data"].map(|payload| (*flags, payload)))
            .map(|(flags, payload)| {
                let name = format!("flags {flags:#x} with {} bytes", payload.len());
                (name, of(flags, payload).frame())
            })
            .collect(),
        Protocol::Udp => vec![("a datagram".into(), segment.frame_of(Protocol::Udp))],
    };
    let quote = build::Tcp {
        source: segment.destination,
        destination: segment.source,
        ..*segment
    };
    let error = build::Error {
        link: segment.link,
        tags: segment.tags,
        source: segment.source.0,
        destination: segment.destination.0,
        ..port_unreachable(V4, &[])
    };
    let error = build::Error {
        error: waxwing_packet::reject::IcmpError::port_unreachable(segment.source.0.family()),
        quote: &quote.frame_of(protocol)[14 + 4 * usize::from(segment.tags.count)..],
        ..error
    };
    kinds.push(("an ICMP error".into(), error.frame()));
    kinds
}

/// The matrix: every kind of packet, in the name of either end, from every wrong side.
#[test]
fn no_packet_from_the_wrong_side_changes_a_session() {
    for (plan, protocol) in EACH {
        for without_fast_path in [false, true] {
            let mut world = with_session(plan, protocol);
            world.change(|settings| settings.without_fast_path = without_fast_path);
            let wrong = [
                (FRONT, VlanTags::NONE, DropReason::SpoofedReply),
                (FRONT, TAGS, DropReason::SpoofedReply),
                (BACK, TAGS, DropReason::SpoofedReply),
                (BACK, VlanTags::NONE, DropReason::SpoofedRequest),
                (BACK, TAGS, DropReason::SpoofedRequest),
            ];
            for (port, tags, reason) in wrong {
                let honest = match reason {
                    DropReason::SpoofedReply => reply_segment(plan, 0, 4000, ACK),
                    _ => segment(plan, 4000, ACK),
                };
                let forged = build::Tcp {
                    link: link(port),
                    tags,
                    ..honest
                };
                for (name, frame) in kinds(&forged, protocol) {
                    let what = format!("{name} at {port:?} {tags:?}, {} {protocol:?}", plan.vip);
                    let (session, drops) = (world.session(), world.dropped(reason));
                    world.advance(Duration::from_millis(200));
                    assert_eq!(world.frame(port, &frame), [], "{what}");
                    assert_eq!(world.session(), session, "{what}");
                    assert_eq!(world.dropped(reason), drops + 1, "{what}");
                }
            }
            // Its own packets pass as before, to the client's own hop.
            let sent = match protocol {
                Protocol::Tcp => world.frame(BACK, &reply(plan, 0, 4000, ACK)),
                Protocol::Udp => world.frame(BACK, &datagram_back(plan, 0, 4000)),
            };
            let (port, packet) = one(&sent);
            let to = (port, packet.ethernet.destination);
            assert_eq!(to, (FRONT, CLIENT_MAC));
        }
    }
}

/// From the right side, in another's name: a reply by any address or port but its server's, a request by any
/// but its client's. The session stays as it is, and its client gets nothing.
#[test]
fn no_packet_of_another_address_or_port_changes_a_session() {
    for (plan, protocol) in EACH {
        let mut world = with_session(plan, protocol);
        let session = world.session();
        let (reply, request) = (reply_segment(plan, 0, 4000, ACK), segment(plan, 4000, ACK));
        let stranger = Address::from_bits(plan.client.bits() + 7);
        let sources = |honest: &build::Tcp<'_>| {
            let (address, port) = honest.source;
            [plan.backend(1), stranger, plan.vip]
                .map(|other| (other, port))
                .into_iter()
                .chain([(address, port + 1)])
                .collect::<Vec<_>>()
        };
        for (side, honest) in [(BACK, reply), (FRONT, request)] {
            for source in sources(&honest) {
                let forged = build::Tcp { source, ..honest };
                for (name, frame) in kinds(&forged, protocol) {
                    let what = format!(
                        "{name} at {side:?} from {source:?}, {} {protocol:?}",
                        plan.vip
                    );
                    let sent = world.frame(side, &frame);
                    // What is a client's own request goes to a server. Nothing goes to this client.
                    assert!(sent.iter().all(|(port, _)| *port == BACK), "{what}");
                    assert!(world.sessions().contains(&session), "{what}");
                }
            }
        }
    }
}

/// Whoever announces the client's or the server's address, from whatever side: the kernel judges by its own
/// neighbour table, so no session follows the announcement itself.
#[test]
fn no_announcement_changes_a_session() {
    for (plan, protocol) in EACH {
        let mut world = with_session(plan, protocol);
        let session = world.session();
        for port in [FRONT, BACK] {
            for tags in [VlanTags::NONE, TAGS] {
                for address in [plan.client, plan.backend(0), plan.vip] {
                    let frame = build::announcement(ATTACKER, tags, address);
                    let sent = world.frame(port, &frame);
                    let what = format!("{address} at {port:?} {tags:?}");
                    assert!(sent.is_empty() || address == plan.vip, "{what}: {sent:?}");
                    assert_eq!(world.session(), session, "{what}");
                }
            }
        }
        let sent = match protocol {
            Protocol::Tcp => world.frame(BACK, &reply(plan, 0, 4000, ACK)),
            Protocol::Udp => world.frame(BACK, &datagram_back(plan, 0, 4000)),
        };
        let (port, packet) = one(&sent);
        assert_eq!((port, packet.ethernet.destination), (FRONT, CLIENT_MAC));
        let sent = match protocol {
            Protocol::Tcp => world.frame(FRONT, &request(plan, 4000, ACK)),
            Protocol::Udp => world.frame(FRONT, &datagram(plan, 4000, b"?")),
        };
        assert_eq!(one(&sent).1.ethernet.destination, backend_mac(0));
    }
}

/// Fragments take the path of their datagram's first: neither it nor a later one joins a session from the
/// wrong side.
#[test]
fn no_fragment_from_the_wrong_side_joins_a_session() {
    for (plan, protocol) in EACH {
        let sides = [
            (FRONT, BACK, reply_segment(plan, 0, 4000, ACK)),
            (BACK, FRONT, segment(plan, 4000, ACK)),
        ];
        for (wrong, right, honest) in sides {
            let mut world = with_session(plan, protocol);
            let fragments = |link, id| {
                let payload = vec![7; 64];
                let segment = build::Tcp {
                    link,
                    payload: &payload,
                    ..honest
                };
                fragment(&segment.frame_of(protocol), &[40], id)
            };
            let before = world.session();
            for frame in fragments(link(wrong), 1) {
                assert_eq!(world.frame(wrong, &frame), []);
            }
            assert_eq!(world.session(), before);
            let (own, forged) = (fragments(honest.link, 2), fragments(link(wrong), 2));
            assert_eq!(world.frame(right, &own[0]).len(), 1);
            assert_eq!(world.frame(wrong, &forged[1]), []);
            assert_eq!(world.session().hop, before.hop);
        }
    }
}

/// A client in the servers' network keeps its hop there, and moves within it; a packet from its gateway on
/// the clients' side moves it there, and not back.
#[test]
fn a_session_opened_on_the_servers_side_stays_there() {
    let mut world = World::new(Settings::default());
    let from = |port: PortId, source| build::Tcp {
        link: Link {
            source,
            destination: PORT_MACS[port.index()],
        },
        ..segment(V4, 4000, SYN)
    };
    one(&world.frame(BACK, &from(BACK, backend_mac(50)).frame()));
    one(&world.frame(BACK, &from(BACK, backend_mac(51)).frame()));
    assert_eq!(world.session().hop.mac, backend_mac(51));
    one(&world.frame(FRONT, &from(FRONT, CLIENT_MAC).frame()));
    assert_eq!(world.session().hop.mac, CLIENT_MAC);
    assert_eq!(world.frame(BACK, &from(BACK, backend_mac(51)).frame()), []);
    assert_eq!(world.session().hop.mac, CLIENT_MAC);
}

/// The hop of an established connection follows its gateway's failover once the server has answered, and no
/// packet whose numbers do not fit, whatever its flags; the server's answer to one goes to the client.
#[test]
fn an_established_connections_hop_moves_once_the_server_confirms_it() {
    for plan in [V4, V6] {
        let mut world = with_session(plan, Protocol::Tcp);
        let numbers = build::Tcp {
            sequence: 100,
            link: link(FRONT),
            ..segment(plan, 4000, ACK)
        };
        let answer = build::Tcp {
            sequence: numbers.acknowledgment,
            acknowledgment: 103,
            ..reply_segment(plan, 0, 4000, ACK)
        }
        .frame();
        let hop_of_answer =
            |world: &mut World| one(&world.frame(BACK, &answer)).1.ethernet.destination;
        let far = 1 << 21;
        for flags in [SYN, ACK, FIN_ACK, RST, RST | ACK, 0] {
            for (sequence, acknowledgment) in [(far, 0), (0, far), (far, far), (0, 0)] {
                let forged = build::Tcp {
                    flags: waxwing_packet::TcpFlags(flags),
                    sequence: numbers.sequence.wrapping_add(sequence),
                    acknowledgment: numbers.acknowledgment.wrapping_sub(acknowledgment),
                    ..numbers
                };
                if flags & (SYN | RST) == 0 && flags & ACK != 0 && sequence | acknowledgment == 0 {
                    continue;
                }
                world.frame(FRONT, &forged.frame());
                for _ in 0..3 {
                    assert_eq!(hop_of_answer(&mut world), CLIENT_MAC, "{flags:#x}");
                }
            }
        }
        // Later fragments have no numbers.
        let payload = vec![7; 64];
        let segment = build::Tcp {
            payload: &payload,
            ..numbers
        };
        let fragments = fragment(&segment.frame(), &[40], 9);
        let own = fragment(
            &build::Tcp {
                link: FROM_CLIENT,
                ..segment
            }
            .frame(),
            &[40],
            9,
        );
        world.frame(FRONT, &own[0]);
        world.frame(FRONT, &fragments[1]);
        assert_eq!(world.session().hop.mac, CLIENT_MAC);
        // The failover.
        one(&world.frame(FRONT, &numbers.frame()));
        assert_eq!(world.session().hop.mac, CLIENT_MAC);
        assert_eq!(hop_of_answer(&mut world), ATTACKER);
        assert_eq!(world.session().hop.mac, ATTACKER);
    }
}

/// Clients and servers on one wire, in VLANs of their own: a server's packet in a client's name is told by
/// its VLAN.
#[test]
fn a_vlan_of_servers_faces_servers_on_its_clients_wire() {
    let servers = VlanTags::one(VlanTag {
        tpid: 0x8100,
        tci: 200,
    });
    let mut world = World::new(Settings {
        vlans: vec![Port {
            tags: servers,
            faces: Some(Faces::Servers),
            ..Port::attached(FRONT, "servers".into(), PORT_MACS[0], 1500)
        }],
        ..Settings::udp(V4)
    });
    one(&world.frame(FRONT, &datagram(V4, 4000, b"?")));
    let session = world.session();
    let forged = build::Tcp {
        link: link(FRONT),
        tags: servers,
        ..segment(V4, 4000, 0)
    };
    assert_eq!(world.frame(FRONT, &forged.frame_of(Protocol::Udp)), []);
    assert_eq!(world.dropped(DropReason::SpoofedRequest), 1);
    assert_eq!(world.session(), session);
}

/// What the config says of a port goes before what is found out.
#[test]
fn a_ports_role_can_be_said() {
    let moved = |faces| {
        let mut world = World::new(Settings {
            faces,
            ..Settings::udp(V4)
        });
        one(&world.frame(FRONT, &datagram(V4, 4000, b"?")));
        let from_back = build::Tcp {
            link: link(BACK),
            ..segment(V4, 4000, 0)
        };
        world.frame(BACK, &from_back.frame_of(Protocol::Udp));
        world.session().hop.port == BACK
    };
    assert!(!moved([None; 2]));
    assert!(moved([None, Some(Faces::Clients)]));
    assert!(!moved([None, Some(Faces::Servers)]));
}

/// A backend with several routes answers by any of their ports, and by no other.
#[test]
fn a_backend_with_several_routes_answers_by_each() {
    let mut world = with_session(V4, Protocol::Udp);
    let hops = &world.shared.next_hops;
    let backend = waxwing_dataplane::BackendId(0);
    let hop = hops.get(backend);
    hops.set_among(backend, hop, &[FRONT]);
    let by_front = build::Tcp {
        link: link(FRONT),
        ..reply_segment(V4, 0, 4000, 0)
    };
    let by_front = by_front.frame_of(Protocol::Udp);
    one(&world.frame(FRONT, &by_front));
    one(&world.frame(BACK, &datagram_back(V4, 0, 4000)));
    world.shared.next_hops.set(backend, hop);
    assert_eq!(world.frame(FRONT, &by_front), []);
    // An unresolved next hop is no reason to distrust the server, and a removed one is.
    world.shared.next_hops.set(backend, None);
    one(&world.frame(BACK, &datagram_back(V4, 0, 4000)));
    world.shared.next_hops.forget(backend);
    assert_eq!(world.frame(BACK, &datagram_back(V4, 0, 4000)), []);
}

/// Sources that no packet from a network may have.
fn martians(plan: Plan, own: Address) -> Vec<Address> {
    let mut martians = vec![plan.vip, own];
    martians.extend(match plan.vip.family() {
        Family::V4 => [[0, 0, 0, 0], [127, 0, 0, 1], [224, 0, 0, 5], [255; 4]].map(Address::v4),
        Family::V6 => [0, 1, 0xfe80 << 112 | 7, 0xff02 << 112 | 1].map(Address::from_bits),
    });
    martians
}

#[test]
fn nothing_is_opened_answered_or_passed_on_for_a_martian() {
    for plan in [V4, V6] {
        let own = Address::from_bits(plan.client.bits() + 200);
        let mut world = World::new(Settings {
            own: vec![own],
            ..Settings::tcp(plan)
        });
        establish(&mut world, 4000, 0);
        let forwarded = world.frame(BACK, &reply(plan, 0, 4000, ACK));
        for source in martians(plan, own) {
            let frames = [
                build::Tcp {
                    source: (source, 5000),
                    ..segment(plan, 5000, SYN)
                }
                .frame(),
                build::Echo {
                    source,
                    ..ping(plan, b"?")
                }
                .frame(),
                build::Error {
                    source,
                    error: waxwing_packet::reject::IcmpError::port_unreachable(source.family()),
                    ..port_unreachable(plan, &forwarded[0].1[14..])
                }
                .frame(),
            ];
            for (at, frame) in frames.iter().enumerate() {
                let before = world.dropped(DropReason::Martian);
                assert_eq!(world.frame(FRONT, frame), [], "{source:?} {at}");
                assert_eq!(
                    world.dropped(DropReason::Martian),
                    before + 1,
                    "{source} {at}: {:?}",
                    world.drops()
                );
            }
        }
        assert_eq!(world.sessions().len(), 1);
        // A session whose client's address becomes ours ends.
        world.change(|settings| settings.own = vec![plan.client]);
        world.sweep_round(0, Duration::ZERO);
        assert!(world.sessions().is_empty());
        assert_eq!(world.frame(FRONT, &request(plan, 4000, ACK)), []);
    }
}

/// Its replies would reach a group of stations.
#[test]
fn no_session_is_opened_for_a_group_of_stations() {
    let mut world = World::new(Settings::default());
    for source in [Mac::BROADCAST, Mac([1, 0, 0x5e, 0, 0, 1]), Mac([0; 6])] {
        let frame = build::Tcp {
            link: Link {
                source,
                ..FROM_CLIENT
            },
            ..segment(V4, 4000, SYN)
        };
        assert_eq!(world.frame(FRONT, &frame.frame()), [], "{source}");
    }
    assert_eq!(world.drops(), [(DropReason::Martian, 3)]);
    establish(&mut world, 4000, 0);
    let frame = build::Tcp {
        link: Link {
            source: Mac::BROADCAST,
            ..FROM_CLIENT
        },
        ..segment(V4, 4000, ACK)
    };
    assert_eq!(world.frame(FRONT, &frame.frame()), []);
    assert_eq!(world.session().hop.mac, CLIENT_MAC);
}

#[test]
fn a_damaged_ping_is_not_answered() {
    for plan in [V4, V6] {
        let mut world = World::new(Settings::tcp(plan));
        let frame = damaged(ping(plan, b"payload").frame());
        assert_eq!(world.frame(FRONT, &frame), []);
        assert_eq!(world.drops(), [(DropReason::Malformed, 1)]);
        one(&world.frame(FRONT, &ping(plan, b"payload").frame()));
    }
}

/// A redirect from the servers' side about the packets that a client's session sends there.
#[test]
fn a_redirect_about_a_session_goes_no_further() {
    let mut world = with_session(V4, Protocol::Tcp);
    let to_server = build::Tcp {
        source: (V4.client, 4000),
        destination: (V4.backend(0), crate::world::BACKEND_PORT),
        ..segment(V4, 4000, ACK)
    };
    let quote = to_server.frame();
    let redirect = build::Error {
        link: from_server(0),
        source: V4.backend(1),
        destination: V4.client,
        error: waxwing_packet::reject::IcmpError {
            kind: 5,
            code: 1,
            parameter: 0x0a02_0001,
        },
        ..port_unreachable(V4, &quote[14..])
    };
    assert_eq!(world.frame(BACK, &redirect.frame()), []);
    assert_eq!(world.drops(), [(DropReason::IcmpRedirect, 1)]);
}
