//! Access to the target in a module: the functions that the host lets a check import.
//!
//! Invariant: all `unsafe` of the SDK outside [`crate::export`] is here. Each block passes the host
//! the address and length of a slice that is borrowed during the call.

#![expect(unsafe_code, reason = "the host reads and writes slices by address")]

use alloc::string::String;
use alloc::vec;
use core::net::SocketAddr;
use core::time::Duration;
use std::io::{Error, ErrorKind, Result};

use super::messages;
use crate::abi::health::{REASON_MAX, errors};
use crate::abi::{PROTOCOL_TCP, PROTOCOL_UDP};
use crate::service::as_u32;

/// Names and types as in [`crate::abi::health::imports`].
mod imports {
    #[link(wasm_import_module = "waxwing")]
    unsafe extern "C" {
        pub(super) safe fn connect(protocol: u32) -> i32;
        pub(super) fn tls(connection: i32, alpn: *const u8, alpn_len: u32) -> i32;
        pub(super) fn send(connection: i32, address: *const u8, len: u32) -> i32;
        pub(super) fn recv(connection: i32, address: *mut u8, len: u32) -> i32;
        pub(super) safe fn close(connection: i32);
        pub(super) safe fn now_ms() -> i64;
        pub(super) safe fn sleep_ms(milliseconds: u32);
        pub(super) fn log(address: *const u8, len: u32);
        pub(super) fn error_text(address: *mut u8, len: u32) -> i32;
    }
}

/// The host's number of a connection.
struct Handle(i32);

impl Handle {
    fn connect(protocol: u8) -> Result<Self> {
        let connection = imports::connect(protocol.into());
        count(connection)?;
        Ok(Self(connection))
    }

    fn send(&self, bytes: &[u8]) -> Result<usize> {
        // SAFETY: the slice is borrowed during the call.
        count(unsafe { imports::send(self.0, bytes.as_ptr(), as_u32(bytes.len())) })
    }

    fn recv(&self, buffer: &mut [u8]) -> Result<usize> {
        let (address, len) = (buffer.as_mut_ptr(), as_u32(buffer.len()));
        // SAFETY: the slice is borrowed for writing during the call.
        count(unsafe { imports::recv(self.0, address, len) })
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        imports::close(self.0);
    }
}

pub(super) struct Stream(Handle);

impl Stream {
    pub(super) fn connect(_: SocketAddr, _: Duration) -> Result<Self> {
        Handle::connect(PROTOCOL_TCP).map(Self)
    }

    pub(super) fn tls(self, alpn: &[&str]) -> Result<Self> {
        let alpn = alpn.join(",");
        // SAFETY: the text is borrowed during the call.
        count(unsafe { imports::tls(self.0.0, alpn.as_ptr(), as_u32(alpn.len())) })?;
        Ok(self)
    }

    pub(super) fn recv(&mut self, buffer: &mut [u8]) -> Result<usize> {
        self.0.recv(buffer)
    }

    pub(super) fn send(&mut self, bytes: &[u8]) -> Result<usize> {
        self.0.send(bytes)
    }
}

pub(super) struct Socket(Handle);

impl Socket {
    pub(super) fn connect(_: SocketAddr, _: Duration) -> Result<Self> {
        Handle::connect(PROTOCOL_UDP).map(Self)
    }

    pub(super) fn recv(&self, buffer: &mut [u8]) -> Result<usize> {
        self.0.recv(buffer)
    }

    pub(super) fn send(&self, bytes: &[u8]) -> Result<usize> {
        self.0.send(bytes)
    }
}

pub(super) fn now() -> Duration {
    Duration::from_millis(imports::now_ms().unsigned_abs())
}

pub(super) fn sleep(time: Duration) {
    let milliseconds = time.as_nanos().div_ceil(1_000_000);
    imports::sleep_ms(u32::try_from(milliseconds).unwrap_or(u32::MAX));
}

pub(super) fn log(line: &str) {
    // SAFETY: the text is borrowed during the call.
    unsafe { imports::log(line.as_ptr(), as_u32(line.len())) }
}

/// Converts the result of an import: a count, or a negative error code.
fn count(returned: i32) -> Result<usize> {
    usize::try_from(returned).map_err(|_| error(returned))
}

/// Returns the error with the host's text, or with the text for its kind.
fn error(code: i32) -> Error {
    let kind = match code {
        errors::REFUSED => ErrorKind::ConnectionRefused,
        errors::UNREACHABLE => ErrorKind::HostUnreachable,
        errors::RESET => ErrorKind::ConnectionReset,
        errors::TIMED_OUT => ErrorKind::TimedOut,
        errors::INVALID => ErrorKind::InvalidInput,
        _ => ErrorKind::Other,
    };
    let mut text = vec![0; REASON_MAX];
    // SAFETY: the buffer is borrowed for writing during the call.
    let len = unsafe { imports::error_text(text.as_mut_ptr(), as_u32(text.len())) };
    text.truncate(usize::try_from(len).unwrap_or(0));
    match String::from_utf8(text) {
        Ok(text) if !text.is_empty() => Error::new(kind, text),
        _ => Error::new(kind, messages::for_kind(kind).unwrap_or("connection error")),
    }
}
