//! Which of many clients sends next.

/// How clients take turns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// Each as often as any other, at random: the worst for caches.
    Uniform,
    /// By Zipf's law with exponent 1: the second half as often as the first, the third a third as
    /// often, as is common on the internet. The frequent ones are not neighbours in memory.
    Zipf,
}

impl Order {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Uniform, Self::Zipf];

    /// What a bench calls it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Zipf => "zipf",
        }
    }

    /// A number below `bound`, which is not 0.
    #[must_use]
    pub fn draw(self, random: &mut Random, bound: u32) -> u32 {
        match self {
            Self::Uniform => random.below(bound),
            Self::Zipf => scatter(zipf(random, bound), bound),
        }
    }
}

/// A rank by Zipf's law, by its continuous form: the share of the first x of N ranks is ln x / ln N.
fn zipf(random: &mut Random, bound: u32) -> u32 {
    const STEPS: u32 = 1 << 31;
    let share = f64::from(random.below(STEPS)) / f64::from(STEPS);
    let rank = (f64::from(bound) + 1.0).powf(share);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it is at least 1, and cut off to a whole number on purpose"
    )]
    let rank = rank as u32;
    (rank - 1).min(bound - 1)
}

/// Another place for each of the numbers below `bound`, far from its neighbours'.
fn scatter(number: u32, bound: u32) -> u32 {
    // A prime above all bounds, so that no two numbers get one place.
    const PRIME: u64 = 4_294_967_291;
    let place = u64::from(number) * PRIME % u64::from(bound);
    u32::try_from(place).unwrap_or(0)
}

/// A small generator (xorshift64*), so that every run of a program draws the same.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// From a seed that is not 0.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below this one.
    pub fn below(&mut self, bound: u32) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32;
        u32::try_from((high * u64::from(bound)) >> 32).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zipfs_first_comes_twice_as_often_as_the_second() {
        let mut random = Random::new(7);
        let mut counts = [0_u32; 1000];
        for _ in 0..1_000_000 {
            counts[Order::Zipf.draw(&mut random, 1000) as usize] += 1;
        }
        let mut sorted = counts;
        sorted.sort_unstable_by(|a, b| b.cmp(a));
        let ratio = f64::from(sorted[0]) / f64::from(sorted[1]);
        // The continuous form gives the first ones ln 2 and ln 3/2 as shares.
        assert!((1.5..2.2).contains(&ratio), "{ratio}");
        assert!(sorted[999] > 0, "the rarest came, too");
    }

    #[test]
    fn zipfs_frequent_ones_of_millions_are_a_small_part_and_most_of_the_draws() {
        const BOUND: u32 = 8_000_000;
        const DRAWS: u32 = 1_000_000;
        let mut random = Random::new(7);
        let frequent = (0..DRAWS).filter(|_| zipf(&mut random, BOUND) < BOUND / 1000);
        // ln 8,000 / ln 8,000,000.
        let share = frequent.count() as f64 / f64::from(DRAWS);
        assert!((0.56..0.57).contains(&share), "{share}");
    }

    #[test]
    fn every_number_has_a_place_of_its_own() {
        for bound in [1, 2, 1000, 4096] {
            let mut places: Vec<u32> = (0..bound).map(|n| scatter(n, bound)).collect();
            places.sort_unstable();
            assert!(places.into_iter().eq(0..bound), "of {bound}");
        }
    }
}
