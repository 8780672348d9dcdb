//! Finds hosts that leave checksums and segmentation to a network card that does not exist.
//!
//! On a virtual link (veth, virtio) a sender's kernel hands such frames over unfinished, and a receiving
//! kernel accepts them. Forwarded past the kernel they are wrong: every connection fails.
//!
//! Invariant: a few frames are no problem: one complete checksum in 65,536 looks like a partial one.

use std::time::{Duration, Instant};

use crate::program::Offloads;

/// Frames that make a problem.
const FRAMES_MIN: u64 = 3;
/// At least one of so many checked frames must have a partial checksum.
const CHECKED_PER_PARTIAL: u64 = 256;
/// How long a problem stands after the last frames that made it.
const STANDS: Duration = Duration::from_secs(30);
/// How long frames are counted together.
const WINDOW: Duration = Duration::from_secs(60);

/// Watches one port.
#[derive(Default)]
pub(crate) struct OffloadWatch {
    /// The counts at the start of the window.
    base: Offloads,
    ends: Option<Instant>,
    partial_until: Option<Instant>,
    oversized_until: Option<Instant>,
}

impl OffloadWatch {
    /// Takes the current counts of the port, and returns its problems.
    pub(crate) fn problems(
        &mut self,
        (port, mtu): (&str, u32),
        counts: Offloads,
        now: Instant,
    ) -> Vec<String> {
        let checked = counts.checked - self.base.checked;
        let partial = counts.partial - self.base.partial;
        let oversized = counts.oversized - self.base.oversized;
        let is_partial = partial >= FRAMES_MIN && partial * CHECKED_PER_PARTIAL >= checked;
        let is_oversized = oversized >= FRAMES_MIN;
        if is_partial {
            self.partial_until = Some(now + STANDS);
        }
        if is_oversized {
            self.oversized_until = Some(now + STANDS);
        }
        if is_partial || is_oversized || self.ends.is_none_or(|end| now >= end) {
            (self.base, self.ends) = (counts, Some(now + WINDOW));
        }
        let stands = |until: Option<Instant>| until.is_some_and(|until| now < until);
        let partial = stands(self.partial_until).then(|| {
            format!(
                "{port} receives packets with unfinished checksums, which every receiver drops: a host \
                 behind it leaves them to its virtual network card; turn that off on the host's interface: \
                 `ethtool -K INTERFACE tx off`"
            )
        });
        let oversized = stands(self.oversized_until).then(|| {
            format!(
                "{port} receives frames longer than its MTU of {mtu}, which are lost: a host behind it \
                 leaves segmentation to its virtual network card; turn that off on the host's interface: \
                 `ethtool -K INTERFACE tso off gso off`; or {port} merges frames: `ethtool -K {port} gro off \
                 lro off`"
            )
        });
        partial.into_iter().chain(oversized).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(checked: u64, partial: u64, oversized: u64) -> Offloads {
        Offloads {
            checked,
            partial,
            oversized,
        }
    }

    #[test]
    fn a_problem_stands_while_its_frames_arrive_and_a_while_longer() {
        let start = Instant::now();
        let mut watch = OffloadWatch::default();
        let mut at = |seconds, counts| {
            let now = start + Duration::from_secs(seconds);
            watch.problems(("back", 1500), counts, now).len()
        };
        assert_eq!(at(0, counts(0, 0, 0)), 0);
        assert_eq!(at(1, counts(2, 2, 2)), 0, "too few");
        assert_eq!(at(2, counts(3, 3, 2)), 1, "checksums");
        assert_eq!(at(3, counts(3, 3, 5)), 2, "and lengths");
        assert_eq!(at(31, counts(9, 3, 5)), 2);
        assert_eq!(at(34, counts(9, 3, 5)), 0, "over");
    }

    #[test]
    fn complete_checksums_that_look_partial_are_no_problem() {
        let start = Instant::now();
        let mut watch = OffloadWatch::default();
        for minute in 0..1000_u32 {
            let counts = counts(u64::from(minute) * 100_000, u64::from(minute) * 2, 0);
            let now = start + minute * WINDOW;
            assert_eq!(watch.problems(("back", 1500), counts, now), [""; 0]);
        }
    }
}
