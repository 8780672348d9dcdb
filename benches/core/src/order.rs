//! The order in which clients send.

/// How the next client is drawn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// All clients are equally likely: the worst case for caches.
    Uniform,
    /// By Zipf's law with exponent 1, as is common on the internet: the n-th most frequent client sends 1/n
    /// as often as the first. Frequent clients are not neighbours in memory.
    Zipf,
}

impl Order {
    /// All orders.
    pub const ALL: [Self; 2] = [Self::Uniform, Self::Zipf];

    /// The name in benchmarks.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Zipf => "zipf",
        }
    }

    /// Draws a number below `bound`, which must not be 0.
    pub fn draw(self, random: &mut Random, bound: u32) -> u32 {
        match self {
            Self::Uniform => random.below(bound),
            Self::Zipf => scatter(zipf(random, bound), bound),
        }
    }
}

/// Draws a rank by the continuous form of Zipf's law: the share of the first x of N ranks is ln x / ln N.
fn zipf(random: &mut Random, bound: u32) -> u32 {
    const STEPS: u32 = 1 << 31;
    let share = f64::from(random.below(STEPS)) / f64::from(STEPS);
    let rank = (f64::from(bound) + 1.0).powf(share);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the rank is at least 1, and truncated on purpose"
    )]
    let rank = rank as u32;
    (rank - 1).min(bound - 1)
}

/// Permutes the numbers below `bound`; neighbours end up far apart.
fn scatter(number: u32, bound: u32) -> u32 {
    // A prime above all bounds makes this a permutation.
    const PRIME: u64 = 4_294_967_291;
    let place = u64::from(number) * PRIME % u64::from(bound);
    u32::try_from(place).unwrap_or(0)
}

/// A small deterministic generator (xorshift64*): every run draws the same numbers.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Seeds the generator; the seed must not be 0.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Draws a number below `bound`.
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
    fn the_most_frequent_client_is_drawn_about_twice_as_often_as_the_second() {
        let mut random = Random::new(7);
        let mut counts = [0_u32; 1000];
        for _ in 0..1_000_000 {
            counts[Order::Zipf.draw(&mut random, 1000) as usize] += 1;
        }
        let mut sorted = counts;
        sorted.sort_unstable_by(|a, b| b.cmp(a));
        let ratio = f64::from(sorted[0]) / f64::from(sorted[1]);
        // The continuous form gives the first two ranks the shares ln 2 and ln 3/2.
        assert!((1.5..2.2).contains(&ratio), "{ratio}");
        assert!(sorted[999] > 0, "the rarest client was drawn");
    }

    #[test]
    fn a_thousandth_of_millions_of_clients_gets_more_than_half_of_the_draws() {
        const BOUND: u32 = 8_000_000;
        const DRAWS: u32 = 1_000_000;
        let mut random = Random::new(7);
        let frequent = (0..DRAWS).filter(|_| zipf(&mut random, BOUND) < BOUND / 1000);
        // ln 8,000 / ln 8,000,000.
        let share = frequent.count() as f64 / f64::from(DRAWS);
        assert!((0.56..0.57).contains(&share), "{share}");
    }

    #[test]
    fn scatter_is_a_permutation() {
        for bound in [1, 2, 1000, 4096] {
            let mut places: Vec<u32> = (0..bound).map(|n| scatter(n, bound)).collect();
            places.sort_unstable();
            assert!(places.into_iter().eq(0..bound), "bound {bound}");
        }
    }
}
