//! What each import does.

use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use waxwing_plugin::checks::{CheckOutcome, CheckVerdict};
use waxwing_sdk::abi::health::errors;
use waxwing_tests::check_wat::CheckWat;

use super::common::{checking_with, nowhere, run, server, silent, target};

/// Returns the number that the check returned as its first signal.
fn number(outcome: &CheckOutcome) -> i32 {
    let signal = outcome.signals[0];
    signal
        .unwrap_or_else(|| panic!("{outcome:?}"))
        .cast_signed()
}

#[tokio::test]
async fn a_verdict_sets_state_reason_weight_and_signals() {
    let check = "(i32.store (i32.const 0x1000) (i32.const 3))
                 (i32.store (i32.const 0x1004) (i32.const 0x91))
                 (i32.store (i32.const 0x1008) (i32.const 50))
                 (i32.store (i32.const 0x1010) (i32.const 1))
                 (i32.store (i32.const 0x1014) (i32.const 2))
                 (i32.store (i32.const 0x101c) (i32.const 4))
                 (i32.store (i32.const 0x1020) (i32.const 0x2000))
                 (i32.store (i32.const 0x1024) (i32.const 14))
                 (i32.const 0x1000)";
    let wat = CheckWat {
        more: "(data (i32.const 0x2000) \"going\\1b[2J\\07 down\")",
        ..CheckWat::checking(check)
    };
    let outcome = run(&wat, &target(nowhere())).await;
    assert_eq!(outcome.verdict, CheckVerdict::Draining);
    assert_eq!(
        outcome.reason, "going [2J  dow",
        "the reason is safe to print"
    );
    assert_eq!(outcome.weight, Some(50));
    assert_eq!(outcome.signals, [Some(1), None, None, Some(4)]);
    assert!(!outcome.fault);
    assert!(outcome.took < Duration::from_secs(1));
}

/// Returns the text that it was passed last as its reason.
const ECHO_TARGET: &str = "
  (i32.store (i32.const 0x1000) (i32.const 1))
  (i32.store (i32.const 0x1020) (i32.const 0x5000))
  (i32.store (i32.const 0x1024) (local.get 0))
  (i32.const 0x1000)";

#[tokio::test]
async fn a_check_receives_its_target_as_json() {
    let outcome = run(&CheckWat::checking(ECHO_TARGET), &target(nowhere())).await;
    let expected = "{\"service\":\"web\",\"backend\":\"s1\",\"address\":\"127.0.0.1\",\"port\":1,\
                    \"protocol\":\"tcp\",\"timeout_ms\":5000,\"server_name\":\"127.0.0.1\",\
                    \"signals\":[\"queue\"]}";
    assert_eq!(outcome.reason, expected);
}

#[tokio::test]
async fn a_check_sends_and_receives_over_tcp() {
    let address = server(async |mut stream| {
        let mut received = [0; 4];
        stream.read_exact(&mut received).await.expect("read");
        assert_eq!(&received, b"ping");
        stream.write_all(b"pong!").await.expect("written");
    })
    .await;
    // The reason is what it received; the signal combines the lengths of two reads, the second at
    // the stream's end.
    let check = "(local $c i32) (local $n i32)
        (local.set $c (call $connect (i32.const 6)))
        (drop (call $send (local.get $c) (i32.const 0x3000) (i32.const 4)))
        (local.set $n (call $recv (local.get $c) (i32.const 0x2000) (i32.const 100)))
        (drop (call $say (i32.add
          (i32.mul (local.get $n) (i32.const 10))
          (call $recv (local.get $c) (i32.const 0x2100) (i32.const 100)))))
        (i32.store (i32.const 0x1024) (local.get $n))
        (i32.const 0x1000)";
    let wat = checking_with(check, "(data (i32.const 0x3000) \"ping\")");
    let outcome = run(&wat, &target(address)).await;
    assert_eq!((number(&outcome), outcome.reason.as_str()), (50, "pong!"));
}

#[tokio::test]
async fn a_check_sends_and_receives_datagrams() {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .expect("a port");
    let address = socket.local_addr().expect("an address");
    tokio::spawn(async move {
        let mut received = [0; 100];
        let (len, from) = socket.recv_from(&mut received).await.expect("received");
        let answer = [&received[..len], b"-and-more"].concat();
        socket.send_to(&answer, from).await.expect("sent");
    });
    let check = "(local $c i32)
        (local.set $c (call $connect (i32.const 17)))
        (drop (call $send (local.get $c) (i32.const 0x3000) (i32.const 4)))
        (drop (call $say (call $recv (local.get $c) (i32.const 0x2000) (i32.const 8))))
        (i32.store (i32.const 0x1024) (i32.const 10))
        (i32.const 0x1000)";
    let wat = checking_with(
        check,
        "(data (i32.const 0x3000) \"ping\") (data (i32.const 0x2000) \"..........\")",
    );
    let outcome = run(&wat, &target(address)).await;
    assert_eq!(
        (number(&outcome), outcome.reason.as_str()),
        (8, "ping-and.."),
        "one datagram, truncated"
    );
}

