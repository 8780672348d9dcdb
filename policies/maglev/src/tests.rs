#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use waxwing_sdk::abi::BackendRecord;
use waxwing_sdk::testing::{self, Driver, counts, disruption, overload};

use super::*;

fn driver(backends: &[BackendRecord]) -> Driver<Maglev> {
    Driver::start("{}", backends, 1).unwrap()
}

fn picks(backends: &[BackendRecord], n: usize) -> Vec<Pick> {
    driver(backends).pick_all(testing::flows(9).take(n))
}

/// Returns the number of table entries of each backend, by one hash for each entry.
fn entries(config: &str, backends: &[BackendRecord], size: u64) -> Vec<usize> {
    let mut driver = Driver::<Maglev>::start(config, backends, 1).unwrap();
    let flows = testing::flows(1).zip(0..size).map(|(mut flow, entry)| {
        flow.record.hash = ((entry << 32).div_ceil(size)) << 32;
        flow
    });
    counts(&driver.pick_all(flows), backends.len())
}

/// A thousand equal backends for a table of 65537 entries, as in the paper's figures.
fn a_thousand() -> Vec<BackendRecord> {
    testing::backends(&[1; 1000])
}

#[test]
fn among_a_thousand_backends_no_share_is_over_2_percent_above_the_mean() {
    let entries = entries("{}", &a_thousand(), 65_537);
    assert_eq!(entries.iter().sum::<usize>(), 65_537);
    let over = overload(&entries, &[1; 1000]);
    assert!(over <= 0.02, "the fullest is {over} over the mean");
}

#[test]
fn removing_one_of_a_thousand_moves_at_most_2_percent_of_other_flows() {
    let before = a_thousand();
    let old = picks(&before, 200_000);
    for gone in [0, 31, 500, 999] {
        let mut after = before.clone();
        after.remove(gone);
        let moved = disruption((&old, &before), (&picks(&after, 200_000), &after));
        assert!(moved <= 0.02, "without {gone}, {moved} moved without need");
    }
}

#[test]
fn shares_follow_weights_within_2_percent() {
    let mixed: Vec<_> = (0..300).map(|n| 1 + n % 4).collect();
    for weights in [
        &[1, 2, 3, 4][..],
        &[100, 1],
        &[7, 7, 1, 7, 3],
        &[u32::MAX, u32::MAX / 2],
        &[1; 655],
        &mixed,
    ] {
        let entries = entries("{}", &testing::backends(weights), 65_537);
        let total: f64 = weights.iter().copied().map(f64::from).sum();
        for (got, weight) in entries.iter().zip(weights) {
            let got = f64::from(u32::try_from(*got).unwrap()) / 65_537.0;
            let share = f64::from(*weight) / total;
            let error = (got / share - 1.0).abs();
            assert!(error <= 0.02, "weight {weight}: {got} for {share}");
        }
    }
}

#[test]
fn flows_are_shared_as_the_table_is() {
    let weights = [1; 10];
    let over = overload(
        &counts(&picks(&testing::backends(&weights), 200_000), 10),
        &weights,
    );
    assert!(over <= 0.02, "the fullest is {over} over the mean");
}

#[test]
fn draining_a_backend_moves_what_removing_it_does() {
    let before = testing::backends(&[1; 100]);
    let old = picks(&before, 100_000);
    let mut gone = before.clone();
    gone.remove(31);
    let mut drained = before.clone();
    drained[31] = testing::backend(31, 0);
    let moved =
        |after: &[BackendRecord]| disruption((&old, &before), (&picks(after, 100_000), after));
    assert_eq!(moved(&gone), moved(&drained));
}

#[test]
fn adding_a_backend_moves_little_more_than_its_share() {
    let before = testing::backends(&[1; 20]);
    let after = testing::backends(&[1; 21]);
    let (old, new) = (picks(&before, 100_000), picks(&after, 100_000));
    let moved = disruption((&old, &before), (&new, &after));
    assert!(moved <= 1.0 / 21.0 + 0.05, "{moved} moved");
}

#[test]
fn order_ids_and_seeds_do_not_matter() {
    let before = testing::backends(&[1, 2, 3, 4, 5]);
    let old = picks(&before, 10_000);
    let mut after = before.clone();
    after.reverse();
    let mut driver = Driver::<Maglev>::start("{}", &after, 99).unwrap();
    let new = driver.pick_all(testing::flows(9).take(10_000));
    assert_eq!(disruption((&old, &before), (&new, &after)), 0.0);
}

#[test]
fn a_change_of_backends_rebuilds_the_table() {
    let after = testing::backends(&[1, 0, 3]);
    let mut driver = driver(&testing::backends(&[1, 1, 1]));
    driver.set_backends(&after).unwrap();
    let new = driver.pick_all(testing::flows(9).take(10_000));
    assert_eq!(new, picks(&after, 10_000));
    assert_eq!(counts(&new, 3)[1], 0);
    driver.set_backends(&testing::backends(&[0, 0, 0])).unwrap();
    assert_eq!(
        driver.pick_all(testing::flows(9).take(2)),
        [Pick::Fallback; 2]
    );
}

#[test]
fn config_errors_say_what_to_write() {
    let cases = r#"
        {"table": 65536} => policy_config.table: 65536 entries; expected a prime
        {"table": 2} => policy_config.table: 2 entries for 3 backends
        {"tabel": 251} => unknown field `tabel`, expected `table`
    "#;
    testing::assert_config_errors(cases, |config| {
        Driver::<Maglev>::start(config, &testing::backends(&[1; 3]), 1)
            .err()
            .unwrap()
    });
}
