//! Some worlds for every build; `cargo xtask simulate` goes on for as long as one likes.

use std::time::{Duration, Instant};

use waxwing_simulator::{Tally, simulate};

/// Worlds that are lived through in any case: what they have in common is seen in each build.
const WORLDS: std::ops::Range<u64> = 0..24;
/// After that, as many as there is time for.
const TIME: Duration = Duration::from_secs(12);
const PACKETS: u64 = 10_000;

fn live(seed: u64) -> Tally {
    match simulate(seed, PACKETS) {
        Ok(tally) => tally,
        Err(failure) => {
            panic!("{failure}\nagain: cargo xtask simulate --seed {seed} --world {PACKETS}")
        }
    }
}

#[test]
fn no_world_breaks_an_invariant() {
    let start = Instant::now();
    let mut all = Tally::default();
    let mut seeds = 0;
    for seed in 0.. {
        if !WORLDS.contains(&seed) && start.elapsed() > TIME {
            break;
        }
        all.add(&live(seed));
        seeds = seed + 1;
    }
    println!("seeds 0 to {}: {all:?}", seeds - 1);
    // A world in which nothing happens breaks nothing.
    for (what, count) in [
        ("completed", all.completed),
        ("expired", all.expired),
        ("evicted", all.evicted),
        ("changes", all.changes),
    ] {
        assert!(count > 100, "{count} {what} in {seeds} worlds");
    }
}

#[test]
fn a_seed_tells_the_same_story_twice() {
    for seed in 0..3 {
        let told = [0; 2].map(|_| format!("{:?}", live(seed)));
        assert_eq!(told[0], told[1], "seed {seed}");
    }
}
