//! The life of a health check's file: loaded, replaced, refused, rolled back and kept.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use waxwing_plugin::checks::{Check, CheckConfig, CheckHost, CheckOptions, CheckVerdict};
use waxwing_plugin::{ModuleSource, Recovery};
use waxwing_tests::check_wat::CheckWat;
use waxwing_tests::wat::Wat;

use crate::compiling::compiler;

use super::common::{bind, host, nowhere, silent, target};

const FIRST: &str = "(call $say (i32.const 1))";
const SECOND: &str = "(call $say (i32.const 2))";
const TRAPS: &str = "(i32.store (i32.const 0xfff0) (i32.const 5)) unreachable";

/// A folder with one check; its host has no shipped checks.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new(check: &'static str) -> Self {
        let folder = Self(tempfile::tempdir().expect("a folder"));
        folder.put(&CheckWat::checking(check));
        folder
    }

    fn put(&self, wat: &CheckWat) {
        fs::write(self.file(), wat.bytes()).expect("written");
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("test.wasm")
    }

    fn host(&self) -> CheckHost {
        let options = CheckOptions {
            state: Some(self.0.path().join("state")),
            ..CheckOptions::default()
        };
        CheckHost::new(options, &[], Some(self.0.path().into())).expect("a host")
    }
}

/// Binds and activates.
fn serve(host: &CheckHost) -> Arc<Check> {
    let check = bind(host).expect("something serves");
    host.activate(&check);
    check
}

async fn number(host: &CheckHost, check: &Check) -> Option<u32> {
    host.run(check, &target(nowhere())).await.signals[0]
}

fn refused(host: &CheckHost) -> String {
    let refused = host.status().remove(0).refused;
    refused.map_or_else(String::new, |refused| refused.reason)
}

#[tokio::test]
async fn a_file_takes_precedence_over_the_shipped_module_until_it_is_removed() {
    let folder = Folder::new(FIRST);
    let host = host(&CheckWat::GOOD, Some(folder.0.path().into()));
    assert_eq!(number(&host, &serve(&host)).await, Some(1));
    folder.put(&CheckWat::checking(SECOND));
    assert_eq!(number(&host, &serve(&host)).await, Some(2));
    fs::remove_file(folder.file()).expect("removed");
    assert_eq!(number(&host, &serve(&host)).await, Some(7));
    let status = host.status().remove(0);
    assert_eq!(status.serving.expect("it serves").source, "shipped");
}

