//! What happened, in order: the events that the log has lines of, kept for `GET /v1/events`.
//!
//! Invariant: bounded, and never waits for a reader. An event is numbered when it happens, so a reader sees
//! whether it missed some.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use utoipa::ToSchema;

use crate::time::unix_seconds;

/// The most events that are kept.
pub const EVENTS_MAX: usize = 4096;

/// The longest text of one, in bytes.
const TEXT_MAX: usize = 4096;

/// How grave an event is.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    #[default]
    Info,
    Warn,
    Error,
}

impl Severity {
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}

/// Something that happened: one line of `GET /v1/events`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Its number since the start, from 1.
    pub number: u64,
    /// When, in seconds since 1970.
    pub at: u64,
    pub severity: Severity,
    /// The part of the balancer that it happened in: `health`, `config`, `module`, `network`, `port`, `admin`
    /// or `balancer`.
    pub area: String,
    pub text: String,
}

/// The newest events.
#[derive(Debug)]
pub struct EventLog {
    kept: Mutex<VecDeque<Event>>,
    /// The number of the newest event.
    newest: watch::Sender<u64>,
}

impl Default for EventLog {
    fn default() -> Self {
        Self {
            kept: Mutex::default(),
            newest: watch::Sender::new(0),
        }
    }
}

impl EventLog {
    /// Adds an event; the oldest makes room.
    pub fn add(&self, severity: Severity, area: &str, text: &str) {
        let mut kept = self.kept();
        let number = *self.newest.borrow() + 1;
        if kept.len() == EVENTS_MAX {
            kept.pop_front();
        }
        kept.push_back(Event {
            number,
            at: unix_seconds(SystemTime::now()),
            severity,
            area: area.to_owned(),
            text: text[..text.floor_char_boundary(TEXT_MAX)].to_owned(),
        });
        self.newest.send_replace(number);
    }

    /// Returns the kept events with numbers above `after`, the oldest first.
    #[must_use]
    pub fn since(&self, after: u64) -> Vec<Event> {
        let kept = self.kept();
        let first = kept.partition_point(|event| event.number <= after);
        kept.iter().skip(first).cloned().collect()
    }

    /// Returns a receiver of the newest event's number.
    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<Event>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_kept_and_a_gap_shows() {
        let log = EventLog::default();
        for n in 1..=EVENTS_MAX + 10 {
            log.add(Severity::Info, "config", &format!("event {n}"));
        }
        let all = log.since(0);
        assert_eq!((all.len(), all[0].number), (EVENTS_MAX, 11));
        let last = EVENTS_MAX as u64 + 10;
        assert_eq!(log.since(last - 1)[0].text, format!("event {last}"));
        assert!(log.since(last).is_empty());
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let log = EventLog::default();
        log.add(Severity::Error, "module", &"ä".repeat(TEXT_MAX));
        assert_eq!(log.since(0)[0].text.len(), TEXT_MAX);
    }
}
