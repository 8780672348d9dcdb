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

use std::fs;
use std::hash::{Hash, Hasher};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use sha2::{Digest, Sha256};
use tracing::debug;

use crate::build::compile::load;
use crate::build::compile_service::CODE_MAX;
use crate::build::engine::Engine;
use crate::build::module::ModuleHash;
use crate::build::private_folder::PrivateFolder;

/// The most entries that are kept; the oldest are removed.
const ENTRIES_MAX: usize = 128;

/// The length of an entry's digest, in bytes.
const DIGEST_LEN: usize = 32;

/// A folder of machine code that only this process's user can write to.
#[derive(Debug)]
pub struct CodeCache {
    folder: PrivateFolder,
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
        let program = fs::metadata("/proc/self/exe")?;
        let modified = program.mtime().cast_unsigned() ^ program.mtime_nsec().cast_unsigned() << 32;
        Ok(Self {
            folder: PrivateFolder::open(path)?,
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
                debug!("{}: not used: {error}", self.folder.path(&name).display());
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
            debug!("{}: not kept: {error}", self.folder.path(&name).display());
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
        let doubt = |why| io::Error::new(io::ErrorKind::InvalidData, why);
        let mut bytes = self.folder.read(name, CODE_MAX)?;
        let (kept, code) = bytes
            .split_at_checked(DIGEST_LEN)
            .ok_or_else(|| doubt("it is cut off"))?;
        if *kept != digest_of(name, code) {
            return Err(doubt("its digest is wrong"));
        }
        Ok(bytes.split_off(DIGEST_LEN))
    }

    fn write(&self, name: &str, code: &[u8]) -> io::Result<()> {
        let parts: [&[u8]; 2] = [&digest_of(name, code), code];
        self.folder.write(name, &parts, false)?;
        self.folder.remove_oldest(ENTRIES_MAX)
    }
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
