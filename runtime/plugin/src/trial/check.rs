//! A health check's file, and runs of it outside of a balancer.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::file::{LoadError, load};
use crate::build::module::CompiledModule;
use crate::checks::{Check, CheckConfig, CheckHost, CheckOptions, CheckOutcome, CheckTarget};

/// A health check that was read, validated and compiled, and that accepted a config.
pub struct LoadedCheck {
    host: CheckHost,
    check: Check,
    compile_time: Duration,
}

impl LoadedCheck {
    /// Reads a file, validates and compiles it, and passes it a config (JSON, an object), as the
    /// balancer does.
    ///
    /// # Errors
    /// If the balancer would refuse it.
    pub fn open(path: &Path, config: &str) -> Result<Self, LoadError> {
        let options = CheckOptions {
            at_once: 1,
            ..CheckOptions::default()
        };
        let limits = options.limits;
        let host = CheckHost::new(options, &[], None)?;
        let (module, compile_time) = load(path, &host.engine, &limits)?;
        let label = module.label();
        let config = CheckConfig {
            service: "tried".into(),
            json: config.into(),
        };
        let check = host.prepare(&Arc::new(module)).and_then(|check| {
            host.try_config(&check, &config)?;
            Ok(check)
        });
        let check = check.map_err(|refusal| refusal.of(label))?;
        Ok(Self {
            host,
            check,
            compile_time,
        })
    }

    /// Returns the module.
    #[must_use]
    pub fn module(&self) -> &CompiledModule {
        self.check.module()
    }

    /// Returns how long validating and compiling the file took.
    #[must_use]
    pub fn compile_time(&self) -> Duration {
        self.compile_time
    }

    /// Checks a server once. Requires a tokio runtime with I/O and time.
    pub async fn run(&self, target: &CheckTarget) -> CheckOutcome {
        self.host.run(&self.check, target).await
    }
}
