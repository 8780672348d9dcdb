//! The state of modules as plain values, as `waxwing status` shows it.
//!
//! Invariant: fields may be added; an existing field keeps its name and meaning. Times of day are in
//! seconds since 1970.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::build::module::CompiledModule;
use crate::policy::module_log::LogLine;
use crate::registry::lifecycle::{CanaryBuild, LifecycleStep, ModuleLifecycle, RefusedBuild};
use crate::registry::store::{QuarantinedBuild, unix_seconds};

/// The state of a module.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct ModuleStatus {
    /// The name that services use.
    pub name: String,
    /// The build that serves.
    pub serving: Option<BuildStatus>,
    /// The build that serves on the first worker only, for a trial period.
    pub canary: Option<CanaryStatus>,
    /// The build that was refused last, while [`ModuleStatus::serving`] serves.
    pub refused: Option<RefusedStatus>,
    /// Builds that are not tried again.
    pub quarantined: Vec<QuarantinedBuild>,
    /// The last fault: its build, service, worker and reason.
    pub last_fault: Option<StepStatus>,
    /// The faults of all its builds since the start.
    #[serde(default)]
    pub faults: u64,
    /// The latest steps of its builds, the oldest first.
    pub steps: Vec<StepStatus>,
    /// The latest lines that it wrote, the oldest first; a health check's are those of each backend's check.
    #[serde(default)]
    pub log: Vec<LogLine>,
}

/// A build that serves on the first worker only.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct CanaryStatus {
    /// The build.
    pub build: BuildStatus,
    /// The rest of the canary period, in milliseconds.
    pub left_ms: u64,
}

/// A step in a build's life (compiled, vetted, serving, refused, rolled back), or a fault.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct StepStatus {
    /// Seconds since 1970.
    pub at: u64,
    /// The first 12 digits of the SHA-256 of the build's file.
    pub hash: String,
    /// What happened.
    pub text: String,
}

/// A build that serves.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct BuildStatus {
    /// `shipped`, or the file's path.
    pub source: String,
    /// The author's name for it.
    pub title: String,
    /// The author's version; may be empty.
    pub version: String,
    /// The SDK it was made with; may be empty.
    pub sdk: String,
    /// The first 12 digits of the file's SHA-256.
    pub hash: String,
    /// The file's size, in bytes.
    pub bytes: usize,
    /// When it was loaded, in seconds since 1970.
    pub since: u64,
    /// Calls that failed.
    pub faults: u64,
    /// Picks of a backend that takes no new sessions.
    pub unavailable_picks: u64,
    /// Flows left to the native fallback because the module had used its share of a worker's time.
    #[serde(default)]
    pub over_share_flows: u64,
}

/// A build that was refused.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct RefusedStatus {
    /// The first 12 digits of the file's SHA-256; `None` if the file could not be read.
    pub hash: Option<String>,
    /// The logged reason.
    pub reason: String,
    /// When it was refused, in seconds since 1970.
    pub at: u64,
}

impl ModuleStatus {
    /// `canary_period` is how long a canary lasts.
    pub(crate) fn new(
        name: String,
        lifecycle: ModuleLifecycle,
        quarantined: Vec<QuarantinedBuild>,
        canary_period: Duration,
    ) -> Self {
        let canary = lifecycle.canary;
        Self {
            name,
            serving: lifecycle.current.as_deref().map(BuildStatus::from),
            canary: canary.map(|canary| CanaryStatus::new(&canary, canary_period)),
            refused: lifecycle.refused.map(RefusedStatus::from),
            quarantined,
            last_fault: lifecycle.last_fault.map(StepStatus::from),
            faults: lifecycle.faults_total,
            steps: lifecycle.steps.into_iter().map(StepStatus::from).collect(),
            log: Vec::new(),
        }
    }
}

impl CanaryStatus {
    fn new(canary: &CanaryBuild, period: Duration) -> Self {
        let left = period.saturating_sub(canary.since.elapsed());
        Self {
            build: BuildStatus::from(&*canary.module),
            left_ms: u64::try_from(left.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

impl From<&CompiledModule> for BuildStatus {
    fn from(module: &CompiledModule) -> Self {
        Self {
            source: module.source.to_string(),
            title: module.info.name.clone(),
            version: module.info.version.clone(),
            sdk: module.info.sdk.clone(),
            hash: module.hash.to_string(),
            bytes: module.image.len(),
            since: unix_seconds(module.since),
            faults: module.counters.faults(),
            unavailable_picks: module.counters.unavailable_picks(),
            over_share_flows: module.counters.over_share_flows(),
        }
    }
}

impl From<RefusedBuild> for RefusedStatus {
    fn from(refused: RefusedBuild) -> Self {
        let RefusedBuild { hash, reason, at } = refused;
        Self {
            hash: hash.map(|hash| hash.to_string()),
            reason,
            at: unix_seconds(at),
        }
    }
}

impl From<LifecycleStep> for StepStatus {
    fn from(step: LifecycleStep) -> Self {
        Self {
            at: unix_seconds(step.at),
            hash: step.hash.to_string(),
            text: step.text,
        }
    }
}