#[tokio::test]
async fn a_bad_build_is_refused_and_the_previous_one_keeps_serving() {
    let folder = Folder::new(FIRST);
    let host = folder.host();
    serve(&host);
    let bad = [
        (
            CheckWat::configuring("unreachable"),
            "failed while service web was set up: waxwing_configure trapped",
        ),
        (
            CheckWat {
                more: "(func (export \"waxwing_error\") (result i64) (i64.const 0x200000000c))
                       (data (i32.const 32) \"path missing\")",
                check: "(i32.const 0)",
                ..CheckWat::configuring("(i32.const 0)")
            },
            "refuses service web: path missing; see its `config`",
        ),
        (
            CheckWat::configuring("(call $connect (i32.const 6))"),
            "called `connect` outside waxwing_check",
        ),
        (
            CheckWat {
                section: "",
                ..CheckWat::GOOD
            },
            "no line `kind=",
        ),
    ];
    for (wat, why) in bad {
        folder.put(&wat);
        assert_eq!(number(&host, &serve(&host)).await, Some(1));
        let reason = refused(&host);
        assert!(reason.contains(why), "{reason:?} lacks {why:?}");
    }
}

#[tokio::test]
async fn a_refused_config_is_reported_with_the_modules_text() {
    let wat = CheckWat {
        // It accepts only a config of two bytes.
        configure: "(i32.eq (local.get 0) (i32.const 2))",
        more: "(func (export \"waxwing_error\") (result i64) (i64.const 0x2000000006))
               (data (i32.const 32) \"\\07empty\")",
        check: "(i32.const 0)",
        ..CheckWat::GOOD
    };
    let host = host(&wat, None);
    let config = |service: &str, json: &str| CheckConfig {
        service: service.into(),
        json: json.into(),
    };
    let configs = [config("web", "{}"), config("dns", "{\"a\":1}")];
    assert!(host.bind("test", &configs[..1]).is_ok());
    let error = host
        .bind("test", &configs)
        .expect_err("it refuses one")
        .to_string();
    let expected = "module test (shipped): refuses service dns: empty; see its `config`";
    assert_eq!(error, expected);
}

#[tokio::test]
async fn a_faulty_build_is_rolled_back_and_not_loaded_again() {
    let folder = Folder::new(FIRST);
    let host = folder.host();
    serve(&host);
    folder.put(&CheckWat::checking(TRAPS));
    let check = serve(&host);
    let outcome = host.run(&check, &target(nowhere())).await;
    assert_eq!(outcome.verdict, CheckVerdict::Unhealthy);
    assert!(outcome.fault, "{outcome:?}");
    let recoveries = [0; 3].map(|_| host.recover(&check, &outcome.reason));
    use Recovery::{Nothing, Rebuild, RolledBack};
    assert_eq!(recoveries, [Rebuild, Rebuild, RolledBack]);
    assert_eq!(
        number(&host, &serve(&host)).await,
        Some(1),
        "the one before"
    );
    assert_eq!(host.recover(&check, "late"), Nothing);
    let status = host.status().remove(0);
    assert_eq!(status.quarantined.len(), 1);
    assert!(
        status.quarantined[0]
            .reason
            .contains("waxwing_check trapped")
    );

    drop(host);
    let after = folder.host();
    let check = serve(&after);
    assert!(
        matches!(check.module().source, ModuleSource::LastGood(_)),
        "{check:?}"
    );
    assert_eq!(number(&after, &check).await, Some(1));
}

#[tokio::test]
async fn after_a_restart_the_last_good_build_replaces_a_bad_file() {
    let folder = Folder::new(FIRST);
    serve(&folder.host());
    fs::write(folder.file(), b"half a fi").expect("written");
    let host = folder.host();
    assert_eq!(number(&host, &serve(&host)).await, Some(1));
    assert!(refused(&host).contains("not a WebAssembly module"));
    let kept = folder.0.path().join("state/checks/last-good/test.wasm");
    assert!(kept.exists(), "apart from the policies'");
}

#[test]
fn a_module_of_the_other_kind_is_refused_with_a_reason() {
    let folder = Folder::new(FIRST);
    let (policies, _events) = crate::common::host(&[], Some(folder.0.path().into()));
    let error = policies
        .policy("test")
        .expect_err("it is a check")
        .to_string();
    let expected = "is a health check, not a policy; name it under [[service.health]]";
    assert!(error.ends_with(expected), "{error}");

    fs::write(folder.file(), Wat::GOOD.bytes()).expect("written");
    let error = bind(&folder.host())
        .expect_err("it is a policy")
        .to_string();
    let expected = "is a policy, not a health check; name it as a service's `policy`";
    assert!(error.ends_with(expected), "{error}");
}

#[tokio::test]
async fn the_check_engine_runs_code_that_the_child_compiled() {
    let folder = Folder::new(FIRST);
    let options = CheckOptions {
        compiler: compiler(),
        ..CheckOptions::default()
    };
    let host = CheckHost::new(options, &[], Some(folder.0.path().into())).expect("a host");
    assert_eq!(number(&host, &serve(&host)).await, Some(1));
    assert_eq!(refused(&host), "");
}

#[tokio::test]
async fn a_quarantined_build_without_a_replacement_backs_off_until_a_trial_succeeds() {
    const TRIAL_EVERY: Duration = Duration::from_millis(200);
    // It traps if it cannot connect, so the server decides whether a run is a fault.
    let check = "(if (i32.lt_s (call $connect (i32.const 6)) (i32.const 0)) (then unreachable))
                 (call $say (i32.const 1))";
    let options = CheckOptions {
        trial_every: TRIAL_EVERY,
        ..CheckOptions::default()
    };
    let shipped = CheckWat::checking(check).shipped();
    let host = CheckHost::new(options, &[("test", shipped)], None).expect("a host");
    let check = serve(&host);
    let (bad, good) = (target(nowhere()), target(silent().await));
    let fault = host.run(&check, &bad).await;
    assert!(fault.fault, "{fault:?}");
    let recoveries = [0; 3].map(|_| host.recover(&check, &fault.reason));
    use Recovery::{Exhausted, Rebuild};
    assert_eq!(recoveries, [Rebuild, Rebuild, Exhausted]);

    let resting = host.run(&check, &good).await;
    assert_eq!(resting.verdict, CheckVerdict::Unhealthy, "{resting:?}");
    assert!(!resting.fault, "{resting:?}");
    assert!(
        resting.reason.starts_with("quarantined: 3 faults in 60 s"),
        "{resting:?}"
    );

    tokio::time::sleep(TRIAL_EVERY).await;
    let trial = host.run(&check, &bad).await;
    assert!(trial.fault, "the trial ran and failed: {trial:?}");
    assert_eq!(host.recover(&check, &trial.reason), Exhausted);
    let resting = host.run(&check, &good).await;
    assert!(resting.reason.starts_with("quarantined: "), "{resting:?}");

    tokio::time::sleep(TRIAL_EVERY).await;
    for _ in 0..2 {
        let outcome = host.run(&check, &good).await;
        assert_eq!(outcome.verdict, CheckVerdict::Healthy, "{outcome:?}");
    }
    let status = host.status().remove(0);
    assert!(status.quarantined.is_empty() && status.refused.is_none());
    assert_eq!(
        host.recover(&check, "late"),
        Rebuild,
        "its faults are counted from zero"
    );
}
