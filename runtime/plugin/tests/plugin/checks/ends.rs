//! How a run ends: by its timeout, by being dropped, or by itself.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc::unbounded_channel;
use tokio::time::timeout;
use waxwing_plugin::checks::{CheckHost, CheckOptions, CheckTarget, CheckVerdict, RunLimits};
use waxwing_tests::check_wat::CheckWat;

use super::common::{anyone, bind, host, nowhere, server, silent, target};

const HANGS: &str =
    "(call $say (call $recv (call $connect (i32.const 6)) (i32.const 0) (i32.const 9)))";

/// Returns a server whose backlog is full.
async fn full() -> (SocketAddr, Vec<TcpStream>) {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket
        .bind((Ipv4Addr::LOCALHOST, 0).into())
        .expect("a port");
    let listener = socket.listen(1).expect("listens");
    let address = listener.local_addr().expect("an address");
    let mut queued = Vec::new();
    let wait = Duration::from_millis(200);
    while let Ok(stream) = timeout(wait, TcpStream::connect(address)).await {
        queued.push(stream.expect("connected"));
    }
    std::mem::forget(listener.into_std());
    (address, queued)
}

#[tokio::test]
async fn a_timeout_names_the_checks_activity() {
    let silent = silent().await;
    let (full, _queued) = full().await;
    let tls = "(call $say (call $tls (call $connect (i32.const 6)) (i32.const 0) (i32.const 0)))";
    let sends = "(local $c i32) (local.set $c (call $connect (i32.const 6)))
        (loop $more
          (drop (call $send (local.get $c) (i32.const 0) (i32.const 0xffff)))
          (br $more))
        (i32.const 0)";
    let sleeps = "(call $sleep_ms (i32.const -1)) (i32.const 0)";
    let loops = "(loop $l (br $l)) (i32.const 0)";
    let cases = [
        (
            full,
            "(call $say (call $connect (i32.const 6)))",
            "while connecting",
        ),
        (silent, tls, "while in the TLS handshake"),
        (silent, sends, "while sending"),
        (silent, HANGS, "while receiving"),
        (nowhere(), sleeps, "while sleeping"),
        (nowhere(), loops, "while computing"),
    ];
    let options = || CheckOptions {
        run: RunLimits {
            sent: usize::MAX,
            cpu: Duration::from_secs(60),
            ..RunLimits::default()
        },
        ..CheckOptions::default()
    };
    for (address, check, doing) in cases {
        let wat = CheckWat::checking(check);
        let host = CheckHost::new(options(), &[("test", wat.shipped())], None).expect("a host");
        let check = bind(&host).expect("the config is accepted");
        let target = CheckTarget {
            tls: Some(anyone()),
            timeout: Duration::from_millis(300),
            ..target(address)
        };
        let outcome = host.run(&check, &target).await;
        assert_eq!(outcome.verdict, CheckVerdict::Unhealthy);
        assert_eq!(outcome.reason, format!("no answer within 0.3 s ({doing})"));
        // A computing check is at fault only if this machine gave it enough processor time.
        assert!(!outcome.fault || doing == "while computing", "{outcome:?}");
        assert!(outcome.took >= target.timeout, "{outcome:?}");
        assert!(outcome.took < 10 * target.timeout, "{outcome:?}");
    }
}

#[tokio::test]
async fn a_dropped_run_closes_its_connection_and_frees_its_slot() {
    let (ended, mut ends) = unbounded_channel();
    let address = server(move |mut stream| {
        let ended = ended.clone();
        async move {
            let _ = ended.send(stream.read(&mut [0; 8]).await.unwrap_or(0));
        }
    })
    .await;
    let options = CheckOptions {
        at_once: 1,
        ..CheckOptions::default()
    };
    let wat = CheckWat::checking(HANGS);
    let host = CheckHost::new(options, &[("test", wat.shipped())], None).expect("a host");
    let check = bind(&host).expect("the config is accepted");
    let target = target(address);
    for _ in 0..3 {
        let run = host.run(&check, &target);
        let dropped = timeout(Duration::from_millis(100), run).await;
        assert!(dropped.is_err(), "the run hangs");
        let end = timeout(Duration::from_secs(5), ends.recv()).await;
        assert_eq!(end, Ok(Some(0)), "its connection is closed");
    }
}

#[tokio::test]
async fn waiting_for_a_slot_does_not_count_as_run_time() {
    let options = CheckOptions {
        at_once: 2,
        ..CheckOptions::default()
    };
    let sleeps = "(call $sleep_ms (i32.const 100)) (call $say (i32.const 1))";
    let wat = CheckWat::checking(sleeps);
    let host = CheckHost::new(options, &[("test", wat.shipped())], None).expect("a host");
    let host = Arc::new(host);
    let check = bind(&host).expect("the config is accepted");
    let start = Instant::now();
    let runs: Vec<_> = (0..6)
        .map(|_| {
            let (host, check) = (Arc::clone(&host), Arc::clone(&check));
            tokio::spawn(async move { host.run(&check, &target(nowhere())).await })
        })
        .collect();
    for run in runs {
        let outcome = run.await.expect("no panic");
        assert_eq!(outcome.verdict, CheckVerdict::Healthy, "{outcome:?}");
        assert!(outcome.took < Duration::from_millis(250), "{outcome:?}");
    }
    assert!(
        start.elapsed() >= Duration::from_millis(300),
        "two at a time"
    );
}

#[tokio::test]
async fn every_run_has_a_fresh_instance() {
    let counts = "(i32.store (i32.const 8) (i32.add (i32.load (i32.const 8)) (i32.const 1)))
                  (i32.store (i32.const 0xfff8) (i32.const 1))
                  (call $say (i32.add (i32.load (i32.const 8)) (i32.load (i32.const 0xff00))))";
    let wat = CheckWat {
        configure: "(i32.store (i32.const 0xff00)
                      (i32.add (i32.load (i32.const 0xff00)) (i32.const 10))) (i32.const 1)",
        ..CheckWat::checking(counts)
    };
    let host = host(&wat, None);
    let check = bind(&host).expect("the config is accepted");
    for _ in 0..100 {
        let outcome = host.run(&check, &target(nowhere())).await;
        assert_eq!(outcome.signals[0], Some(11), "{outcome:?}");
    }
}
