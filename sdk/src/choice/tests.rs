#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use alloc::vec;

use super::*;
use crate::abi::{BackendRecord, HostFields};
use crate::random::Random;
use crate::testing::{self, overload};

const HOST: HostFields = HostFields {
    generation: 1,
    now_ms: 0,
    seed: 7,
    backends_count: 0,
    worker: 0,
    workers: 1,
};

fn view(records: &[BackendRecord]) -> Backends<'_> {
    Backends::without_live(records, &HOST)
}

#[test]
fn weighted_random_follows_weights() {
    for weights in [&[1][..], &[1, 2, 3, 4], &[0, 5, 0, 1], &[u32::MAX; 7]] {
        let records = testing::backends(weights);
        let backends = view(&records);
        let weighted = WeightedRandom::new(backends.available());
        let mut random = Random::new(1);
        let (mut by_table, mut by_scan) = (vec![0; weights.len()], vec![0; weights.len()]);
        for _ in 0..100_000 {
            let random = random.next();
            by_table[weighted.pick(random).unwrap()] += 1;
            by_scan[backends.by_weight(random).unwrap().index()] += 1;
        }
        assert_eq!(by_table, by_scan, "one number, one choice");
        let over = overload(&by_table, weights);
        assert!(over < 0.03, "{weights:?}: {by_table:?}, {over} over");
        for (count, weight) in by_table.iter().zip(weights) {
            assert_eq!(*count == 0, *weight == 0, "{weights:?}: {by_table:?}");
        }
    }
}

#[test]
fn without_available_backends_nothing_is_chosen() {
    let records = testing::backends(&[0, 0]);
    let backends = view(&records);
    let weighted = WeightedRandom::new(backends.iter());
    assert_eq!(weighted.pick(u64::MAX), None);
    assert_eq!(weighted.pick_two((1, u64::MAX)), None);
    assert!(backends.by_weight(1).is_none());
    assert!(Scan::new(&backends).least(&backends, Load::of).is_none());
}

#[test]
fn pick_two_returns_two_backends_each_by_weight() {
    let weights = [1, 2, 3];
    let records = testing::backends(&weights);
    let weighted = WeightedRandom::new(view(&records).available());
    let mut random = Random::new(1);
    let (mut first, mut after_last) = ([0; 3], [0; 3]);
    for _ in 0..120_000 {
        let (a, b) = weighted.pick_two((random.next(), random.next())).unwrap();
        assert_ne!(a, b);
        first[a] += 1;
        if a == 2 {
            after_last[b] += 1;
        }
    }
    assert!(overload(&first, &weights) < 0.02, "{first:?}");
    assert!(overload(&after_last[..2], &[1, 2]) < 0.02, "{after_last:?}");

    let alone = WeightedRandom::new(view(&records[..1]).iter());
    assert_eq!(alone.pick_two((5, u64::MAX)), Some((0, 0)));
}

#[test]
fn the_least_of_a_few_is_found_wherever_it_is() {
    for count in [1, 2, 7, WeightedRandom::COMPARED_MAX] {
        for least in 0..count {
            let mut records = testing::backends(&vec![1; count]);
            records.iter_mut().for_each(|record| record.active = 9);
            records[least].active = 8;
            let weighted = WeightedRandom::new(view(&records).available());
            let mut random = Random::new(1);
            let found = weighted.less_loaded(&mut random, &view(&records));
            assert_eq!(found.unwrap().index(), least, "of {count}");
        }
    }
}

#[test]
fn equally_loaded_backends_are_chosen_by_weight() {
    // The last is busier; the others are compared with it or drawn beside it.
    for more in [0, WeightedRandom::COMPARED_MAX] {
        let mut weights = vec![1, 2, 3];
        weights.extend(vec![1; more]);
        let mut records = testing::backends(&weights);
        records.extend(testing::backends(&[100]));
        records.last_mut().unwrap().active = 500;
        let backends = view(&records);
        let weighted = WeightedRandom::new(backends.available());
        let mut random = Random::new(1);
        let mut counts = vec![0; records.len()];
        for _ in 0..200_000 {
            counts[weighted
                .less_loaded(&mut random, &backends)
                .unwrap()
                .index()] += 1;
        }
        let (busy, equals) = counts.split_last().unwrap();
        assert_eq!(*busy, 0);
        assert!(overload(equals, &weights) < 0.05, "{counts:?}");
    }
}

#[test]
fn of_many_two_are_compared() {
    let mut records = testing::backends(&[1; WeightedRandom::COMPARED_MAX + 1]);
    records.iter_mut().for_each(|record| record.active = 9);
    records[3].active = 0;
    let backends = view(&records);
    let weighted = WeightedRandom::new(backends.available());
    let mut random = Random::new(1);
    let mut idle_ones = 0;
    for _ in 0..17_000 {
        let found = weighted.less_loaded(&mut random, &backends).unwrap();
        idle_ones += u32::from(found.index() == 3);
    }
    assert!(idle_ones.abs_diff(2_000) < 200, "{idle_ones} of 2000");
}

#[test]
fn loads_compare_as_exact_fractions() {
    let most = u64::from(u32::MAX) + 1;
    let cases = [
        ((0, 1), Ordering::Equal, (0, 9)),
        ((1, 3), Ordering::Less, (1, 2)),
        ((most, u32::MAX), Ordering::Greater, (most - 1, u32::MAX)),
        ((most, 1), Ordering::Greater, (most, u32::MAX)),
        ((5, 0), Ordering::Equal, (5, 1)),
    ];
    for ((a, b), expected, (c, d)) in cases {
        let order = Load::new(a, b).cmp(&Load::new(c, d));
        assert_eq!(order, expected, "{a}/{b} and {c}/{d}");
    }
}

#[test]
fn a_scan_finds_the_least_and_equal_backends_take_turns() {
    let mut records = testing::backends(&[1, 1, 0, 1]);
    records[3].active = 5;
    records[1].active = 5;
    records[0].active = 6;
    let mut scan = Scan::new(&view(&records));
    let mut two = [(); 2].map(|()| scan.least(&view(&records), Load::of).unwrap().index());
    two.sort_unstable();
    assert_eq!(two, [1, 3]);
    // The window wraps around, wherever it starts.
    records[1].active = 0;
    for _ in 0..5 {
        let least = scan.least(&view(&records), Load::of);
        assert_eq!(least.unwrap().index(), 1);
    }
}

#[test]
fn a_scan_examines_at_most_its_maximum_of_available_backends() {
    // Every other backend is drained; the scan must not spend looks on them.
    let weights: Vec<_> = (0..4096).map(|index| index % 2).collect();
    let records = testing::backends(&weights);
    let backends = view(&records);
    let mut scan = Scan::new(&backends);
    let mut seen = vec![0; 4096];
    for _ in 0..16 {
        let mut looks = 0;
        let last = scan.least(&backends, |backend| {
            looks += 1;
            seen[backend.index()] += 1;
            // The last of the window wins, so the next window starts after it.
            u32::MAX - looks
        });
        assert!(last.unwrap().is_available());
        assert_eq!(looks, 128);
    }
    let once = |(index, seen): (usize, &i32)| *seen == i32::from(index % 2 == 1);
    assert!(seen.iter().enumerate().all(once), "each of 2048 once");
}
