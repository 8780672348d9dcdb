//! Policy modules of this workspace, compiled from source, and broken ones.
//!
//! Invariant: a broken module is a good one with one thing wrong, so that it is refused for that.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use waxwing_module_build::Module;

/// Compiles a policy crate of this workspace and returns its module. Fast when nothing changed.
///
/// # Errors
/// No compiler for Wasm, or the crate does not compile.
pub fn compile(package: &str) -> Result<Vec<u8>> {
    let modules = compile_all(&[package])?;
    let module = modules
        .first()
        .with_context(|| format!("{package} has no module"))?;
    std::fs::read(&module.path).with_context(|| format!("cannot read {}", module.path.display()))
}

/// Compiles several at once: for a caller that must not wait for a compiler later.
///
/// # Errors
/// As [`compile`].
pub fn compile_all(packages: &[&str]) -> Result<Vec<Module>> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml");
    // A directory of our own in cargo's: an inner cargo then waits for no lock of an outer one.
    let target = target_dir()?.join("modules");
    waxwing_module_build::build(&manifest, packages, &target)
        .with_context(|| format!("cannot compile {}", packages.join(", ")))
}

/// Cargo's target directory, which the running program is in.
///
/// # Errors
/// It is not in one.
pub(crate) fn target_dir() -> Result<PathBuf> {
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

/// One way to break a good module: what is wrong, and the bytes.
#[derive(Clone, Debug)]
pub struct Broken {
    /// What is wrong.
    pub what: &'static str,
    /// The file's contents.
    pub bytes: Vec<u8>,
}

/// Modules that must be refused, made from a good one.
#[must_use]
pub fn broken(good: &[u8]) -> Vec<Broken> {
    let mut flipped = good.to_vec();
    // The version of the binary format, which no host serves.
    flipped[4] ^= 0xff;
    // The four magic bytes and the version alone are a valid module without anything in it.
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
