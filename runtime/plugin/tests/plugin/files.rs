//! Whatever lies in the watched folder: invalid files are refused, the good build keeps serving,
//! and the next change is seen.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use crate::common::{host, pick, service};
use waxwing_dataplane::Pick;
use waxwing_plugin::{BoundModule, Host, HostEvent, ModuleSource};
use waxwing_tests::wat::Wat;

const FIRST: &str = "(i32.store (i32.const 0x4000) (i32.const 0)) (local.get 1)";
const SECOND: &str = "(i32.store (i32.const 0x4000) (i32.const 1)) (local.get 1)";

/// How long a change may take to be reported, on a busy machine.
const SEEN: Duration = Duration::from_secs(20);

/// A folder in which `test.wasm` picks the first backend, and the host that serves it.
struct WatchedFolder {
    root: tempfile::TempDir,
    host: Host,
    events: Receiver<HostEvent>,
}

impl WatchedFolder {
    fn new() -> Self {
        let root = tempfile::tempdir().expect("a folder");
        fs::write(root.path().join("test.wasm"), Wat::picking(FIRST).bytes()).expect("written");
        let (host, events) = host(&[], Some(root.path().into()));
        let watched = Self { root, host, events };
        watched.assert_serves(0);
        watched
    }

    fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.root.path().join(name)
    }

    fn file(&self) -> PathBuf {
        self.path("test.wasm")
    }

    /// Moves a module into place, as `install` does.
    fn put(&self, pick: &'static str) {
        fs::write(self.path("test.new"), Wat::picking(pick).bytes()).expect("written");
        fs::rename(self.path("test.new"), self.file()).expect("moved");
    }

    fn bind(&self) -> BoundModule {
        let bound = self
            .host
            .bind("test", 1, 1, &[service(&[1, 1])])
            .expect("the good build serves");
        self.host.activate(&bound.in_use.module, false);
        bound
    }

    fn assert_serves(&self, backend: u32) {
        let picks = pick(&mut *self.bind().policies[0], 2, &[0]).expect("a pick");
        assert_eq!(picks, [Pick::Backend(backend)], "{:?}", self.reason());
    }

    /// Waits until a change of `test` is reported; those of other names are ignored.
    fn wait_changed(&self) {
        let deadline = Instant::now() + SEEN;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self
                .events
                .recv_timeout(left)
                .expect("a change is reported")
            {
                HostEvent::Changed { name } if name == "test" => return,
                HostEvent::Changed { .. } => {}
                HostEvent::Fault(report) => panic!("{report:?}"),
            }
        }
    }

    fn reason(&self) -> Option<String> {
        let status = self.host.status().into_iter().next()?;
        status.refused.map(|refused| refused.reason)
    }

    /// Asserts that the watcher still works: another build is seen, and serves.
    fn assert_still_watches(&self) {
        self.put(SECOND);
        while {
            self.wait_changed();
            self.bind().in_use.module.source != ModuleSource::File(self.file())
                || self.reason().is_some()
        } {}
        self.assert_serves(1);
    }
}

fn run(program: &str, path: &Path) {
    let status = Command::new(program).arg(path).status().expect(program);
    assert!(status.success(), "{program}");
}

/// Puts something in place of the module.
type Make = fn(&Path);

#[test]
fn whatever_replaces_the_file_is_refused_and_the_good_build_keeps_serving() {
    let cases: &[(&str, Make, &str)] = &[
        (
            "nothing",
            |path| drop(File::create(path)),
            "not a WebAssembly module",
        ),
        (
            "100 MB",
            |path| {
                let file = File::create(path).expect("made");
                file.set_len(100_000_000).expect("sparse");
            },
            "100000000 bytes long, over the limit of 4194304",
        ),
        (
            "a folder",
            |path| fs::create_dir(path).expect("made"),
            "not a regular file",
        ),
        ("a pipe", |path| run("mkfifo", path), "not a regular file"),
        (
            "a socket",
            |path| drop(UnixListener::bind(path).expect("made")),
            "cannot be read",
        ),
        (
            "a link in a circle",
            |path| symlink(path, path).expect("linked"),
            "cannot be read",
        ),
        (
            "a link to a device",
            |path| symlink("/dev/zero", path).expect("linked"),
            "not a regular file",
        ),
        (
            "a link to a folder",
            |path| symlink("/", path).expect("linked"),
            "not a regular file",
        ),
    ];
    for (what, make, why) in cases {
        let watched = WatchedFolder::new();
        fs::remove_file(watched.file()).expect("removed");
        make(&watched.file());
        watched.wait_changed();
        watched.assert_serves(0);
        let reason = watched.reason().unwrap_or_default();
        assert!(reason.contains(why), "{what}: {reason:?} lacks {why:?}");
        if watched.file().is_dir() && !watched.file().is_symlink() {
            fs::remove_dir(watched.file()).expect("removed");
        }
        watched.assert_still_watches();
    }
}

