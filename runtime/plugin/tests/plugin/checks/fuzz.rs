//! Random, well-typed checks against a server that answers: every run has an outcome in time.

use std::fmt::Write as _;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use waxwing_plugin::checks::CheckTarget;
use waxwing_testkit::random::{Random, seeds};
use waxwing_tests::check_wat::CheckWat;

use super::common::{anyone, bind, host, server, target};

const TIME: Duration = Duration::from_secs(4);

/// Edge values of connections, protocols, pages, limits and integers.
const EDGES: [i32; 20] = [
    0,
    1,
    2,
    6,
    7,
    8,
    15,
    16,
    17,
    64,
    512,
    0x1000,
    0x1004,
    0x2000,
    0xfff8,
    0xffff,
    0x10000,
    i32::MAX,
    i32::MIN,
    -1,
];

/// Imports with a result, and their number of arguments.
const RESULTS: [(&str, usize); 5] = [
    ("connect", 1),
    ("tls", 3),
    ("send", 3),
    ("recv", 3),
    ("error_text", 2),
];

/// Imports without a result, and their number of arguments.
const EFFECTS: [(&str, usize); 3] = [("close", 1), ("sleep_ms", 1), ("log", 2)];

/// Returns a number. Most are small or a connection's, because other calls would fail at once.
fn value(random: &mut Random) -> String {
    match random.below(8) {
        0 => format!("(i32.const {})", random.one(&EDGES)),
        1 => "(local.get 1)".into(),
        2 => "(i32.const 6)".into(),
        _ => format!("(i32.const {})", random.below(4)),
    }
}

fn call(random: &mut Random, (import, arguments): (&str, usize)) -> String {
    let arguments: Vec<_> = (0..arguments).map(|_| value(random)).collect();
    format!("(call ${import} {})", arguments.join(" "))
}

/// Returns the body of a check.
fn program(random: &mut Random) -> String {
    let mut text = "(local i32) (drop (call $connect (i32.const 6)))".to_owned();
    for _ in 0..random.below(16) {
        let (result, effect) = (random.one(&RESULTS), random.one(&EFFECTS));
        let statement = match random.below(8) {
            0 => format!("(i32.store {} {})", value(random), value(random)),
            1 => format!("(drop (memory.grow {}))", value(random)),
            2 => call(random, effect),
            3 => "(if (i64.eqz (call $now_ms)) (then unreachable))".into(),
            _ => format!("(local.set 1 {})", call(random, result)),
        };
        let _ = match random.below(16) {
            0 => write!(text, "(loop $l {statement} (br_if $l {}))", value(random)),
            _ => write!(text, "{statement}"),
        };
    }
    let verdict = if random.below(4) > 0 {
        "(call $say (local.get 1))".into()
    } else {
        value(random)
    };
    text + &verdict
}

#[tokio::test]
async fn a_random_check_has_an_outcome_in_time() {
    let address = server(async |mut stream| {
        let _ = stream
            .write_all(b"\x16\x03\x03 \x1b[2J neither TLS nor much else")
            .await;
        let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    })
    .await;
    let target = CheckTarget {
        tls: Some(anyone()),
        timeout: Duration::from_millis(50),
        ..target(address)
    };
    let (mut ended, mut faults) = (0, 0);
    for seed in seeds(TIME) {
        let check = program(&mut Random::new(seed));
        let wat = CheckWat {
            memory: "(memory (export \"memory\") 1)",
            ..CheckWat::checking(check.leak())
        };
        let host = host(&wat, None);
        let bound = bind(&host).expect("its config is accepted");
        let outcome = host.run(&bound, &target).await;
        let took = outcome.took;
        assert!(took < Duration::from_secs(5), "{seed}: {outcome:?}");
        let control = outcome.reason.contains(char::is_control);
        assert!(!control, "{seed}: {outcome:?}");
        ended += 1;
        faults += u32::from(outcome.fault);
    }
    println!("{ended} checks, of which {faults} failed");
    assert!(faults > 0 && faults < ended, "{faults} of {ended} failed");
}
