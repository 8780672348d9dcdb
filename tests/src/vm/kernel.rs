//! The guest's kernel, as `cargo xtask test` has fetched and unpacked it.
//!
//! Invariant: what is found here is whole: the chore that fetches it puts it in place by one rename.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// Modules that may be wanted in the guest: by directory, below `kernel` in the release's own.
const MODULES: &[&str] = &["net", "lib", "crypto", "drivers/net"];

/// A kernel and its modules.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Kernel {
    directory: PathBuf,
    release: String,
}

impl Kernel {
    /// The one that was fetched.
    ///
    /// # Errors
    /// None was.
    pub fn find() -> Result<Self> {
        let directory = crate::modules::target_dir()?.join("vm/kernel");
        let releases = fs::read_dir(directory.join("lib/modules"));
        let release = releases.into_iter().flatten().flatten().next();
        let release = release.with_context(|| {
            format!(
                "no kernel in {}; `cargo xtask test` fetches it, where it can",
                directory.display()
            )
        })?;
        Ok(Self {
            release: release.file_name().to_string_lossy().into_owned(),
            directory,
        })
    }

    /// Its release, as `uname -r` says it.
    #[must_use]
    pub fn release(&self) -> &str {
        &self.release
    }

    /// What is booted.
    #[must_use]
    pub fn image(&self) -> PathBuf {
        self.directory.join("vmlinuz")
    }

    /// Its modules for the guest, and their index: where each file is, and where it belongs.
    ///
    /// # Errors
    /// They cannot be listed.
    pub(super) fn modules(&self) -> Result<Vec<(PathBuf, PathBuf)>> {
        let root = Path::new("/lib/modules").join(&self.release);
        let here = self.directory.join("lib/modules").join(&self.release);
        let mut files = Vec::new();
        let mut add = |directory: &str, wanted: &dyn Fn(&str) -> bool| -> Result<()> {
            let path = here.join(directory);
            for entry in fs::read_dir(&path)
                .with_context(|| format!("cannot list {}", path.display()))?
                .flatten()
            {
                let name = entry.file_name();
                if entry.path().is_file() && wanted(&name.to_string_lossy()) {
                    files.push((entry.path(), root.join(directory).join(name)));
                }
            }
            Ok(())
        };
        add(".", &|name| name.starts_with("modules."))?;
        for tree in MODULES {
            for directory in directories(&here, &Path::new("kernel").join(tree)) {
                add(&directory, &|name| name.contains(".ko"))?;
            }
        }
        Ok(files)
    }
}

/// A directory below `root` and, but for drivers, those below it.
fn directories(root: &Path, directory: &Path) -> Vec<String> {
    let mut found = vec![directory.to_string_lossy().into_owned()];
    if directory.starts_with("kernel/drivers") {
        return found;
    }
    let entries = fs::read_dir(root.join(directory));
    for entry in entries.into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            found.extend(directories(root, &directory.join(entry.file_name())));
        }
    }
    found
}
