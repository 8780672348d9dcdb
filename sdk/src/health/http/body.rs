//! The body of a response (RFC 9112 sections 6 and 7.1), as a reader that ends where the body ends.
//!
//! Invariant: a truncated body is an error, never a shorter body, unless only the end of the
//! connection marks the end of the body.

use alloc::format;
use alloc::vec::Vec;
use std::io::{self, BufRead, BufReader, Read};

use crate::health::lines::{invalid_data, quote, read_line};

/// Longest line with a chunk size, in bytes. The client ignores what follows the size.
const SIZE_LINE_BYTES_MAX: usize = 1024;

/// What marks the end of a body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Framing {
    /// A length in bytes.
    Length(u64),
    /// A chunk of size 0.
    Chunked,
    /// The end of the stream.
    Close,
}

#[derive(Debug)]
pub(super) struct Body<C> {
    reader: BufReader<C>,
    framing: Framing,
    /// Bytes left of the body or of the chunk; `u64::MAX` for a body that the end of the stream
    /// ends.
    left: u64,
    /// Whether a chunk was read, whose line end comes before the next size.
    is_after_chunk: bool,
    is_done: bool,
}

impl<C> Body<C> {
    pub(super) fn new(reader: BufReader<C>, framing: Framing) -> Self {
        let left = match framing {
            Framing::Length(bytes) => bytes,
            Framing::Chunked => 0,
            Framing::Close => u64::MAX,
        };
        Self {
            reader,
            framing,
            left,
            is_after_chunk: false,
            is_done: framing == Framing::Length(0),
        }
    }
}

impl<C: Read> Body<C> {
    pub(super) fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if !self.is_done && self.left == 0 && self.framing == Framing::Chunked {
            self.left = self.chunk_size()?;
            self.is_done = self.left == 0;
            self.is_after_chunk = true;
        }
        if self.is_done {
            return Ok(&[]);
        }
        let left = self.left;
        let bytes = self.reader.fill_buf()?;
        if bytes.is_empty() {
            if self.framing != Framing::Close {
                return Err(truncated());
            }
            self.is_done = true;
        }
        let count = usize::try_from(left).unwrap_or(usize::MAX);
        Ok(&bytes[..bytes.len().min(count)])
    }

    pub(super) fn consume(&mut self, count: usize) {
        self.reader.consume(count);
        if self.framing != Framing::Close {
            self.left = self.left.saturating_sub(count as u64);
            self.is_done |= self.left == 0 && self.framing != Framing::Chunked;
        }
    }

    /// Reads up to the next chunk's data and returns its size. Nothing after the last chunk is
    /// read: the trailer is ignored.
    fn chunk_size(&mut self) -> io::Result<u64> {
        let mut line = Vec::new();
        if self.is_after_chunk && self.size_line(&mut line)? > 0 {
            return Err(invalid_data(format!(
                "a chunk is longer than its size: {}",
                quote(&line)
            )));
        }
        self.size_line(&mut line)?;
        let digits = line.split(|byte| *byte == b';').next();
        let digits = digits.unwrap_or_default().trim_ascii();
        hexadecimal(digits)
            .ok_or_else(|| invalid_data(format!("not a chunk size: {}", quote(&line))))
    }

    /// Reads a line and returns its length.
    fn size_line(&mut self, line: &mut Vec<u8>) -> io::Result<usize> {
        if !read_line(&mut self.reader, SIZE_LINE_BYTES_MAX, line)? {
            return Err(truncated());
        }
        Ok(line.len())
    }
}

fn hexadecimal(digits: &[u8]) -> Option<u64> {
    let is_digits = !digits.is_empty() && digits.iter().all(u8::is_ascii_hexdigit);
    let text = core::str::from_utf8(digits).ok()?;
    is_digits
        .then(|| u64::from_str_radix(text, 16).ok())
        .flatten()
}

fn truncated() -> io::Error {
    io::Error::new(
        io::ErrorKind::UnexpectedEof,
        "closed by the server before the end of the body",
    )
}
