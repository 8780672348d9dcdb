//! The programs that tests run.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::modules::target_dir;

/// The folder in cargo's target folder where `cargo xtask setup` installs what no package has.
const OWN: &str = "tools/bin";

/// Returns the path of an installed program: in `PATH`, the folders of the administrator's programs, or
/// where setup installs.
///
/// # Errors
/// It is not installed.
pub fn find(program: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut found = std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .chain(target_dir().ok().map(|target| target.join(OWN)))
        .map(|folder| folder.join(program))
        .filter(|path| path.is_file());
    found
        .next()
        .with_context(|| format!("not installed: {program}; `cargo xtask setup` installs it"))
}
