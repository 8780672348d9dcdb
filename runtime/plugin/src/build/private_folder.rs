//! A folder that only this process's user writes to.
//!
//! Invariant: no link is followed and no file is read that another user could have written. A file is
//! complete or absent: it is written beside its place and renamed. Reading ends at a limit and never waits,
//! whatever the file is.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Who may write is in these bits of a mode: the group and others.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// An open folder.
#[derive(Debug)]
pub struct PrivateFolder {
    folder: File,
    path: PathBuf,
}

impl PrivateFolder {
    /// Opens the folder, and creates it with mode 0700 if there is none.
    ///
    /// # Errors
    /// It cannot be opened, is a link, or another user owns it or may write to it.
    pub fn open(path: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        let folder = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW)
            .open(path)?;
        check_owner(&folder.metadata()?)?;
        Ok(Self {
            folder,
            path: path.to_owned(),
        })
    }

    /// Returns the path of a file, for people.
    pub fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Reads a file of at most `max` bytes.
    ///
    /// # Errors
    /// There is none, it is larger, or it is not a file that only this process's user could have written.
    pub fn read(&self, name: &str, max: u64) -> io::Result<Vec<u8>> {
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(self.entry(name))?;
        let metadata = file.metadata()?;
        check_owner(&metadata)?;
        let doubt = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why);
        if !metadata.is_file() || metadata.nlink() != 1 {
            return Err(doubt("it is not a file of its own"));
        }
        let mut bytes = Vec::new();
        file.take(max + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > max {
            return Err(doubt(&format!("it is larger than {max} bytes")));
        }
        Ok(bytes)
    }

    /// Replaces a file in one step. `synced`: it is on the disk when this returns.
    ///
    /// # Errors
    /// It cannot be written; the file is as it was.
    pub fn write(&self, name: &str, parts: &[&[u8]], synced: bool) -> io::Result<()> {
        let new = self.entry(&format!("{name}.{}", std::process::id()));
        // One that was left by a process with this id, which was killed.
        let _ = fs::remove_file(&new);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&new)?;
        let written = parts
            .iter()
            .try_for_each(|part| file.write_all(part))
            .and_then(|()| if synced { file.sync_all() } else { Ok(()) })
            .and_then(|()| fs::rename(&new, self.entry(name)));
        if written.is_err() {
            let _ = fs::remove_file(&new);
        }
        written
    }

    /// Removes a file, if there is one.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.entry(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }

    /// Removes the oldest files above `max`.
    ///
    /// # Errors
    /// The folder cannot be read, or a file cannot be removed.
    pub fn remove_oldest(&self, max: usize) -> io::Result<()> {
        let files = fs::read_dir(self.entry("."))?.flatten().map(|file| {
            let modified = file.metadata().and_then(|it| it.modified());
            (modified.unwrap_or(SystemTime::UNIX_EPOCH), file.path())
        });
        let mut files: Vec<(SystemTime, PathBuf)> = files.collect();
        files.sort_unstable();
        let surplus = files.len().saturating_sub(max);
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
