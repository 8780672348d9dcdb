//! Latencies by bucket, as the sink counts them.
//!
//! Invariant: 32 buckets to each doubling, so that a value read here is at most 3 % below the one measured;
//! `bucket` in `wire.bpf.c` is the other half of this.

/// Buckets to each doubling, as a power of two.
const STEP_BITS: u32 = 5;
const STEPS: u32 = 1 << STEP_BITS;
/// How many buckets there are.
pub(crate) const BUCKETS: u32 = 1024;

/// How many packets took how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Histogram(Vec<u64>);

impl Histogram {
    /// Of the counts of all buckets.
    pub(crate) fn new(counts: Vec<u64>) -> Self {
        Self(counts)
    }

    /// What was added since an earlier look.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        let both = self.0.iter().zip(&earlier.0);
        Self(both.map(|(now, then)| now - then).collect())
    }

    /// How many packets there are.
    pub(crate) fn count(&self) -> u64 {
        self.0.iter().sum()
    }

    /// What so many of 100,000 packets did not exceed, in nanoseconds; 0 where there are none.
    pub(crate) fn rank(&self, rank: u64) -> u64 {
        let wanted = (self.count() * rank).div_ceil(100_000).max(1);
        let mut below = 0;
        let reached = (0..).zip(&self.0).find(|(_, count)| {
            below += **count;
            below >= wanted
        });
        reached.map_or(0, |(bucket, _)| lowest(bucket))
    }
}

/// The lowest latency that a bucket is for, in nanoseconds.
fn lowest(bucket: u32) -> u64 {
    let (octave, step) = (bucket >> STEP_BITS, u64::from(bucket % STEPS));
    match octave {
        0 => step,
        octave => (u64::from(STEPS) + step) << (octave - 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `bucket` in `wire.bpf.c` finds it.
    fn bucket(latency: u64) -> u32 {
        if latency < u64::from(STEPS) {
            return u32::try_from(latency).expect("small");
        }
        let octave = latency.ilog2();
        let step = (latency >> (octave - STEP_BITS)) & u64::from(STEPS - 1);
        (octave - STEP_BITS + 1) * STEPS + u32::try_from(step).expect("small")
    }

    #[test]
    fn a_bucket_begins_at_most_three_percent_below_what_is_in_it() {
        for latency in (0..200).chain([1_000, 12_345, 999_999, 20_000_000_000]) {
            let lowest = lowest(bucket(latency));
            assert!(lowest <= latency, "{latency}");
            assert!(latency - lowest <= latency / 32, "{latency}: {lowest}");
        }
        assert_eq!(bucket((1 << 36) - 1), BUCKETS - 1);
    }

    #[test]
    fn ranks_are_those_of_the_packets_in_order() {
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