#[tokio::test]
async fn errors_have_codes_and_texts() {
    let refusing = {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("a port");
        listener.local_addr().expect("an address")
    };
    let resetting = server(async |stream| {
        stream.set_zero_linger().expect("set");
        drop(stream);
    })
    .await;
    let silent = silent().await;
    let broadcast = (Ipv4Addr::BROADCAST, 80).into();
    let connect = "(call $say (call $connect (i32.const 6)))";
    let receive =
        "(call $say (call $recv (call $connect (i32.const 6)) (i32.const 0) (i32.const 9)))";
    let closed = "(local $c i32) (local.set $c (call $connect (i32.const 6)))
                  (call $close (local.get $c)) (call $close (local.get $c))
                  (call $say (call $send (local.get $c) (i32.const 0) (i32.const 9)))";
    let cases = [
        (refusing, connect, errors::REFUSED, "connection refused"),
        (
            broadcast,
            connect,
            errors::UNREACHABLE,
            "network unreachable",
        ),
        (
            resetting,
            receive,
            errors::RESET,
            "connection reset by the server",
        ),
        (silent, closed, errors::INVALID, "connection 0 is not open"),
    ];
    for (address, check, code, text) in cases {
        let outcome = run(&CheckWat::checking(check), &target(address)).await;
        assert_eq!((number(&outcome), outcome.reason.as_str()), (code, text));
        assert!(!outcome.fault);
    }
}

#[tokio::test]
async fn a_datagram_to_a_closed_port_is_refused() {
    let closed = {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("a port");
        socket.local_addr().expect("an address")
    };
    let check = "(local $c i32)
        (local.set $c (call $connect (i32.const 17)))
        (drop (call $send (local.get $c) (i32.const 0) (i32.const 4)))
        (call $say (call $recv (local.get $c) (i32.const 0x2000) (i32.const 8)))";
    let outcome = run(&CheckWat::checking(check), &target(closed)).await;
    assert_eq!(number(&outcome), errors::REFUSED);
}

#[tokio::test]
async fn a_check_sleeps_and_reads_the_time() {
    let check = "(local $before i64)
        (local.set $before (call $now_ms))
        (call $sleep_ms (i32.const 50))
        (call $say (i32.wrap_i64 (i64.sub (call $now_ms) (local.get $before))))";
    let outcome = run(&CheckWat::checking(check), &target(nowhere())).await;
    assert!((50..1000).contains(&number(&outcome)), "{outcome:?}");
}

#[tokio::test]
async fn reaching_a_limit_is_an_error_and_not_a_fault() {
    let silent = silent().await;
    // It makes as many connections as it may, and returns the last number, or closes each.
    let open = "(local $c i32)
        (loop $more (local.set $c (call $connect (i32.const 6)))
          (br_if $more (i32.lt_u (local.get $c) (i32.const 7))))
        (call $say (call $connect (i32.const 6)))";
    let all = "(local $c i32)
        (loop $more (local.set $c (call $connect (i32.const 6))) (call $close (local.get $c))
          (br_if $more (i32.lt_u (local.get $c) (i32.const 15))))
        (call $say (call $connect (i32.const 6)))";
    let sent = "(local $c i32) (local.set $c (call $connect (i32.const 6)))
        (drop (call $send (local.get $c) (i32.const 0) (i32.const 0xffff)))
        (drop (call $send (local.get $c) (i32.const 0) (i32.const 0xffff)))
        (call $say (call $send (local.get $c) (i32.const 0) (i32.const 1)))";
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .expect("a port");
    let deaf = socket.local_addr().expect("an address");
    // Empty datagrams until an error.
    let datagrams = "(local $c i32) (local $n i32)
        (local.set $c (call $connect (i32.const 17)))
        (loop $more
          (local.set $n (call $send (local.get $c) (i32.const 0) (i32.const 0)))
          (br_if $more (i32.ge_s (local.get $n) (i32.const 0))))
        (call $say (local.get $n))";
    let cases = [
        (silent, open, "at most 8 connections open"),
        (silent, all, "at most 16 connections"),
        (silent, sent, "a check may send at most 65536 bytes"),
        (deaf, datagrams, "a check may send at most 65536 bytes"),
    ];
    for (address, check, text) in cases {
        let outcome = run(&CheckWat::checking(check), &target(address)).await;
        assert_eq!(number(&outcome), errors::LIMIT, "{outcome:?}");
        assert!(outcome.reason.contains(text), "{outcome:?}");
        assert!(!outcome.fault);
    }
}
