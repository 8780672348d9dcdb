//! The UMEM: the memory of all frames, in chunks of equal size.
//!
//! It lies in a memory file, so another process that gets the file's descriptor can map it too.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;

use crate::mapping::Mapping;
use crate::sys;

/// The memory of all workers' frames.
pub struct Umem {
    file: OwnedFd,
    mapping: Mapping,
    chunk_size: u32,
}

impl Umem {
    /// Creates a UMEM of `count` chunks.
    ///
    /// # Errors
    /// The memory cannot be allocated; with `huge_pages`, not in huge pages.
    pub fn create(chunk_size: u32, count: u32, huge_pages: bool) -> io::Result<Self> {
        let file = File::from(sys::memory_file(huge_pages)?);
        file.set_len(u64::from(chunk_size) * u64::from(count))?;
        let umem = Self::adopt(file.into(), chunk_size)?;
        umem.populate()?;
        Ok(umem)
    }

    /// Gives it all of its pages at once; otherwise it gets each when it is used first.
    ///
    /// # Errors
    /// `ENOMEM` without as much memory.
    pub fn populate(&self) -> io::Result<()> {
        self.mapping.populate()
    }

    /// Maps an existing UMEM.
    ///
    /// # Errors
    /// `file` cannot be mapped, or does not consist of chunks of `chunk_size` bytes, a power of two.
    pub fn adopt(file: OwnedFd, chunk_size: u32) -> io::Result<Self> {
        let file = File::from(file);
        let len = file.metadata()?.len();
        if !chunk_size.is_power_of_two() || len % u64::from(chunk_size) != 0 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mapping = Mapping::new(&file, 0, usize::try_from(len).map_err(io::Error::other)?)?;
        Ok(Self {
            file: file.into(),
            mapping,
            chunk_size,
        })
    }

    /// Returns the address of each chunk.
    pub fn chunks(&self) -> impl Iterator<Item = u64> {
        (0..self.mapping.len() as u64).step_by(self.chunk_size as usize)
    }

    pub(crate) const fn chunk_size(&self) -> u32 {
        self.chunk_size
    }

    /// In bytes.
    pub(crate) const fn len(&self) -> usize {
        self.mapping.len()
    }

    pub(crate) const fn start(&self) -> NonNull<u8> {
        self.mapping.start()
    }
}

impl AsFd for Umem {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
