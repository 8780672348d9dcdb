//! The verdict that a module returns, checked.
//!
//! Invariant: a value of a [`VerdictRecord`] that the ABI does not allow is an error; its text is
//! truncated and sanitized.

use std::time::Duration;

use waxwing_sdk::abi::ALIGNMENT;
use waxwing_sdk::abi::health::{
    DRAINING, HEALTHY, REASON_MAX, SET_SIGNAL, SET_WEIGHT, UNHEALTHY, VerdictRecord, WEIGHT_MAX,
};

use super::target::{CheckOutcome, CheckVerdict};
use crate::text::sanitize;

/// The verdict of a run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct RunVerdict {
    verdict: CheckVerdict,
    reason: String,
    weight: Option<u16>,
    signals: [Option<u32>; 4],
    inconclusive: bool,
}

impl RunVerdict {
    /// Unhealthy, without weight or signals.
    pub(super) fn unhealthy(reason: String) -> Self {
        Self {
            verdict: CheckVerdict::Unhealthy,
            reason,
            weight: None,
            signals: [None; 4],
            inconclusive: false,
        }
    }

    /// Marks an unhealthy verdict as inconclusive, because the balancer ran out of a resource. The
    /// reason becomes `text`, unless the module is at fault.
    pub(super) fn with_local_shortage(self, text: &str, fault: bool) -> Self {
        if self.verdict != CheckVerdict::Unhealthy {
            return self;
        }
        Self {
            inconclusive: true,
            ..if fault {
                self
            } else {
                Self::unhealthy(text.to_owned())
            }
        }
    }

    /// Reads the record at this address of a module's memory. The error says what is wrong with it.
    pub(super) fn read(memory: &[u8], address: u32) -> Result<Self, String> {
        if !address.is_multiple_of(ALIGNMENT) {
            return Err(format!(
                "the verdict's address {address:#x} is not a multiple of {ALIGNMENT}"
            ));
        }
        let start = address as usize;
        let record = memory
            .get(start..)
            .and_then(|rest| rest.first_chunk::<{ VerdictRecord::SIZE }>())
            .ok_or_else(|| format!("the verdict at {address:#x} is outside of memory"))?;
        let record = VerdictRecord::from_le_bytes(record);
        let verdict = match record.status {
            HEALTHY => CheckVerdict::Healthy,
            UNHEALTHY => return reason(memory, &record).map(Self::unhealthy),
            DRAINING => CheckVerdict::Draining,
            other => {
                return Err(format!(
                    "the verdict's status is {other}, which is not a status"
                ));
            }
        };
        Ok(Self {
            verdict,
            reason: reason(memory, &record)?,
            weight: weight(&record)?,
            signals: std::array::from_fn(|at| {
                (record.set & SET_SIGNAL << at != 0).then_some(record.signals[at])
            }),
            inconclusive: false,
        })
    }

    /// Adds what the host knows.
    pub(super) fn outcome(self, took: Duration, fault: bool) -> CheckOutcome {
        let Self {
            verdict,
            reason,
            weight,
            signals,
            inconclusive,
        } = self;
        CheckOutcome {
            verdict,
            reason,
            weight,
            signals,
            took,
            fault,
            inconclusive,
            log: Vec::new(),
        }
    }
}

fn weight(record: &VerdictRecord) -> Result<Option<u16>, String> {
    if record.set & SET_WEIGHT == 0 {
        return Ok(None);
    }
    u16::try_from(record.weight)
        .ok()
        .filter(|_| record.weight <= WEIGHT_MAX)
        .map(Some)
        .ok_or_else(|| {
            format!(
                "the verdict's weight is {} percent, over {WEIGHT_MAX}",
                record.weight
            )
        })
}

fn reason(memory: &[u8], record: &VerdictRecord) -> Result<String, String> {
    let (start, len) = (record.reason_address as usize, record.reason_len as usize);
    let text = memory
        .get(start..)
        .and_then(|rest| rest.get(..len))
        .ok_or_else(|| format!("the verdict's reason at {start:#x} is outside of memory"))?;
    Ok(sanitize(&text[..len.min(REASON_MAX)]))
}
