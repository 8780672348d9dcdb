//! Malicious or broken checks are stopped or get an error. (See also `floods`.)

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use waxwing_plugin::checks::{CheckHost, CheckTarget, CheckVerdict};
use waxwing_sdk::abi::health::errors;
use waxwing_tests::check_wat::CheckWat;

use super::common::{
    LOOP, anyone, bind, checking_with, host, nowhere, reserving, run, silent, target, with,
};

/// A `waxwing_error` that returns a text.
const ERROR_TEXT: &str = "(func (export \"waxwing_error\") (result i64) (i64.const 0x200000000f))
                     (data (i32.const 32) \"\\1b[2Jindex is 9\\0a\")";

/// Returns a check whose `waxwing_error` returns a text.
fn with_error_text(check: &'static str) -> CheckWat {
    CheckWat {
        more: format!("{}{ERROR_TEXT}", CheckWat::GOOD.more).leak(),
        ..CheckWat::checking(check)
    }
}

#[test]
fn a_module_that_fails_with_its_config_is_refused() {
    let used_up = "used up the 50 ms of processor time that a check has";
    let configuring = CheckWat::configuring;
    let cases = [
        (
            with("(func $start (loop $l (br $l))) (start $start)"),
            used_up,
        ),
        (
            with("(func $start unreachable) (start $start)"),
            "its start trapped",
        ),
        (
            with("(func $start (drop (call $connect (i32.const 6)))) (start $start)"),
            "called `connect` outside waxwing_check",
        ),
        (configuring(LOOP), used_up),
        (
            configuring("(call $sleep_ms (i32.const -1)) (i32.const 1)"),
            "`sleep_ms`",
        ),
        (
            configuring("(call $close (i32.const 0)) (i32.const 1)"),
            "`close`",
        ),
        (configuring("(i32.wrap_i64 (call $now_ms))"), "`now_ms`"),
        (
            reserving("(i32.const 0)"),
            "refuses service web: it gives no reason",
        ),
        (
            reserving("(i32.const 0xffff)"),
            "waxwing_reserve returned 0xffff",
        ),
        (
            reserving("(i32.const -1)"),
            "waxwing_reserve returned 0xffffffff",
        ),
        (
            CheckWat {
                memory: "(memory (export \"memory\") 257)",
                ..CheckWat::GOOD
            },
            "bytes of memory",
        ),
    ];
    for (wat, why) in cases {
        let start = Instant::now();
        let error = bind(&host(&wat, None)).expect_err(why).to_string();
        assert!(error.contains(why), "{error:?} lacks {why:?}");
        assert!(!error.contains(char::is_control), "{error:?}");
        assert!(
            start.elapsed() < Duration::from_secs(5),
            "{:?}",
            start.elapsed()
        );
    }
}

/// Checks that fail in a call, and what their outcomes say.
fn failing_calls() -> Vec<(CheckWat, &'static str)> {
    let recursion = "(func $deep (param i32) (result i32)
        (i32.add (i32.const 1) (call $deep (i32.add (local.get 0) (i32.const 1)))))";
    let checking = CheckWat::checking;
    vec![
        (
            checking(LOOP),
            "waxwing_check used up the 50 ms of processor time",
        ),
        (
            checking("unreachable"),
            "the check failed: waxwing_check trapped: ",
        ),
        (with_error_text("unreachable"), "executed: [2Jindex is 9"),
        (
            with_error_text("(i32.const 0)"),
            "the check failed: [2Jindex is 9",
        ),
        (checking("(i32.const 0)"), "it returned no verdict"),
        (
            checking_with("(call $deep (i32.const 0))", recursion),
            "call stack exhausted",
        ),
        (
            checking("(i32.load (i32.const -4))"),
            "out of bounds memory access",
        ),
        (
            // Its `waxwing_error` returns an invalid place, or never returns.
            checking_with(
                "unreachable",
                "(func (export \"waxwing_error\") (result i64) (i64.const -1))",
            ),
            "trapped: ",
        ),
        (
            checking_with(
                "unreachable",
                "(func (export \"waxwing_error\") (result i64) (loop $l (br $l)) (i64.const 0))",
            ),
            "trapped: ",
        ),
        (
            checking_with(
                "unreachable",
                "(func (export \"waxwing_error\") (result i64)
                          (call $sleep_ms (i32.const -1)) (i64.const 0))",
            ),
            "trapped: ",
        ),
    ]
}

