//! A health check on the bench: whether the balancer would take it, and what it says of a server.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Facts, WorkbenchError};
use crate::checks::{Check, CheckConfig, CheckHost, CheckOptions, CheckOutcome, CheckTarget};
use crate::compile::Compiler;
use crate::module::{CompiledModule, Source, label};
use crate::read::{check_name, read_capped};

/// A health check that was read, validated, compiled, and took a config.
pub struct HealthBench {
    host: CheckHost,
    check: Check,
    compile_time: Duration,
}

impl HealthBench {
    /// Reads a file, validates and compiles it, and has it take a config (JSON, an object), as the
    /// balancer does.
    ///
    /// # Errors
    /// Why the balancer would refuse it.
    pub fn open(path: &Path, config: &str) -> Result<Self, WorkbenchError> {
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        check_name(&name)?;
        let options = CheckOptions {
            at_once: 1,
            ..CheckOptions::default()
        };
        let limits = options.limits;
        let host = CheckHost::new(options, &[], None)?;
        let source = Source::File(path.into());
        let label = label(&name, &source);
        let bytes = read_capped(path, limits.file_bytes_max).map_err(|why| why.of(&label))?;
        let start = Instant::now();
        let compiler = &Compiler::Here;
        let module = CompiledModule::new(&host.engine, compiler, &limits, &name, source, &bytes)?;
        let compile_time = start.elapsed();
        let check = host
            .prepare(&Arc::new(module))
            .map_err(|why| why.of(&label))?;
        let config = CheckConfig {
            service: "tried".into(),
            json: config.into(),
        };
        host.try_config(&check, &config)
            .map_err(|why| why.of(&label))?;
        Ok(Self {
            host,
            check,
            compile_time,
        })
    }

    /// What is known of it.
    #[must_use]
    pub fn facts(&self) -> Facts {
        Facts::of(self.check.module(), self.compile_time)
    }

    /// Checks a server once.
    pub async fn probe(&self, target: &CheckTarget) -> CheckOutcome {
        self.host.run(&self.check, target).await
    }
}
