//! Runs the fuzzer's corpus and random input through the rings. The fuzzer itself is in `fuzz/`.

mod kernel;
mod rings;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Duration;

use waxwing_testkit::random::{Random, SEED, seeds};

/// The duration of the test with random input.
const TIME: Duration = Duration::from_secs(3);

#[test]
fn the_fuzzers_corpus_violates_no_invariant() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/rings");
    let mut replayed = 0;
    for entry in fs::read_dir(&corpus).expect("the corpus is committed") {
        let path = entry.expect("a file of the corpus can be read").path();
        let bytes = fs::read(&path).expect("a file of the corpus can be read");
        let outcome = catch_unwind(AssertUnwindSafe(|| rings::rings(&bytes)));
        assert!(outcome.is_ok(), "{}", path.display());
        replayed += 1;
    }
    assert!(replayed > 0, "{} is empty", corpus.display());
}

#[test]
fn no_order_of_steps_violates_an_invariant() {
    let mut tried = 0;
    for seed in seeds(TIME) {
        let mut random = Random::new(seed);
        let len = random.index(200);
        let bytes = (0..len).flat_map(|_| random.next().to_le_bytes());
        let bytes: Vec<u8> = bytes.collect();
        let outcome = catch_unwind(AssertUnwindSafe(|| rings::rings(&bytes)));
        assert!(outcome.is_ok(), "reproduce with {SEED}={seed}");
        tried += 1;
    }
    assert!(tried > 100, "only {tried} inputs: too few to be meaningful");
}
