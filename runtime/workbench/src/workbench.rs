//! A policy on the workbench.

use std::path::Path;

use waxwing_plugin::trial::LoadedPolicy;

use crate::error::WorkbenchError;

/// A policy that was read, validated and compiled.
pub struct Workbench {
    pub(crate) policy: LoadedPolicy,
}

impl Workbench {
    /// Reads a file, validates and compiles it, within the balancer's limits.
    ///
    /// # Errors
    /// If the balancer would refuse it.
    pub fn open(path: &Path) -> Result<Self, WorkbenchError> {
        let policy = LoadedPolicy::open(path)?;
        Ok(Self { policy })
    }
}
