//! A thousand transfers, and everybody who means ill, for ten minutes of the world's time.

use waxwing_simulator::{besiege, corpus};

#[test]
fn a_thousand_transfers_survive_a_siege() {
    let corpus = corpus().expect("it is committed");
    assert!(!corpus.is_empty(), "the fuzzer's corpus is empty");
    for seed in [1, 2] {
        let siege = match besiege(seed, &corpus) {
            Ok(siege) => siege,
            Err(failure) => panic!("{failure}\nagain: cargo xtask simulate --siege --seed {seed}"),
        };
        println!("seed {seed}: {siege}");
        assert_eq!((siege.transfers, siege.seconds), (1_000, 600));
        // A siege in which little happens harms nobody.
        for (what, count) in [
            ("sessions evicted of a full table", siege.tally.evicted),
            ("frames of the corpus", siege.garbage),
            ("forged segments and errors", siege.forged),
        ] {
            assert!(count > 10_000, "{count} {what}");
        }
        assert!(siege.fail_overs > 100, "{} fail-overs", siege.fail_overs);
    }
}
