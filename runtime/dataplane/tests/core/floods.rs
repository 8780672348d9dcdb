//! New connections during a flood: a full table, or a full pool of source ports, gives way to them.
//!
//! Invariant: an attacker who sends from addresses that are not his own sees no answer, so he acknowledges no
//! server's sequence number.

use std::time::Duration;

use crate::frames::{ACK, FIN_ACK, RST, SERVER_ISN, SYN, SYN_ACK, from_server, one, segment};
use crate::source_nat::{pool, source};
use crate::world::{BACK, BACKEND_PORT, FRONT, Settings, V4, World};
use waxwing_dataplane::model::SourceUse;
use waxwing_packet::{Address, Protocol, TcpFlags};
use waxwing_testkit::build;

/// The sources that a flood sends from between two packets of a legitimate client.
const BETWEEN: u32 = 40;
/// Larger than what a flood sends during a legitimate handshake.
const SESSIONS: u32 = 512;

/// What a flood sends from each source.
struct Flood {
    name: &'static str,
    protocol: Protocol,
    packets: &'static str,
    source_nat: SourceUse,
    /// Microseconds from one source to the next.
    every_us: u64,
}

const fn tcp(name: &'static str, packets: &'static str) -> Flood {
    Flood {
        name,
        protocol: Protocol::Tcp,
        packets,
        source_nat: SourceUse::Auto,
        every_us: 50,
    }
}

const FLOODS: &[Flood] = &[
    Flood {
        protocol: Protocol::Udp,
        ..tcp("UDP at a service that answers", ">P <P")
    },
    Flood {
        protocol: Protocol::Udp,
        ..tcp("UDP at a service that does not answer", ">P")
    },
    Flood {
        protocol: Protocol::Udp,
        source_nat: SourceUse::Always,
        every_us: 2_000,
        ..tcp(
            "UDP at a service that answers, from few source ports",
            ">P <P",
        )
    },
    Flood {
        protocol: Protocol::Udp,
        source_nat: SourceUse::Always,
        every_us: 5_000,
        ..tcp(
            "UDP at a service that does not answer, from few source ports",
            ">P",
        )
    },
    tcp("SYN, then any ACK", ">S <SA >A <R"),
    tcp(
        "SYN, then any ACK, to a server that challenges it",
        ">S <SA >A <A",
    ),
    Flood {
        source_nat: SourceUse::Always,
        ..tcp("SYN, then any ACK, from few source ports", ">S <SA >A <R")
    },
    tcp("bare ACK", ">A <R"),
    tcp("bare ACK, then SYN, then any ACK", ">A <R >S <SA >A <R"),
    tcp("bare ACK and SYN at once", ">A >S <SA <A"),
    tcp("FIN", ">FA <R"),
    tcp("SYN to a refusing port", ">S <RA"),
    tcp("SYN", ">S <SA"),
];

fn settings(flood: &Flood) -> Settings {
    let with_pool = flood.source_nat == SourceUse::Always;
    Settings {
        protocol: flood.protocol,
        source_nat: flood.source_nat,
        sources: vec![source(V4, 0)],
        pools: vec![pool(&[], 1, 200)],
        sessions_max: if with_pool { 4 * SESSIONS } else { SESSIONS },
        ..Settings::default()
    }
}

/// A world under a flood.
struct Siege<'a> {
    world: World,
    flood: &'a Flood,
    /// Sources so far.
    sources: u32,
}

