//! What goes on over a stop and a start, or from one process to another: sessions, what policies remember,
//! and of each backend the operator's words, its signals and its health.
//!
//! Over a stop it lies in one file of the state folder; an upgrade ([`upgrade`]) sends it.
//!
//! Invariant: what is read is checked as if a stranger had written it, entry by entry, against the new
//! config. A file that is damaged or too new is refused as a whole, and the start goes on without it.

mod channel;
mod file;
mod head;
pub(crate) mod policies;
mod restore;
pub mod upgrade;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use tracing::{info, warn};
use waxwing_dataplane::Now;
use waxwing_dataplane::session::RECORD_LEN;
use waxwing_plugin::PrivateFolder;

use crate::config::Config;
use crate::publish::controller::Controller;
use crate::time::since_1970;
use file::StateFile;
use head::Head;
use upgrade::Successor;

/// The file in the state folder.
const FILE: &str = "sessions.state";

/// The longest file that is read beside its sessions' records, in bytes.
const HEAD_MAX: u64 = 64 << 20;

/// No process's clock is older; a larger number is a damaged one.
const CLOCK_MAX: Duration = Duration::from_secs(5 * 365 * 86_400);

/// The state that an earlier process left.
pub struct KeptState {
    file: StateFile,
    /// Where it was read from.
    folder: Option<PrivateFolder>,
    /// From its writing until it was read.
    elapsed: Duration,
}

impl KeptState {
    /// Reads the state from the config's folder, or from the program's if it names none; `None` without one.
    /// Warns if there is one that cannot be used.
    #[must_use]
    pub fn read(config: &Config, program: PathBuf) -> Option<Self> {
        let max = HEAD_MAX + (2 * config.sessions_max * RECORD_LEN) as u64;
        // No folder, no state; the end of the process reports what is wrong with it.
        let folder = PrivateFolder::open(&config.state_folder(program)).ok()?;
        let file = folder.read(FILE, max).and_then(StateFile::parse);
        match file {
            Ok(file) => Some(Self::new(file, Some(folder))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => {
                let path = folder.path(FILE);
                warn!(
                    "{}: not used: {error}; no session of an earlier run goes on",
                    path.display()
                );
                None
            }
        }
    }

    fn new(file: StateFile, folder: Option<PrivateFolder>) -> Self {
        let written = Duration::from_millis(file.head.written_ms);
        Self {
            elapsed: since_1970().saturating_sub(written),
            file,
            folder,
        }
    }

    /// Returns the zero of the workers' clock of a process that started at `started`: that of the earlier
    /// process, as if it had never stopped.
    #[must_use]
    pub fn clock_zero(&self, started: Instant) -> Instant {
        let clock = Duration::from_millis(self.file.head.clock_ms).saturating_add(self.elapsed);
        started.checked_sub(clock.min(CLOCK_MAX)).unwrap_or(started)
    }

    /// Removes the file, so that no later start reads sessions that this process has gone on with.
    pub(crate) fn consume(self) {
        let Some(folder) = self.folder else { return };
        if let Err(error) = folder.remove(FILE) {
            let path = folder.path(FILE);
            warn!(
                "{}: cannot remove: {error}; remove it before the next start restores old sessions",
                path.display()
            );
        }
    }
}

/// A balancer that changes nothing any more.
pub struct Stopped {
    pub(crate) controller: Controller,
    /// What its policies remember.
    pub(crate) policies: Vec<policies::KeptPolicy>,
    /// The process that has taken over, if one has.
    pub successor: Option<Successor>,
}

impl Stopped {
    /// Writes the state to the folder that [`KeptState::read`] reads, unless another process has taken over.
    /// Call it once the workers have ended. Returns whether one in it is open. A failure is logged.
    pub fn keep(&self, program: PathBuf) -> bool {
        if self.successor.is_some() {
            return false;
        }
        let now = self.controller.now();
        let folder = self.controller.config.state_folder(program);
        let path = folder.join(FILE);
        let file = StateFile {
            head: Head::of(&self.controller, now, self.policies.clone()),
            records: records(&self.controller, now),
        };
        let sessions = file.records.len() / RECORD_LEN;
        let written = PrivateFolder::open(&folder).and_then(|folder| {
            let written = file.write(|parts| folder.write(FILE, parts, true));
            if written.is_err() {
                // An older one would restore sessions that have ended since.
                let _ = folder.remove(FILE);
            }
            written
        });
        match written {
            Ok(()) => {
                info!("{sessions} sessions kept in {}", path.display());
                self.controller.has_open_sessions()
            }
            Err(error) => {
                warn!(
                    "{}: cannot write: {error}; the next start knows none of the {sessions} sessions; make \
                     room, and make the folder one of this process's user to which nobody else may write",
                    path.display()
                );
                false
            }
        }
    }
}

fn records(controller: &Controller, now: Now) -> Vec<u8> {
    let sessions = &controller.shared.sessions;
    let mut records = Vec::with_capacity(sessions.len() * RECORD_LEN);
    for record in sessions.records(now.tick()) {
        record.write(&mut records);
    }
    records
}
