//! What the status says of backends' health. Times are in seconds since 1970.

use serde::{Deserialize, Serialize};

use super::backend::{Admin, State};

/// How the health checks are getting on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ChecksStatus {
    /// Checks that have ended, since the start.
    pub runs: u64,
    /// Checks that run now.
    pub running: u64,
    /// Of the last few thousand, all but 1 in 100 started no later than this after their time, in
    /// milliseconds.
    pub late_p99_ms: u64,
    /// The latest of them, in milliseconds.
    pub late_max_ms: u64,
    /// Processor time of all of them, in milliseconds.
    pub cpu_ms: u64,
}

/// A backend's health. Times are in seconds since 1970.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct BackendHealthStatus {
    /// What becomes of new sessions.
    pub state: State,
    /// The operator's word.
    pub admin: Admin,
    /// Since when.
    pub since: u64,
    /// Why.
    pub reason: String,
    /// What its health makes of its weight, in percent.
    pub weight_percent: u32,
    /// Its checks, in the config's order.
    pub checks: Vec<CheckStatus>,
    /// Its last changes of state, the oldest first.
    pub history: Vec<ChangeStatus>,
}

/// A health check of a backend.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct CheckStatus {
    /// Its module's name.
    pub check: String,
    /// `undecided` before the first result, `passing` or `failing`.
    pub state: String,
    /// Results in a row that say something else.
    pub contrary: u32,
    /// What the last one found.
    pub reason: String,
    /// How long it took, in microseconds.
    pub latency_us: u64,
    /// When it ended.
    pub last_at: Option<u64>,
}

/// A change of a backend's state.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ChangeStatus {
    /// When.
    pub at: u64,
    /// To what.
    pub state: State,
    /// Why.
    pub reason: String,
}
