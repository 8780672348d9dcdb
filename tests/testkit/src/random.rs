//! Seeded randomness: the same seed yields the same draws on every machine.

use std::time::{Duration, Instant, SystemTime};

/// The environment variable with the first seed, to reproduce a failure.
pub const SEED: &str = "WAXWING_SEED";

/// `SplitMix64` (Steele, Lea and Flood, 2014).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Draws a number from 0 to `end - 1`.
    pub const fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// Draws an index below `end`.
    pub fn index(&mut self, end: usize) -> usize {
        usize::try_from(self.below(end as u64)).expect("it is below an index")
    }

    /// Draws a number from `first` to `last`, both included.
    pub const fn between(&mut self, first: u64, last: u64) -> u64 {
        first + self.below(last - first + 1)
    }

    /// Draws `true` with a probability of `permille` / 1000.
    pub const fn chance(&mut self, permille: u64) -> bool {
        self.below(1000) < permille
    }

    /// Draws an element.
    pub fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.index(of.len())]
    }

    pub const fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }

    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.byte()).collect()
    }
}

/// Consecutive seeds until `time` is over. Prints the first one, which [`SEED`] sets.
pub fn seeds(time: Duration) -> impl Iterator<Item = u64> {
    let given = std::env::var(SEED).ok().and_then(|seed| seed.parse().ok());
    let first = given.unwrap_or_else(|| {
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        now.as_secs() << 20
    });
    println!("{SEED}={first} and on");
    let end = Instant::now() + time;
    // The first one in any case.
    (first..).take_while(move |seed| *seed == first || Instant::now() < end)
}
