#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use waxwing_sdk::abi::{BackendRecord, LiveRecord};
use waxwing_sdk::testing::{self, Driver, Durations, Simulator, counts, disruption, overload};

use super::*;

/// A bound that is never reached, to test the ring alone.
const RING_ALONE: &str = r#"{"bound": 1e9}"#;

fn driver(config: &str, backends: &[BackendRecord]) -> Driver<RingHash> {
    Driver::start(config, backends, 1).unwrap()
}

/// Returns first choices.
fn picks(backends: &[BackendRecord]) -> Vec<Pick> {
    driver(RING_ALONE, backends).pick_all(testing::flows(9).take(50_000))
}

#[test]
fn first_choices_follow_weights_as_the_points_do() {
    for weights in [&[1, 1][..], &[1, 2, 3, 4], &[1; 10]] {
        let over = overload(
            &counts(&picks(&testing::backends(weights)), weights.len()),
            weights,
        );
        // The most loaded of ten is about 1.5 standard deviations, of a tenth each, over its share.
        assert!(over < 0.25, "{weights:?}: {over} over its share");
    }
    let over = overload(
        &counts(&picks(&testing::backends(&[100; 10])), 10),
        &[100; 10],
    );
    assert!(
        over < 0.03,
        "ten thousand points each: {over} over its share"
    );
}

#[test]
fn no_backend_exceeds_the_bound() {
    for (bound, weights) in [
        (1.25, &[1; 50][..]),
        (1.05, &[1; 50]),
        (1.5, &[1, 2, 3, 40]),
        (1.25, &[1; 4096]),
    ] {
        let config = format!(r#"{{"bound": {bound}}}"#);
        let mut driver = driver(&config, &testing::backends(weights));
        let n = weights.len() * 20;
        let counts = counts(&driver.pick_all(testing::flows(1).take(n)), weights.len());
        let total: u32 = weights.iter().sum();
        for (count, weight) in counts.iter().zip(weights) {
            let share = n as f64 * f64::from(*weight) / f64::from(total);
            assert!(
                *count as f64 <= (bound * share).ceil(),
                "{bound} {weights:?}: {counts:?}"
            );
        }
    }
}

#[test]
fn few_sessions_do_not_pile_up() {
    for sessions in 1..40_usize {
        let mut driver = driver("{}", &testing::backends(&[1; 4]));
        let picks = driver.pick_all(testing::flows(sessions as u64).take(sessions));
        let counts = counts(&picks, 4);
        // Five quarters of the sessions, among four backends; at least one for each.
        let room = (sessions * 5).div_ceil(4);
        let (each, more) = ((room / 4).max(1), room % 4);
        let above = counts.iter().filter(|count| **count > each).count();
        assert!(above <= more, "{counts:?}");
        assert!(counts.iter().all(|count| *count <= each + 1), "{counts:?}");
    }
}

#[test]
fn flows_without_room_go_on_to_the_same_backend() {
    let mut driver = driver("{}", &testing::backends(&[1; 10]));
    for flow in testing::flows(1).take(50) {
        driver.host_mut().now_ms += 1;
        driver
            .backends_mut()
            .iter_mut()
            .for_each(|b| b.active = 100);
        driver.live_mut().fill(LiveRecord::default());
        let [Pick::Backend(first)] = driver.pick(std::slice::from_ref(&flow))[..] else {
            panic!("no backend")
        };
        // It may have 237 of 1900 sessions.
        driver.host_mut().now_ms += 1;
        driver.backends_mut()[first].active = 1000;
        let next = driver.pick(&vec![flow; 64]);
        assert_ne!(next[0], Pick::Backend(first));
        assert_eq!(next, [next[0]; 64]);
    }
}

#[test]
fn live_sessions_stay_within_the_bound() {
    let backends = testing::backends(&[1, 1, 1, 1, 2, 2, 2, 2]);
    let mut simulator = Simulator::<RingHash>::start("{}", &backends, 1).unwrap();
    simulator.sessions_per_s = 2000;
    simulator.durations = Durations::Mixed {
        short_ms: 100,
        long_ms: 5000,
        long_percent: 10,
    };
    for _ in 0..40 {
        simulator.run(250);
        let loads = simulator.loads();
        let loads: Vec<_> = loads.into_iter().map(|load| load as usize).collect();
        let over = overload(&loads, &[1, 1, 1, 1, 2, 2, 2, 2]);
        // Sessions that end on one backend lower the share of the others.
        assert!(over < 0.35, "{over}: {loads:?}");
    }
    let moved = simulator.disruption().unwrap();
    assert!(
        moved < 0.25,
        "{moved} of the sessions are not where another balancer looks"
    );
}

#[test]
fn removing_a_backend_moves_only_its_own_flows() {
    let before = testing::backends(&[1, 2, 3, 4, 5]);
    let old = picks(&before);
    let mut after = before.clone();
    after.remove(2);
    after.reverse();
    assert_eq!(disruption((&old, &before), (&picks(&after), &after)), 0.0);
}

#[test]
fn a_ring_of_reduced_points_keeps_its_shares() {
    let mut weights = vec![1_000_000; 10];
    weights.extend([1; 100]);
    let counts = counts(&picks(&testing::backends(&weights)), weights.len());
    let over = overload(&counts[..10], &weights[..10]);
    assert!(over < 0.03, "{over} over: {counts:?}");
    // One point each is the minimum, of about 200,000.
    assert!(counts[10..].iter().sum::<usize>() < 100, "{counts:?}");
}

#[test]
fn unavailable_backends_take_no_sessions() {
    let mut backends = testing::backends(&[1, 0, 1]);
    backends[0].flags = 0;
    backends[0].active = 1000;
    let mut driver = driver("{}", &testing::backends(&[1]));
    driver.set_backends(&backends).unwrap();
    let picks = driver.pick_all(testing::flows(1).take(100));
    assert_eq!(picks, [Pick::Backend(2); 100]);
    driver.set_backends(&[]).unwrap();
    assert_eq!(driver.pick_all(testing::flows(1).take(1)), [Pick::Fallback]);
}

#[test]
fn config_errors_say_what_to_write() {
    let cases = r#"
        {"points": 0} => policy_config.points = 0: expected 1 to 1000
        {"points": 1001} => expected 1 to 1000
        {"bound": 1} => policy_config.bound = 1: expected more than 1, like 1.25
        {"bound": "x"} => policy_config.bound: invalid type: string
        {"bounds": 2} => unknown field `bounds`, expected `points` or `bound`
    "#;
    testing::assert_config_errors(cases, |config| {
        Driver::<RingHash>::start(config, &[], 1).err().unwrap()
    });
}
