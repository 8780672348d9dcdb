//! A health check on the workbench.

use std::path::Path;

use waxwing_plugin::checks::{CheckOutcome, CheckTarget};
use waxwing_plugin::trial::LoadedCheck;

use crate::error::WorkbenchError;
use crate::summary::ModuleSummary;

/// A health check that was read, validated and compiled, and that accepted a config.
pub struct HealthWorkbench {
    check: LoadedCheck,
}

impl HealthWorkbench {
    /// Reads a file, validates and compiles it, and passes it a config (JSON, an object), as the
    /// balancer does.
    ///
    /// # Errors
    /// If the balancer would refuse it.
    pub fn open(path: &Path, config: &str) -> Result<Self, WorkbenchError> {
        let check = LoadedCheck::open(path, config)?;
        Ok(Self { check })
    }

    /// Returns the summary of the module.
    #[must_use]
    pub fn summary(&self) -> ModuleSummary {
        ModuleSummary::new(self.check.module(), self.check.compile_time())
    }

    /// Checks a server once. Requires a tokio runtime with I/O and time.
    pub async fn probe(&self, target: &CheckTarget) -> CheckOutcome {
        self.check.run(target).await
    }
}
