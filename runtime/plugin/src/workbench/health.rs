//! A health check on the bench: whether the balancer would take it, and what it says of a server.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

use super::WorkbenchError;
use crate::checks::{Check, CheckConfig, CheckHost, CheckOptions, CheckOutcome, CheckTarget};
use crate::compile::Compiler;
use crate::module::{CompiledModule, Source, label};
use crate::read::{check_name, read_capped};

/// A health check that was read, validated, compiled, and took a config.
pub struct HealthBench {
    host: CheckHost,
    check: Check,
    compile_ms: f64,
}

/// What is known of a health check that passed.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct HealthReport {
    /// The name that services use: the file's, without `.wasm`.
    pub name: String,
    /// The author's name for it.
    pub title: String,
    /// The author's version; may be empty.
    pub version: String,
    /// The SDK it was made with; may be empty.
    pub sdk: String,
    /// The ABI's version that it was made for.
    pub abi: String,
    /// The file's size, in bytes.
    pub bytes: usize,
    /// The first 12 digits of the file's SHA-256.
    pub hash: String,
    /// What it imports, and so what it can do.
    pub imports: Vec<String>,
    /// What it exports.
    pub exports: Vec<String>,
    /// How long compiling took here, in milliseconds.
    pub compile_ms: f64,
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
        let compile_ms = start.elapsed().as_secs_f64() * 1e3;
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
            compile_ms,
        })
    }

    /// What is known of it.
    #[must_use]
    pub fn report(&self) -> HealthReport {
        let module = self.check.module();
        let info = &module.info;
        let names = |names: &mut dyn Iterator<Item = &str>| names.map(str::to_owned).collect();
        HealthReport {
            name: module.name.clone(),
            title: info.name.clone(),
            version: info.version.clone(),
            sdk: info.sdk.clone(),
            abi: format!("{}.{}", info.abi_major, info.abi_minor),
            bytes: module.image.len(),
            hash: module.hash.to_string(),
            imports: names(&mut module.code.imports().map(|import| import.name())),
            exports: names(&mut module.code.exports().map(|export| export.name())),
            compile_ms: self.compile_ms,
        }
    }

    /// Checks a server once.
    pub async fn probe(&self, target: &CheckTarget) -> CheckOutcome {
        self.host.run(&self.check, target).await
    }
}
