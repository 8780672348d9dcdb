#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use waxwing_sdk::testing::{self, Driver, TestFlow, disruption};

use super::*;

fn driver(config: &str, weights: &[u32]) -> Driver<StickySource> {
    Driver::start(config, &testing::backends(weights), 1).unwrap()
}

fn flow(source: &str) -> TestFlow {
    let flow = testing::flows(1).next().unwrap();
    flow.from_address(source.parse().unwrap())
}

fn clients(n: usize) -> Vec<TestFlow> {
    testing::flows(8).take(n).collect()
}

/// Returns the value of the counter or gauge of this name.
fn counter(driver: &Driver<StickySource>, name: &str) -> u64 {
    let names = StickySource::COUNTERS.iter().chain(StickySource::GAUGES);
    names
        .zip(driver.counters())
        .find(|(n, _)| **n == name)
        .map_or(0, |(_, value)| *value)
}

#[test]
fn clients_stay_unless_their_backend_goes() {
    let mut driver = driver("{}", &[1, 1, 1]);
    let before = driver.pick_all(clients(1000));
    let mut five = testing::backends(&[3, 1, 1, 1, 1]);
    five.reverse();
    driver.set_backends(&five).unwrap();
    let after = driver.pick_all(clients(1000));
    let three = testing::backends(&[1, 1, 1]);
    assert_eq!(disruption((&before, &three), (&after, &five)), 0.0);
    assert_eq!(counter(&driver, "hits"), 1000);

    let mut drained = five.clone();
    drained[3] = testing::backend(1, 0);
    driver.set_backends(&drained).unwrap();
    let last = driver.pick_all(clients(1000));
    assert_eq!(disruption((&after, &five), (&last, &drained)), 0.0);
    let had = testing::counts(&after, 5)[3] as u64;
    assert_eq!(testing::counts(&last, 5)[3], 0);
    assert_eq!(counter(&driver, "released"), had);
    assert_eq!(counter(&driver, "new"), 1000 + had);
    assert_eq!(counter(&driver, "clients"), 1000);
}

#[test]
fn losing_the_table_moves_no_client_if_the_backends_are_unchanged() {
    let before = driver("{}", &[1, 2, 3]).pick_all(clients(1000));
    let other = Driver::<StickySource>::start("{}", &testing::backends(&[1, 2, 3]), 99);
    assert_eq!(other.unwrap().pick_all(clients(1000)), before);
}

#[test]
fn clients_stay_over_a_new_build_with_other_backends() {
    let mut before = driver("{}", &[1, 1, 1]);
    let picks = before.pick_all(clients(1000));
    let mut five = testing::backends(&[3, 1, 1, 1, 1]);
    five.reverse();
    let saved = before.save();
    let mut after = Driver::<StickySource>::restore("{}", &five, 77, &saved).unwrap();
    let three = testing::backends(&[1, 1, 1]);
    let now = after.pick_all(clients(1000));
    assert_eq!(disruption((&picks, &three), (&now, &five)), 0.0);
    assert_eq!((counter(&after, "hits"), counter(&after, "new")), (1000, 0));

    // Afresh, clients move; and without one backend its clients are released.
    let mut fresh = Driver::<StickySource>::start("{}", &five, 77).unwrap();
    assert!(disruption((&picks, &three), (&fresh.pick_all(clients(1000)), &five)) > 0.2);
    let two = testing::backends(&[1, 1]);
    let mut after = Driver::<StickySource>::restore("{}", &two, 77, &saved).unwrap();
    let had = testing::counts(&picks, 3)[2] as u64;
    assert!(had > 200, "{had}");
    after.pick_all(clients(1000));
    assert_eq!(
        (counter(&after, "released"), counter(&after, "new")),
        (had, had)
    );
}

#[test]
fn a_state_of_anything_is_refused_or_read() {
    let saved = {
        let mut driver = driver("{}", &[1, 1]);
        driver.pick_all(clients(3));
        driver.save()
    };
    let two = testing::backends(&[1, 1]);
    for at in 0..saved.len() {
        let cut = Driver::<StickySource>::restore("{}", &two, 1, &saved[..at]);
        // Each client's end is an end of the state.
        assert_eq!(cut.is_ok(), at >= 28 && (at - 28) % 28 == 0, "cut at {at}");
        let mut changed = saved.clone();
        changed[at] ^= 0xff;
        let _ = Driver::<StickySource>::restore("{}", &two, 1, &changed);
    }
}

