//! Messages for connection errors, which operators read in `waxwing status`.
//!
//! Invariant: an error has the same message natively and from the host.

use alloc::format;
use std::io::{Error, ErrorKind};

/// Returns the message for a kind of error; `None` if the error's own message is as good.
pub(super) const fn for_kind(kind: ErrorKind) -> Option<&'static str> {
    Some(match kind {
        ErrorKind::ConnectionRefused => "connection refused",
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => "no route to the server",
        ErrorKind::ConnectionReset
        | ErrorKind::ConnectionAborted
        | ErrorKind::BrokenPipe
        | ErrorKind::NotConnected => "the connection was reset",
        ErrorKind::TimedOut | ErrorKind::WouldBlock => "no answer in time",
        ErrorKind::UnexpectedEof => "closed by the server within its answer",
        ErrorKind::InvalidData => "the answer is not UTF-8 text",
        _ => return None,
    })
}

/// Returns the error for a stream that the server closed after `received` bytes.
pub(super) fn closed_after(received: u64) -> Error {
    let message = match received {
        0 => "closed by the server without an answer".into(),
        1 => "closed by the server after 1 byte".into(),
        more => format!("closed by the server after {more} bytes"),
    };
    Error::new(ErrorKind::UnexpectedEof, message)
}
