//! The status types of backends' health. Times are in seconds since 1970.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::admin_state::AdminState;
use super::backend::HealthState;

/// Statistics of the health checks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct ChecksStatus {
    /// Checks that ended since the start.
    pub runs: u64,
    /// Of these, those that passed.
    #[serde(default)]
    pub passed: u64,
    /// Those that failed. The others said nothing of the backend.
    #[serde(default)]
    pub failed: u64,
    /// Checks running now.
    pub running: u64,
    /// The most checks that run at once, by the limit of open files.
    #[serde(default)]
    pub running_max: u64,
    /// How late checks started, in milliseconds: the 99th percentile of the last few thousand.
    pub late_p99_ms: u64,
    /// The maximum of the same.
    pub late_max_ms: u64,
    /// CPU time of all checks, in milliseconds.
    pub cpu_ms: u64,
}

/// A backend's health. Times are in seconds since 1970.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct BackendHealthStatus {
    pub state: HealthState,
    pub admin: AdminState,
    /// When the operator's drain is over, if the operator said so.
    #[serde(default)]
    pub drains_until: Option<u64>,
    /// The operator's weight, in place of the config's.
    #[serde(default)]
    pub operator_weight: Option<u32>,
    /// When the state began.
    pub since: u64,
    pub reason: String,
    /// Its weight after health adjustments, in percent of the configured one.
    pub weight_percent: u32,
    /// In the config's order.
    pub checks: Vec<CheckStatus>,
    /// The last changes of state, oldest first.
    pub history: Vec<ChangeStatus>,
}

/// A health check of a backend.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct CheckStatus {
    /// The module's name.
    pub check: String,
    /// `undecided`, `passing` or `failing`.
    pub state: String,
    /// Consecutive results that contradict the state.
    pub contradicting: u32,
    /// The last result.
    pub reason: String,
    /// The duration of the last run, in microseconds.
    pub latency_us: u64,
    /// When the last run ended.
    pub last_at: Option<u64>,
    /// The lines that its module logged in the last run.
    #[serde(default)]
    pub log: Vec<String>,
}

/// A change of a backend's state.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct ChangeStatus {
    pub at: u64,
    pub state: HealthState,
    pub reason: String,
}
