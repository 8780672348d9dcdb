//! `waxwing module bench`: the table, and the protocol for benches of other crates.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::common::{WAXWING, module, shipped};

#[test]
fn every_batch_size_takes_longer_than_the_empty_module() {
    let folder = TempDir::new().unwrap();
    let policy = shipped(&folder, "least_connections");
    let report = module(&["bench", &policy, "--backends", "64", "--json"]).json();
    assert_eq!(report["backends"], 64);
    let rows = report["rows"].as_array().unwrap();
    let batches = rows.iter().map(|row| row["batch"].as_u64().unwrap());
    assert_eq!(batches.collect::<Vec<_>>(), [1, 8, 32, 64]);
    for row in rows {
        // The fastest runs: whatever else the machine does can only make a run slower.
        let low = |side: &str| row[side]["low_ns"].as_f64().unwrap();
        assert!(low("empty") > 0.0 && low("module") > low("empty"), "{row}");
    }
}

#[test]
fn bench_uses_the_given_weights_and_tags() {
    let folder = TempDir::new().unwrap();
    let failover = shipped(&folder, "failover");
    let bench = ["bench", &failover, "--config", r#"{"order": [2, 1]}"#];
    let report = module(&[&bench[..], &["--json", "--backends", "1@1,3@2"]].concat()).json();
    assert_eq!(report["backends"], 2);
    module(&bench).fails_with("a backend has tag 0");
}

#[test]
fn bench_serve_answers_line_by_line() {
    let folder = TempDir::new().unwrap();
    let mut child = Command::new(WAXWING)
        .args([
            "module",
            "bench",
            "--serve",
            &shipped(&folder, "round_robin"),
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut requests = child.stdin.take().unwrap();
    let mut answers = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(answers.next().unwrap().unwrap(), "waxwing module bench 1");
    let mut ask = |line: &str| {
        writeln!(requests, "{line}").unwrap();
        answers.next().unwrap().unwrap()
    };
    let few: u64 = ask("32 100").parse().unwrap();
    let many: u64 = ask("32 10000").parse().unwrap();
    assert!(many > few, "{few} ns, {many} ns");
    assert!(ask("65 1").contains("a batch of 1 to 64"));
    assert!(ask("1 1").parse::<u64>().is_ok());
    drop(requests);
    assert!(child.wait().unwrap().success());
}
