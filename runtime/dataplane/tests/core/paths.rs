//! The fast path does what the general path does: two balancers, one of them without the fast path, get the
//! same batches. Frames, counters and sessions are equal to the bit.

use std::time::Duration;

use crate::frames::{ACK, FIN_ACK, FROM_CLIENT, RST, SYN, SYN_ACK, TAGS, from_server};
use crate::source_nat;
use crate::world::{
    BACK, BACKEND_PORT, CLIENT_MAC, EACH, FRONT, PORT_MACS, SERVICE_PORT, Settings, V4, World,
    backend_mac,
};
use waxwing_dataplane::egress::routes::{Path, Routes};
use waxwing_dataplane::model::{Port, SessionAction, SourceUse, Timeouts};
use waxwing_dataplane::{BackendId, NextHop, PortId, Ports};
use waxwing_packet::{Link, Mac, Prefix, Protocol, VlanTag, VlanTags};
use waxwing_testkit::build;
use waxwing_testkit::random::{Random, SEED, seeds};

/// The time for random batches.
const TIME: Duration = Duration::from_secs(3);
/// Batches per pair of balancers.
const BATCHES: usize = 60;
/// The backends' VLAN, in the worlds that have one.
const BACK_VLAN: PortId = PortId(2);

/// Those of a VLAN, with another priority.
const OTHER_TAGS: VlanTags = VlanTags::one(VlanTag {
    tpid: 0x8100,
    tci: 0x2000 | 100,
});

/// A balancer, and one without the fast path.
struct Pair {
    worlds: [World; 2],
    random: Random,
    /// The tags of most requests.
    tags: VlanTags,
    /// The tags of most replies: those of the backends' VLAN, if they are in one.
    back_tags: VlanTags,
    /// Whether backends see a source address of the balancer's.
    has_source_nat: bool,
}

