//! Memory shared with the kernel: the UMEM and the rings.

use std::io;
use std::os::fd::AsRawFd;
use std::ptr::{self, NonNull};

/// A part of a file or of a socket, mapped for reading and writing until it is dropped.
pub(crate) struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the memory is mapped for all threads. Who accesses it states why that is sound.
unsafe impl Send for Mapping {}
// SAFETY: as above; the value itself does not change.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes from `offset` on.
    ///
    /// # Errors
    /// Those of `mmap(2)`: `ENOMEM` without as many free huge pages, if the file consists of them.
    pub(crate) fn new(file: &impl AsRawFd, offset: u64, len: usize) -> io::Result<Self> {
        let offset = i64::try_from(offset).map_err(io::Error::other)?;
        // SAFETY: without an address, so the kernel chooses one that is not in use.
        let start = unsafe {
            libc::mmap64(
                ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                offset,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, len })
    }

    /// Maps all pages at once. Before Linux 5.14 each is mapped when it is used first.
    ///
    /// # Errors
    /// Those of `madvise(2)`: `ENOMEM` without as much memory.
    pub(crate) fn populate(&self) -> io::Result<()> {
        let start = self.start.as_ptr().cast();
        // SAFETY: exactly what `new` mapped; its content does not change.
        match unsafe { libc::madvise(start, self.len, libc::MADV_POPULATE_WRITE) } {
            0 => Ok(()),
            _ => match io::Error::last_os_error() {
                error if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
                error => Err(error),
            },
        }
    }

    pub(crate) const fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// In bytes.
    pub(crate) const fn len(&self) -> usize {
        self.len
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly what `new` mapped. Pointers into it are used only by values that own this one.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}
