//! TCP states: each handshake and close as a row of packets, with the phase after each.

#![cfg(not(loom))]

use waxwing_dataplane::model::{TimeoutTicks, Timeouts};
use waxwing_dataplane::session::{Direction, Phase, Session, TcpState};
use waxwing_dataplane::{BackendId, NextHop, PortId, SourceId, Tick};
use waxwing_packet::{Address, Mac, Protocol, TcpFlags, VlanTags};

use Phase::{Closing, Established, HalfOpen};

/// A packet in a row: `>` from the client, `<` from the server, then flags.
fn packet(text: &str) -> (Direction, TcpFlags) {
    let (direction, flags) = text.split_at(1);
    let direction = if direction == ">" {
        Direction::Forward
    } else {
        Direction::Reply
    };
    let bits = flags.chars().map(|flag| match flag {
        'S' => TcpFlags::SYN,
        'A' => TcpFlags::ACK,
        'F' => TcpFlags::FIN,
        'R' => TcpFlags::RST,
        'P' => TcpFlags::PSH,
        other => panic!("no such flag: {other}"),
    });
    (direction, TcpFlags(bits.fold(0, |all, bit| all | bit)))
}

/// Applies a row to a new session; returns the last state.
fn play(row: &str, packets: &[(&str, Phase)]) -> TcpState {
    let mut state: Option<TcpState> = None;
    for (step, (text, phase)) in packets.iter().enumerate() {
        let (direction, flags) = packet(text);
        let next = match state {
            None => TcpState::first(flags),
            Some(state) => state.on_packet(direction, flags),
        };
        assert_eq!(next.phase(), *phase, "{row}: step {step}, {text}: {next:?}");
        state = Some(next);
    }
    state.expect("a row has packets")
}