impl Pair {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let (plan, protocol) = random.one(&EACH);
        let has_source_nat = random.chance(150);
        let base = if has_source_nat {
            Settings {
                source_nat: SourceUse::Always,
                ..source_nat::settings(plan, 40)
            }
        } else {
            Settings::tcp(plan)
        };
        let back_tags = random.one(&[TAGS[0], TAGS[0], TAGS[1], TAGS[2]]);
        let settings = Settings {
            wants_closed: random.chance(500),
            mtu: random.one(&[1500, 1500, 1500, 60]),
            transparent: random.chance(100),
            ranges: if random.chance(200) {
                vec![Ports::range(8000, 8100).expect("a range")]
            } else {
                Vec::new()
            },
            timeouts: Timeouts {
                tcp_established: Duration::from_secs(random.between(1, 30)),
                udp: Duration::from_secs(random.between(1, 30)),
                ..Timeouts::default()
            },
            sessions_max: random.one(&[32, 256]) as u32,
            vlans: vec![Port {
                wire: BACK,
                tags: if back_tags.is_empty() {
                    TAGS[1]
                } else {
                    back_tags
                },
                announces: false,
                ..Port::attached(BACK_VLAN, "vlan".into(), PORT_MACS[1], 1500)
            }],
            protocol,
            ..base
        };
        let worlds = [false, true].map(|without_fast_path| {
            let world = World::new(Settings {
                without_fast_path,
                ..settings.clone()
            });
            for id in (0..3).filter(|_| !back_tags.is_empty()) {
                let hop = NextHop {
                    port: BACK_VLAN,
                    mac: backend_mac(id),
                };
                world.shared.next_hops.set(BackendId(id), Some(hop));
            }
            world
        });
        // The fast path leaves sampled sessions alone.
        let sampling = random.one(&[0, 0, 1, 3]) as u32;
        worlds[0].shared.sessions.set_sampling(sampling);
        Self {
            worlds,
            tags: random.one(&[TAGS[0], TAGS[0], TAGS[1], TAGS[2]]),
            back_tags,
            random,
            has_source_nat,
        }
    }

    /// A packet of one of a few flows, or something like it, and the port that it arrives at.
    fn frame(&mut self) -> (PortId, Vec<u8>) {
        let Settings { plan, protocol, .. } = self.worlds[0].settings;
        let random = &mut self.random;
        let client = (plan.client, 4000 + random.below(12) as u16);
        let other_mac = random.chance(20).then_some(Mac([2, 0, 0, 0, 9, 9]));
        let is_request = random.chance(500);
        let backend = random.below(3) as u32;
        let (port, link, source, destination) = if is_request {
            let service = random.one(&[SERVICE_PORT, SERVICE_PORT, SERVICE_PORT, 8007]);
            (FRONT, FROM_CLIENT, client, (plan.vip, service))
        } else {
            let server = (
                plan.backend(backend),
                random.one(&[BACKEND_PORT, BACKEND_PORT, 8007]),
            );
            let seen = if self.has_source_nat {
                (source_nat::source(plan, 0), 1024 + random.below(12) as u16)
            } else {
                client
            };
            (BACK, from_server(backend), server, seen)
        };
        let usual = if is_request {
            self.tags
        } else {
            self.back_tags
        };
        let tags = match random.below(100) {
            0..5 => random.one(&TAGS),
            5..10 => OTHER_TAGS,
            _ => usual,
        };
        let mut frame = build::Tcp {
            link: Link {
                source: other_mac.unwrap_or(link.source),
                ..link
            },
            tags,
            source,
            destination,
            hop_limit: random.one(&[64, 64, 64, 64, 64, 64, 2, 1]),
            flags: waxwing_packet::TcpFlags(random.one(&[
                ACK, ACK, ACK, ACK, ACK, ACK, ACK, 0, SYN, SYN_ACK, FIN_ACK, RST, 0x18,
            ])),
            payload: &b"some payload that may be longer than what the MTU allows"
                [..random.index(56)],
            ..build::Tcp::default()
        }
        .frame_of(if random.chance(20) {
            Protocol::Udp
        } else {
            protocol
        });
        if random.chance(40) {
            let at = random.index(frame.len());
            frame[at] = random.byte();
        }
        if random.chance(20) {
            frame.truncate(random.index(frame.len()));
        }
        if random.chance(50) {
            frame.extend([0; 9]);
        }
        (port, frame)
    }

    /// What happens beside packets.
    fn event(&mut self) {
        let ms = self
            .random
            .one(&[0, 0, 1, 50, 100, 150, 1_000, 5_000, 40_000]);
        let kind = self.random.below(30);
        let id = BackendId(self.random.below(3) as u32);
        let hop = self.random.one(&[
            None,
            Some(NextHop {
                port: BACK,
                mac: backend_mac(7),
            }),
            Some(NextHop {
                port: BACK_VLAN,
                mac: backend_mac(7),
            }),
            Some(NextHop {
                port: PortId(9),
                mac: backend_mac(7),
            }),
        ]);
        let action = self.random.one(&[
            SessionAction::Keep,
            SessionAction::Reset,
            SessionAction::Repick,
        ]);
        for world in &mut self.worlds {
            world.advance(Duration::from_millis(ms));
            match kind {
                0 => world.shared.next_hops.set(id, hop),
                1 => world.change(|settings| settings.health = vec![(false, action)]),
                2 => world.change(|settings| settings.health.clear()),
                3 => world.io(0).limit_transmit(5),
                4 => world.io(0).limit_transmit(usize::MAX),
                5 => {
                    let everywhere = Prefix::new(V4.client, 0);
                    let routes = Routes::new(&[(everywhere, Path::Gateways([0].into()))].into(), 1);
                    let gateway = NextHop {
                        port: FRONT,
                        mac: CLIENT_MAC,
                    };
                    routes.set_gateway(0, Some(gateway));
                    drop(world.shared.next_hops.routes().replace(Some(routes.into())));
                }
                6 => drop(world.shared.next_hops.routes().replace(None)),
                _ => {}
            }
        }
    }

    /// Gives both a batch and compares all that follows from it.
    fn batch(&mut self) {
        let frames: Vec<_> = (0..self.random.between(1, 64))
            .map(|_| self.frame())
            .collect();
        let [fast, general] = self.worlds.each_mut().map(|world| {
            for (port, frame) in &frames {
                assert!(world.io(0).inject(*port, frame), "the pool has a frame");
            }
            world.run(0);
            let sent = world.io(0).sent();
            let to_kernel = world.io(0).passed_to_kernel();
            let sessions: Vec<_> = world.shared.sessions.iter().collect();
            let counters = format!("{:?}", world.counters);
            let closed = format!("{:?}", world.script().closed);
            (sent, to_kernel, sessions, counters, closed)
        });
        assert_eq!(fast, general);
    }
}

#[test]
fn the_fast_path_does_what_the_general_path_does() {
    let mut rewritten = 0;
    for seed in seeds(TIME) {
        let mut pair = Pair::new(seed);
        println!("{SEED}={seed}, source NAT {}", pair.has_source_nat);
        for _ in 0..BATCHES {
            pair.batch();
            pair.event();
        }
        rewritten += pair.worlds[0].counted(0, |of| &of.forward.packets);
    }
    assert!(
        rewritten > 1_000,
        "only {rewritten} packets: too few to be meaningful"
    );
}
