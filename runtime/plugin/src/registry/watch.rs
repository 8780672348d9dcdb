//! Watches the folder of modules and reports the names whose files changed.
//!
//! Invariant: the folder's listing is the truth. The folder may be deleted and made again, and may be on
//! any file system. A file is reported once it has not changed for a while and no process holds an
//! exclusive lock on it.

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File, Metadata, OpenOptions, TryLockError};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use tracing::{debug, warn};

use crate::build::read::{EXTENSION, NAME_MAX, file_name, module_name};
use crate::error::HostError;
use crate::lock::lock;

/// The shortest pause between two scans while no file is changing.
const RESCAN: Duration = Duration::from_millis(250);
/// That pause in scans: at most a hundredth of the time is spent on scanning.
const RESCAN_SCANS: u32 = 99;
/// The pause between two scans while a file is changing.
const RESCAN_PENDING: Duration = Duration::from_millis(50);
/// How long a file must not change before it is reported: a copy in progress changes it all the time.
const SETTLE: Duration = Duration::from_millis(200);
/// The most module files that are watched: listing them takes some 10 ms.
const FILES_MAX: usize = 10_000;

/// Tells two states of a file apart without reading it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct FileStamp {
    inode: u64,
    bytes: u64,
    modified: Option<SystemTime>,
    changed: (i64, i64),
}

impl From<Metadata> for FileStamp {
    fn from(metadata: Metadata) -> Self {
        Self {
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified: metadata.modified().ok(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// A file over time; `None` stands for no file.
#[derive(Debug)]
struct WatchedFile {
    now: Option<FileStamp>,
    since: Instant,
    reported: Option<FileStamp>,
}

impl WatchedFile {
    fn update(&mut self, stamp: Option<FileStamp>, now: Instant) {
        if self.now != stamp {
            self.now = stamp;
            self.since = now;
        }
    }
}

/// Compares the folder's listings over time.
#[derive(Debug)]
struct FolderScanner {
    folder: PathBuf,
    files: HashMap<String, WatchedFile>,
    /// What is wrong with the folder and its files.
    problems: BTreeSet<String>,
}

impl FolderScanner {
    /// Counts the files that are there now as reported.
    fn new(folder: PathBuf, now: Instant) -> Self {
        let file = |(name, stamp)| {
            let file = WatchedFile {
                now: Some(stamp),
                since: now,
                reported: Some(stamp),
            };
            (name, file)
        };
        Self {
            files: list(&folder, &mut BTreeSet::new())
                .into_iter()
                .map(file)
                .collect(),
            folder,
            problems: BTreeSet::new(),
        }
    }

    /// Scans the folder. Returns the names whose files changed and settled, and whether others are
    /// still changing.
    fn scan(&mut self, now: Instant) -> (Vec<String>, bool) {
        self.update(now);
        let mut settled = Vec::new();
        let mut pending = false;
        for (name, file) in &mut self.files {
            if file.now == file.reported {
                continue;
            }
            let quiet = now.duration_since(file.since) >= SETTLE;
            if quiet && !(file.now.is_some() && locked(&path(&self.folder, name))) {
                file.reported = file.now;
                settled.push(name.clone());
            } else {
                pending = true;
            }
        }
        self.files
            .retain(|_, file| file.now.is_some() || file.reported.is_some());
        settled.sort_unstable();
        (settled, pending)
    }

    fn update(&mut self, now: Instant) {
        let mut problems = BTreeSet::new();
        let mut listed = list(&self.folder, &mut problems);
        if listed.len() == FILES_MAX {
            problems.insert(format!(
                "{}: only {FILES_MAX} modules are watched, others are not; remove some",
                self.folder.display()
            ));
        }
        for (name, file) in &mut self.files {
            file.update(listed.remove(name), now);
        }
        for (name, stamp) in listed {
            let file = WatchedFile {
                now: Some(stamp),
                since: now,
                reported: None,
            };
            self.files.insert(name, file);
        }
        for (name, file) in &self.files {
            let is_empty = file.now.is_some_and(|stamp| stamp.bytes == 0);
            if is_empty && now.duration_since(file.since) >= SETTLE {
                let path = path(&self.folder, name);
                problems.insert(format!(
                    "{} is empty; copy the module again",
                    path.display()
                ));
            }
        }
        for problem in problems.difference(&self.problems) {
            warn!("{problem}");
        }
        self.problems = problems;
    }
}

fn path(folder: &Path, name: &str) -> PathBuf {
    folder.join(file_name(name))
}

/// Lists the module files of a folder; a missing folder has none. Skips directories, broken links and
/// names that no module can have, and says so of files that look like modules.
fn list(folder: &Path, problems: &mut BTreeSet<String>) -> HashMap<String, FileStamp> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) => {
            let folder = folder.display();
            problems.insert(format!(
                "modules = \"{folder}\": cannot read the folder: {error}; until it is there only the shipped \
                 modules are used"
            ));
            return HashMap::new();
        }
    };
    let mut files = HashMap::new();
    for entry in entries.flatten() {
        let file = entry.file_name();
        let name = Path::new(&file);
        let is_module = name
            .extension()
            .is_some_and(|it| it.eq_ignore_ascii_case(EXTENSION));
        let metadata = || fs::metadata(entry.path()).ok().filter(Metadata::is_file);
        let Some(metadata) = Some(()).filter(|()| is_module).and_then(|()| metadata()) else {
            continue;
        };
        match module_name(&file) {
            Some(name) if files.len() < FILES_MAX => {
                files.insert(name.to_owned(), metadata.into());
            }
            Some(_) => break,
            // A copy in progress, such as rsync's.
            None if file.as_encoded_bytes().starts_with(b".") => {}
            None => {
                problems.insert(format!(
                    "{}: no service can name this file; rename it to letters, digits, `_` and `-` \
                     (at most {NAME_MAX}) and `.{EXTENSION}`",
                    entry.path().display()
                ));
            }
        }
    }
    files
}

/// Returns whether another process holds an exclusive lock (flock) on a file.
fn locked(path: &Path) -> bool {
    let file: std::io::Result<File> = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path);
    file.is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
}

