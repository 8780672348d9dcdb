//! State that survives a restart: the last good build of each module, and the quarantined builds.
//!
//! It lies in the folder `.waxwing` within the watched one: `last-good/NAME.wasm`, and
//! `quarantine.json`, which an operator may read, edit or delete while the balancer is stopped. The
//! state of health checks lies in the folder `health` within `.waxwing`, so that no file has two
//! writers.
//!
//! Invariant: a file here is complete or absent (written beside and renamed). A file that cannot be
//! read or written causes a warning; its state is then lost at the next restart, nothing else.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tracing::warn;
use waxwing_sdk::abi::Kind;

use crate::build::read::file_name;

/// The state folder. The dot keeps it from being a module's name.
const FOLDER: &str = ".waxwing";
const HEALTH: &str = "health";
const LAST_GOOD: &str = "last-good";
const QUARANTINE: &str = "quarantine.json";

/// The most quarantined builds that are kept; the oldest are forgotten.
pub(crate) const QUARANTINED_MAX: usize = 1000;

/// A build that is not tried again.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct QuarantinedBuild {
    /// The SHA-256 of its file, all 64 digits.
    pub hash: String,
    /// The module's name.
    pub module: String,
    /// Why it is quarantined.
    pub reason: String,
    /// When it was quarantined, in seconds since 1970.
    pub at: u64,
}

/// The state folder; `None` if there is no watched folder.
#[derive(Debug)]
pub(crate) struct Store {
    folder: Option<PathBuf>,
}

impl Store {
    pub(crate) fn new(modules: Option<&Path>, kind: Kind) -> Self {
        let folder = |modules: &Path| match kind {
            Kind::Policy => modules.join(FOLDER),
            Kind::Health => modules.join(FOLDER).join(HEALTH),
        };
        Self {
            folder: modules.map(folder),
        }
    }

    /// Returns the path of a module's last good build, which may not exist.
    pub(crate) fn last_good(&self, name: &str) -> Option<PathBuf> {
        let folder = self.folder.as_ref()?.join(LAST_GOOD);
        Some(folder.join(file_name(name)))
    }

    /// Writes a module's last good build.
    pub(crate) fn keep(&self, name: &str, bytes: &[u8]) {
        let Some(path) = self.last_good(name) else {
            return;
        };
        let same = fs::read(&path).is_ok_and(|kept| kept == bytes);
        if !same && let Err(error) = write(&path, bytes) {
            warn!(
                "{}: cannot write: {error}; after a restart {name} has no last good build to go back \
                 to; make the folder writable",
                path.display()
            );
        }
    }

    /// Removes a module's last good build.
    pub(crate) fn forget(&self, name: &str) {
        let Some(path) = self.last_good(name) else {
            return;
        };
        match fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => warn!("{}: cannot remove: {error}", path.display()),
        }
    }

    /// Reads the quarantined builds.
    pub(crate) fn quarantined(&self) -> Vec<QuarantinedBuild> {
        let Some(path) = self.file(QUARANTINE) else {
            return Vec::new();
        };
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
            Err(error) => {
                warn!(
                    "{}: cannot read: {error}; no build is quarantined",
                    path.display()
                );
                return Vec::new();
            }
        };
        let mut builds: Vec<QuarantinedBuild> =
            serde_json::from_slice(&text).unwrap_or_else(|error| {
                warn!("{}: {error}; no build is quarantined", path.display());
                Vec::new()
            });
        builds.drain(..builds.len().saturating_sub(QUARANTINED_MAX));
        builds
    }

    /// Writes the quarantined builds.
    pub(crate) fn set_quarantined(&self, builds: &[QuarantinedBuild]) {
        let Some(path) = self.file(QUARANTINE) else {
            return;
        };
        let written = serde_json::to_vec_pretty(builds)
            .map_err(io::Error::from)
            .and_then(|text| write(&path, &text));
        if let Err(error) = written {
            warn!(
                "{}: cannot write: {error}; a restart will try quarantined builds again; make the \
                 folder writable",
                path.display()
            );
        }
    }

    fn file(&self, name: &str) -> Option<PathBuf> {
        Some(self.folder.as_ref()?.join(name))
    }
}

/// Replaces a file in one step: writes and syncs a new file, then renames it.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)
}

/// Returns the seconds since 1970.
pub(crate) fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
