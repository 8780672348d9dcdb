//! What an author asks of a module: is it good? Of a policy: what does it cost, how does it spread?
//! Of a health check: what does it say of a server?
//!
//! A module runs here as it does in the balancer: the same checks, the same instances, the same
//! limits. Only a policy's flows and backends are made up.
//!
//! Invariant: nothing is asked of the machine but a processor: no packets, no rights. A module that
//! loops, traps or answers nonsense ends in an error that says so, as it would for the operator.

mod bench;
mod check;
mod cost;
mod facts;
mod flows;
mod health;
mod simulate;
mod trial;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use bench::{BATCHES, Bench, BenchReport, Row, Spread};
pub use check::{AtSize, CheckReport, Verdict};
pub use cost::Cost;
pub use facts::Facts;
pub use health::HealthBench;
pub use simulate::{Plan, Removal, Share, Simulation};
pub use trial::BackendSpec;
pub use waxwing_sdk::abi::BACKENDS_MAX;
use waxwing_sdk::abi::Kind;

use crate::compile::Compiler;
use crate::engine::Engine;
use crate::error::{HostError, ModuleError, Refusal};
use crate::module::{CompiledModule, Source, label};
use crate::read::{check_name, read_capped};
use crate::validate::Limits;

/// Why the workbench has no answer.
#[derive(Debug, thiserror::Error)]
pub enum WorkbenchError {
    /// Nothing can run on this machine.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The module is not good.
    #[error(transparent)]
    Module(#[from] ModuleError),
    /// The plan cannot be carried out.
    #[error("{0}")]
    Plan(String),
}

impl WorkbenchError {
    /// Whether the module is a health check, and so one for [`HealthBench`].
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

/// A policy on the bench: read, validated and compiled.
pub struct Workbench {
    engine: Engine,
    module: Arc<CompiledModule>,
    compile_time: Duration,
}

impl Workbench {
    /// Reads a file, validates and compiles it, within the limits that the balancer has.
    ///
    /// # Errors
    /// Why the balancer would refuse it.
    pub fn open(path: &Path) -> Result<Self, WorkbenchError> {
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        check_name(&name)?;
        let source = Source::File(path.into());
        let limits = Limits::default();
        let bytes = read_capped(path, limits.file_bytes_max)
            .map_err(|refusal| refusal.of(label(&name, &source)))?;
        let engine = Engine::new()?;
        let start = Instant::now();
        let compiler = &Compiler::Here;
        let module = CompiledModule::new(&engine, compiler, &limits, &name, source, &bytes)?;
        Ok(Self {
            engine,
            module: Arc::new(module),
            compile_time: start.elapsed(),
        })
    }

    /// Another module than the author's, under the same name, for `engine`.
    fn compile(&self, engine: &Engine, bytes: &[u8]) -> Result<Arc<CompiledModule>, ModuleError> {
        let (name, source) = (&self.module.name, self.module.source.clone());
        let compiler = &Compiler::Here;
        CompiledModule::new(engine, compiler, &Limits::default(), name, source, bytes).map(Arc::new)
    }
}
