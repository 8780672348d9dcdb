//! `waxwing module simulate`: distribution and disruption.

use tempfile::TempDir;

use crate::common::{module, shipped};

#[test]
fn simulate_spreads_flows_by_weight() {
    let folder = TempDir::new().unwrap();
    let policy = shipped(&folder, "round_robin");
    let fixed = [
        "simulate",
        &policy,
        "--backends",
        "3@7,1@8,0",
        "--flows",
        "10000",
    ];
    let report = module(&[&fixed[..], &["--json"]].concat()).json();
    let shares = report["shares"].as_array().unwrap();
    let column = |key: &str| -> Vec<u64> {
        shares
            .iter()
            .map(|share| share[key].as_u64().unwrap())
            .collect()
    };
    assert_eq!(column("flows"), [7500, 2500, 0]);
    assert_eq!(column("weight"), [3, 1, 0]);
    assert_eq!(column("tag"), [7, 8, 0]);
    assert_eq!(
        (&report["fallback"], &report["dropped"]),
        (&0.into(), &0.into())
    );

    let expected = ["75.00 %", "25.00 %", "████", "0.00 % over its share"];
    module(&fixed).succeeds_with(&expected);
}

#[test]
fn a_removal_moves_most_flows_of_round_robin_and_few_of_maglev() {
    let folder = TempDir::new().unwrap();
    let disruption = |policy: &str| {
        let path = shipped(&folder, policy);
        let report = module(&[
            "simulate",
            &path,
            "--backends",
            "10",
            "--remove",
            "4",
            "--json",
        ]);
        let removal = &report.json()["removal"];
        assert_eq!(removal["id"], 4);
        let counts = ["flows", "staying"].map(|key| removal[key].as_u64().unwrap());
        assert_eq!(counts.iter().sum::<u64>(), 100_000, "{removal}");
        removal["disruption"].as_f64().unwrap()
    };
    assert!(disruption("round_robin") > 0.5);
    assert!(disruption("maglev") < 0.05);
}

#[test]
fn the_seed_determines_the_run() {
    let folder = TempDir::new().unwrap();
    let policy = shipped(&folder, "maglev");
    let run = |seed| module(&["simulate", &policy, "--backends", "5", "--seed", seed]).stdout;
    assert_eq!(run("1"), run("1"));
    assert_ne!(run("1"), run("2"));
}

#[test]
fn invalid_simulation_arguments_are_refused() {
    let folder = TempDir::new().unwrap();
    let policy = shipped(&folder, "round_robin");
    let cases = [
        (
            &["--backends", "3", "--remove", "3"][..],
            "write one of 0 to 2",
        ),
        (&["--backends", "0"], "write 1 to 4096"),
        (&["--backends", "3,x"], "WEIGHT@TAG"),
        (&["--backends", "3", "--flows", "0"], "0 is not in"),
        (&["--backends", "3", "--config", "[]"], "not an object"),
    ];
    for (more, expected) in cases {
        module(&[&["simulate", &policy], more].concat()).fails_with(expected);
    }
}
