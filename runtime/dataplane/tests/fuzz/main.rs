//! The core under all input that coverage led the fuzzer to, and under random input for some seconds.
//! `fuzz/` goes on for as long as one likes.

mod balancer;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

/// How long each test runs.
const TIME: Duration = Duration::from_secs(3);

/// Set to a seed that was printed, the seeds from there on are tried.
const SEED: &str = "WAXWING_SEED";

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Bytes, of which every other one is at the edge of something.
    fn bytes(&mut self, len_max: u64) -> Vec<u8> {
        let len = self.next() % len_max;
        let edges = [0, 1, 6, 17, 0x45, 0x7f, 0x80, 0xff];
        (0..len)
            .map(|_| match self.next().to_le_bytes() {
                [byte, 0..=127, ..] => byte,
                [byte, ..] => edges[usize::from(byte) % edges.len()],
            })
            .collect()
    }
}

/// Gives `take` what one seed after the other comes to.
fn fuzz(len_max: u64, take: impl Fn(&[u8])) {
    let given = std::env::var(SEED).ok().and_then(|seed| seed.parse().ok());
    let first = given.unwrap_or_else(|| {
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        now.as_secs() << 20
    });
    let end = Instant::now() + TIME;
    let mut tried = 0;
    for seed in first.. {
        let bytes = Random(seed).bytes(len_max);
        let taken = catch_unwind(AssertUnwindSafe(|| take(&bytes)));
        assert!(taken.is_ok(), "again with {SEED}={seed}: {bytes:02x?}");
        tried += 1;
        if Instant::now() >= end {
            break;
        }
    }
    println!("{SEED}={first} and on, {tried} inputs");
    assert!(tried > 100, "{tried} inputs are too few to tell anything");
}

/// Link and IP headers that are none of chance's, or few would come past the first look.
fn dressed(bytes: &[u8]) -> Vec<u8> {
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

/// Gives `take` each input that is kept of a target.
fn replay(target: &str, take: impl Fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let folder = folder.join(target);
    let entries = fs::read_dir(&folder).expect("the corpus is committed");
    let mut replayed = 0;
    for entry in entries {
        let path = entry.expect("a file of the corpus").path();
        let bytes = fs::read(&path).expect("a file of the corpus");
        let taken = catch_unwind(AssertUnwindSafe(|| take(&bytes)));
        assert!(taken.is_ok(), "{}", path.display());
        replayed += 1;
    }
    assert!(replayed > 0, "{} is empty", folder.display());
}

#[test]
fn what_the_fuzzer_keeps_comes_to_its_ends() {
    replay("any_bytes", balancer::any_bytes);
    replay("mutated", balancer::mutated);
    replay("sequence", balancer::sequence);
}

#[test]
fn any_bytes_come_to_one_end() {
    fuzz(160, |bytes| balancer::any_bytes(&dressed(bytes)));
}

#[test]
fn a_changed_conversation_comes_to_its_ends() {
    fuzz(60, balancer::mutated);
}

#[test]
fn any_sequence_of_frames_comes_to_its_ends() {
    fuzz(600, balancer::sequence);
}
