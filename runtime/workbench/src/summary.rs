//! The summary of a module of either kind.

use std::time::Duration;

use serde::Serialize;
use waxwing_plugin::CompiledModule;

/// What a module's file and its section say.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct ModuleSummary {
    /// The name that services use: the file's, without `.wasm`.
    pub name: String,
    /// The author's name for it.
    pub title: String,
    /// The author's version; may be empty.
    pub version: String,
    /// The SDK it was made with; may be empty.
    pub sdk: String,
    /// The version of the ABI that it was made for.
    pub abi: String,
    /// The file's size, in bytes.
    pub bytes: usize,
    /// The first 12 digits of the file's SHA-256.
    pub hash: String,
    /// Its imports: none for a policy, functions of the host for a health check.
    pub imports: Vec<String>,
    pub exports: Vec<String>,
    /// How long validating and compiling took here, in milliseconds.
    pub compile_ms: f64,
}

impl ModuleSummary {
    pub(crate) fn new(module: &CompiledModule, compile_time: Duration) -> Self {
        let info = &module.info;
        Self {
            name: module.name.clone(),
            title: info.name.clone(),
            version: info.version.clone(),
            sdk: info.sdk.clone(),
            abi: format!("{}.{}", info.abi_major, info.abi_minor),
            bytes: module.image.len(),
            hash: module.hash.to_string(),
            imports: module.imports(),
            exports: module.exports(),
            compile_ms: compile_time.as_secs_f64() * 1e3,
        }
    }
}
