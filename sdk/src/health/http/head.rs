//! The head of a response: its status line and its headers (RFC 9112 sections 4 and 5).
//!
//! Invariant: a head that does not state the length of the body, or states it twice, is an error.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use std::io::{self, BufRead};

use super::body::Framing;
use super::{HEAD_BYTES_MAX, is_token};
use crate::health::lines::{invalid_data, printable, quote, read_line};

#[derive(Debug)]
pub(super) struct Head {
    pub(super) status: u16,
    pub(super) reason: String,
    headers: Vec<(String, String)>,
}

impl Head {
    /// Reads the head of the final response and skips interim ones (status 100 to 199).
    pub(super) fn read(reader: &mut impl BufRead) -> io::Result<Self> {
        let mut left = HEAD_BYTES_MAX;
        loop {
            let head = Self::read_one(reader, &mut left)?;
            if head.status >= 200 {
                return Ok(head);
            }
        }
    }

    /// Reads one head of at most `left` bytes and subtracts its length from `left`.
    fn read_one(reader: &mut impl BufRead, left: &mut usize) -> io::Result<Self> {
        let mut line = Vec::new();
        if !read_head_line(reader, left, &mut line)? {
            return Err(closed("closed by the server without an answer"));
        }
        let (status, reason) = status_line(&line).ok_or_else(|| {
            invalid_data(format!("not an HTTP/1.1 status line: {}", quote(&line)))
        })?;
        let mut headers: Vec<(String, String)> = Vec::new();
        loop {
            if !read_head_line(reader, left, &mut line)? {
                return Err(closed(
                    "closed by the server within the head of its response",
                ));
            }
            if line.is_empty() {
                return Ok(Self {
                    status,
                    reason,
                    headers,
                });
            }
            match (line[0], headers.last_mut()) {
                // RFC 9112 section 5.2: a folded value continues in the next line, as old servers
                // send it.
                (b' ' | b'\t', Some((_, value))) => {
                    value.push(' ');
                    value.push_str(String::from_utf8_lossy(&line).trim());
                }
                _ => headers.push(
                    header_line(&line)
                        .ok_or_else(|| invalid_data(format!("not a header: {}", quote(&line))))?,
                ),
            }
        }
    }

    /// Returns the values of all headers of this name.
    pub(super) fn values(&self, name: &str) -> impl Iterator<Item = &str> {
        self.headers
            .iter()
            .filter(move |(of, _)| of.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// Returns what marks the end of the body, RFC 9112 section 6.3.
    pub(super) fn framing(&self, is_answer_to_head: bool) -> io::Result<Framing> {
        if is_answer_to_head || matches!(self.status, 204 | 304) {
            return Ok(Framing::Length(0));
        }
        let mut codings = self.values("transfer-encoding");
        if let Some(coding) = codings.next() {
            return if coding.eq_ignore_ascii_case("chunked") && codings.next().is_none() {
                Ok(Framing::Chunked)
            } else {
                Err(invalid_data(format!(
                    "unknown transfer-encoding {}; only chunked is known",
                    quote(coding.as_bytes())
                )))
            };
        }
        let mut lengths = self
            .values("content-length")
            .flat_map(|value| value.split(','))
            .map(str::trim);
        let Some(length) = lengths.next() else {
            return Ok(Framing::Close);
        };
        let bytes = number(length.as_bytes());
        match bytes {
            Some(bytes) if lengths.all(|other| other == length) => Ok(Framing::Length(bytes)),
            _ => Err(invalid_data("content-length is not a single number")),
        }
    }
}

fn read_head_line(
    reader: &mut impl BufRead,
    left: &mut usize,
    line: &mut Vec<u8>,
) -> io::Result<bool> {
    let too_long = || {
        invalid_data(format!(
            "the head of the response has more than {HEAD_BYTES_MAX} bytes"
        ))
    };
    let is_there = read_line(reader, *left, line).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData => too_long(),
        _ => error,
    })?;
    // Empty lines count too; otherwise a server could send them for ever.
    *left = left.checked_sub(line.len() + 2).ok_or_else(too_long)?;
    Ok(is_there)
}

/// Returns the status and the reason phrase.
fn status_line(line: &[u8]) -> Option<(u16, String)> {
    let rest = line.strip_prefix(b"HTTP/1.")?;
    let ([minor, b' ', a, b, c], rest) = rest.split_first_chunk()? else {
        return None;
    };
    let status = u16::try_from(number(&[*a, *b, *c])?).ok()?;
    let is_separate = rest.first().is_none_or(|byte| *byte == b' ');
    (minor.is_ascii_digit() && is_separate && status >= 100).then(|| (status, printable(rest)))
}

fn header_line(line: &[u8]) -> Option<(String, String)> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    let name = core::str::from_utf8(&line[..colon]).ok()?;
    let value = String::from_utf8_lossy(&line[colon + 1..]);
    is_token(name).then(|| (name.to_string(), value.trim().to_string()))
}

/// Parses a number of decimal digits only.
fn number(digits: &[u8]) -> Option<u64> {
    let is_digits = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    is_digits
        .then(|| core::str::from_utf8(digits).ok()?.parse().ok())
        .flatten()
}

fn closed(words: &str) -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, words)
}
