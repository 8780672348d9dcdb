//! `waxwing module check`: what passes, and what is said of what does not.

use serde_json::Value;
use tempfile::TempDir;

use crate::common::{file, module, shipped, wat};

#[test]
fn a_valid_module_passes_and_its_costs_are_shown() {
    let folder = TempDir::new().unwrap();
    let maglev = shipped(&folder, "maglev");
    let expected = ["maglev passes", "ABI 1.0", "imports   none", "waxwing_pick"];
    module(&["check", &maglev]).says(&expected);

    let said = module(&["check", &maglev, "--json"]).json();
    assert_eq!(said["passed"], true);
    let sizes = said["module"]["sizes"].as_array().unwrap();
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
        let said = module(&["check", &policy, "--json"]).json();
        let sizes = said["module"]["sizes"].as_array().unwrap();
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
    let said = module(&["check", &maglev, "--json", "--config", r#"{"table":251}"#]).json();
    assert_eq!(said["passed"], true);
    assert_eq!(said["module"]["sizes"][3]["verdict"], "refused", "{said}");

    let misspelt = module(&["check", &maglev, "--config", r#"{"tabel":251}"#]);
    misspelt.complains("policy_config.tabel");
    misspelt.complains("with 1 backend:");
}

/// Groups are by tag, so their policies pass with the tags that their configs name.
#[test]
fn backends_repeat_the_given_ones() {
    let folder = TempDir::new().unwrap();
    let split = shipped(&folder, "percent_split");
    let config = r#"{"groups": [{"tag": 1, "percent": 95}, {"tag": 2, "percent": 5}]}"#;
    let check = ["check", &split, "--json", "--config", config];
    let said = module(&[&check[..], &["--backends", "1@1,1@2"]].concat()).json();
    assert_eq!(said["passed"], true, "{said}");
    let sizes = said["module"]["sizes"].as_array().unwrap();
    assert_eq!(sizes.len(), 4, "{said}");
    for size in sizes {
        assert_eq!(size["verdict"], "good", "{size}");
    }

    let without = module(&check).json();
    assert_eq!(without["passed"], false, "{without}");
    let why = without["error"].to_string();
    assert!(why.contains("a backend has tag 0"), "{why}");

    // A tag that is to be one backend's: refused where the given ones come again.
    let quic = shipped(&folder, "quic_connection_id");
    let said = module(&["check", &quic, "--json", "--backends", "1@1,1@2,1@3"]).json();
    let verdicts = ["good", "good", "refused", "refused"];
    for (size, expected) in verdicts.into_iter().enumerate() {
        assert_eq!(said["module"]["sizes"][size]["verdict"], expected, "{said}");
    }
    module(&["check", &quic, "--backends", "1@"]).complains("WEIGHT@TAG");
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
        module(&["check", &path]).complains(expected);
        let said = module(&["check", &path, "--json"]);
        assert!(!said.good && said.json()["passed"] == false, "{path}");
        assert!(
            said.json()["error"].to_string().contains(expected),
            "{path}"
        );
    }
    // The same without what is wrong.
    module(&["check", &wat(&folder, "good", "", "")]).says(&["good passes", "no SDK"]);
}

#[test]
fn a_policy_too_slow_for_thousands_of_backends_still_serves_few() {
    let folder = TempDir::new().unwrap();
    // A thousand turns for each backend (their number is in the header, at 1024 + 32).
    let slow = "(local $i i32)
      (local.set $i (i32.mul (i32.load (i32.const 1056)) (i32.const 1000)))
      (loop $l (br_if $l (local.tee $i (i32.sub (local.get $i) (i32.const 1)))))";
    let said = module(&["check", &wat(&folder, "slow", slow, ""), "--json"]).json();
    assert_eq!(said["passed"], true, "{said}");
    let sizes = &said["module"]["sizes"];
    assert_eq!(
        (&sizes[1]["verdict"], &sizes[3]["verdict"]),
        (&"good".into(), &"too_slow".into())
    );
}
