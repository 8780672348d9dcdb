#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use waxwing_sdk::testing::{self, Driver, Durations, Simulator};

use super::*;

fn driver<K: Key>(weights: &[u32], seed: u64) -> Driver<LeastLoad<K>> {
    Driver::start("{}", &testing::backends(weights), seed).unwrap()
}

/// Sets the current sessions of each backend.
fn set_active<K: Key>(driver: &mut Driver<LeastLoad<K>>, active: &[u32]) {
    for (backend, active) in driver.backends_mut().iter_mut().zip(active) {
        backend.active = *active;
    }
}

/// What holds for any key.
mod every_key {
    use super::*;

    fn open_sessions_follow_weights_exactly<K: Key>() {
        let mut driver = driver::<K>(&[1, 2, 5], 1);
        let picks = driver.pick_all(testing::flows(1).take(8000));
        assert_eq!(testing::counts(&picks, 3), [1000, 2000, 5000]);
        assert_eq!(driver.loads(), [1000, 2000, 5000]);
    }

    fn backends_without_weight_or_health_take_no_sessions<K: Key>() {
        let mut backends = testing::backends(&[1, 0, 1]);
        backends[0].flags = 0;
        let mut driver = Driver::<LeastLoad<K>>::start("{}", &backends, 1).unwrap();
        let picks = driver.pick_all(testing::flows(1).take(100));
        assert_eq!(testing::counts(&picks, 3), [0, 0, 100]);
        for none_available in [&[0, 0][..], &[]] {
            driver
                .set_backends(&testing::backends(none_available))
                .unwrap();
            assert_eq!(driver.pick_all(testing::flows(1).take(1)), [Pick::Fallback]);
        }
    }

    macro_rules! for_every_key {
        ($($test:ident),*) => {
            mod connections {
                $(#[test] fn $test() { super::$test::<crate::Connections>(); })*
            }
            mod expected_delay {
                $(#[test] fn $test() { super::$test::<crate::ExpectedDelay>(); })*
            }
            mod busy_then_expected_delay {
                $(#[test] fn $test() { super::$test::<crate::BusyThenExpectedDelay>(); })*
            }
        };
    }

    for_every_key!(
        open_sessions_follow_weights_exactly,
        backends_without_weight_or_health_take_no_sessions
    );
}

mod least_connections {
    use super::*;

    #[test]
    fn the_idle_backend_catches_up_first() {
        let mut driver = driver::<Connections>(&[1, 1, 1], 1);
        set_active(&mut driver, &[100, 40, 100]);
        let picks = driver.pick_all(testing::flows(1).take(60));
        assert_eq!(testing::counts(&picks, 3), [0, 60, 0]);
        let picks = driver.pick_all(testing::flows(2).take(60));
        assert_eq!(testing::counts(&picks, 3), [20, 20, 20]);
    }

    #[test]
    fn the_load_does_not_count_the_new_session() {
        // 1/2 is less than 2/3. With one session more, 2/2 would equal 3/3.
        let mut driver = driver::<Connections>(&[2, 3], 1);
        set_active(&mut driver, &[1, 2]);
        let picks = driver.pick_all(testing::flows(1).take(1));
        assert_eq!(picks, [Pick::Backend(0)]);
    }

    #[test]
    fn equally_loaded_backends_take_turns_regardless_of_weight() {
        // Every session ends at once, so the loads are always equal.
        let mut driver = driver::<Connections>(&[1, 2, 3, 4], 3);
        let mut counts = [0; 4];
        for flow in testing::flows(1).take(400) {
            let [Pick::Backend(index)] = driver.pick(&[flow])[..] else {
                panic!("no backend")
            };
            counts[index] += 1;
            driver.close(index, 1);
        }
        assert_eq!(counts, [100; 4]);
    }

    #[test]
    fn a_moving_window_evens_out_thousands_of_backends() {
        let mut driver = driver::<Connections>(&[1; 4096], 1);
        driver.pick_all(testing::flows(1).take(4096 * 20));
        let loads = driver.loads();
        let (min, max) = (loads.iter().min().unwrap(), loads.iter().max().unwrap());
        assert!(max - min <= 4, "{min} to {max} sessions");
    }
}

mod shortest_expected_delay {
    use super::*;

    #[test]
    fn a_slow_backend_waits_until_a_fast_one_would_be_as_loaded() {
        // With one session more: 1/1 against 1/4, 2/4, 3/4 and then 4/4.
        let mut driver = driver::<ExpectedDelay>(&[1, 4], 1);
        let picks = driver.pick_all(testing::flows(1).take(3));
        assert_eq!(picks, [Pick::Backend(1); 3]);
        let picks = driver.pick_all(testing::flows(2).take(2));
        assert_eq!(testing::counts(&picks, 2), [1, 1]);
    }

    #[test]
    fn session_time_follows_weights_under_load() {
        let weights = testing::backends(&[1, 2, 3, 10]);
        let mut simulator = Simulator::<ShortestExpectedDelay>::start("{}", &weights, 1).unwrap();
        simulator.sessions_per_s = 2000;
        simulator.durations = Durations::Exponential(500);
        simulator.run(10_000);
        let fairness = simulator.fairness_over_time();
        assert!(fairness > 0.999, "{fairness}");
    }
}

mod never_queue {
    use super::*;

    #[test]
    fn every_backend_gets_one_session_before_any_gets_two() {
        let mut driver = driver::<BusyThenExpectedDelay>(&[1, 100, 10, 1000], 1);
        let picks = driver.pick_all(testing::flows(1).take(4));
        assert_eq!(picks, [3, 1, 2, 0].map(Pick::Backend), "the heaviest first");
        // Then by expected delay: 2/1000 is less than 2/100.
        let picks = driver.pick_all(testing::flows(2).take(10));
        assert_eq!(picks, [Pick::Backend(3); 10]);
    }

    #[test]
    fn no_backend_has_two_sessions_while_one_is_idle() {
        let backends = testing::backends(&[1, 50, 50, 100, 100, 100, 100, 100]);
        let mut simulator = Simulator::<NeverQueue>::start("{}", &backends, 1).unwrap();
        simulator.sessions_per_s = 80;
        simulator.durations = Durations::Fixed(100);
        simulator.run(10_000);
        let most = (0..8).map(|id| simulator.stats(id).load_max).max();
        assert_eq!(most, Some(1));
    }
}
