//! What goes on of a backend's health in the next process.
//!
//! Invariant: only what the backend itself or the operator caused goes on. What the config, the network or
//! the time says is found out anew.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::admin_state::AdminState;
use super::check_state::{CheckResult, CheckState, Debounced};

/// A backend's health, without ids and times of a process.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct KeptHealth {
    pub(super) admin: AdminState,
    /// The operator's weight.
    pub(super) weight: Option<u32>,
    /// How long the operator's drain may still take, in milliseconds.
    pub(super) drain_left_ms: Option<u64>,
    /// For how long it has drained, in milliseconds.
    pub(super) drained_ms: Option<u64>,
    pub(super) checks: Vec<KeptCheck>,
    pub(super) ejection: Option<KeptEjection>,
}

/// A check that has decided.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct KeptCheck {
    /// What it checks: see `CheckIdentity::text`.
    identity: String,
    is_passing: bool,
    /// Of its last result.
    #[serde(default)]
    reason: String,
    #[serde(default)]
    weight: Option<u32>,
    #[serde(default)]
    is_draining: bool,
}

/// An ejection in progress.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct KeptEjection {
    /// How long it still lasts, in milliseconds.
    pub(super) left_ms: u64,
    /// Ejections in a row.
    #[serde(default)]
    pub(super) ejections: u32,
    #[serde(default)]
    pub(super) reason: String,
}

impl KeptCheck {
    /// `None` before a decision.
    pub(super) fn of(identity: String, state: &CheckState) -> Option<Self> {
        Some(Self {
            identity,
            is_passing: match state.debounced {
                Debounced::Undecided => return None,
                Debounced::Passing => true,
                Debounced::Failing => false,
            },
            reason: state.reason().to_owned(),
            weight: state.weight,
            is_draining: state.draining,
        })
    }

    pub(super) fn is_of(&self, identity: &str) -> bool {
        self.identity == identity
    }

    pub(super) fn state(&self, now: Duration) -> CheckState {
        let result = CheckResult {
            passed: self.is_passing,
            draining: self.is_draining,
            weight: self.weight,
            reason: self.reason.clone(),
            took: Duration::ZERO,
            log: Vec::new(),
        };
        CheckState {
            debounced: match self.is_passing {
                true => Debounced::Passing,
                false => Debounced::Failing,
            },
            contradicting: 0,
            last: Some((now, result)),
            weight: self.weight,
            draining: self.is_draining,
        }
    }
}

pub(super) fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
