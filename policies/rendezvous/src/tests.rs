#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use waxwing_sdk::abi::BackendRecord;
use waxwing_sdk::testing::{self, Driver, counts, disruption, overload};

use super::*;

fn driver(config: &str, backends: &[BackendRecord]) -> Driver<Rendezvous> {
    Driver::start(config, backends, 1).unwrap()
}

fn picks(backends: &[BackendRecord]) -> Vec<Pick> {
    driver("{}", backends).pick_all(testing::flows(9).take(100_000))
}

#[test]
fn flows_follow_weights_within_chance() {
    for weights in [
        &[1, 1][..],
        &[1, 2, 3, 4],
        &[1; 10],
        &[u32::MAX, u32::MAX / 3],
    ] {
        let picks = picks(&testing::backends(weights));
        let over = overload(&counts(&picks, weights.len()), weights);
        assert!(over < 0.04, "{weights:?}: {over} over its share");
    }
}

#[test]
fn the_standard_deviation_of_shares_is_as_documented() {
    // Counts entries: of 65536, each of a hundred backends has 655, with a standard deviation of
    // 26.
    let mut driver = driver("{}", &testing::backends(&[1; 100]));
    let flows = testing::flows(1).zip(0..65_536).map(|(mut flow, bucket)| {
        flow.record.hash = bucket << 48;
        flow
    });
    let counts = counts(&driver.pick_all(flows), 100);
    let square = |n: &usize| (*n as i64 - 655).pow(2);
    let variance = counts.iter().map(square).sum::<i64>() / 100;
    assert!((400..1000).contains(&variance), "{variance}: {counts:?}");
}

#[test]
fn only_flows_of_the_changed_backend_move() {
    let before = testing::backends(&[1, 2, 3, 4, 5, 0]);
    let old = picks(&before);
    let id = |pick: &Pick, of: &[BackendRecord]| match pick {
        Pick::Backend(index) => of[*index].id,
        _ => u32::MAX,
    };
    // (backend, its new weight, whether flows may leave it, whether flows may come to it)
    for (changed, weight, leave, come) in [
        (2, 0, true, false),
        (4, 1, true, false),
        (0, 3, false, true),
        (5, 2, false, true),
    ] {
        let mut after = before.clone();
        after[changed] = testing::backend(u32::try_from(changed).unwrap(), weight);
        let changed = after[changed].id;
        after.reverse();
        let new = picks(&after);
        let mut moved = 0;
        for (old, new) in old.iter().zip(&new) {
            let (old, new) = (id(old, &before), id(new, &after));
            if old != new {
                moved += 1;
                assert!(
                    leave && old == changed || come && new == changed,
                    "{old} to {new}"
                );
            }
        }
        assert!(moved > 0, "{changed} has another share");
    }
}

#[test]
fn removing_one_of_thousands_moves_only_its_flows() {
    let before = testing::backends(&[1; 4096]);
    let mut after = before.clone();
    after.remove(99);
    assert_eq!(
        disruption((&picks(&before), &before), (&picks(&after), &after)),
        0.0
    );
}

#[test]
fn seeds_do_not_matter_and_a_change_of_backends_rebuilds_the_table() {
    let backends = testing::backends(&[1, 0, 3]);
    let mut driver = Driver::<Rendezvous>::start("{}", &testing::backends(&[1; 3]), 99).unwrap();
    driver.set_backends(&backends).unwrap();
    assert_eq!(
        driver.pick_all(testing::flows(9).take(100_000)),
        picks(&backends)
    );
    driver.set_backends(&[]).unwrap();
    assert_eq!(driver.pick_all(testing::flows(9).take(1)), [Pick::Fallback]);
}

#[test]
fn config_errors_say_what_to_write() {
    let cases = r#"
        {"table": 0} => policy_config.table = 0: expected 1 to 262144
        {"table": 262145} => expected 1 to 262144
        {"tabel": 1} => unknown field `tabel`, expected `table`
    "#;
    testing::assert_config_errors(cases, |config| {
        Driver::<Rendezvous>::start(config, &[], 1).err().unwrap()
    });
    let one =
        driver(r#"{"table": 1}"#, &testing::backends(&[1, 1])).pick_all(testing::flows(1).take(9));
    assert!(
        one.iter().all(|pick| *pick == one[0]),
        "one bucket, one backend"
    );
}
