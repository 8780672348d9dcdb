#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use super::*;

/// A folder with the machine code of one module.
struct World {
    folder: tempfile::TempDir,
    engine: Engine,
    hash: ModuleHash,
}

impl World {
    fn new() -> Self {
        let world = Self {
            folder: tempfile::tempdir().unwrap(),
            engine: Engine::new().unwrap(),
            hash: ModuleHash::of(b"the module"),
        };
        let bytes = wat::parse_str("(module (func (export \"f\")))").unwrap();
        let module = wasmtime::Module::new(world.engine.wasmtime(), bytes).unwrap();
        world.cache().keep(&world.engine, world.hash, &module);
        assert!(world.has(), "it was kept");
        world
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("code")
    }

    fn cache(&self) -> CodeCache {
        CodeCache::open(&self.path()).unwrap()
    }

    fn has(&self) -> bool {
        let cache = CodeCache::open(&self.path());
        let module = cache.and_then(|cache| cache.get(&self.engine, self.hash));
        module.is_some_and(|module| module.exports().count() == 1)
    }

    /// Returns the path of the only entry.
    fn entry(&self) -> PathBuf {
        let mut files = fs::read_dir(self.path()).unwrap();
        let entry = files.next().unwrap().unwrap().path();
        assert!(files.next().is_none(), "nothing is left beside it");
        entry
    }

    fn set_mode(&self, path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
}

#[test]
fn only_what_this_program_wrote_for_this_module_and_engine_is_loaded() {
    let world = World::new();
    let cache = world.cache();
    assert!(
        cache
            .get(&world.engine, ModuleHash::of(b"another"))
            .is_none()
    );
    let checks = Engine::for_checks(1).unwrap();
    assert!(cache.get(&checks, world.hash).is_none());
    let other_program = CodeCache {
        program: [1, 2, 3, 4],
        ..world.cache()
    };
    assert!(other_program.get(&world.engine, world.hash).is_none());
}

#[test]
fn a_damaged_entry_is_not_loaded() {
    let world = World::new();
    let (entry, whole) = (world.entry(), fs::read(world.entry()).unwrap());
    for at in [0, DIGEST_LEN, whole.len() / 2, whole.len() - 1] {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        fs::write(&entry, damaged).unwrap();
        assert!(!world.has(), "byte {at} is wrong");
    }
    for len in [0, 5, DIGEST_LEN, whole.len() - 1] {
        fs::write(&entry, &whole[..len]).unwrap();
        assert!(!world.has(), "cut off after {len} bytes");
    }
    fs::write(&entry, &whole).unwrap();
    assert!(world.has());
}

#[test]
fn what_others_could_have_written_is_not_loaded() {
    let world = World::new();
    let entry = world.entry();
    for mode in [0o620, 0o602, 0o666] {
        world.set_mode(&entry, mode);
        assert!(!world.has(), "the file's mode is {mode:o}");
    }
    world.set_mode(&entry, 0o600);
    for mode in [0o720, 0o702, 0o1777] {
        world.set_mode(&world.path(), mode);
        assert!(!world.has(), "the folder's mode is {mode:o}");
    }
    world.set_mode(&world.path(), 0o700);
    assert!(world.has());

    let elsewhere = world.folder.path().join("elsewhere");
    fs::hard_link(&entry, &elsewhere).unwrap();
    assert!(!world.has(), "the file has another name");
    fs::remove_file(&entry).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &entry).unwrap();
    assert!(!world.has(), "the entry is a link");
    fs::remove_file(&entry).unwrap();
    fs::create_dir(&entry).unwrap();
    assert!(!world.has(), "the entry is a folder");
}

#[test]
fn a_folder_of_another_user_is_not_used() {
    let world = World::new();
    let chowned = std::os::unix::fs::chown(world.path(), Some(12345), None);
    if chowned.is_ok() {
        assert!(!world.has());
    }
    let link = world.folder.path().join("link");
    std::os::unix::fs::symlink(world.path(), &link).unwrap();
    assert!(CodeCache::open(&link).is_none(), "a link to a folder");
}

#[test]
fn a_doubtful_entry_is_replaced() {
    let world = World::new();
    fs::write(world.entry(), "garbage").unwrap();
    assert!(!world.has());
    let bytes = wat::parse_str("(module (func (export \"f\")))").unwrap();
    let module = wasmtime::Module::new(world.engine.wasmtime(), bytes).unwrap();
    world.cache().keep(&world.engine, world.hash, &module);
    assert!(world.has());
}

#[test]
fn the_oldest_entries_make_room() {
    let world = World::new();
    let cache = world.cache();
    for number in 0..ENTRIES_MAX {
        cache.write(&format!("{number}"), b"code").unwrap();
    }
    let count = fs::read_dir(world.path()).unwrap().count();
    assert_eq!(count, ENTRIES_MAX);
    assert!(!world.has(), "it was the oldest");
}
