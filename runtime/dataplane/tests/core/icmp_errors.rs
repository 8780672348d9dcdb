//! ICMP errors about sessions' packets: forwarded as if there were no NAT.

use std::time::Duration;

use crate::frames::{FROM_CLIENT, FROM_SERVERS, SYN, ip, one, port_unreachable};
use crate::world::{
    BACK, BACKEND_PORT, CLIENT_MAC, FRONT, PORT_MACS, Plan, SERVICE_PORT, Settings, V4, V6, World,
    backend_mac,
};
use waxwing_dataplane::PortId;
use waxwing_dataplane::session::Session;
use waxwing_packet::reject::IcmpError;
use waxwing_packet::{Address, Family, Link, Mac, Protocol, TcpFlags, VlanTag, VlanTags};
use waxwing_testkit::build;

/// Each error that is forwarded.
pub(crate) fn kinds(plan: Plan) -> &'static [(u8, u8, u32)] {
    match plan.vip.family() {
        Family::V4 => &[
            (3, 1, 0),
            (3, 3, 0),
            (3, 4, 1280),
            (11, 0, 0),
            (12, 0, 1 << 24),
        ],
        Family::V6 => &[(1, 0, 0), (1, 4, 0), (2, 0, 1280), (3, 0, 0), (4, 0, 6)],
    }
}

/// A router outside the balancer's networks.
pub(crate) fn router(plan: Plan) -> Address {
    match plan.vip.family() {
        Family::V4 => Address::v4([192, 0, 2, 33]),
        Family::V6 => Address::from_bits(0x2001_0db8_0009 << 80 | 33),
    }
}

fn tags(count: usize) -> VlanTags {
    let tag = |tpid, tci| VlanTag { tpid, tci };
    [
        VlanTags::NONE,
        VlanTags::one(tag(0x8100, 100)),
        VlanTags::two(tag(0x88a8, 7), tag(0x8100, 100)),
    ][count]
}

/// A frame of this protocol between these endpoints.
fn frame(
    protocol: Protocol,
    (link, tags, hop_limit): (Link, VlanTags, u8),
    source: (Address, u16),
    destination: (Address, u16),
) -> Vec<u8> {
    build::Tcp {
        link,
        tags,
        source,
        destination,
        hop_limit,
        flags: TcpFlags(SYN),
        payload: b"payload",
        ..build::Tcp::default()
    }
    .frame_of(protocol)
}

/// The one frame that was sent, its port, and its IP packet.
pub(crate) fn sent_packet(sent: &[(PortId, Vec<u8>)]) -> Vec<u8> {
    let (_, packet) = one(sent);
    sent[0].1[usize::from(packet.network)..].to_vec()
}

/// A world with one session of a client on a VLAN. With `clash` the client has another session at the same
/// backend from the same port, so this one's port is translated.
struct Opened {
    world: World,
    plan: Plan,
    protocol: Protocol,
    tags: VlanTags,
    service_port: u16,
}

impl Opened {
    const CLIENT_PORT: u16 = 4000;

    fn new(plan: Plan, protocol: Protocol, tags: VlanTags, clash: bool) -> Self {
        let mut world = World::new(Settings {
            plan,
            protocol,
            second_service: clash,
            ..Settings::default()
        });
        if clash {
            let first = (plan.client, Self::CLIENT_PORT);
            let way = (FROM_CLIENT, VlanTags::NONE, 64);
            one(&world.frame(
                FRONT,
                &frame(protocol, way, first, (plan.vip, SERVICE_PORT)),
            ));
        }
        Self {
            world,
            plan,
            protocol,
            tags,
            service_port: SERVICE_PORT + u16::from(clash),
        }
    }

