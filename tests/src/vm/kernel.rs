//! The guest's kernel, which `cargo xtask test` fetches and unpacks.
//!
//! Invariant: a kernel that is found is complete: `cargo xtask test` renames it into place when it is
//! unpacked.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// Directories of the modules that the guest may need, below `/lib/modules/RELEASE/kernel`.
const MODULES: &[&str] = &["net", "lib", "crypto", "drivers/net"];

/// A kernel with its modules.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Kernel {
    directory: PathBuf,
    release: String,
}

impl Kernel {
    /// Returns the fetched kernel.
    pub fn find() -> Result<Self> {
        let directory = crate::modules::target_dir()?.join("vm/kernel");
        let releases = fs::read_dir(directory.join("lib/modules"));
        let release = releases.into_iter().flatten().flatten().next();
        let release = release.with_context(|| {
            format!(
                "no kernel in {}; `cargo xtask test` fetches it if it can",
                directory.display()
            )
        })?;
        Ok(Self {
            release: release.file_name().to_string_lossy().into_owned(),
            directory,
        })
    }

    /// Returns the release, as `uname -r` prints it.
    pub fn release(&self) -> &str {
        &self.release
    }

    /// Returns the path of the bootable image.
    pub fn image(&self) -> PathBuf {
        self.directory.join("vmlinuz")
    }

    /// Returns the files of the guest's modules and of their index (`modules.*`): for each, the path on the
    /// host and the path in the guest.
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

/// Returns a directory below `root`, and its subdirectories unless it holds drivers.
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
