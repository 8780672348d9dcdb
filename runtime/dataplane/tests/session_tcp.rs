//! TCP states: each handshake and close as a row of packets, with the phase after each.

#![cfg(not(loom))]

use waxwing_dataplane::model::{TimeoutTicks, Timeouts};
use waxwing_dataplane::session::{Direction, Phase, Session, TcpState};
use waxwing_dataplane::{BackendId, NextHop, PortId, SourceId, Tick};
use waxwing_packet::{Address, Mac, Protocol, TcpFlags, VlanTags};
use waxwing_testkit::conversation::packet;

use Phase::{Closing, Established, HalfOpen};

/// Applies packets to a new session and compares the phase after each; returns the last state. The client
/// acknowledges what the server sent; the server's packets with PSH carry data.
///
/// `half: >S <SA open: >A` is a handshake: half-open until the last packet, established after it.
fn play(text: &str) -> TcpState {
    let (mut state, mut expected) = (None, None);
    for word in text.split_whitespace() {
        if let Some(phase) = word.strip_suffix(':') {
            expected = Some(match phase {
                "half" => HalfOpen,
                "open" => Established,
                "closing" => Closing,
                other => panic!("no such phase: {other}"),
            });
            continue;
        }
        let (direction, flags) = packet(word);
        let next = match state {
            None => TcpState::first(flags),
            Some(state) => {
                let proven = direction == Direction::Forward || flags.has(TcpFlags::PSH);
                TcpState::after(state, direction, flags, proven)
            }
        };
        assert_eq!(Some(next.phase()), expected, "{text}: {word}: {next:?}");
        state = Some(next);
    }
    state.expect("there is a packet")
}

/// The state after one more packet.
fn after(state: TcpState, word: &str) -> TcpState {
    let (direction, flags) = packet(word);
    state.on_packet(direction, flags)
}

fn open() -> TcpState {
    play("half: >S <SA open: >A")
}

/// A line for each conversation: its name, and its packets by the phase that each of them leaves.
const CONVERSATIONS: &str = "
    three-way handshake (RFC 9293 figure 6) | half: >S <SA open: >A >PA
    every packet of it twice | half: >S >S <SA <SA open: >A >A
    the client's ACK carries data | half: >S <SA open: >PA
    the client's ACK is lost and its FIN comes first | half: >S <SA open: >FA closing: <FA
    the client's ACK is lost, but not on its way to the server | half: >S <SA open: <PA
    simultaneous open (RFC 9293 figure 7, RFC 5382 REQ-2) | half: >S <S open: >SA <SA >PA <PA
    an ACK alone proves nothing before the server has spoken | half: >S >A >PA <SA open: >A
    the server's ACK without SYN (challenge) opens nothing | half: >S <A >A
    close by the client (RFC 9293 figure 12) | half: >S <SA open: >A >FA <A closing: <FA >A
    close by the server | half: >S <SA open: >A <FA closing: >FA <A
    simultaneous close (RFC 9293 figure 13) | half: >S <SA open: >A >FA closing: <FA >A <A
    half-closed: one FIN, and data the other way for long | half: >S <SA open: >A >FA <PA >A >FA <PA
    the server's FIN before the client's ACK (from SYN-RECEIVED) | half: >S <SA <FA open: >A closing: >FA
    refused | half: >S closing: <RA
    refused, tried again and accepted | half: >S closing: <RA half: >S <SA open: >A
    the client gives up | half: >S <SA closing: >R
    abort of an open connection | half: >S <SA open: >A closing: >RA <R
    a forged RST: the client speaks on (RFC 7857 section 2.2) | half: >S <SA open: >A closing: <R open: >PA
    a forged RST: a challenge ACK revives (RFC 5961 section 3.2) | half: >S <SA open: >A closing: >R open: <A
    a forged SYN changes nothing (RFC 5961 section 4.2) | half: >S <SA open: >A >S <A
    an RST revived keeps what FINs were seen | half: >S <SA open: >A >FA closing: <R open: >A closing: <FA >A
    an RST while half-open, revived, is half-open still | half: >S <SA closing: <R half: <SA open: >A
    RST counts before the flags beside it | half: >S <SA open: >A closing: >FR open: <FA
    picked up in the middle: established when the server answers | half: >PA >PA open: <A >FA closing: <FA
    picked up in the middle: the server does not know it | half: >A closing: <R
    picked up at its RST | closing: >R
    picked up at its FIN | half: >FA open: <A closing: <FA
    picked up at the client's SYN-ACK | half: >SA open: <A
    a forged ACK before a forged SYN proves nothing | half: >A closing: <R half: >S <SA <A
    and the other way around | half: >S >A <SA <A
    a new connection on the tuple of one that its server forgot | half: >A closing: <R half: >S <SA open: >A
