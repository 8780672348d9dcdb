//! Ejection of a backend for failures of client connections (outlier detection).

use std::collections::VecDeque;
use std::time::Duration;

use super::kept::{KeptEjection, millis};
use crate::config::Ejection;

/// How long a datagram may wait for a reply before it counts as unanswered.
const REPLY_TIME: Duration = Duration::from_secs(2);

/// Into how many parts the window of a rule is divided, at most.
const WINDOW_PARTS: u32 = 64;

/// What client connections to a backend have met.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Encounters {
    pub(crate) failures: u64,
    /// Packets sent to it, and from it.
    pub(crate) sent: u64,
    pub(crate) replies: u64,
}

#[derive(Clone, Debug, Default)]
pub(super) struct EjectionState {
    /// What was last counted; `None` before.
    counted: Option<Encounters>,
    /// What came since, and when.
    recent: VecDeque<(Duration, Encounters)>,
    /// Ejections in a row.
    ejections: u32,
    /// When the current ejection ends.
    pub(super) until: Option<Duration>,
    /// When the last ejection ended.
    returned: Duration,
    pub(super) reason: String,
}

impl EjectionState {
    /// Reads the counters. Returns the replies of the rule's window.
    pub(super) fn count(&mut self, counted: Encounters, rule: &Ejection, now: Duration) -> u64 {
        let before = self.counted.replace(counted).unwrap_or(counted);
        let new = Encounters {
            failures: counted.failures.saturating_sub(before.failures),
            sent: counted.sent.saturating_sub(before.sent),
            replies: counted.replies.saturating_sub(before.replies),
        };
        // What comes during an ejection belongs to sessions from before it.
        if new != Encounters::default() && self.until.is_none() {
            match self.recent.back_mut() {
                Some((at, last)) if now.saturating_sub(*at) < rule.window / WINDOW_PARTS => {
                    last.failures += new.failures;
                    last.sent += new.sent;
                    last.replies += new.replies;
                }
                _ => self.recent.push_back((now, new)),
            }
        }
        self.recent
            .retain(|(at, _)| now.saturating_sub(*at) < rule.window);
        self.recent.iter().map(|(_, it)| it.replies).sum()
    }

    /// Starts an ejection if `rule` says so.
    pub(super) fn eject_if_failing(
        &mut self,
        rule: &Ejection,
        expects_replies: bool,
        now: Duration,
    ) {
        let failures: u64 = self.recent.iter().map(|(_, it)| it.failures).sum();
        let replied = self.recent.iter().any(|(_, it)| it.replies > 0);
        let due = self.recent.iter();
        let due = due.filter(|(at, _)| now.saturating_sub(*at) >= REPLY_TIME);
        let unanswered: u64 = match expects_replies && !replied {
            true => due.map(|(_, it)| it.sent).sum(),
            false => 0,
        };
        let limit = u64::from(rule.failures);
        if self.until.is_some() || failures.max(unanswered) < limit {
            return;
        }
        // A backend that stayed in for longer than its last ejection starts anew.
        if now.saturating_sub(self.returned) > ejection_time(rule, self.ejections) {
            self.ejections = 0;
        }
        self.ejections += 1;
        let time = ejection_time(rule, self.ejections);
        self.until = Some(now + time);
        self.recent.clear();
        let what = match failures >= limit {
            true => format!("{failures} connections refused, unreachable or not answered"),
            false => format!("no reply to {unanswered} datagrams"),
        };
        self.reason = format!(
            "{what} within {} s; ejected for {} s",
            rule.window.as_secs_f64(),
            time.as_secs_f64()
        );
    }

    pub(super) fn keep(&self, now: Duration) -> Option<KeptEjection> {
        Some(KeptEjection {
            left_ms: millis(self.until?.saturating_sub(now)),
            ejections: self.ejections,
            reason: self.reason.clone(),
        })
    }

    pub(super) fn resume(&mut self, kept: Option<&KeptEjection>, elapsed: Duration, now: Duration) {
        let left = |kept: &KeptEjection| Duration::from_millis(kept.left_ms).checked_sub(elapsed);
        if let Some((kept, left)) = kept.and_then(|kept| Some((kept, left(kept)?))) {
            self.until = now.checked_add(left);
            self.ejections = kept.ejections;
            self.reason.clone_from(&kept.reason);
        }
    }

    /// Ends the ejection if its time is over.
    pub(super) fn update(&mut self, now: Duration) {
        if self.until.is_some_and(|until| until <= now) {
            self.until = None;
            self.returned = now;
        }
    }
}

/// Returns how long the `n`-th ejection in a row lasts.
fn ejection_time(rule: &Ejection, n: u32) -> Duration {
    let factor = 1_u32.checked_shl(n.saturating_sub(1)).unwrap_or(u32::MAX);
    rule.time.saturating_mul(factor).min(rule.time_max)
}
