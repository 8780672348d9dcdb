//! Module names and files: what may be opened, and how much of it is read.
//!
//! Invariant: a name is a file's stem and never leads out of the folder; reading ends at the limit
//! and never waits, whatever the file is.

use std::fs::{File, Metadata, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use crate::error::{ModuleError, Refusal};

/// The longest module name.
const NAME_MAX: usize = 64;

/// Whether a name can be a module's: 1 to 64 of a-z, A-Z, 0-9, `_` and `-`.
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

/// Reads a regular file once, no further than the limit, and only if nobody writes to it meanwhile.
pub(crate) fn read_capped(path: &Path, max: usize) -> Result<Vec<u8>, Refusal> {
    // Without O_NONBLOCK, opening a named pipe would wait for its writer.
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
    if stamp(&before) != stamp(&after) || (bytes.len() as u64) < after.len().min(max) {
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

fn stamp(metadata: &Metadata) -> (u64, i64, i64) {
    (metadata.len(), metadata.mtime(), metadata.mtime_nsec())
}
