//! A thousand transfers under attack for ten minutes of simulated time.

use waxwing_simulator::{besiege, corpus};

#[test]
fn a_thousand_transfers_complete_under_siege() {
    let corpus = corpus().expect("the corpus is committed");
    assert!(!corpus.is_empty(), "the fuzzer's corpus is empty");
    for seed in [1, 2] {
        let siege = match besiege(seed, &corpus) {
            Ok(siege) => siege,
            Err(failure) => {
                panic!("{failure}\nreproduce by: cargo xtask simulate --siege --seed {seed}")
            }
        };
        println!("seed {seed}: {siege}");
        assert_eq!((siege.transfers, siege.seconds), (1_000, 600));
        // A siege without much activity would prove nothing.
        for (what, count) in [
            ("evicted sessions", siege.tally.evicted),
            ("corpus frames", siege.garbage),
            ("forged packets", siege.forged),
        ] {
            assert!(count > 10_000, "{count} {what}");
        }
        assert!(siege.fail_overs > 100, "{} fail-overs", siege.fail_overs);
    }
}