#[test]
fn an_unreadable_file_is_refused() {
    let watched = WatchedFolder::new();
    fs::set_permissions(watched.file(), PermissionsExt::from_mode(0o0)).expect("set");
    if File::open(watched.file()).is_ok() {
        println!("skipped: this user may read every file");
        return;
    }
    watched.wait_changed();
    watched.assert_serves(0);
    let reason = watched.reason().unwrap_or_default();
    assert!(reason.contains("cannot be read"), "{reason:?}");
    watched.assert_still_watches();
}

#[test]
fn files_with_invalid_names_are_ignored() {
    let watched = WatchedFolder::new();
    let long = format!("{}.wasm", "x".repeat(250));
    let names: [&[u8]; 11] = [
        b".wasm",
        b"..wasm",
        b"test.WASM",
        b"test.wasm.part",
        b"a b.wasm",
        b"a\nb.wasm",
        b"\x1b[2J.wasm",
        b"a;rm -rf.wasm",
        b"\xff\xfe.wasm",
        "\u{fc}.wasm".as_bytes(),
        long.as_bytes(),
    ];
    for name in names {
        fs::write(watched.path(OsStr::from_bytes(name)), b"x").expect("written");
    }
    watched.put(SECOND);
    // The first reported change is the module's.
    match watched.events.recv_timeout(SEEN).expect("a change") {
        HostEvent::Changed { name } => assert_eq!(name, "test"),
        HostEvent::Fault(report) => panic!("{report:?}"),
    }
    watched.assert_serves(1);
}

#[test]
fn a_growing_file_is_loaded_only_once_it_settles() {
    let watched = WatchedFolder::new();
    let mut file = File::options()
        .append(true)
        .open(watched.file())
        .expect("open");
    let end = Instant::now() + Duration::from_millis(600);
    while Instant::now() < end {
        file.write_all(&[0xff; 10_000]).expect("written");
        watched.assert_serves(0);
    }
    drop(file);
    watched.wait_changed();
    watched.assert_serves(0);
    assert!(watched.reason().is_some(), "the file ends in invalid bytes");
    watched.assert_still_watches();
}

#[test]
fn a_change_is_seen_among_two_thousand_new_files() {
    let watched = WatchedFolder::new();
    for at in 0..2_000 {
        fs::write(watched.path(format!("other-{at}.wasm")), b"x").expect("written");
    }
    watched.assert_still_watches();
}

#[test]
fn the_last_of_fifty_files_in_a_second_serves() {
    let watched = WatchedFolder::new();
    for at in 0..50 {
        match at % 3 {
            0 => fs::write(watched.file(), b"half a fi").expect("written"),
            1 => watched.put(SECOND),
            _ => watched.put(FIRST),
        }
        watched.assert_serves_something();
        std::thread::sleep(Duration::from_millis(15));
    }
    watched.assert_still_watches();
}

impl WatchedFolder {
    fn assert_serves_something(&self) {
        let picks = pick(&mut *self.bind().policies[0], 2, &[0]).expect("a pick");
        assert!(matches!(picks[..], [Pick::Backend(0 | 1)]));
    }
}

#[test]
fn a_deleted_and_recreated_file_is_seen() {
    let watched = WatchedFolder::new();
    for (pick, backend) in [(SECOND, 1), (FIRST, 0)] {
        fs::remove_file(watched.file()).expect("removed");
        watched.wait_changed();
        watched.assert_serves(1 - backend);
        watched.put(pick);
        watched.wait_changed();
        watched.assert_serves(backend);
    }
    // Removed and restored at once with the same bytes: it serves, whether or not a change is
    // reported.
    fs::remove_file(watched.file()).expect("removed");
    watched.put(FIRST);
    watched.assert_serves(0);
    watched.assert_still_watches();
}
