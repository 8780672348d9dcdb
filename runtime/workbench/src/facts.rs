//! What is known of a module of either kind that passed.

use std::time::Duration;

use serde::Serialize;

use crate::module::CompiledModule;

/// What a module says of itself, and what its file is.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Facts {
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
    /// What it imports: a policy nothing, a health check what it may do.
    pub imports: Vec<String>,
    /// What it exports.
    pub exports: Vec<String>,
    /// How long compiling took here, in milliseconds.
    pub compile_ms: f64,
}

impl Facts {
    pub(super) fn of(module: &CompiledModule, compile_time: Duration) -> Self {
        let info = &module.info;
        let names = |names: &mut dyn Iterator<Item = &str>| names.map(str::to_owned).collect();
        Self {
            name: module.name.clone(),
            title: info.name.clone(),
            version: info.version.clone(),
            sdk: info.sdk.clone(),
            abi: format!("{}.{}", info.abi_major, info.abi_minor),
            bytes: module.image.len(),
            hash: module.hash.to_string(),
            imports: names(&mut module.code.imports().map(|import| import.name())),
            exports: names(&mut module.code.exports().map(|export| export.name())),
            compile_ms: compile_time.as_secs_f64() * 1e3,
        }
    }
}
