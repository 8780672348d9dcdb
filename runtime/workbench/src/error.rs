//! Why a tool has no result.

use waxwing_plugin::ModuleError;
use waxwing_plugin::trial::LoadError;

/// Why a tool has no result.
#[derive(Debug, thiserror::Error)]
pub enum WorkbenchError {
    /// The module's file cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The module fails.
    #[error(transparent)]
    Module(#[from] ModuleError),
    /// The plan removes a backend that does not exist.
    #[error("there is no backend {id} to remove; write one of 0 to {last}")]
    NoSuchBackend { id: u32, last: usize },
}

impl WorkbenchError {
    /// Returns whether the module is a health check, and so belongs to
    /// [`HealthWorkbench`](crate::HealthWorkbench).
    #[must_use]
    pub fn is_health_check(&self) -> bool {
        matches!(self, Self::Load(error) if error.is_health_check())
    }
}
