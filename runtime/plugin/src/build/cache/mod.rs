//! The machine code of modules, kept for the next start.
//!
//! Machine code is as powerful as this program, so only what this program itself has written is loaded. An
//! entry counts only if
//! - the folder and the entry belong to this process's user, and nobody else may write to them;
//! - its name is the digest of what the code depends on: the module's bytes, the engine's settings, this
//!   processor's features, wasmtime's version, and this file of the program;
//! - it starts with the digest of its name and of the code.
//!
//! Invariant: an entry that does not count is compiled again and replaced, never loaded. The bytes that were
//! checked are the bytes that are loaded.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::hash::{Hash, Hasher};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use sha2::{Digest, Sha256};
use tracing::debug;

use crate::build::compile::{CODE_MAX, load};
use crate::build::engine::Engine;
use crate::build::module::ModuleHash;

/// The most entries that are kept; the oldest are removed.
const ENTRIES_MAX: usize = 128;

/// Who may write is in these bits of a mode: the group and others.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// The length of an entry's digest, in bytes.
const DIGEST_LEN: usize = 32;

/// A folder of machine code that only this process's user can write to.
#[derive(Debug)]
pub struct CodeCache {
    folder: File,
    path: PathBuf,
    /// Identifies this file of the program.
    program: [u64; 4],
}

impl CodeCache {
    /// Opens the folder, and creates it if there is none. Returns `None` if it cannot be used or trusted;
    /// modules are then compiled at each start.
    #[must_use]
    pub fn open(path: &Path) -> Option<Self> {
        let opened = Self::try_open(path);
        let why = opened.as_ref().err();
        why.inspect(|why| debug!("{}: machine code is not kept here: {why}", path.display()));
        opened.ok()
    }

    fn try_open(path: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        let folder = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW)
            .open(path)?;
        check_owner(&folder.metadata()?)?;
        let program = fs::metadata("/proc/self/exe")?;
        let modified = program.mtime().cast_unsigned() ^ program.mtime_nsec().cast_unsigned() << 32;
        Ok(Self {
            folder,
            path: path.to_owned(),
            program: [program.dev(), program.ino(), program.size(), modified],
        })
    }

    /// Returns a module's machine code, if it was kept.
    pub(crate) fn get(&self, engine: &Engine, hash: ModuleHash) -> Option<wasmtime::Module> {
        let name = self.name(engine, hash);
        let code = match self.read(&name) {
            Ok(code) => code,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                debug!("{}/{name}: not used: {error}", self.path.display());
                return None;
            }
        };
        // wasmtime refuses code for another engine or processor once more.
        load(engine, &code).ok()
    }

    /// Keeps a module's machine code for the next start. A failure costs only time then.
    pub(crate) fn keep(&self, engine: &Engine, hash: ModuleHash, module: &wasmtime::Module) {
        let name = self.name(engine, hash);
        let kept = module
            .serialize()
            .map_err(io::Error::other)
            .and_then(|code| self.write(&name, &code));
        if let Err(error) = kept {
            debug!("{}/{name}: not kept: {error}", self.path.display());
        }
    }

    /// Returns an entry's name: the digest of what its code depends on.
    fn name(&self, engine: &Engine, hash: ModuleHash) -> String {
        let mut digest = DigestHasher(Sha256::new_with_prefix("waxwing machine code, format 1"));
        self.program.hash(&mut digest);
        engine.kind().as_str().hash(&mut digest);
        engine
            .wasmtime()
            .precompile_compatibility_hash()
            .hash(&mut digest);
        hash.hash(&mut digest);
        let digest = digest.0.finalize();
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(self.entry(name))?;
        let metadata = file.metadata()?;
        check_owner(&metadata)?;
        let doubt = |why| io::Error::new(io::ErrorKind::InvalidData, why);
        if !metadata.is_file() || metadata.nlink() != 1 {
            return Err(doubt("it is not a file of its own"));
        }
        let mut bytes = Vec::new();
        file.take(CODE_MAX).read_to_end(&mut bytes)?;
        let (kept, code) = bytes
            .split_at_checked(DIGEST_LEN)
            .ok_or_else(|| doubt("it is cut off"))?;
        if *kept != digest_of(name, code) {
            return Err(doubt("its digest is wrong"));
        }
        Ok(bytes.split_off(DIGEST_LEN))
    }

    /// Writes an entry beside its place and renames it.
    fn write(&self, name: &str, code: &[u8]) -> io::Result<()> {
        let new = self.entry(&format!("{name}.{}", std::process::id()));
        // One that was left by a process with this id, which was killed.
        let _ = fs::remove_file(&new);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&new)?;
        let written = file
            .write_all(&digest_of(name, code))
            .and_then(|()| file.write_all(code))
            .and_then(|()| fs::rename(&new, self.entry(name)));
        if written.is_err() {
            let _ = fs::remove_file(&new);
        }
        written?;
        self.remove_oldest()
    }

    fn remove_oldest(&self) -> io::Result<()> {
        let files = fs::read_dir(self.entry("."))?.flatten().map(|file| {
            let modified = file.metadata().and_then(|it| it.modified());
            (modified.unwrap_or(SystemTime::UNIX_EPOCH), file.path())
        });
        let mut files: Vec<(SystemTime, PathBuf)> = files.collect();
        files.sort_unstable();
        let surplus = files.len().saturating_sub(ENTRIES_MAX);
        let mut oldest = files[..surplus].iter();
        oldest.try_for_each(|(_, path)| fs::remove_file(path))
    }

    /// Returns the path of a file in the open folder, whatever its own path leads to by now.
    fn entry(&self, name: &str) -> PathBuf {
        format!("/proc/self/fd/{}/{name}", self.folder.as_raw_fd()).into()
    }
}

/// Checks that this process's user owns a file or folder, and that nobody else may write to it.
fn check_owner(metadata: &Metadata) -> io::Result<()> {
    let own = rustix::process::geteuid().as_raw();
    if metadata.uid() == own && metadata.mode() & WRITABLE_BY_OTHERS == 0 {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::PermissionDenied,
        format!("another user than {own} owns it or may write to it"),
    ))
}

fn digest_of(name: &str, code: &[u8]) -> [u8; DIGEST_LEN] {
    let digest = Sha256::new_with_prefix(name).chain_update(code);
    digest.finalize().into()
}

/// Feeds what a value hashes to a digest, which unlike a [`Hasher`]'s result has no collisions.
struct DigestHasher(Sha256);

impl Hasher for DigestHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        0
    }
}

#[cfg(test)]
mod tests;
