//! Bounds the log lines of events that may come in thousands, such as the first results of all checks.
//!
//! Invariant: each event is logged: as a line of its own, or counted in a summary.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Events that get a line of their own within [`WINDOW`].
const LINES_MAX: usize = 10;
const WINDOW: Duration = Duration::from_secs(1);

/// Decides which events get a line, and counts the others by kind.
#[derive(Debug, Default)]
pub(crate) struct LogLimit {
    began: Option<Instant>,
    lines: usize,
    counted: BTreeMap<&'static str, usize>,
}

impl LogLimit {
    /// Returns whether this event gets a line of its own. If not it is counted.
    pub(crate) fn allows(&mut self, kind: &'static str, now: Instant) -> bool {
        if self.is_over(now) && self.counted.is_empty() {
            *self = Self {
                began: Some(now),
                ..Self::default()
            };
        }
        self.lines += 1;
        let allowed = self.lines <= LINES_MAX;
        if !allowed {
            *self.counted.entry(kind).or_default() += 1;
        }
        allowed
    }

    /// Returns how many events of each kind got no line, once in a while.
    pub(crate) fn summary(&mut self, now: Instant) -> Option<String> {
        if self.counted.is_empty() || !self.is_over(now) {
            return None;
        }
        self.began = Some(now);
        let counted = std::mem::take(&mut self.counted);
        let counted: Vec<String> = counted
            .iter()
            .map(|(kind, n)| format!("{n} {kind}"))
            .collect();
        Some(counted.join(", "))
    }

    fn is_over(&self, now: Instant) -> bool {
        self.began
            .is_none_or(|began| now.duration_since(began) >= WINDOW)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_thousand_events_are_ten_lines_and_summaries() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut limit = LogLimit::default();
        let kinds = |n: u64| if n.is_multiple_of(10) { "down" } else { "up" };
        let lines = (0..10_000)
            .filter(|n| limit.allows(kinds(*n), at(n / 100)))
            .count();
        assert_eq!(lines, 10);
        assert_eq!(limit.summary(at(999)), None, "a summary a second");
        assert_eq!(
            limit.summary(at(1000)).as_deref(),
            Some("999 down, 8991 up")
        );
        // While events go on, they stay summaries; after a quiet second they get lines again.
        assert!(!limit.allows("up", at(1500)));
        assert_eq!(limit.summary(at(2000)).as_deref(), Some("1 up"));
        assert_eq!(limit.summary(at(3000)), None);
        assert!(limit.allows("down", at(3000)));
    }
}