#[test]
fn every_valid_open_and_close() {
    let rows: &[(&str, &[(&str, Phase)])] = &[
        (
            "three-way handshake (RFC 9293 figure 6)",
            &[
                (">S", HalfOpen),
                ("<SA", HalfOpen),
                (">A", Established),
                (">PA", Established),
            ],
        ),
        (
            "every packet of it twice",
            &[
                (">S", HalfOpen),
                (">S", HalfOpen),
                ("<SA", HalfOpen),
                ("<SA", HalfOpen),
                (">A", Established),
                (">A", Established),
            ],
        ),
        (
            "the client's ACK carries data",
            &[(">S", HalfOpen), ("<SA", HalfOpen), (">PA", Established)],
        ),
        (
            "the client's ACK is lost and its FIN comes first",
            &[
                (">S", HalfOpen),
                ("<SA", HalfOpen),
                (">FA", Established),
                ("<FA", Closing),
            ],
        ),
        (
            "simultaneous open (RFC 9293 figure 7, RFC 5382 REQ-2)",
            &[
                (">S", HalfOpen),
                ("<S", HalfOpen),
                (">SA", Established),
                ("<SA", Established),
                (">PA", Established),
                ("<PA", Established),
            ],
        ),
        (
            "an ACK alone proves nothing before the server has spoken",
            &[
                (">S", HalfOpen),
                (">A", HalfOpen),
                (">PA", HalfOpen),
                ("<SA", HalfOpen),
                (">A", Established),
            ],
        ),
        (
            "the server's ACK without SYN (challenge) opens nothing",
            &[(">S", HalfOpen), ("<A", HalfOpen), (">A", HalfOpen)],
        ),
        (
            "close by the client (RFC 9293 figure 12)",
            &[
                (">S", HalfOpen),
                ("<SA", HalfOpen),
                (">A", Established),
                (">FA", Established),
                ("<A", Established),
                ("<FA", Closing),
                (">A", Closing),
            ],
        ),
        (
            "close by the server",
            &[
                (">S", HalfOpen),
                ("<SA", HalfOpen),
                (">A", Established),
                ("<FA", Established),
                (">FA", Closing),
                ("<A", Closing),
            ],
        ),
        (
            "simultaneous close (RFC 9293 figure 13)",
            &[
                (">S", HalfOpen),
                ("<SA", HalfOpen),
                (">A", Established),
                (">FA", Established),
                ("<FA", Closing),
                (">A", Closing),
                ("<A", Closing),
            ],
        ),
        (
            "half-closed: one FIN, and data the other way for long",
            &[
                (">S", HalfOpen),
                ("<SA", HalfOpen),
                (">A", Established),
                (">FA", Established),
                ("<PA", Established),
                (">A", Established),
                (">FA", Established),
                ("<PA", Established),
            ],
        ),
        (
            "the server closes before the client's ACK has come (SYN-RECEIVED to FIN-WAIT-1)",
            &[
                (">S", HalfOpen),
                ("<SA", HalfOpen),
                ("<FA", HalfOpen),
                (">A", Established),
                (">FA", Closing),
            ],
        ),
        ("refused", &[(">S", HalfOpen), ("<RA", Closing)]),
        (
            "refused, tried again and accepted",
            &[
                (">S", HalfOpen),
                ("<RA", Closing),
                (">S", HalfOpen),
                ("<SA", HalfOpen),
                (">A", Established),
            ],
        ),
        (
            "the client gives up",
            &[(">S", HalfOpen), ("<SA", HalfOpen), (">R", Closing)],
        ),
        (
            "abort of an open connection",
            &[
                (">S", HalfOpen),
                ("<SA", HalfOpen),
                (">A", Established),
                (">RA", Closing),
                ("<R", Closing),
            ],
        ),
        (
            "a forged RST: the client speaks on (RFC 7857 section 2.2)",
            &[
                (">S", HalfOpen),
                ("<SA", HalfOpen),
                (">A", Established),
                ("<R", Closing),
                (">PA", Established),
            ],
        ),
        (
            "a forged RST: the server's challenge ACK revives (RFC 5961 section 3.2)",
            &[
                (">S", HalfOpen),
                ("<SA", HalfOpen),
                (">A", Established),
                (">R", Closing),
                ("<A", Established),
            ],
        ),
        (
            "a forged SYN changes nothing (RFC 5961 section 4.2)",
            &[
                (">S", HalfOpen),
                ("<SA", HalfOpen),
                (">A", Established),
                (">S", Established),
                ("<A", Established),
            ],
        ),
        (
            "an RST revived keeps what FINs were seen",
            &[
                (">S", HalfOpen),
                ("<SA", HalfOpen),
                (">A", Established),
                (">FA", Established),
                ("<R", Closing),
                (">A", Established),
                ("<FA", Closing),
                (">A", Closing),
            ],
        ),
        (
            "an RST while half-open, revived, is half-open still",
            &[
                (">S", HalfOpen),
                ("<SA", HalfOpen),
                ("<R", Closing),
                ("<SA", HalfOpen),
                (">A", Established),
            ],
        ),
        (
            "RST counts before the flags beside it",
            &[
                (">S", HalfOpen),
                ("<SA", HalfOpen),
                (">A", Established),
                (">FR", Closing),
                ("<FA", Established),
            ],
        ),
        (
            "picked up in the middle: established when the server answers",
            &[
                (">PA", HalfOpen),
                (">PA", HalfOpen),
                ("<A", Established),
                (">FA", Established),
                ("<FA", Closing),
            ],
        ),
        (
            "picked up in the middle: the server does not know it",
            &[(">A", HalfOpen), ("<R", Closing)],
        ),
        ("picked up at its RST", &[(">R", Closing)]),
        (
            "picked up at its FIN",
            &[(">FA", HalfOpen), ("<A", Established), ("<FA", Closing)],
        ),
        (
            "picked up at the client's SYN-ACK",
            &[(">SA", HalfOpen), ("<A", Established)],
        ),
    ];
    for (row, packets) in rows {
        play(row, packets);
    }
}

#[test]
fn a_new_syn_reuses_only_a_connection_that_is_over() {
    let syn = packet(">S").1;
    let half_open = play("half-open", &[(">S", HalfOpen)]);
    let open = play(
        "open",
        &[(">S", HalfOpen), ("<SA", HalfOpen), (">A", Established)],
    );
    let half_closed = open.on_packet(Direction::Forward, packet(">FA").1);
    let closed = half_closed.on_packet(Direction::Reply, packet("<FA").1);
    let reset = |state: TcpState, row| state.on_packet(packet(row).0, packet(row).1);
    let refused = reset(half_open, "<RA");
    for (state, reused) in [
        (half_open, false),
        (open, false),
        (half_closed, false),
        (closed, true),
        (reset(closed, ">R"), true),
        (refused, true),
        // The client retried meanwhile.
        (refused.on_packet(Direction::Forward, syn), false),
        // The sender of these RSTs may forge a SYN too.
        (reset(half_open, ">R"), false),
        (reset(open, "<R"), false),
        (reset(open, ">R"), false),
        (reset(half_closed, "<R"), false),
    ] {
        assert_eq!(state.may_reuse(syn), reused, "{state:?}");
        for other in [">A", ">SA", ">FA", ">R", ">SR", ">SF", ">PA"] {
            assert!(!state.may_reuse(packet(other).1), "{state:?} {other}");
        }
    }
}

