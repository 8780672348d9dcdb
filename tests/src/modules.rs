//! Compiles policy modules of this workspace, and breaks them.
//!
//! Invariant: a broken module is a good one with one defect, so that it is refused for that defect.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use waxwing_module_build::Module;

/// Compiles a policy crate and returns its module. Fast if nothing changed.
pub fn compile(package: &str) -> Result<Vec<u8>> {
    let modules = compile_all(&[package])?;
    let module = modules
        .first()
        .with_context(|| format!("{package} has no module"))?;
    std::fs::read(&module.path).with_context(|| format!("cannot read {}", module.path.display()))
}

/// Compiles several crates at once, so that later calls of [`compile`] are fast.
pub fn compile_all(packages: &[&str]) -> Result<Vec<Module>> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml");
    // With its own directory the inner cargo does not wait for the outer cargo's lock.
    let target = target_dir()?.join("modules");
    waxwing_module_build::build(&manifest, packages, &target)
        .with_context(|| format!("cannot compile {}", packages.join(", ")))
}

/// Returns cargo's target directory, in which the running program is.
/// Returns the folder that cargo builds in.
///
/// # Errors
/// This program does not lie in one.
pub fn target_dir() -> Result<PathBuf> {
    let current = std::env::current_exe().context("the running program has no path")?;
    let target = current
        .ancestors()
        .find(|path| path.join("CACHEDIR.TAG").is_file());
    let target = target.with_context(|| {
        format!(
            "{} is not in a cargo target directory; run it there",
            current.display()
        )
    })?;
    Ok(target.to_owned())
}

/// A broken module.
#[derive(Clone, Debug)]
pub struct Broken {
    /// The defect.
    pub what: &'static str,
    /// The file's contents.
    pub bytes: Vec<u8>,
}

/// Returns modules with one defect each, made from a good one. Each must be refused.
pub fn broken(good: &[u8]) -> Vec<Broken> {
    let mut flipped = good.to_vec();
    // An unknown version of the binary format.
    flipped[4] ^= 0xff;
    // Magic and version alone are a valid, empty module.
    [
        ("cut in half", good[..good.len() / 2].to_vec()),
        ("empty", Vec::new()),
        ("not Wasm", b"#!/bin/sh\necho hello\n".to_vec()),
        ("a Wasm module, but no policy", good[..8].to_vec()),
        ("another version of Wasm", flipped),
        ("bytes after its end", [good, &[0xff; 64]].concat()),
    ]
    .into_iter()
    .map(|(what, bytes)| Broken { what, bytes })
    .collect()
}
