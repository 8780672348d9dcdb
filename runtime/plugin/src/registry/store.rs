//! State that survives a restart: the last good build of each module, and the quarantined builds.
//!
//! It lies in the state folder, apart from the watched one, where others may write: `policies/` and
//! `checks/`, each with `last-good/NAME.wasm`, `quarantine.json` and `refused.json` (builds that did not
//! compile), which an operator may read, edit or delete while the balancer is stopped.
//!
//! Invariant: what is read was written by this process's user ([`PrivateFolder`]). A file that cannot be read
//! or written causes a warning; its state is then lost at the next restart, nothing else.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tracing::warn;
use utoipa::ToSchema;
use waxwing_sdk::abi::Kind;

use crate::build::private_folder::PrivateFolder;
use crate::build::read::file_name;

const POLICIES: &str = "policies";
const CHECKS: &str = "checks";
const LAST_GOOD: &str = "last-good";
const QUARANTINE: &str = "quarantine.json";
const REFUSED: &str = "refused.json";

/// The longest list of builds that is read, in bytes.
const LIST_FILE_MAX: u64 = 4 << 20;

/// The most builds of a list that are kept; the oldest are forgotten.
pub(crate) const QUARANTINED_MAX: usize = 1000;

/// A build that is not tried again.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
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

/// The state folder of one kind of modules; without one nothing is kept.
#[derive(Debug)]
pub(crate) struct Store {
    folders: Option<Folders>,
}

#[derive(Debug)]
struct Folders {
    state: PrivateFolder,
    last_good: PrivateFolder,
}

impl Store {
    /// Opens the folder of a kind of modules in the state folder. Warns if it cannot be used or trusted.
    pub(crate) fn new(state: Option<&Path>, kind: Kind) -> Self {
        let open = |state: &Path| {
            let folder = state.join(match kind {
                Kind::Policy => POLICIES,
                Kind::Health => CHECKS,
            });
            let opened = Folders::open(&folder);
            let why = opened.as_ref().err();
            why.inspect(|why| {
                warn!(
                    "state folder {}: {why}; after a restart no last good build and no quarantine is known; \
                     make it a folder of this process's user, to which nobody else may write",
                    folder.display()
                );
            });
            opened.ok()
        };
        Self {
            folders: state.and_then(open),
        }
    }

    /// Reads a module's last good build of at most `max` bytes. Returns its path too.
    pub(crate) fn last_good(&self, name: &str, max: u64) -> Option<(PathBuf, Vec<u8>)> {
        let folder = &self.folders.as_ref()?.last_good;
        let file = file_name(name);
        match folder.read(&file, max) {
            Ok(bytes) => Some((folder.path(&file), bytes)),
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    warn!("{}: not used: {error}", folder.path(&file).display());
                }
                None
            }
        }
    }

    /// Writes a module's last good build.
    pub(crate) fn keep(&self, name: &str, bytes: &[u8]) {
        let Some(Folders { last_good, .. }) = &self.folders else {
            return;
        };
        let file = file_name(name);
        let kept = last_good.read(&file, bytes.len() as u64);
        if kept.is_ok_and(|kept| kept == bytes) {
            return;
        }
        if let Err(error) = last_good.write(&file, &[bytes], true) {
            warn!(
                "{}: cannot write: {error}; after a restart {name} has no last good build to go back \
                 to; make the folder writable",
                last_good.path(&file).display()
            );
        }
    }

    /// Removes a module's last good build.
    pub(crate) fn forget(&self, name: &str) {
        let Some(Folders { last_good, .. }) = &self.folders else {
            return;
        };
        let file = file_name(name);
        if let Err(error) = last_good.remove(&file) {
            let path = last_good.path(&file);
            warn!("{}: cannot remove: {error}", path.display());
        }
    }

    /// Reads the quarantined builds.
    pub(crate) fn quarantined(&self) -> Vec<QuarantinedBuild> {
        self.builds(QUARANTINE, "no build is quarantined")
    }

    /// Writes the quarantined builds.
    pub(crate) fn set_quarantined(&self, builds: &[QuarantinedBuild]) {
        self.set_builds(
            QUARANTINE,
            builds,
            "a restart will try quarantined builds again",
        );
    }

    /// Reads the builds that did not compile.
    pub(crate) fn refused(&self) -> Vec<QuarantinedBuild> {
        self.builds(REFUSED, "builds that did not compile are compiled again")
    }

    /// Writes the builds that did not compile.
    pub(crate) fn set_refused(&self, builds: &[QuarantinedBuild]) {
        self.set_builds(
            REFUSED,
            builds,
            "a restart will compile again what did not compile",
        );
    }

    fn builds(&self, file: &str, else_what: &str) -> Vec<QuarantinedBuild> {
        let Some(Folders { state, .. }) = &self.folders else {
            return Vec::new();
        };
        let read = state.read(file, LIST_FILE_MAX);
        let read = read.and_then(|text| Ok(serde_json::from_slice(&text)?));
        let mut builds: Vec<QuarantinedBuild> = read.unwrap_or_else(|error| {
            if error.kind() != io::ErrorKind::NotFound {
                let path = state.path(file);
                warn!("{}: not used: {error}; {else_what}", path.display());
            }
            Vec::new()
        });
        builds.drain(..builds.len().saturating_sub(QUARANTINED_MAX));
        builds
    }

    fn set_builds(&self, file: &str, builds: &[QuarantinedBuild], else_what: &str) {
        let Some(Folders { state, .. }) = &self.folders else {
            return;
        };
        let written = serde_json::to_vec_pretty(builds)
            .map_err(io::Error::from)
            .and_then(|text| state.write(file, &[&text], true));
        if let Err(error) = written {
            warn!(
                "{}: cannot write: {error}; {else_what}; make the folder writable",
                state.path(file).display()
            );
        }
    }
}

impl Folders {
    fn open(folder: &Path) -> io::Result<Self> {
        Ok(Self {
            state: PrivateFolder::open(folder)?,
            last_good: PrivateFolder::open(&folder.join(LAST_GOOD))?,
        })
    }
}

/// Returns the seconds since 1970.
pub(crate) fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