/// Owns the watcher's thread, which ends when this is dropped.
pub(crate) struct Watcher {
    /// Dropping it stops the thread.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
    problems: SharedProblems,
}

/// What is wrong with the folder, for the status.
type SharedProblems = Arc<Mutex<BTreeSet<String>>>;

impl Watcher {
    /// Starts to watch a folder, which may not exist yet. `changed` is called with each name whose
    /// file changes from now on, on the watcher's thread.
    pub(crate) fn new(
        folder: PathBuf,
        changed: impl Fn(String) + Send + 'static,
    ) -> Result<Self, HostError> {
        let (stop, stopped) = channel();
        let scanner = FolderScanner::new(folder, Instant::now());
        let problems = SharedProblems::default();
        let shared = Arc::clone(&problems);
        let thread = std::thread::Builder::new()
            .name("waxwing-watch".into())
            .spawn(move || watch(scanner, &stopped, &shared, changed))
            .map_err(HostError::Thread)?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
            problems,
        })
    }

    /// Returns what is wrong with the folder and the names of its files.
    pub(crate) fn problems(&self) -> Vec<String> {
        lock(&self.problems).iter().cloned().collect()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // Fails only if the thread panicked.
            let _ = thread.join();
        }
    }
}

fn watch(
    mut scanner: FolderScanner,
    stopped: &Receiver<()>,
    problems: &SharedProblems,
    changed: impl Fn(String),
) {
    let mut pause = Duration::ZERO;
    while stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
        let begun = Instant::now();
        let (settled, pending) = scanner.scan(begun);
        lock(problems).clone_from(&scanner.problems);
        pause = match pending {
            true => RESCAN_PENDING,
            false => RESCAN.max(begun.elapsed() * RESCAN_SCANS),
        };
        for name in settled {
            debug!(
                "module file {} changed",
                path(&scanner.folder, &name).display()
            );
            changed(name);
        }
    }
}
