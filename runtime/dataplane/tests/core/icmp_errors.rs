//! ICMP errors about sessions' packets: forwarded as if there were no NAT.

use std::time::Duration;

use crate::frames::{
    FROM_CLIENT, FROM_SERVERS, SYN, TAGS, ip, one, port_unreachable, reply_segment, segment,
};
use crate::hosts::packet_of;
use crate::world::{
    BACK, CLIENT_MAC, EACH, FRONT, PORT_MACS, Plan, SERVICE_PORT, Settings, World, backend_mac,
};
use waxwing_dataplane::session::Session;
use waxwing_packet::reject::IcmpError;
use waxwing_packet::{Address, Family, Link, Mac, Protocol, VlanTags};
use waxwing_testkit::build;

/// Each error that is forwarded.
pub(crate) fn kinds(plan: Plan) -> [IcmpError; 5] {
    let kinds = match plan.vip.family() {
        Family::V4 => [
            (3, 1, 0),
            (3, 3, 0),
            (3, 4, 1280),
            (11, 0, 0),
            (12, 0, 1 << 24),
        ],
        Family::V6 => [(1, 0, 0), (1, 4, 0), (2, 0, 1280), (3, 0, 0), (4, 0, 6)],
    };
    kinds.map(|(kind, code, parameter)| build::icmp_error(kind, code, parameter))
}

/// A router outside the balancer's networks.
pub(crate) fn router(plan: Plan) -> Address {
    match plan.vip.family() {
        Family::V4 => Address::v4([192, 0, 2, 33]),
        Family::V6 => Address::from_bits(0x2001_0db8_0009 << 80 | 33),
    }
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
            second_service: clash,
            ..Settings::new(plan, protocol)
        });
        if clash {
            let first = segment(plan, Self::CLIENT_PORT, SYN).frame_of(protocol);
            one(&world.frame(FRONT, &first));
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
        for (plan, protocol) in EACH {
            for (count, clash) in [(0, false), (1, false), (2, false), (0, true), (1, true)] {
                test(Self::new(plan, protocol, TAGS[count], clash));
            }
        }
    }

    /// The client's packet.
    fn asks(&self, hop_limit: u8) -> Vec<u8> {
        build::Tcp {
            tags: self.tags,
            destination: (self.plan.vip, self.service_port),
            hop_limit,
            payload: b"payload",
            ..segment(self.plan, Self::CLIENT_PORT, SYN)
        }
        .frame_of(self.protocol)
    }

    /// The backend's packet, to the client's port as the backend sees it.
    fn answers(&self, hop_limit: u8) -> Vec<u8> {
        build::Tcp {
            hop_limit,
            payload: b"payload",
            ..reply_segment(self.plan, 0, self.session().source_port, SYN)
        }
        .frame_of(self.protocol)
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
        let original = opened.asks(64);
        let forwarded = packet_of(&opened.world.frame(FRONT, &original));
        let clashes = opened.service_port != SERVICE_PORT;
        assert_eq!(opened.session().source_port != Opened::CLIENT_PORT, clashes);
        // The router saw the translated packet; the quote must show what the client sent.
        let network = usize::from(ip(&original).network);
        let as_sent = &opened.asks(63)[network..];
        let before = opened.world.sessions();
        let mut count = 0;
        for source in [plan.backend(0), router(plan)] {
            for kind in kinds(plan) {
                for len in opened.quoted_lens(&forwarded) {
                    let error = build::Error {
                        link: FROM_SERVERS,
                        source,
                        destination: plan.client,
                        error: kind,
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
        let returned = packet_of(&opened.world.frame(BACK, &answer));
        let as_sent = &opened.answers(63)[14..];
        let before = opened.world.sessions();
        for source in [plan.client, router(plan)] {
            for kind in kinds(plan) {
                for len in opened.quoted_lens(&returned) {
                    let error = build::Error {
                        // From another hop than the client's packets; the return hop must not change.
                        link: Link {
                            source: Mac([2, 0, 0, 0, 1, 0xfe]),
                            ..FROM_CLIENT
                        },
                        tags: opened.tags,
                        source,
                        error: kind,
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

/// Of all errors only those that say that nobody is there, from the servers' side and about a session, count
/// against the backend; of TCP only before it has answered.
#[test]
fn an_unreachable_backend_is_counted_and_a_forged_error_is_not() {
    Opened::each(|mut opened| {
        let (plan, protocol) = (opened.plan, opened.protocol);
        let unreachable = |opened: &Opened| -> u64 {
            let of = |id| opened.world.counted(id, |counters| &counters.unreachable);
            (0..8).map(of).sum()
        };
        let error_about = |quoted: &[u8], error, link| {
            let error = build::Error {
                link,
                source: plan.backend(0),
                destination: plan.client,
                error,
                ..port_unreachable(plan, quoted)
            };
            error.frame()
        };
        let question = opened.asks(64);
        let quoted = packet_of(&opened.world.frame(FRONT, &question));
        let before = unreachable(&opened);
        // The kinds that count: host and port unreachable.
        let counting = |IcmpError { kind, code, .. }| match plan.vip.family() {
            Family::V4 => kind == 3 && matches!(code, 1 | 3),
            Family::V6 => kind == 1 && matches!(code, 3 | 4),
        };
        let mut expected = before;
        for kind in kinds(plan) {
            let error = error_about(&quoted, kind, FROM_SERVERS);
            opened.world.advance(Duration::from_secs(1));
            opened.world.frame(BACK, &error);
            expected += u64::from(counting(kind));
        }
        assert!(expected > before);
        assert_eq!(unreachable(&opened), expected, "{protocol:?}");
        // From the clients' side, and about another client's packet.
        let unreachable_port = IcmpError::port_unreachable(plan.vip.family());
        let forged = error_about(&quoted, unreachable_port, FROM_CLIENT);
        opened.world.frame(FRONT, &forged);
        assert_eq!(unreachable(&opened), expected, "from the clients' side");
        let mut other = quoted.clone();
        let ports = if plan.vip.family() == Family::V4 {
            20
        } else {
            40
        };
        other[ports] ^= 1;
        let error = error_about(&other, unreachable_port, FROM_SERVERS);
        opened.world.frame(BACK, &error);
        assert_eq!(unreachable(&opened), expected, "about no session");
        let answer = opened.answers(64);
        opened.world.frame(BACK, &answer);
        let error = error_about(&quoted, unreachable_port, FROM_SERVERS);
        opened.world.frame(BACK, &error);
        let counts = u64::from(protocol == Protocol::Udp);
        assert_eq!(unreachable(&opened), expected + counts, "after an answer");
    });
}
