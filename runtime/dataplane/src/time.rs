//! Time, which the core takes as an argument: the caller reads its clock once per batch.

use std::time::Duration;

/// The length of a [`Tick`].
pub const TICK: Duration = Duration::from_millis(TICK_MS);
/// [`TICK`] in milliseconds.
pub const TICK_MS: u64 = 100;

/// A coarse point in time: units of 100 ms since the balancer started. Sessions keep time in ticks, so a busy
/// session's line is written ten times a second rather than once a packet.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Hash)]
pub struct Tick(pub u32);

impl Tick {
    /// The ticks since `earlier`; 0 if that is in the future (workers read their clocks separately).
    #[inline]
    #[must_use]
    pub const fn since(self, earlier: Self) -> u32 {
        self.0.saturating_sub(earlier.0)
    }
}

/// A duration in ticks, rounded up.
#[must_use]
pub(crate) fn ticks_of(duration: Duration) -> u32 {
    u32::try_from(duration.as_nanos().div_ceil(TICK.as_nanos())).unwrap_or(u32::MAX)
}

/// The time of a batch: monotonic, since the balancer started.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Now {
    nanos: u64,
}

impl Now {
    /// From the time since the balancer started.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "u64 nanoseconds last 584 years"
    )]
    pub const fn from_start(elapsed: Duration) -> Self {
        Self {
            nanos: elapsed.as_nanos() as u64,
        }
    }

    /// Milliseconds since the balancer started.
    #[inline]
    #[must_use]
    pub const fn millis(self) -> u64 {
        self.nanos / 1_000_000
    }

    /// Nanoseconds since the balancer started.
    #[inline]
    #[must_use]
    pub const fn nanos(self) -> u64 {
        self.nanos
    }

    /// Microseconds since the balancer started.
    #[inline]
    #[must_use]
    pub const fn micros(self) -> u64 {
        self.nanos / 1_000
    }

    #[inline]
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "u32 ticks of 100 ms last 13 years"
    )]
    pub const fn tick(self) -> Tick {
        Tick((self.nanos / TICK.as_nanos() as u64) as u32)
    }
}
