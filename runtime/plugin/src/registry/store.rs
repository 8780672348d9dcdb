//! What is kept over a restart: the last good build of each module, and the builds that are not to
//! be tried again.
//!
//! It lies in the folder `.waxwing` within the watched one: `last-good/NAME.wasm`, and
//! `quarantine.json`, which an operator may read, edit or delete while the balancer is stopped. What
//! is kept of health checks lies in the folder `health` within that, so that no file has two writers.
//!
//! Invariant: a file here is whole or absent (written beside and renamed). What cannot be written
//! or read is warned of and costs nothing but that it is forgotten at a restart.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tracing::warn;
use waxwing_sdk::abi::Kind;

use crate::library::EXTENSION;

/// The folder's name, which no module can have.
const FOLDER: &str = ".waxwing";
const HEALTH: &str = "health";
const LAST_GOOD: &str = "last-good";
const QUARANTINE: &str = "quarantine.json";

/// The most builds that are remembered as quarantined; the oldest are forgotten.
pub(crate) const QUARANTINED_MAX: usize = 1000;

/// A build that is not to be tried again.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Quarantined {
    /// Its file's whole SHA-256.
    pub hash: String,
    /// The module it was a build of.
    pub module: String,
    /// What it did.
    pub reason: String,
    /// When, in seconds since 1970.
    pub at: u64,
}

/// The folder; `None` where modules only ship with the program.
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

    /// Where the last good build of a module is, or would be.
    pub(crate) fn last_good(&self, name: &str) -> Option<PathBuf> {
        let file = format!("{name}.{EXTENSION}");
        Some(self.folder.as_ref()?.join(LAST_GOOD).join(file))
    }

    /// Keeps a build as the last good one.
    pub(crate) fn keep(&self, name: &str, bytes: &[u8]) {
        let Some(path) = self.last_good(name) else {
            return;
        };
        let same = fs::read(&path).is_ok_and(|kept| kept == bytes);
        if !same && let Err(error) = write(&path, bytes) {
            warn!(
                "{}: cannot be written ({error}), so after a restart there is no last good build of \
                 {name} to go back to; make the folder writable",
                path.display()
            );
        }
    }

    /// Forgets the last good build of a module.
    pub(crate) fn forget(&self, name: &str) {
        let Some(path) = self.last_good(name) else {
            return;
        };
        match fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => warn!("{}: cannot be removed: {error}", path.display()),
        }
    }

    /// The builds that were quarantined before the start.
    pub(crate) fn quarantined(&self) -> Vec<Quarantined> {
        let Some(path) = self.file(QUARANTINE) else {
            return Vec::new();
        };
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
            Err(error) => {
                warn!("{}: cannot be read: {error}", path.display());
                return Vec::new();
            }
        };
        let mut builds: Vec<Quarantined> = serde_json::from_slice(&text).unwrap_or_else(|error| {
            warn!("{}: {error}; no build is quarantined", path.display());
            Vec::new()
        });
        builds.drain(..builds.len().saturating_sub(QUARANTINED_MAX));
        builds
    }

    /// Writes the builds that are quarantined now.
    pub(crate) fn set_quarantined(&self, builds: &[Quarantined]) {
        let Some(path) = self.file(QUARANTINE) else {
            return;
        };
        let written = serde_json::to_vec_pretty(builds)
            .map_err(io::Error::from)
            .and_then(|text| write(&path, &text));
        if let Err(error) = written {
            warn!(
                "{}: cannot be written ({error}), so a restart will try quarantined builds again; \
                 make the folder writable",
                path.display()
            );
        }
    }

    fn file(&self, name: &str) -> Option<PathBuf> {
        Some(self.folder.as_ref()?.join(name))
    }
}

/// Writes a file beside its place, and moves it there once it is on the disk.
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

/// Seconds since 1970.
pub(crate) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
