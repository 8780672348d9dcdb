//! What is known of modules, for people: plain values, as `waxwing status` shows them.
//!
//! Invariant: a field may be added, and none changes its meaning. Times of day are in seconds since
//! 1970.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::module::CompiledModule;
use crate::shelf::{Canary, Entry, Refused, Step};
use crate::store::{Quarantined, seconds};

/// What is known of a module, for people.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ModuleStatus {
    /// The name that services use.
    pub name: String,
    /// The module that serves.
    pub serving: Option<Serving>,
    /// The build that serves on the first worker, to be seen at work before all have it.
    pub canary: Option<CanaryStatus>,
    /// The build that was refused last, while that one serves.
    pub refused: Option<RefusedStatus>,
    /// Builds that are not tried again.
    pub quarantined: Vec<Quarantined>,
    /// What happened to its builds lately, the oldest first.
    pub steps: Vec<StepStatus>,
}

/// A build that serves on the first worker.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct CanaryStatus {
    /// The build.
    pub build: Serving,
    /// How long it has yet to do so, in milliseconds.
    pub left_ms: u64,
}

/// Something that happened to a build.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct StepStatus {
    /// When, in seconds since 1970.
    pub at: u64,
    /// The first 12 digits of its file's SHA-256.
    pub hash: String,
    /// What.
    pub text: String,
}

/// A module that serves.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Serving {
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
    /// Its file's size, in bytes.
    pub bytes: usize,
    /// When it was loaded, in seconds since 1970.
    pub since: u64,
    /// Calls that failed.
    pub faults: u64,
    /// Picks of a backend that takes no new sessions.
    pub unavailable_picks: u64,
}

/// A build that was refused.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct RefusedStatus {
    /// The first 12 digits of the file's SHA-256, if it could be read.
    pub hash: Option<String>,
    /// Why, as it was logged.
    pub reason: String,
    /// When, in seconds since 1970.
    pub at: u64,
}

/// All of one name; a canary lasts for `period`.
pub(crate) fn of(
    name: String,
    entry: Entry,
    quarantined: Vec<Quarantined>,
    period: Duration,
) -> ModuleStatus {
    ModuleStatus {
        name,
        serving: entry.current.as_deref().map(Serving::from),
        canary: entry.canary.map(|canary| canary_status(&canary, period)),
        refused: entry.refused.map(RefusedStatus::from),
        quarantined,
        steps: entry.steps.into_iter().map(StepStatus::from).collect(),
    }
}

fn canary_status(canary: &Canary, period: Duration) -> CanaryStatus {
    let left = period.saturating_sub(canary.since.elapsed());
    CanaryStatus {
        build: Serving::from(&*canary.module),
        left_ms: u64::try_from(left.as_millis()).unwrap_or(u64::MAX),
    }
}

impl From<&CompiledModule> for Serving {
    fn from(module: &CompiledModule) -> Self {
        Self {
            source: module.source.to_string(),
            title: module.info.name.clone(),
            version: module.info.version.clone(),
            sdk: module.info.sdk.clone(),
            hash: module.hash.to_string(),
            bytes: module.image.len(),
            since: seconds(module.since),
            faults: module.counters.faults(),
            unavailable_picks: module.counters.unavailable_picks(),
        }
    }
}

impl From<Refused> for RefusedStatus {
    fn from(refused: Refused) -> Self {
        let Refused { hash, reason, at } = refused;
        Self {
            hash: hash.map(|hash| hash.to_string()),
            reason,
            at: seconds(at),
        }
    }
}

impl From<Step> for StepStatus {
    fn from(step: Step) -> Self {
        Self {
            at: seconds(step.at),
            hash: step.hash.to_string(),
            text: step.text,
        }
    }
}
