//! `waxwing module check`: reports on valid modules, errors of invalid ones.

use serde_json::Value;
use tempfile::TempDir;

use crate::common::{file, module, shipped, wat};

#[test]
fn a_valid_module_passes_and_its_costs_are_shown() {
    let folder = TempDir::new().unwrap();
    let maglev = shipped(&folder, "maglev");
    let expected = ["maglev passes", "ABI 1.1", "imports   none", "waxwing_pick"];
    module(&["check", &maglev]).succeeds_with(&expected);

    let report = module(&["check", &maglev, "--json"]).json();
    assert_eq!(report["passed"], true);
    let sizes = report["module"]["sizes"].as_array().unwrap();
    let backends = sizes.iter().map(|size| size["backends"].as_u64().unwrap());
    assert_eq!(backends.collect::<Vec<_>>(), [1, 3, 64, 4096]);
    for size in sizes {
        assert_eq!(size["verdict"], "good", "{size}");
        let [average, worst] = ["fuel_average", "fuel_worst"].map(|key| size[key].as_f64());
        assert!(average > Some(5.0) && worst >= average, "{size}");
    }
}

#[test]
fn fuel_is_reproducible() {
    let folder = TempDir::new().unwrap();
    let policy = shipped(&folder, "least_connections");
    let fuel = || -> Vec<Value> {
        let report = module(&["check", &policy, "--json"]).json();
        let sizes = report["module"]["sizes"].as_array().unwrap();
        sizes
            .iter()
            .map(|size| size["fuel_average"].clone())
            .collect()
    };
    assert_eq!(fuel(), fuel());
}

#[test]
fn a_policy_may_refuse_a_size_but_not_all() {
    let folder = TempDir::new().unwrap();
    let maglev = shipped(&folder, "maglev");
    let report = module(&["check", &maglev, "--json", "--config", r#"{"table":251}"#]).json();
    assert_eq!(report["passed"], true);
    assert_eq!(
        report["module"]["sizes"][3]["verdict"], "refused",
        "{report}"
    );

    let misspelt = module(&["check", &maglev, "--config", r#"{"tabel":251}"#]);
    misspelt.fails_with("policy_config.tabel");
    misspelt.fails_with("with 1 backend:");
}

/// Policies with groups pass only with the tags that their configs name.
#[test]
fn backends_repeat_the_given_ones() {
    let folder = TempDir::new().unwrap();
    let split = shipped(&folder, "percent_split");
    let config = r#"{"groups": [{"tag": 1, "percent": 95}, {"tag": 2, "percent": 5}]}"#;
    let check = ["check", &split, "--json", "--config", config];
    let report = module(&[&check[..], &["--backends", "1@1,1@2"]].concat()).json();
    assert_eq!(report["passed"], true, "{report}");
    let sizes = report["module"]["sizes"].as_array().unwrap();
    assert_eq!(sizes.len(), 4, "{report}");
    for size in sizes {
        assert_eq!(size["verdict"], "good", "{size}");
    }

    let without = module(&check).json();
    assert_eq!(without["passed"], false, "{without}");
    let why = without["error"].to_string();
    assert!(why.contains("a backend has tag 0"), "{why}");

    // Each tag may belong to one backend only: refused once the given ones repeat.
    let quic = shipped(&folder, "quic_connection_id");
    let report = module(&["check", &quic, "--json", "--backends", "1@1,1@2,1@3"]).json();
    let verdicts = ["good", "good", "refused", "refused"];
    for (size, expected) in verdicts.into_iter().enumerate() {
        assert_eq!(
            report["module"]["sizes"][size]["verdict"], expected,
            "{report}"
        );
    }
    module(&["check", &quic, "--backends", "1@"]).fails_with("WEIGHT@TAG");
}

#[test]
fn an_invalid_module_fails_with_a_reason() {
    let folder = TempDir::new().unwrap();
    let endless = "(loop $l (br $l))";
    let endless_tick = r#"(func (export "waxwing_tick") (param i32) (loop $l (br $l)))"#;
    let too_far = "(i32.store (i32.const 6144) (i32.const 99))";
    let import = r#"(import "env" "time" (func))"#;
    let none = folder.path().join("none.wasm");
    let cases = [
        (
            file(&folder, "text.wasm", b"hello"),
            "not a WebAssembly module",
        ),
        (file(&folder, "a b.wasm", b""), "not a module name"),
        (none.to_str().unwrap().to_owned(), "cannot be read"),
        (wat(&folder, "imports", "", import), "imports `env.time`"),
        (
            wat(&folder, "loops", endless, ""),
            "ran past its time budget",
        ),
        (
            wat(&folder, "ticks", "", endless_tick),
            "ran past its time budget",
        ),
        (
            wat(&folder, "too_far", too_far, ""),
            "chose backend 99 of 1",
        ),
    ];
    for (path, expected) in cases {
        module(&["check", &path]).fails_with(expected);
        let report = module(&["check", &path, "--json"]);
        assert!(
            !report.success && report.json()["passed"] == false,
            "{path}"
        );
        assert!(
            report.json()["error"].to_string().contains(expected),
            "{path}"
        );
    }
    // The same module without a defect.
    module(&["check", &wat(&folder, "good", "", "")]).succeeds_with(&["good passes", "no SDK"]);
}

/// It passes: a policy may mean to.
#[test]
fn what_a_policy_does_with_its_test_flows_is_told() {
    let folder = TempDir::new().unwrap();
    // The same pick for each flow of a batch.
    let all = |pick: &str| {
        format!(
            "(local $i i32)
             (loop $next
               (i32.store (i32.add (i32.const 6144) (i32.shl (local.get $i) (i32.const 2))) {pick})
               (local.set $i (i32.add (local.get $i) (i32.const 1)))
               (br_if $next (i32.lt_u (local.get $i) (local.get 1))))"
        )
    };
    for (name, pick, expected) in [
        ("drops", "(i32.const -1)", "with 3 backends it drops "),
        ("leaves", "(i32.const -2)", "with 3 backends it leaves "),
        ("one", "(i32.const 0)", "with 3 backends it gives all "),
    ] {
        let path = wat(&folder, name, &all(pick), "");
        module(&["check", &path]).succeeds_with(&[&format!("\nwarning: {expected}")]);
        let report = module(&["check", &path, "--json"]).json();
        let warnings = report["module"]["warnings"].as_array().unwrap();
        let is_told = |warning: &Value| warning.as_str().unwrap().starts_with(expected);
        assert!(warnings.iter().any(is_told), "{report}");
    }
    let maglev = shipped(&folder, "maglev");
    let report = module(&["check", &maglev, "--json"]).json();
    assert_eq!(report["module"]["warnings"], serde_json::json!([]));
}

#[test]
fn a_policy_too_slow_for_thousands_of_backends_still_serves_few() {
    let folder = TempDir::new().unwrap();
    // A thousand iterations per backend (the header holds their number, at 1024 + 32).
    let slow = "(local $i i32)
      (local.set $i (i32.mul (i32.load (i32.const 1056)) (i32.const 1000)))
      (loop $l (br_if $l (local.tee $i (i32.sub (local.get $i) (i32.const 1)))))";
    let report = module(&["check", &wat(&folder, "slow", slow, ""), "--json"]).json();
    assert_eq!(report["passed"], true, "{report}");
    let sizes = &report["module"]["sizes"];
    assert_eq!(
        (&sizes[1]["verdict"], &sizes[3]["verdict"]),
        (&"good".into(), &"too_slow".into())
    );
}
