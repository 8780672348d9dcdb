//! Writes an initramfs archive: cpio in the "new ASCII" format, as described in the kernel's
//! Documentation/driver-api/early-userspace/buffer-format.rst.
//!
//! Invariant: a directory precedes its contents, and one trailer ends the archive.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::{Component, Path, PathBuf};

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;

/// A writer of an archive. All paths are absolute.
pub(super) struct Archive<W> {
    out: W,
    entries: u32,
    directories: BTreeSet<PathBuf>,
}

impl<W: Write> Archive<W> {
    pub(super) fn new(out: W) -> Self {
        Self {
            out,
            entries: 0,
            directories: BTreeSet::new(),
        }
    }

    /// Adds a directory and its parents unless the archive has them.
    pub(super) fn directory(&mut self, path: &Path) -> io::Result<()> {
        let is_new = |path: &&Path| path.parent().is_some();
        let all: Vec<&Path> = path.ancestors().take_while(is_new).collect();
        for path in all.into_iter().rev() {
            if self.directories.insert(path.to_owned()) {
                self.entry(path, DIRECTORY, &[])?;
            }
        }
        Ok(())
    }

    /// Adds an executable file and its parent directories.
    pub(super) fn file(&mut self, path: &Path, contents: &[u8]) -> io::Result<()> {
        if let Some(parent) = path.parent() {
            self.directory(parent)?;
        }
        self.entry(path, PROGRAM, contents)
    }

    /// Writes the trailer.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.entry(Path::new("/TRAILER!!!"), 0, &[])?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn entry(&mut self, path: &Path, mode: u32, contents: &[u8]) -> io::Result<()> {
        let relative: PathBuf = path
            .components()
            .filter(|part| *part != Component::RootDir)
            .collect();
        let name = relative.as_os_str().as_encoded_bytes();
        let size = |len: usize| u32::try_from(len).map_err(io::Error::other);
        self.entries += 1;
        write!(self.out, "070701")?;
        // Inode, mode, owner, group, links, time, size, four device numbers, name's size, checksum.
        let fields = [self.entries, mode, 0, 0, 1, 0, size(contents.len())?];
        for field in fields
            .into_iter()
            .chain([0; 4])
            .chain([size(name.len() + 1)?, 0])
        {
            write!(self.out, "{field:08x}")?;
        }
        self.out.write_all(name)?;
        // The format pads twice to a multiple of four bytes: after the name (110 bytes of header, then the
        // name and its NUL), and after the contents.
        let after_name = 1 + (110 + name.len() + 1).wrapping_neg() % 4;
        self.out.write_all(&[0; 4][..after_name])?;
        self.out.write_all(contents)?;
        self.out
            .write_all(&[0; 4][..contents.len().wrapping_neg() % 4])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_comes_before_its_file_and_all_is_aligned() {
        let mut archive = Archive::new(Vec::new());
        archive.file(Path::new("/a/bc"), b"hello").expect("memory");
        archive.file(Path::new("/a/d"), b"").expect("memory");
        let bytes = archive.finish().expect("memory");
        let text = String::from_utf8_lossy(&bytes);
        let at: Vec<usize> = text.match_indices("070701").map(|(at, _)| at).collect();
        assert!(at.iter().all(|at| at % 4 == 0), "{at:?}");
        let names = at.iter().map(|at| text[at + 110..].split('\0').next());
        let names: Vec<&str> = names.flatten().collect();
        assert_eq!(names, ["a", "a/bc", "a/d", "TRAILER!!!"]);
        assert_eq!(&text[at[1] + 6 + 6 * 8..][..8], "00000005", "file size");
        assert!(text.contains("a/bc\0\0hello\0\0\0"), "{text:?}");
    }
}
