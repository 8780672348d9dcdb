//! Simulates some worlds; `cargo xtask simulate` simulates more.

use std::time::{Duration, Instant};

use waxwing_simulator::{Tally, digests, forget, simulate};

/// The worlds of every run.
const WORLDS: std::ops::Range<u64> = 0..24;
/// The time for further worlds.
const TIME: Duration = Duration::from_secs(12);
const PACKETS: u64 = 10_000;

fn run(seed: u64) -> Tally {
    match simulate(seed, PACKETS) {
        Ok(tally) => tally,
        Err(failure) => {
            panic!("{failure}\nreproduce by: cargo xtask simulate --seed {seed} --world {PACKETS}")
        }
    }
}

#[test]
fn no_world_violates_an_invariant() {
    let start = Instant::now();
    let mut all = Tally::default();
    let mut seeds = 0;
    for seed in 0.. {
        if !WORLDS.contains(&seed) && start.elapsed() > TIME {
            break;
        }
        all.add(&run(seed));
        seeds = seed + 1;
    }
    println!("seeds 0 to {}: {all:?}", seeds - 1);
    // Worlds without much activity would prove nothing.
    for (what, count) in [
        ("completed", all.completed),
        ("expired", all.expired),
        ("evicted", all.evicted),
        ("changes", all.changes),
    ] {
        assert!(count > 100, "{count} {what} in {seeds} worlds");
    }
}

/// A balancer that loses sessions goes on with their connections, if it adopts replies: whoever of the two
/// ends speaks first. Without that it translates none of their replies.
#[test]
fn connections_outlive_their_sessions() {
    for (adopts, seeds) in [(true, 0..16), (false, 0..4)] {
        let mut all = Tally::default();
        for seed in seeds {
            match forget(seed, PACKETS, adopts) {
                Ok(tally) => all.add(&tally),
                Err(failure) => panic!("{failure}\n(forget({seed}, {PACKETS}, {adopts}))"),
            }
        }
        println!("adopts: {adopts}: {all:?}");
        assert!(all.lost > 1_000 && all.completed > 1_000, "{all:?}");
        assert_eq!(all.adopted > 1_000, adopts, "{all:?}");
    }
}

#[test]
fn a_seed_yields_the_same_run_twice() {
    for seed in 0..3 {
        let runs = [0; 2].map(|_| format!("{:?}", run(seed)));
        assert_eq!(runs[0], runs[1], "seed {seed}");
    }
}

/// What leaves the balancer does not depend on the path that a packet takes.
#[test]
fn the_fast_path_does_what_the_general_path_does() {
    for seed in WORLDS {
        match digests(seed, PACKETS) {
            Ok([fast, general]) => assert_eq!(fast, general, "seed {seed}"),
            Err(failure) => panic!("{failure}"),
        }
    }
}

/// Worlds in which the oracle was once wrong about a session that ended rightly.
#[test]
fn worlds_that_failed_before_pass() {
    for (seed, packets, _why) in [(
        7033,
        12_000,
        "a FIN in the batch in which another flow takes over the closed session's port",
    )] {
        if let Err(failure) = simulate(seed, packets) {
            panic!("{failure}");
        }
    }
}
