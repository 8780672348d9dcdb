//! Watches the folder of modules and says which names changed.
//!
//! Invariant: the folder's listing is the truth and the kernel's events are only hints to look
//! at it sooner: it is looked at every second anyway. So a lost event, a folder that is deleted
//! and made anew, or a file system without events costs a moment and nothing else. A file is
//! reported once it has stayed the same for a while and nobody holds a lock on it.

use std::collections::HashMap;
use std::fs::{self, File, Metadata, OpenOptions, TryLockError};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tracing::{debug, warn};

use crate::error::HostError;
use crate::library::EXTENSION;
use crate::read::is_module_name;

/// How often the folder is looked at without a hint.
const RESCAN: Duration = Duration::from_secs(1);
/// How often while something is changing.
const RESCAN_PENDING: Duration = Duration::from_millis(50);
/// How long a file must stay the same: a copy in progress changes it all the time.
const SETTLE: Duration = Duration::from_millis(200);
/// The most module files looked at: some 10 ms of each second.
const FILES_MAX: usize = 10_000;

/// What tells two states of a file apart without reading it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Stamp {
    inode: u64,
    bytes: u64,
    modified: Option<SystemTime>,
    changed: (i64, i64),
}

impl From<Metadata> for Stamp {
    fn from(metadata: Metadata) -> Self {
        Self {
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified: metadata.modified().ok(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// What is known of one name; `None` stands for no file.
#[derive(Debug)]
struct Seen {
    now: Option<Stamp>,
    since: Instant,
    reported: Option<Stamp>,
}

/// The folder's state over time, without any watching: pure but for the listing.
#[derive(Debug)]
struct Scanner {
    folder: PathBuf,
    seen: HashMap<String, Seen>,
    /// Whether there are more files than are looked at.
    full: bool,
}

impl Scanner {
    /// Takes what is there now as known.
    fn new(folder: PathBuf, now: Instant) -> Self {
        let seen = list(&folder)
            .into_iter()
            .map(|(name, stamp)| {
                let stamp = Some(stamp);
                (
                    name,
                    Seen {
                        now: stamp,
                        since: now,
                        reported: stamp,
                    },
                )
            })
            .collect();
        Self {
            folder,
            seen,
            full: false,
        }
    }

    /// Looks at the folder: gives the names that changed and settled, and whether others are
    /// still changing.
    fn scan(&mut self, now: Instant) -> (Vec<String>, bool) {
        let mut listed = list(&self.folder);
        let full = listed.len() == FILES_MAX;
        if full && !self.full {
            warn!(
                "{}: of {FILES_MAX} modules and more only so many are watched; remove some",
                self.folder.display()
            );
        }
        self.full = full;
        for (name, seen) in &mut self.seen {
            seen.update(listed.remove(name), now);
        }
        for (name, stamp) in listed {
            let seen = Seen {
                now: Some(stamp),
                since: now,
                reported: None,
            };
            self.seen.insert(name, seen);
        }
        let mut settled = Vec::new();
        let mut pending = false;
        for (name, seen) in &mut self.seen {
            if seen.now == seen.reported {
                continue;
            }
            let quiet = now.duration_since(seen.since) >= SETTLE;
            if quiet && !(seen.now.is_some() && locked(&path(&self.folder, name))) {
                seen.reported = seen.now;
                settled.push(name.clone());
            } else {
                pending = true;
            }
        }
        self.seen
            .retain(|_, seen| seen.now.is_some() || seen.reported.is_some());
        settled.sort_unstable();
        (settled, pending)
    }
}

impl Seen {
    fn update(&mut self, stamp: Option<Stamp>, now: Instant) {
        if self.now != stamp {
            self.now = stamp;
            self.since = now;
        }
    }
}

fn path(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.{EXTENSION}"))
}

/// The module files in a folder; a folder that is not there has none. What cannot be a module
/// (directories, links that lead nowhere or in circles, other names) is passed over.
fn list(folder: &Path) -> HashMap<String, Stamp> {
    let Ok(entries) = fs::read_dir(folder) else {
        return HashMap::new();
    };
    entries
        .flatten()
        .filter_map(|entry| {
            let file = entry.file_name();
            let name = file.to_str()?.strip_suffix(EXTENSION)?.strip_suffix('.')?;
            let metadata = fs::metadata(entry.path()).ok()?;
            (is_module_name(name) && metadata.is_file()).then(|| (name.to_owned(), metadata.into()))
        })
        .take(FILES_MAX)
        .collect()
}

/// Whether another process holds an exclusive lock (flock) on a file.
fn locked(path: &Path) -> bool {
    let file: std::io::Result<File> = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path);
    file.is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
}

/// What wakes the watcher's thread.
enum Wake {
    Hint,
    Stop,
}

/// The watcher's thread, which ends when this is dropped.
pub(crate) struct Watcher {
    wake: Sender<Wake>,
    thread: Option<JoinHandle<()>>,
}

impl Watcher {
    /// Watches a folder, which may not be there yet. What is in it now is known; every change
    /// from now on is told, on the watcher's thread.
    pub(crate) fn new(
        folder: PathBuf,
        changed: impl Fn(String) + Send + 'static,
    ) -> Result<Self, HostError> {
        let (wake, woken) = channel();
        let scanner = Scanner::new(folder, Instant::now());
        let hints = Hints::new(wake.clone());
        let thread = std::thread::Builder::new()
            .name("waxwing-watch".into())
            .spawn(move || watch(scanner, hints, &woken, changed))
            .map_err(HostError::Thread)?;
        Ok(Self {
            wake,
            thread: Some(thread),
        })
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // If the thread is gone already, both have nothing left to do.
        let _ = self.wake.send(Wake::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn watch(mut scanner: Scanner, mut hints: Hints, woken: &Receiver<Wake>, changed: impl Fn(String)) {
    let mut wait = Duration::ZERO;
    loop {
        match woken.recv_timeout(wait) {
            Ok(Wake::Stop) | Err(RecvTimeoutError::Disconnected) => return,
            Ok(Wake::Hint) | Err(RecvTimeoutError::Timeout) => {}
        }
        // One look answers all hints so far.
        if woken.try_iter().any(|wake| matches!(wake, Wake::Stop)) {
            return;
        }
        hints.follow(&scanner.folder);
        let (settled, pending) = scanner.scan(Instant::now());
        for name in settled {
            debug!(
                "module file {} changed",
                path(&scanner.folder, &name).display()
            );
            changed(name);
        }
        wait = if pending {
            // A file written to without pause gives hint after hint; look at our own pace.
            std::thread::sleep(RESCAN_PENDING);
            Duration::ZERO
        } else {
            RESCAN
        };
    }
}

/// The kernel's change events for the folder, as far as there are any.
struct Hints {
    watcher: Option<RecommendedWatcher>,
    /// Device and inode of the folder that is watched.
    watched: Option<(u64, u64)>,
}

impl Hints {
    fn new(wake: Sender<Wake>) -> Self {
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Reading the folder makes access events too; they would never end.
            if event.is_ok_and(|event| !matches!(event.kind, EventKind::Access(_))) {
                let _ = wake.send(Wake::Hint);
            }
        });
        let watcher = watcher
            .inspect_err(|error| {
                warn!("no change events for modules ({error}); looking each second");
            })
            .ok();
        Self {
            watcher,
            watched: None,
        }
    }

    /// Watches the folder that has the name now.
    fn follow(&mut self, folder: &Path) {
        let Some(watcher) = &mut self.watcher else {
            return;
        };
        let identity = fs::metadata(folder).ok().map(|m| (m.dev(), m.ino()));
        if identity == self.watched {
            return;
        }
        if self.watched.take().is_some() {
            // The kernel has dropped the watch already if the folder was deleted.
            let _ = watcher.unwatch(folder);
        }
        if identity.is_some() {
            match watcher.watch(folder, RecursiveMode::NonRecursive) {
                Ok(()) => self.watched = identity,
                Err(error) => debug!("{}: no change events: {error}", folder.display()),
            }
        }
    }
}
