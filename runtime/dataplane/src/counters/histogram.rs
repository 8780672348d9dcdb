//! A histogram of durations, written by its owner, or by all, and read by all.
//!
//! Invariant: a bucket's width is at most a quarter of its values. So a quantile is never too low, and at
//! most a quarter too high, up to one second, which stands for everything longer.

use super::Counter;

/// Buckets per power of two, chosen by the bits after the highest one.
const STEPS: u32 = 4;
/// 2^20 microseconds, about a second: longer times count as this.
const BUCKETS: usize = bucket_of((1 << 20) - 1) + 1;

/// A histogram that any thread reads.
#[derive(Debug)]
pub struct Histogram([Counter; BUCKETS]);

impl Default for Histogram {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Counter::default()))
    }
}

impl Histogram {
    /// Counts a time. Only the owner's thread may call it.
    #[inline]
    pub fn count(&self, us: u64) {
        self.0[bucket_of(us).min(BUCKETS - 1)].add(1);
    }

    /// Counts a time that any thread measured; then no thread may call [`Histogram::count`].
    pub(super) fn count_shared(&self, us: u64) {
        self.0[bucket_of(us).min(BUCKETS - 1)].add_shared(1);
    }

    pub(super) fn clear(&self) {
        self.0.iter().for_each(Counter::clear);
    }

    /// A copy of the counts.
    #[must_use]
    pub fn read(&self) -> Distribution {
        Distribution(std::array::from_fn(|at| self.0[at].get()))
    }
}

/// A copy of a histogram.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Distribution([u64; BUCKETS]);

impl Default for Distribution {
    fn default() -> Self {
        Self([0; BUCKETS])
    }
}

impl Distribution {
    /// Adds another distribution.
    pub fn merge(&mut self, other: &Self) {
        for (count, more) in self.0.iter_mut().zip(other.0) {
            *count += more;
        }
    }

    /// The times counted since `earlier`, a copy of the same histograms.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self(std::array::from_fn(|at| {
            self.0[at].saturating_sub(earlier.0[at])
        }))
    }

    /// The number of times counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.iter().sum()
    }

    /// The non-empty buckets, shortest first: upper bound in microseconds, and count.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let buckets = self.0.iter().enumerate();
        buckets
            .filter(|(_, count)| **count > 0)
            .map(|(at, count)| (highest_of(at), *count))
    }

    /// By powers of two: 2^n microseconds, and how many times are shorter. Times of half a second and more
    /// are below none of them.
    pub fn cumulative(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        (1..20).map(|n| {
            let bound = 1 << n;
            (bound, self.0[..bucket_of(bound)].iter().sum())
        })
    }

    /// The sum of all times in microseconds, up to a quarter too high.
    #[must_use]
    pub fn sum_us(&self) -> u64 {
        self.buckets().map(|(bound, count)| bound * count).sum()
    }

    /// The quantile `q` (0 to 1; 0.5 is the median) in microseconds, up to a quarter too high. `None` if
    /// empty.
    #[must_use]
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an f64 holds counts up to 2^53, and a rank below 1 is taken for the first"
    )]
    pub fn quantile_us(&self, q: f64) -> Option<u64> {
        let rank = ((self.count() as f64 * q).ceil() as u64).max(1);
        let mut below = 0;
        let at = self.0.iter().position(|count| {
            below += count;
            below >= rank
        })?;
        Some(highest_of(at))
    }
}

/// The bucket of a time. Below [`STEPS`] each microsecond has its own.
#[expect(
    clippy::cast_possible_truncation,
    reason = "what is left of a time is below twice the steps"
)]
const fn bucket_of(us: u64) -> usize {
    let octave = match us.checked_ilog2() {
        Some(octave) if octave >= STEPS.ilog2() => octave - STEPS.ilog2(),
        _ => return us as usize,
    };
    (octave * STEPS) as usize + (us >> octave) as usize
}

/// A bucket's upper bound in microseconds.
const fn highest_of(bucket: usize) -> u64 {
    let (bucket, steps) = (bucket as u64, STEPS as u64);
    if bucket < steps {
        return bucket;
    }
    let octave = bucket / steps - 1;
    ((bucket % steps + steps + 1) << octave) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_lies_in_its_bucket_and_no_bucket_is_wide() {
        assert_eq!(BUCKETS, 76);
        let mut lowest = 0;
        for bucket in 0..BUCKETS {
            let highest = highest_of(bucket);
            assert_eq!((bucket_of(lowest), bucket_of(highest)), (bucket, bucket));
            assert!((highest - lowest) * u64::from(STEPS) <= lowest, "{bucket}");
            lowest = highest + 1;
        }
        assert_eq!(lowest, 1 << 20);
    }

    #[test]
    fn quantiles_are_told_too_high_by_a_quarter_at_most() {
        let histogram = Histogram::default();
        assert_eq!(histogram.read().quantile_us(0.5), None);
        for us in 1..=1_000 {
            histogram.count(us);
        }
        let times = histogram.read();
        assert_eq!(times.count(), 1_000);
        for (q, exact) in [(0.0, 1), (0.001, 1), (0.5, 500), (0.999, 999), (1.0, 1_000)] {
            let told = times.quantile_us(q).expect("there are times");
            assert!((exact..=exact * 5 / 4).contains(&told), "{q}: {told}");
        }
    }

    #[test]
    fn times_beyond_a_second_count_as_a_second() {
        let histogram = Histogram::default();
        histogram.count(u64::MAX);
        assert_eq!(histogram.read().quantile_us(0.5), Some((1 << 20) - 1));
    }

    #[test]
    fn powers_of_two_bound_what_they_say() {
        let histogram = Histogram::default();
        for us in [0, 1, 2, 3, 4, 1_000, u64::MAX] {
            histogram.count(us);
        }
        let times = histogram.read();
        let cumulative: Vec<_> = times.cumulative().collect();
        assert_eq!(cumulative[..3], [(2, 2), (4, 4), (8, 5)]);
        assert_eq!(cumulative[8..10], [(512, 5), (1024, 6)]);
        assert_eq!(cumulative.last(), Some(&(1 << 19, 6)));
        let exact = 1 + 2 + 3 + 4 + 1_000 + (1 << 20);
        assert!((exact - 1..=exact * 5 / 4).contains(&times.sum_us()));
    }

    #[test]
    fn workers_times_add_up_and_come_apart_again() {
        let [one, other] = [Histogram::default(), Histogram::default()];
        one.count(1);
        let before = one.read();
        one.count(3);
        other.count(100);
        let mut all = one.read();
        all.merge(&other.read());
        assert_eq!(all.count(), 3);
        assert_eq!(all.quantile_us(0.5), Some(3));
        assert_eq!(one.read().since(&before).quantile_us(0.0), Some(3));
    }
}
