//! Module names and files: which names are valid, and how a file is read.
//!
//! Invariant: a name is a file's stem and never leads out of the folder; reading stops at the limit
//! and never blocks, whatever the file is.

use std::ffi::OsStr;
use std::fs::{File, Metadata, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use crate::error::{ModuleError, Refusal};

/// The extension of module files.
pub(crate) const EXTENSION: &str = "wasm";

/// The longest module name.
pub(crate) const NAME_MAX: usize = 64;

/// Returns whether `name` is a valid module name: 1 to 64 of a-z, A-Z, 0-9, `_` and `-`.
#[must_use]
pub fn is_module_name(name: &str) -> bool {
    (1..=NAME_MAX).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

pub(crate) fn check_name(name: &str) -> Result<(), ModuleError> {
    if is_module_name(name) {
        Ok(())
    } else {
        Err(Refusal::Name.of(format!(
            "{:?}",
            name.chars().take(NAME_MAX).collect::<String>()
        )))
    }
}

/// Returns `NAME.wasm`.
pub(crate) fn file_name(name: &str) -> String {
    format!("{name}.{EXTENSION}")
}

/// Returns the name of the module that a file holds, by the file's name.
pub(crate) fn module_name(file: &OsStr) -> Option<&str> {
    let name = file.to_str()?.strip_suffix(EXTENSION)?.strip_suffix('.')?;
    is_module_name(name).then_some(name)
}

/// Reads a regular file of at most `max` bytes. Fails if the file changed while it was read.
pub(crate) fn read_capped(path: &Path, max: usize) -> Result<Vec<u8>, Refusal> {
    // Without O_NONBLOCK, opening a named pipe would block until a writer opens it.
    let file: File = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    let before = file.metadata()?;
    if !before.is_file() {
        return Err(Refusal::NotAFile);
    }
    let max = max as u64;
    let mut bytes = Vec::with_capacity(usize::try_from(before.len().min(max)).unwrap_or(0));
    Read::by_ref(&mut &file)
        .take(max + 1)
        .read_to_end(&mut bytes)?;
    let after = file.metadata()?;
    if size_and_mtime(&before) != size_and_mtime(&after)
        || (bytes.len() as u64) < after.len().min(max)
    {
        return Err(Refusal::Changing);
    }
    if bytes.len() as u64 > max {
        return Err(Refusal::TooLarge {
            bytes: after.len(),
            max,
        });
    }
    Ok(bytes)
}

fn size_and_mtime(metadata: &Metadata) -> (u64, i64, i64) {
    (metadata.len(), metadata.mtime(), metadata.mtime_nsec())
}
