//! A shortage of the balancer itself does not count against a backend.

use std::env;
use std::fs::File;
use std::process::Command;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use waxwing_plugin::checks::CheckVerdict;
use waxwing_tests::check_wat::CheckWat;

use super::common::{bind, host, nowhere, run, silent, target};

/// Set in a child process whose files run out, so that other tests are not affected.
const ALONE: &str = "WAXWING_TEST_ALONE";

/// The limit of open files in that process.
const FILES: u64 = 64;

/// Healthy if it connects, else unhealthy with a reason of its own.
const CONNECTS: &str = "(drop (call $say (i32.const 1)))
    (if (i32.lt_s (call $connect (i32.const 6)) (i32.const 0))
      (then (i32.store (i32.const 0x1000) (i32.const 2))))
    (i32.const 0x1000)";

/// Healthy whether or not it connects.
const SHRUGS: &str = "(call $say (call $connect (i32.const 6)))";

/// Traps if it cannot connect.
const PANICS: &str =
    "(if (i32.lt_s (call $connect (i32.const 6)) (i32.const 0)) (then unreachable))
    (call $say (i32.const 1))";

#[tokio::test]
async fn a_shortage_of_open_files_is_inconclusive() {
    if env::var_os(ALONE).is_none() {
        let name = "checks::shortage::a_shortage_of_open_files_is_inconclusive";
        let program = env::current_exe().expect("a program");
        let ran = Command::new(program)
            .args([name, "--exact"])
            .env(ALONE, "1")
            .output()
            .expect("it starts");
        let stdout = String::from_utf8_lossy(&ran.stdout);
        assert!(
            ran.status.success() && stdout.contains("1 passed"),
            "{stdout}"
        );
        return;
    }
    let few = Rlimit {
        current: Some(FILES),
        ..getrlimit(Resource::Nofile)
    };
    setrlimit(Resource::Nofile, few).expect("a limit may be lowered");
    let target = target(silent().await);
    // The check, its outcome without files (verdict, inconclusive, fault).
    let cases = [
        (CONNECTS, (CheckVerdict::Unhealthy, true, false)),
        (PANICS, (CheckVerdict::Unhealthy, true, true)),
        (SHRUGS, (CheckVerdict::Healthy, false, false)),
    ];
    for (check, expected) in cases {
        let host = host(&CheckWat::checking(check), None);
        let check = bind(&host).expect("the config is accepted");
        let mut files = Vec::new();
        while let Ok(file) = File::open("/dev/null") {
            files.push(file);
        }
        let short = host.run(&check, &target).await;
        drop(files);
        let found = (short.verdict, short.inconclusive, short.fault);
        assert_eq!(found, expected, "{short:?}");
        if short.inconclusive && !short.fault {
            assert!(short.reason.starts_with("no open file left"), "{short:?}");
        }
        let after = host.run(&check, &target).await;
        assert_eq!(after.verdict, CheckVerdict::Healthy, "{after:?}");
        assert!(!after.inconclusive, "{after:?}");
    }
}

#[tokio::test]
async fn a_refused_connection_is_conclusive() {
    let outcome = run(&CheckWat::checking(CONNECTS), &target(nowhere())).await;
    assert_eq!(outcome.verdict, CheckVerdict::Unhealthy);
    assert!(!outcome.inconclusive, "{outcome:?}");
}
