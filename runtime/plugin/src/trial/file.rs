//! Reads and compiles one module's file.

use std::path::Path;
use std::time::{Duration, Instant};

use waxwing_sdk::abi::Kind;

use crate::build::compile::Compiler;
use crate::build::engine::Engine;
use crate::build::module::{CompiledModule, ModuleSource, label};
use crate::build::read::{check_name, read_capped};
use crate::build::validate::ModuleLimits;
use crate::error::{HostError, ModuleError, Refusal};

/// Why a module's file cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The engine does not work on this machine.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The module is refused.
    #[error(transparent)]
    Module(#[from] ModuleError),
}

impl LoadError {
    /// Returns whether a policy was expected and the module is a health check.
    #[must_use]
    pub fn is_health_check(&self) -> bool {
        let Self::Module(error) = self else {
            return false;
        };
        matches!(
            error.refusal,
            Refusal::Kind {
                found: Kind::Health
            }
        )
    }
}

/// Reads, validates and compiles a file. Returns the module and how long validating and compiling took.
pub(super) fn load(
    path: &Path,
    engine: &Engine,
    limits: &ModuleLimits,
) -> Result<(CompiledModule, Duration), ModuleError> {
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    check_name(&name)?;
    let source = ModuleSource::File(path.into());
    let bytes = read_capped(path, limits.file_bytes_max)
        .map_err(|refusal| refusal.of(label(&name, &source)))?;
    let start = Instant::now();
    let module = CompiledModule::new(
        engine,
        (&Compiler::Here, None),
        limits,
        &name,
        source,
        &bytes,
    )?;
    Ok((module, start.elapsed()))
}