/// Checks that return a verdict that the ABI does not allow, and what their outcomes say.
fn invalid_verdicts() -> Vec<(CheckWat, &'static str)> {
    let verdict = |fields: &[(u32, u32)]| -> CheckWat {
        let stores = fields.iter().fold(String::new(), |mut text, (at, value)| {
            let _ = write!(text, "(i32.store (i32.const {at}) (i32.const {value}))");
            text
        });
        CheckWat::checking(format!("{stores} (i32.const 0x1000)").leak())
    };
    let checking = CheckWat::checking;
    vec![
        (
            checking("(i32.const 0x1004)"),
            "0x1004 is not a multiple of 8",
        ),
        (
            checking("(i32.const 0xffe0)"),
            "the verdict at 0xffe0 is outside of memory",
        ),
        (
            checking("(i32.const -8)"),
            "the verdict at 0xfffffff8 is outside of memory",
        ),
        (
            verdict(&[]),
            "the verdict's status is 0, which is not a status",
        ),
        (
            verdict(&[(0x1000, 4)]),
            "the verdict's status is 4, which is not a status",
        ),
        (
            verdict(&[(0x1000, 1), (0x1004, 1), (0x1008, 1001)]),
            "the verdict's weight is 1001 percent, over 1000",
        ),
        (
            verdict(&[(0x1000, 1), (0x1004, 1), (0x1008, 65_536)]),
            "the verdict's weight is 65536 percent, over 1000",
        ),
        (
            verdict(&[(0x1000, 1), (0x1020, 0xfff0), (0x1024, 17)]),
            "the verdict's reason at 0xfff0 is outside of memory",
        ),
        (
            verdict(&[(0x1000, 1), (0x1020, u32::MAX), (0x1024, u32::MAX)]),
            "the verdict's reason at 0xffffffff is outside of memory",
        ),
    ]
}

#[tokio::test]
async fn a_broken_check_is_a_fault_with_a_reason() {
    for (wat, why) in failing_calls().into_iter().chain(invalid_verdicts()) {
        let outcome = run(&wat, &target(nowhere())).await;
        assert!(outcome.reason.contains(why), "{outcome:?} lacks {why:?}");
        assert!(outcome.fault, "{outcome:?}");
        assert_eq!(outcome.verdict, CheckVerdict::Unhealthy, "{outcome:?}");
        assert_eq!((outcome.weight, outcome.signals), (None, [None; 4]));
        assert!(!outcome.reason.contains(char::is_control), "{outcome:?}");
        assert!(outcome.took < Duration::from_secs(2), "{outcome:?}");
    }
}

#[tokio::test]
async fn a_long_reason_is_truncated() {
    let check = "(memory.fill (i32.const 0x2000) (i32.const 0x61) (i32.const 0xe000))
                 (i32.store (i32.const 0x1000) (i32.const 2))
                 (i32.store (i32.const 0x1020) (i32.const 0x2000))
                 (i32.store (i32.const 0x1024) (i32.const 0xe000))
                 (i32.const 0x1000)";
    let outcome = run(&CheckWat::checking(check), &target(nowhere())).await;
    assert_eq!(outcome.reason, "a".repeat(512));
    assert!(!outcome.fault);
}

#[tokio::test]
async fn an_unhealthy_verdict_carries_only_a_reason() {
    let check = "(drop (call $say (i32.const 7)))
                 (i32.store (i32.const 0x1000) (i32.const 2))
                 (i32.store (i32.const 0x1004) (i32.const -1))
                 (i32.store (i32.const 0x1008) (i32.const -1))
                 (i32.const 0x1000)";
    let outcome = run(&CheckWat::checking(check), &target(nowhere())).await;
    assert_eq!(outcome.verdict, CheckVerdict::Unhealthy);
    assert_eq!((outcome.weight, outcome.signals), (None, [None; 4]));
    assert!(!outcome.fault, "{outcome:?}");
}

