//! Runs the fuzzer's corpus and random input through the core. The fuzzer itself is in `fuzz/`.

mod balancer;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Duration;

use waxwing_testkit::random::{Random, SEED, seeds};

/// The duration of each test with random input.
const TIME: Duration = Duration::from_secs(3);

/// Draws bytes, about half of them boundary values.
fn draw(random: &mut Random, len_max: usize) -> Vec<u8> {
    let edges = [0, 1, 6, 17, 0x45, 0x7f, 0x80, 0xff];
    (0..random.index(len_max))
        .map(|_| match random.next().to_le_bytes() {
            [byte, 0..=127, ..] => byte,
            [byte, ..] => edges[usize::from(byte) % edges.len()],
        })
        .collect()
}

/// Calls `handle` with the bytes of consecutive seeds.
fn fuzz(len_max: usize, handle: impl Fn(&[u8])) {
    let mut tried = 0;
    for seed in seeds(TIME) {
        let bytes = draw(&mut Random::new(seed), len_max);
        let outcome = catch_unwind(AssertUnwindSafe(|| handle(&bytes)));
        assert!(
            outcome.is_ok(),
            "reproduce with {SEED}={seed}: {bytes:02x?}"
        );
        tried += 1;
    }
    assert!(tried > 100, "only {tried} inputs: too few to be meaningful");
}

/// Overwrites link and IP headers with valid values; otherwise few random frames would pass the parser.
fn with_headers(bytes: &[u8]) -> Vec<u8> {
    let mut frame = bytes.to_vec();
    let mut set = |at: usize, what: &[u8]| {
        if let Some(place) = frame.get_mut(at..at + what.len()) {
            place.copy_from_slice(what);
        }
    };
    match bytes.first().map_or(0, |byte| byte % 4) {
        0 => set(12, &[0x08, 0x00, 0x45]),
        1 => set(12, &[0x86, 0xdd, 0x60]),
        2 => set(12, &[0x81, 0x00, 0x00, 0x07, 0x08, 0x00]),
        _ => {}
    }
    frame
}

/// Calls `handle` with each input in a target's corpus.
fn replay(target: &str, handle: impl Fn(&[u8])) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let directory = directory.join(target);
    let entries = fs::read_dir(&directory).expect("the corpus is committed");
    let mut replayed = 0;
    for entry in entries {
        let path = entry.expect("a file of the corpus can be read").path();
        let bytes = fs::read(&path).expect("a file of the corpus can be read");
        let outcome = catch_unwind(AssertUnwindSafe(|| handle(&bytes)));
        assert!(outcome.is_ok(), "{}", path.display());
        replayed += 1;
    }
    assert!(replayed > 0, "{} is empty", directory.display());
}

#[test]
fn the_fuzzers_corpus_violates_no_invariant() {
    replay("any_bytes", balancer::any_bytes);
    replay("mutated", balancer::mutated);
    replay("sequence", balancer::sequence);
}

#[test]
fn arbitrary_bytes_violate_no_invariant() {
    fuzz(160, |bytes| balancer::any_bytes(&with_headers(bytes)));
}

#[test]
fn a_mutated_conversation_violates_no_invariant() {
    fuzz(60, balancer::mutated);
}

#[test]
fn arbitrary_frame_sequences_violate_no_invariant() {
    fuzz(600, balancer::sequence);
}