    /// Each kind of session.
    fn each(mut test: impl FnMut(Self)) {
        for plan in [V4, V6] {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                for (count, clash) in [(0, false), (1, false), (2, false), (0, true), (1, true)] {
                    test(Self::new(plan, protocol, tags(count), clash));
                }
            }
        }
    }

    fn client(&self) -> (Address, u16) {
        (self.plan.client, Self::CLIENT_PORT)
    }

    fn service(&self) -> (Address, u16) {
        (self.plan.vip, self.service_port)
    }

    /// The client's packet.
    fn asks(&self, hop_limit: u8) -> Vec<u8> {
        let way = (FROM_CLIENT, self.tags, hop_limit);
        frame(self.protocol, way, self.client(), self.service())
    }

    /// The backend's packet, to the client's port as the backend sees it.
    fn answers(&self, hop_limit: u8) -> Vec<u8> {
        let way = (FROM_SERVERS, VlanTags::NONE, hop_limit);
        let backend = (self.plan.backend(0), BACKEND_PORT);
        let seen = (self.plan.client, self.session().source_port);
        frame(self.protocol, way, backend, seen)
    }

    fn session(&self) -> Session {
        let mut sessions = self.world.sessions().into_iter();
        sessions
            .find(|session| session.service_port == self.service_port)
            .expect("it was opened")
    }

    /// Quote lengths: the minimum, part of a checksum, all.
    fn quoted_lens(&self, packet: &[u8]) -> [usize; 3] {
        let headers = match self.plan.vip.family() {
            Family::V4 => 20,
            Family::V6 => 40,
        };
        [headers + 8, headers + 14, packet.len()]
    }
}

#[test]
fn an_error_from_the_servers_side_reaches_the_client_from_the_vip() {
    Opened::each(|mut opened| {
        let plan = opened.plan;
        let asked = opened.asks(64);
        let forwarded = sent_packet(&opened.world.frame(FRONT, &asked));
        let clashes = opened.service_port != SERVICE_PORT;
        assert_eq!(opened.session().source_port != Opened::CLIENT_PORT, clashes);
        // The router saw the translated packet; the quote must show what the client sent.
        let network = usize::from(ip(&asked).network);
        let as_sent = &opened.asks(63)[network..];
        let before = opened.world.sessions();
        let mut count = 0;
        for source in [plan.backend(0), router(plan)] {
            for &(kind, code, parameter) in kinds(plan) {
                for len in opened.quoted_lens(&forwarded) {
                    let error = build::Error {
                        link: FROM_SERVERS,
                        source,
                        destination: plan.client,
                        error: IcmpError {
                            kind,
                            code,
                            parameter,
                        },
                        ..port_unreachable(plan, &forwarded[..len])
                    };
                    opened.world.advance(Duration::from_secs(1));
                    let sent = opened.world.frame(BACK, &error.frame());
                    let expected = build::Error {
                        link: Link {
                            source: PORT_MACS[0],
                            destination: CLIENT_MAC,
                        },
                        tags: opened.tags,
                        source: plan.vip,
                        hop_limit: 49,
                        quote: &as_sent[..len],
                        ..error
                    };
                    assert_eq!(sent, [(FRONT, expected.frame())], "{error:?}");
                    count += 1;
                }
            }
        }
        assert_eq!(opened.world.counters[0].icmp_errors_forwarded.get(), count);
        assert_eq!(opened.world.drops(), []);
        assert_eq!(
            opened.world.sessions(),
            before,
            "an error changes no session"
        );
    });
}

#[test]
fn an_error_from_the_clients_side_keeps_its_source() {
    Opened::each(|mut opened| {
        let plan = opened.plan;
        one(&opened.world.frame(FRONT, &opened.asks(64)));
        let answer = opened.answers(64);
        let returned = sent_packet(&opened.world.frame(BACK, &answer));
        let as_sent = &opened.answers(63)[14..];
        let before = opened.world.sessions();
        for source in [plan.client, router(plan)] {
            for &(kind, code, parameter) in kinds(plan) {
                for len in opened.quoted_lens(&returned) {
                    let error = build::Error {
                        // From another hop than the client's packets; the return hop must not change.
                        link: Link {
                            source: Mac([2, 0, 0, 0, 1, 0xfe]),
                            ..FROM_CLIENT
                        },
                        tags: opened.tags,
                        source,
                        error: IcmpError {
                            kind,
                            code,
                            parameter,
                        },
                        ..port_unreachable(plan, &returned[..len])
                    };
                    opened.world.advance(Duration::from_secs(1));
                    let sent = opened.world.frame(FRONT, &error.frame());
                    let expected = build::Error {
                        link: Link {
                            source: PORT_MACS[1],
                            destination: backend_mac(0),
                        },
                        tags: VlanTags::NONE,
                        destination: plan.backend(0),
                        hop_limit: 49,
                        quote: &as_sent[..len],
                        ..error
                    };
                    assert_eq!(sent, [(BACK, expected.frame())], "{error:?}");
                }
            }
        }
        assert_eq!(opened.world.drops(), []);
        assert_eq!(
            opened.world.sessions(),
            before,
            "an error changes no session"
        );
    });
}