/// The client's SYN bypassed the service.
#[test]
fn a_servers_syn_after_both_fins_belongs_to_another_connection() {
    let open = [(">S", HalfOpen), ("<SA", HalfOpen), (">A", Established)];
    let open = play("open", &open);
    let half_closed = open.on_packet(Direction::Forward, packet(">FA").1);
    let closed = half_closed.on_packet(Direction::Reply, packet("<FA").1);
    let reset = closed.on_packet(Direction::Reply, packet("<R").1);
    for (state, succeeded) in [
        (open, false),
        (half_closed, false),
        (closed, true),
        (reset, true),
        (open.on_packet(Direction::Reply, packet("<R").1), false),
    ] {
        assert_eq!(
            state.is_reused_by_server(packet("<SA").1),
            succeeded,
            "{state:?}"
        );
        for other in ["<A", "<FA", "<R", "<SR", "<PA"] {
            assert!(
                !state.is_reused_by_server(packet(other).1),
                "{state:?} {other}"
            );
        }
    }
}

#[test]
fn a_refusal_is_distinguished_from_an_abort() {
    let refused = play("refused", &[(">S", HalfOpen), ("<RA", Closing)]);
    assert!(refused.is_refused() && !refused.is_answered());
    let aborted = [(">S", HalfOpen), ("<SA", HalfOpen), ("<R", Closing)];
    let aborted = play("aborted", &aborted);
    assert!(!aborted.is_refused() && aborted.is_answered());
    let given_up = play("given up", &[(">S", HalfOpen), (">R", Closing)]);
    assert!(!given_up.is_refused() && given_up.is_unanswered());
    let unknown = play("unknown", &[(">A", HalfOpen), ("<R", Closing)]);
    assert!(!unknown.is_refused() && !unknown.is_unanswered());
}

/// For any packets: without a packet from the server no connection is established, and any packet
/// except RST revives a reset one.
#[test]
fn no_sequence_of_flags_breaks_the_invariants() {
    let all = || (0..=u8::MAX).map(TcpFlags);
    for first in all() {
        let state = TcpState::first(first);
        assert_ne!(state.phase(), Established, "{first:?}");
        for second in all() {
            let client_only = state.on_packet(Direction::Forward, second);
            assert_ne!(client_only.phase(), Established, "{first:?} {second:?}");
            assert!(client_only.is_unanswered() && !client_only.is_refused());
            let answered = client_only.on_packet(Direction::Reply, second);
            assert!(!answered.is_unanswered(), "{first:?} {second:?}");
        }
    }
    let open = play(
        "open",
        &[(">S", HalfOpen), ("<SA", HalfOpen), (">A", Established)],
    );
    for direction in [Direction::Forward, Direction::Reply] {
        for flags in all() {
            let reset = open.on_packet(direction, packet(">R").1);
            let expected = if flags.has(TcpFlags::RST) {
                Closing
            } else {
                Established
            };
            assert_eq!(
                reset.on_packet(direction, flags).phase(),
                expected,
                "{flags:?}"
            );
        }
    }
}

/// Each phase has its timeout: a session lives exactly that long, to the tick.
#[test]
fn timeouts_by_protocol_and_phase() {
    let timeouts = TimeoutTicks::from(Timeouts::default());
    let session = |protocol, tcp| Session {
        client: Address::v4([192, 0, 2, 1]),
        client_port: 40_000,
        service_port: 80,
        source: SourceId::CLIENT,
        source_port: 40_000,
        protocol,
        worker: 0,
        backend: BackendId(1),
        hop: NextHop {
            port: PortId(0),
            mac: Mac::default(),
        },
        tags: VlanTags::default(),
        created: Tick(50),
        seen: Tick(100),
        tcp,
    };
    let half_open = play("half-open", &[(">S", HalfOpen)]);
    let open = play(
        "open",
        &[(">S", HalfOpen), ("<SA", HalfOpen), (">A", Established)],
    );
    let reset = open.on_packet(Direction::Reply, packet("<R").1);
    for (session, seconds) in [
        (session(Protocol::Tcp, half_open), 240),
        (session(Protocol::Tcp, open), 7440),
        (session(Protocol::Tcp, reset), 240),
        (session(Protocol::Udp, TcpState::default()), 120),
    ] {
        let ticks = seconds * 10;
        assert_eq!(session.timeout_ticks(&timeouts), ticks);
        assert!(
            !session.is_expired(&timeouts, Tick(100 + ticks)),
            "{session:?}"
        );
        assert!(
            session.is_expired(&timeouts, Tick(100 + ticks + 1)),
            "{session:?}"
        );
        assert!(
            !session.is_expired(&timeouts, Tick(99)),
            "a clock read earlier: {session:?}"
        );
    }
}