#[tokio::test]
async fn invalid_numbers_are_errors() {
    let silent = silent().await;
    let target = CheckTarget {
        tls: Some(anyone()),
        ..target(silent)
    };
    let mut checks = Vec::new();
    for protocol in [0, 1, 5, 7, 256 + 6, -1, i32::MIN, i32::MAX] {
        checks.push(format!("(call $connect (i32.const {protocol}))"));
    }
    for connection in [-1, 1, 99, i32::MIN, i32::MAX] {
        for import in ["tls", "send", "recv"] {
            checks.push(format!(
                "(call $close (i32.const {connection}))
                 (drop (call $connect (i32.const 6)))
                 (call ${import} (i32.const {connection}) (i32.const 0) (i32.const 1))"
            ));
        }
    }
    // TLS over UDP.
    checks.push("(call $tls (call $connect (i32.const 17)) (i32.const 0) (i32.const 0))".into());
    for check in checks {
        let wat = CheckWat::checking(format!("(call $say (block (result i32) {check}))").leak());
        let outcome = run(&wat, &target).await;
        let number = outcome.signals[0].map(u32::cast_signed);
        assert_eq!(number, Some(errors::INVALID), "{check}: {outcome:?}");
        assert!(!outcome.fault);
    }
}

#[tokio::test]
async fn memory_and_tables_do_not_grow_past_their_limits() {
    let grow = "(local $pages i32)
        (loop $more (br_if $more (i32.ne (memory.grow (i32.const 1)) (i32.const -1))))
        (call $say (memory.size))";
    let wat = CheckWat {
        memory: "(memory (export \"memory\") 1)",
        ..CheckWat::checking(grow)
    };
    let outcome = run(&wat, &target(nowhere())).await;
    assert_eq!(outcome.signals[0], Some(256), "16 MiB: {outcome:?}");

    let wat = checking_with(
        "(call $say (table.grow (ref.null func) (i32.const 20000)))",
        "(table 1 funcref)",
    );
    let outcome = run(&wat, &target(nowhere())).await;
    assert_eq!(outcome.signals[0], Some(u32::MAX), "{outcome:?}");
}

#[tokio::test]
async fn an_import_exported_as_the_check_is_a_fault() {
    // Its `waxwing_check` is the host's own `connect`, called with the target's length as the
    // protocol.
    let text = format!(
        "(module (@custom \"waxwing.module\" \"{}\") {} (memory (export \"memory\") 1)
           (func (export \"waxwing_reserve\") (param i32) (result i32) (i32.const 64))
           (func (export \"waxwing_configure\") (param i32) (result i32) (i32.const 1))
           (export \"waxwing_check\" (func $connect)))",
        CheckWat::GOOD.section,
        CheckWat::GOOD.imports
    );
    let module = wat::parse_str(text).expect("it is WebAssembly text").leak();
    let host = CheckHost::new(Default::default(), &[("test", module)], None).expect("a host");
    let check = bind(&host).expect("the config is accepted");
    let outcome = host.run(&check, &target(nowhere())).await;
    assert!(outcome.fault, "{outcome:?}");
}

#[tokio::test]
async fn ranges_outside_of_memory_are_faults() {
    let silent = silent().await;
    let places = [
        (0x10000, 1),
        (0xffff, 2),
        (-1, 1),
        (-1, -1),
        (0, 0x10001),
        (0, -1),
        (i32::MIN, i32::MIN),
        (16, i32::MAX),
    ];
    let mut calls = Vec::new();
    for (address, len) in places {
        let place = format!("(i32.const {address}) (i32.const {len})");
        for import in ["tls", "send", "recv"] {
            let connection = "(call $connect (i32.const 6))";
            calls.push((
                import,
                format!("(drop (call ${import} {connection} {place}))"),
            ));
        }
        calls.push(("error_text", format!("(drop (call $error_text {place}))")));
        calls.push(("log", format!("(call $log {place})")));
    }
    for (import, call) in calls {
        let check = format!("{call} (call $say (i32.const 1))").leak();
        let outcome = run(&CheckWat::checking(check), &target(silent)).await;
        let why = format!(" to `{import}`, ");
        assert!(outcome.reason.contains(&why), "{call}: {outcome:?}");
        assert!(
            outcome.reason.ends_with("which are outside of memory"),
            "{outcome:?}"
        );
        assert!(outcome.fault);
    }
}
