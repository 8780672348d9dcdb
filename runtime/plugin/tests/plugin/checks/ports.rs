//! Checks use up neither ports nor more open files than they may.

use std::fs;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;

use tokio::io::AsyncReadExt as _;
use tokio::sync::mpsc;
use waxwing_plugin::checks::{CheckHost, CheckOptions, CheckVerdict};
use waxwing_tests::check_wat::CheckWat;

use super::common::{bind, host, server, silent, target};

/// Starts a server that reports how each connection ended.
async fn reporting() -> (SocketAddr, mpsc::UnboundedReceiver<io::Result<usize>>) {
    let (report, ends) = mpsc::unbounded_channel();
    let address = server(move |mut stream| {
        let report = report.clone();
        async move {
            let end = stream.read(&mut [0]).await;
            report.send(end).expect("the test listens");
        }
    })
    .await;
    (address, ends)
}

/// Returns how many connections to a server, on this host, are in TIME-WAIT (state 6 of `/proc/net/tcp`).
fn in_time_wait(server: SocketAddr) -> usize {
    let table = fs::read_to_string("/proc/net/tcp").expect("the kernel has it");
    let port = format!(":{:04X}", server.port());
    let rows = table
        .lines()
        .map(|row| row.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row[2].ends_with(&port) && row[3] == "06")
        .count()
}

#[tokio::test]
async fn a_check_closes_by_a_reset() {
    const RUNS: usize = 20;
    // One check leaves its connection to the host, the other closes it.
    let checks = [
        "(call $say (call $connect (i32.const 6)))",
        "(call $close (call $connect (i32.const 6))) (call $say (i32.const 1))",
    ];
    for check in checks {
        let (address, mut ends) = reporting().await;
        let host = host(&CheckWat::checking(check), None);
        let check = bind(&host).expect("the config is accepted");
        for _ in 0..RUNS {
            let outcome = host.run(&check, &target(address)).await;
            assert_eq!(outcome.verdict, CheckVerdict::Healthy, "{outcome:?}");
            let end = ends.recv().await.expect("a connection");
            let error = end.expect_err("it ends by a reset");
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        }
        assert_eq!(in_time_wait(address), 0);
    }
}

/// Connects three times, and is unhealthy with the last error if one attempt fails.
const CONNECTS_THRICE: &str = "(drop (call $connect (i32.const 6)))
    (drop (call $connect (i32.const 6)))
    (drop (call $say (call $connect (i32.const 6))))
    (if (i32.lt_s (i32.load (i32.const 0x1010)) (i32.const 0))
      (then (i32.store (i32.const 0x1000) (i32.const 2))))
    (i32.const 0x1000)";

#[tokio::test]
async fn connections_of_all_checks_have_a_limit() {
    let address = silent().await;
    // The limit, whether the check is inconclusive.
    for (connections_max, inconclusive) in [(2, true), (3, false)] {
        let options = CheckOptions {
            connections_max,
            ..CheckOptions::default()
        };
        let module = CheckWat::checking(CONNECTS_THRICE);
        let host = CheckHost::new(options, &[("test", module.shipped())], None).expect("a host");
        let check = bind(&host).expect("the config is accepted");
        // A run gives its connections back.
        for _ in 0..2 {
            let outcome = host.run(&check, &target(address)).await;
            assert_eq!(outcome.inconclusive, inconclusive, "{outcome:?}");
            assert!(!inconclusive || outcome.reason.starts_with("no open file left"));
        }
    }
}

#[test]
fn checks_leave_open_files_to_the_rest() {
    // Open files, checks at once, their connections.
    let cases = [
        (1, 1, 1),
        (160, 80, 80),
        (512, 256, 256),
        (1024, 768, 768),
        (65_536, 1024, 65_280),
        (u64::MAX, 1024, u32::MAX),
    ];
    for (files, at_once, connections) in cases {
        let options = CheckOptions::default().within_open_files(files, 0);
        let found = (options.at_once, options.connections_max);
        assert_eq!(found, (at_once, connections), "{files}");
    }
}
