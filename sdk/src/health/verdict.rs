//! The result of a check.
//!
//! Invariant: a reason is never longer than the host reads, and a weight is never more than the
//! host accepts.

use alloc::borrow::ToOwned;
use alloc::string::{String, ToString};
use core::fmt;
use std::io;

use super::messages;
use crate::abi::SIGNALS;
use crate::abi::health::{
    DRAINING, HEALTHY, REASON_MAX, SET_SIGNAL, SET_WEIGHT, UNHEALTHY, VerdictRecord, WEIGHT_MAX,
};
use crate::service::as_u32;

/// The backend is healthy. A verdict may also set its weight and its signals.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verdict {
    is_draining: bool,
    reason: String,
    weight: Option<u32>,
    signals: [Option<u32>; SIGNALS],
}

impl Verdict {
    /// The backend takes sessions. The reason is for people, such as "200 OK in 3 ms"; the host
    /// reads [`REASON_MAX`] bytes of it.
    #[must_use]
    pub fn healthy(reason: impl Into<String>) -> Self {
        Self {
            is_draining: false,
            reason: cut(reason.into()),
            weight: None,
            signals: [None; SIGNALS],
        }
    }

    /// The backend serves its sessions and takes no new ones.
    #[must_use]
    pub fn draining(reason: impl Into<String>) -> Self {
        Self {
            is_draining: true,
            ..Self::healthy(reason)
        }
    }

    /// Sets the backend's weight to this percentage of the operator's weight, at most
    /// [`WEIGHT_MAX`]; a larger one is cut to that. It stays until a later verdict sets another.
    #[must_use]
    pub fn weight(self, percent: u32) -> Self {
        Self {
            weight: Some(percent.min(WEIGHT_MAX)),
            ..self
        }
    }

    /// Sets one of the backend's four signals, which policies can balance on.
    /// [`super::Target::signal_index`] finds the index of a signal by the operator's name.
    ///
    /// # Panics
    /// Panics if the index is not 0 to 3.
    #[must_use]
    pub fn signal(mut self, index: usize, value: u32) -> Self {
        assert!(
            index < SIGNALS,
            "the check set signal {index}; a backend has the signals 0 to {}",
            SIGNALS - 1
        );
        self.signals[index] = Some(value);
        self
    }

    /// Returns whether the backend takes no new sessions.
    #[must_use]
    pub const fn is_draining(&self) -> bool {
        self.is_draining
    }

    /// Returns the reason.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// Returns the weight that [`Verdict::weight`] set, in percent.
    #[must_use]
    pub const fn weight_percent(&self) -> Option<u32> {
        self.weight
    }

    /// Returns the signals that [`Verdict::signal`] set, by index.
    #[must_use]
    pub const fn signals(&self) -> [Option<u32>; SIGNALS] {
        self.signals
    }

    /// Reads the record and its reason as the host does.
    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) fn read(record: &VerdictRecord, reason: String) -> Result<Self, Unhealthy> {
        if record.status == UNHEALTHY {
            return Err(reason.into());
        }
        let set = |bit, value| (record.set & bit != 0).then_some(value);
        Ok(Self {
            is_draining: record.status == DRAINING,
            reason,
            weight: set(SET_WEIGHT, record.weight),
            signals: core::array::from_fn(|at| set(SET_SIGNAL << at, record.signals[at])),
        })
    }
}

/// The backend is unhealthy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unhealthy {
    reason: String,
}

impl Unhealthy {
    /// Returns what is wrong, for people.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

impl fmt::Display for Unhealthy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl core::error::Error for Unhealthy {}

impl From<String> for Unhealthy {
    fn from(reason: String) -> Self {
        Self {
            reason: cut(reason),
        }
    }
}

impl From<&str> for Unhealthy {
    fn from(reason: &str) -> Self {
        reason.to_owned().into()
    }
}

impl From<io::Error> for Unhealthy {
    fn from(error: io::Error) -> Self {
        // An error with a message of its own keeps it. The messages of the system and of std's
        // readers are for programmers.
        match messages::for_kind(error.kind()) {
            Some(message) if error.get_ref().is_none() => message.into(),
            _ => error.to_string().into(),
        }
    }
}

/// Returns the record of a check's result, and its reason, whose address the caller sets.
pub(crate) fn record(found: Result<Verdict, Unhealthy>) -> (VerdictRecord, String) {
    let mut record = VerdictRecord::default();
    let reason = match found {
        Ok(verdict) => {
            record.status = if verdict.is_draining {
                DRAINING
            } else {
                HEALTHY
            };
            if let Some(weight) = verdict.weight {
                record.set |= SET_WEIGHT;
                record.weight = weight;
            }
            for (at, signal) in verdict.signals.into_iter().enumerate() {
                if let Some(value) = signal {
                    record.set |= SET_SIGNAL << at;
                    record.signals[at] = value;
                }
            }
            verdict.reason
        }
        Err(unhealthy) => {
            record.status = UNHEALTHY;
            unhealthy.reason
        }
    };
    record.reason_len = as_u32(reason.len());
    (record, reason)
}

/// Truncates a text to what the host reads, between characters.
fn cut(mut reason: String) -> String {
    let at = (0..=REASON_MAX.min(reason.len()))
        .rev()
        .find(|at| reason.is_char_boundary(*at));
    reason.truncate(at.unwrap_or(0));
    reason
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

    use alloc::string::String;

    use super::*;

    #[test]
    fn results_round_trip_through_the_record() {
        let found = [
            Ok(Verdict::healthy("")),
            Ok(Verdict::healthy("fine").weight(75)),
            Ok(Verdict::healthy("idle").weight(0).signal(0, 0)),
            Ok(Verdict::draining("leaving")
                .signal(3, u32::MAX)
                .signal(1, 7)),
            Err("status 500, expected 200-399".into()),
        ];
        for found in found {
            let (record, reason) = record(found.clone());
            assert_eq!(record.reason_len as usize, reason.len());
            assert_eq!(Verdict::read(&record, reason), found);
        }
    }

    #[test]
    fn a_reason_is_truncated_between_characters() {
        let long: String = core::iter::repeat_n('ü', 400).collect();
        let unhealthy = Unhealthy::from(alloc::format!("x{long}"));
        assert_eq!(unhealthy.reason().len(), REASON_MAX - 1);
        assert_eq!(Verdict::healthy(long).reason().len(), REASON_MAX);
    }

    #[test]
    fn a_weight_is_cut_to_the_maximum() {
        let (record, _) = record(Ok(Verdict::healthy("").weight(5000)));
        assert_eq!((record.set, record.weight), (SET_WEIGHT, WEIGHT_MAX));
    }

    #[test]
    #[should_panic(expected = "the check set signal 4; a backend has the signals 0 to 3")]
    fn a_fifth_signal_panics() {
        let _ = Verdict::healthy("").signal(4, 1);
    }

    #[test]
    fn errors_of_the_system_and_of_readers_get_messages_and_others_keep_theirs() {
        let early = io::Read::read_exact(&mut io::empty(), &mut [0]);
        let cases = [
            (io::Error::from_raw_os_error(111), "connection refused"),
            (early.unwrap_err(), "closed by the server within its answer"),
            (
                io::Error::from(io::ErrorKind::WouldBlock),
                "no answer in time",
            ),
            (io::Error::other("of my own"), "of my own"),
            (
                io::Error::new(io::ErrorKind::TimedOut, "no route after 3 tries"),
                "no route after 3 tries",
            ),
        ];
        for (error, expected) in cases {
            assert_eq!(Unhealthy::from(error).reason(), expected);
        }
    }
}