impl Siege<'_> {
    /// A flood's frame from a client's endpoint.
    fn client_frame(&self, client: (Address, u16), flags: u8, acknowledgment: u32) -> Vec<u8> {
        build::Tcp {
            source: client,
            acknowledgment,
            payload: b"",
            ..segment(V4, 0, flags)
        }
        .frame_of(self.flood.protocol)
    }

    /// Sends a client's packet, and returns the source endpoint that the server sees.
    fn client_sends(
        &mut self,
        client: (Address, u16),
        flags: u8,
        acknowledgment: u32,
    ) -> Option<(Address, u16)> {
        let frame = self.client_frame(client, flags, acknowledgment);
        let sent = self.world.frame(FRONT, &frame);
        if sent.is_empty() {
            return None;
        }
        let (_, packet) = one(&sent);
        build::ports(&packet).map(|(port, _)| (packet.source, port))
    }

    /// Sends the server's answer; returns whether it went to this client.
    fn server_sends(&mut self, seen: (Address, u16), flags: u8, client: Address) -> bool {
        let frame = build::Tcp {
            link: from_server(0),
            source: (V4.backend(0), BACKEND_PORT),
            destination: seen,
            flags: TcpFlags(flags),
            sequence: SERVER_ISN,
            ..build::Tcp::default()
        }
        .frame_of(self.flood.protocol);
        let sent = self.world.frame(BACK, &frame);
        sent.len() == 1 && one(&sent).1.destination == client
    }

    /// One forged source's packets, up to the first that the balancer drops.
    fn strike(&mut self) {
        self.sources += 1;
        let n = self.sources;
        let client = (
            Address::v4([100, (n >> 16) as u8, (n >> 8) as u8, n as u8]),
            5000,
        );
        let mut seen = None;
        for (direction, flags) in waxwing_testkit::conversation::packets(self.flood.packets) {
            let guess = n.wrapping_mul(0x9e37_79b9);
            match (direction, seen) {
                (waxwing_dataplane::session::Direction::Forward, _) => {
                    seen = self.client_sends(client, flags.0, guess);
                }
                (_, Some(seen)) => drop(self.server_sends(seen, flags.0, client.0)),
                (_, None) => return,
            }
        }
        self.world
            .advance(Duration::from_micros(self.flood.every_us));
    }

    fn strikes(&mut self, count: u32) {
        for _ in 0..count {
            self.strike();
        }
    }

    /// A legitimate client's exchange in the middle of the flood; returns whether it succeeds.
    fn exchange(&mut self, port: u16) -> bool {
        let client = (V4.client, port);
        let packets: &[(u8, u8)] = match self.flood.protocol {
            Protocol::Tcp => &[(SYN, SYN_ACK), (ACK, ACK), (FIN_ACK, FIN_ACK)],
            Protocol::Udp => &[(0, 0), (0, 0)],
        };
        packets.iter().all(|(request, answer)| {
            let seen = self.client_sends(client, *request, SERVER_ISN + 1);
            self.strikes(BETWEEN);
            let answered = seen.is_some_and(|seen| self.server_sends(seen, *answer, client.0));
            self.strikes(BETWEEN);
            answered
        })
    }
}

#[test]
fn legitimate_connections_succeed_in_every_flood() {
    let mut failed = Vec::new();
    for flood in FLOODS {
        let mut siege = Siege {
            world: World::new(settings(flood)),
            flood,
            sources: 0,
        };
        siege.strikes(4 * SESSIONS);
        let during = (0..30).filter(|n| siege.exchange(4000 + n)).count();
        siege.world.advance(Duration::from_secs(5));
        let after = (0..30).filter(|n| siege.exchange(4100 + n)).count();
        if (during, after) != (30, 30) {
            failed.push(format!(
                "{}: {during} of 30, and later {after} of 30",
                flood.name
            ));
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

/// The server remembers a connection of the flood from the port that the client gets: it challenges the SYN,
/// and forgets that connection at the client's RST. So the client's second SYN has to take the same port.
#[test]
fn a_challenged_client_keeps_its_port_for_its_second_syn() {
    let flood = FLOODS
        .iter()
        .find(|flood| flood.protocol == Protocol::Tcp && flood.source_nat == SourceUse::Always);
    let mut siege = Siege {
        world: World::new(settings(flood.expect("a flood of a pool"))),
        flood: flood.expect("a flood of a pool"),
        sources: 0,
    };
    siege.strikes(4 * SESSIONS);
    let kept = (4000..4020).filter(|port| {
        let client = (V4.client, *port);
        let seen = siege.client_sends(client, SYN, 0).expect("a port");
        assert!(siege.server_sends(seen, ACK, client.0));
        siege.client_sends(client, RST, 0);
        siege.strikes(4 * SESSIONS);
        siege.world.advance(Duration::from_secs(1));
        siege.client_sends(client, SYN, 0) == Some(seen)
    });
    assert_eq!(kept.count(), 20);
}

/// What a flood cannot have: its sessions are never assured, so they give way.
#[test]
fn no_flood_keeps_what_it_opened() {
    for flood in FLOODS {
        let mut siege = Siege {
            world: World::new(settings(flood)),
            flood,
            sources: 0,
        };
        siege.strikes(SESSIONS / 4);
        let assured = siege
            .world
            .sessions()
            .iter()
            .filter(|s| s.is_assured())
            .count();
        assert_eq!(assured, 0, "{}", flood.name);
    }
}

/// The grace after an RST is for connections that were assured.
#[test]
fn a_refused_connection_is_not_kept_for_its_grace() {
    let mut world = World::new(Settings {
        sessions_max: 64,
        ..Settings::default()
    });
    for port in 4000..4064 {
        one(&world.frame(FRONT, &segment(V4, port, SYN).frame()));
        let answer = build::Tcp {
            flags: TcpFlags(RST | ACK),
            ..crate::frames::reply_segment(V4, 0, port, 0)
        };
        one(&world.frame(BACK, &answer.frame()));
    }
    one(&world.frame(FRONT, &segment(V4, 4100, SYN).frame()));
    assert_eq!(world.drops(), []);
}