";

#[test]
fn every_valid_open_and_close() {
    let rows = CONVERSATIONS.trim().lines();
    for (_, packets) in rows.map(|row| row.split_once(" | ").expect("two columns")) {
        play(packets);
    }
}

#[test]
fn a_new_syn_reuses_only_a_connection_that_is_over() {
    let syn = packet(">S").1;
    let (half_open, open) = (play("half: >S"), open());
    let half_closed = after(open, ">FA");
    let closed = after(half_closed, "<FA");
    let refused = after(half_open, "<RA");
    for (state, reused) in [
        (half_open, false),
        (open, false),
        (half_closed, false),
        (closed, true),
        (after(closed, ">R"), true),
        (refused, true),
        // The client retried meanwhile.
        (after(refused, ">S"), false),
        // The sender of these RSTs may forge a SYN too.
        (after(half_open, ">R"), false),
        (after(open, "<R"), false),
        (after(open, ">R"), false),
        (after(half_closed, "<R"), false),
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
    let open = open();
    let half_closed = after(open, ">FA");
    let closed = after(half_closed, "<FA");
    let is_reused = |state: TcpState, word| state.is_reused_by_server(packet(word).1);
    for (state, reused) in [
        (open, false),
        (half_closed, false),
        (closed, true),
        (after(closed, "<R"), true),
        (after(open, "<R"), false),
    ] {
        assert_eq!(is_reused(state, "<SA"), reused, "{state:?}");
        for other in ["<A", "<FA", "<R", "<SR", "<PA"] {
            assert!(!is_reused(state, other), "{state:?} {other}");
        }
    }
}

#[test]
fn a_refusal_is_distinguished_from_an_abort() {
    let refused = play("half: >S closing: <RA");
    assert!(refused.is_refused() && !refused.is_answered());
    let aborted = play("half: >S <SA closing: <R");
    assert!(!aborted.is_refused() && aborted.is_answered());
    let given_up = play("half: >S closing: >R");
    assert!(!given_up.is_refused() && given_up.is_unanswered());
    let unknown = play("half: >A closing: <R");
    assert!(!unknown.is_refused() && !unknown.is_unanswered());
}

/// The client's ACK must acknowledge what the server sent; its FIN and a challenge of the server do not help.
#[test]
fn an_ack_without_proof_assures_nothing() {
    let mut state = play("half: >S <SA");
    for word in [">A", "<A", ">PA", "<A", ">FA", "<A", ">SA", "<SA", ">A"] {
        let (direction, flags) = packet(word);
        state = state.after(direction, flags, false);
        assert_eq!(state.phase(), HalfOpen, "{word}");
        assert!(!state.is_assured(Protocol::Tcp), "{word}");
        assert!(after(state, ">A").is_assured(Protocol::Tcp), "{word}");
    }
    let reset = after(open(), "<R");
    assert!(reset.is_assured(Protocol::Tcp), "an RST takes nothing away");
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
            let is_answer = second.has_any(TcpFlags::SYN | TcpFlags::FIN | TcpFlags::RST);
            let is_silent = client_only.is_opening() && !is_answer;
            assert_eq!(answered.is_unanswered(), is_silent, "{first:?} {second:?}");
            for state in [client_only, answered] {
                let has_ended = state.has_ended();
                assert!(has_ended || state.phase() != Closing, "{state:?}");
                let later = state.on_packet(Direction::Forward, second);
                assert!(later.has_ended() || !has_ended, "an end stays: {state:?}");
            }
        }
    }
    for direction in [Direction::Forward, Direction::Reply] {
        for flags in all() {
            let reset = open().on_packet(direction, packet(">R").1);
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
    let half_open = play("half: >S");
    let reset = after(open(), "<R");
    let answered = TcpState::first(TcpFlags(0)).on_packet(Direction::Reply, TcpFlags(0));
    for (session, seconds) in [
        (session(Protocol::Tcp, half_open), 240),
        (session(Protocol::Tcp, open()), 7440),
        (session(Protocol::Tcp, reset), 240),
        (session(Protocol::Tcp, after(half_open, "<RA")), 10),
        (session(Protocol::Udp, TcpState::default()), 30),
        (session(Protocol::Udp, answered), 30),
        (session(Protocol::Udp, answered.streaming()), 120),
        (session(Protocol::Udp, TcpState::default().streaming()), 30),
    ] {
        let ticks = seconds * 10;
        assert_eq!(session.timeout_ticks(&timeouts), ticks);
        let is_expired = |tick| session.is_expired(&timeouts, Tick(tick));
        assert!(!is_expired(100 + ticks), "{session:?}");
        assert!(is_expired(100 + ticks + 1), "{session:?}");
        assert!(!is_expired(99), "a clock read earlier: {session:?}");
    }
}