#[test]
fn the_timeout_starts_at_the_last_session() {
    let mut driver = driver(r#"{"timeout_s": 10}"#, &[1, 1]);
    for (wait_ms, hits) in [(0, 0), (9_999, 1), (9_999, 2), (10_000, 2), (1, 3)] {
        driver.host_mut().now_ms += wait_ms;
        driver.pick(&[flow("192.0.2.1")]);
        assert_eq!(counter(&driver, "hits"), hits, "after {wait_ms} ms more");
    }
    assert_eq!(counter(&driver, "expired"), 1);
}

#[test]
fn ticks_free_expired_entries_in_bounded_steps() {
    let mut driver = driver(r#"{"timeout_s": 5, "clients_max": 65536}"#, &[1, 1]);
    driver.pick_all(clients(20_000));
    let new = counter(&driver, "new") - counter(&driver, "evicted");
    driver.tick(4_000);
    assert_eq!(counter(&driver, "expired"), 0);
    driver.tick(1_000);
    let first = counter(&driver, "expired");
    assert!(first > 0 && first <= SWEEP_ENTRIES as u64, "{first}");
    assert_eq!(counter(&driver, "clients"), new - first);
    for _ in 0..8 {
        driver.tick(1_000);
    }
    assert_eq!(counter(&driver, "expired"), new);
    assert_eq!(counter(&driver, "clients"), 0);
}

#[test]
fn a_full_set_evicts_the_longest_idle_client() {
    let mut driver = driver(r#"{"clients_max": 1}"#, &[1, 1]);
    let clients = clients(9);
    for (now_ms, client) in (0..).zip(&clients[..8]) {
        driver.host_mut().now_ms = now_ms;
        driver.pick(std::slice::from_ref(client));
    }
    // The first client returns, so the second one is the longest idle when the ninth arrives.
    driver.host_mut().now_ms = 10;
    driver.pick(&[clients[0].clone(), clients[8].clone()]);
    assert_eq!(counter(&driver, "evicted"), 1);
    driver.pick(&[clients[0].clone(), clients[2].clone(), clients[8].clone()]);
    assert_eq!((counter(&driver, "hits"), counter(&driver, "new")), (4, 9));
    driver.pick(&clients[1..2]);
    assert_eq!((counter(&driver, "hits"), counter(&driver, "new")), (4, 10));
}

#[test]
fn addresses_of_one_prefix_are_one_client() {
    let config = r#"{"prefix_v4": 24, "prefix_v6": 64}"#;
    for (source, hits) in [
        ("192.0.2.1", 1),
        ("192.0.2.254", 1),
        ("192.0.3.1", 0),
        ("2001:db8::1", 1),
        ("2001:db8::ffff:0:0:1", 1),
        ("2001:db8:0:1::1", 0),
    ] {
        let mut driver = driver(config, &[1; 9]);
        driver.pick(&[flow("192.0.2.7"), flow("2001:db8::2")]);
        driver.pick(&[flow(source)]);
        assert_eq!(counter(&driver, "hits"), hits, "{source}");
    }
}

#[test]
fn without_backends_no_client_is_stored() {
    let mut driver = driver("{}", &[0, 0]);
    assert_eq!(driver.pick_all(clients(2)), [Pick::Fallback; 2]);
    assert_eq!(driver.counters(), [0; 6]);
}

#[test]
fn config_errors_say_what_to_write() {
    let cases = r#"
        {"timeout_s": 0} => expected 1 or more
        {"clients_max": 0} => expected 1 to 65536
        {"clients_max": 65537} => expected 1 to 65536
        {"prefix_v4": 33} => expected 1 to 32
        {"prefix_v6": 0} => expected 1 to 128
        {"timeout": 5} => unknown field `timeout`
    "#;
    let backends = testing::backends(&[1]);
    testing::assert_config_errors(cases, |config| {
        Driver::<StickySource>::start(config, &backends, 1)
            .err()
            .unwrap()
    });
}
