//! Words for what goes wrong on a connection, for the operator who reads them in `waxwing status`.
//!
//! Invariant: one thing has the same words natively and from the host.

use alloc::format;
use std::io::{Error, ErrorKind};

/// The words for a kind of error, if there are better ones than its own.
pub(super) const fn of(kind: ErrorKind) -> Option<&'static str> {
    Some(match kind {
        ErrorKind::ConnectionRefused => "connection refused",
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => "no route to the server",
        ErrorKind::ConnectionReset
        | ErrorKind::ConnectionAborted
        | ErrorKind::BrokenPipe
        | ErrorKind::NotConnected => "the connection was reset",
        ErrorKind::TimedOut | ErrorKind::WouldBlock => "no answer in time",
        ErrorKind::UnexpectedEof => "closed by the server before the answer was whole",
        ErrorKind::InvalidData => "the answer is not UTF-8 text",
        _ => return None,
    })
}

/// The server closed its stream after so many bytes, and more were expected.
pub(super) fn closed_after(received: u64) -> Error {
    let words = match received {
        0 => "closed by the server without an answer".into(),
        1 => "closed by the server after 1 byte".into(),
        more => format!("closed by the server after {more} bytes"),
    };
    Error::new(ErrorKind::UnexpectedEof, words)
}
