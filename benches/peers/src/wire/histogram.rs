//! Latency histogram of the sink.
//!
//! Invariant: each power of two has 32 buckets, so a percentile is at most 3.2 % below the measured value.
//! `bucket` in `wire.bpf.c` is the inverse of [`lower_bound`].

use crate::sample::Latency;

/// Buckets per power of two, as an exponent of two.
const STEP_BITS: u32 = 5;
const STEPS: u32 = 1 << STEP_BITS;
pub(super) const BUCKETS: u32 = 1024;

/// Packets by latency bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Histogram(Vec<u64>);

impl Histogram {
    pub(super) fn new(counts: Vec<u64>) -> Self {
        Self(counts)
    }

    /// The packets that were counted after `earlier`.
    pub(super) fn since(&self, earlier: &Self) -> Self {
        let buckets = self.0.iter().zip(&earlier.0);
        Self(buckets.map(|(now, then)| now - then).collect())
    }

    /// The number of packets.
    fn count(&self) -> u64 {
        self.0.iter().sum()
    }

    /// The percentiles; `None` without packets.
    #[expect(clippy::cast_precision_loss, reason = "a latency is at most a minute")]
    pub(super) fn percentiles(&self) -> Option<Latency> {
        let [p50, p99, p999] = [50_000, 99_000, 99_900].map(|rank| self.rank(rank) as f64 / 1e3);
        (self.count() > 0).then_some(Latency { p50, p99, p999 })
    }

    /// The latency that `rank` of 100,000 packets did not exceed, in nanoseconds; 0 without packets.
    fn rank(&self, rank: u64) -> u64 {
        let target = (self.count() * rank).div_ceil(100_000).max(1);
        let mut below = 0;
        let reached = (0..).zip(&self.0).find(|(_, count)| {
            below += **count;
            below >= target
        });
        reached.map_or(0, |(bucket, _)| lower_bound(bucket))
    }
}

/// The lowest latency of a bucket, in nanoseconds.
fn lower_bound(bucket: u32) -> u64 {
    let (octave, step) = (bucket >> STEP_BITS, u64::from(bucket % STEPS));
    match octave {
        0 => step,
        octave => (u64::from(STEPS) + step) << (octave - 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `bucket` of `wire.bpf.c`.
    fn bucket(latency: u64) -> u32 {
        if latency < u64::from(STEPS) {
            return u32::try_from(latency).expect("small");
        }
        let octave = latency.ilog2();
        let step = (latency >> (octave - STEP_BITS)) & u64::from(STEPS - 1);
        (octave - STEP_BITS + 1) * STEPS + u32::try_from(step).expect("small")
    }

    #[test]
    fn a_bucket_starts_at_most_a_32nd_below_each_of_its_latencies() {
        for latency in (0..200).chain([1_000, 12_345, 999_999, 20_000_000_000]) {
            let lowest = lower_bound(bucket(latency));
            assert!(lowest <= latency, "{latency}");
            assert!(latency - lowest <= latency / 32, "{latency}: {lowest}");
        }
        assert_eq!(bucket((1 << 36) - 1), BUCKETS - 1);
    }

    #[test]
    fn a_rank_is_the_latency_of_the_packet_at_that_place() {
        let mut counts = vec![0; BUCKETS as usize];
        counts[10] = 990;
        counts[20] = 9;
        counts[30] = 1;
        let histogram = Histogram::new(counts);
        assert_eq!(histogram.count(), 1000);
        for (rank, expected) in [
            (50_000, 10),
            (99_000, 10),
            (99_001, 20),
            (99_900, 20),
            (99_901, 30),
        ] {
            assert_eq!(histogram.rank(rank), expected, "{rank}");
        }
        let nothing = histogram.since(&histogram);
        assert_eq!((nothing.count(), nothing.rank(50_000)), (0, 0));
    }
}
