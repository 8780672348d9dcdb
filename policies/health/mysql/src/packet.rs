//! Packets of the client/server protocol: a length of three bytes, a sequence number, and a body;
//! and the body of an error.
//!
//! Invariant: no length over [`BYTES_MAX`] is read or allocated.

use std::fmt;
use std::io::{Read, Write};

use waxwing_sdk::health::lines::{printable, quote};
use waxwing_sdk::{Conn, Unhealthy};

/// Longest body in a handshake, in bytes, with room to spare.
pub(crate) const BYTES_MAX: usize = 16 * 1024;

/// The packets of a connection, in both directions.
pub(crate) struct Packets {
    server: Conn,
    /// Sequence number of the next packet.
    next: u8,
}

impl Packets {
    pub(crate) fn new(server: Conn) -> Self {
        Self { server, next: 0 }
    }

    /// Restarts the sequence for a command.
    pub(crate) fn start_over(&mut self) {
        self.next = 0;
    }

    /// Reads the body of the next packet.
    pub(crate) fn read(&mut self) -> Result<Vec<u8>, Unhealthy> {
        let mut head = [0; 4];
        self.server.read_exact(&mut head)?;
        let [a, b, c, number] = head;
        let bytes = u32::from_le_bytes([a, b, c, 0]) as usize;
        if bytes > BYTES_MAX || number != self.next {
            return Err(format!("not a MySQL answer: {}", quote(&head)).into());
        }
        self.next = number.wrapping_add(1);
        let mut body = vec![0; bytes];
        self.server.read_exact(&mut body)?;
        Ok(body)
    }

    /// Sends a packet with this short body.
    pub(crate) fn write(&mut self, body: &[u8]) -> Result<(), Unhealthy> {
        let len = u32::try_from(body.len()).unwrap_or(u32::MAX);
        let [a, b, c, _] = len.to_le_bytes();
        let packet = [&[a, b, c, self.next], body].concat();
        self.next = self.next.wrapping_add(1);
        Ok(self.server.write_all(&packet)?)
    }
}

/// An error of the server.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct ServerError {
    pub(crate) code: u16,
    text: String,
}

impl ServerError {
    /// Parses a body: 0xff, the code, usually `#` and a SQLSTATE of five characters, and the text.
    /// What is truncated is 0 or empty.
    pub(crate) fn parse(body: &[u8]) -> Self {
        let rest = body.get(1..).unwrap_or_default();
        let (code, text) = rest.split_first_chunk().unwrap_or((&[0; 2], &[]));
        let text = match text {
            [b'#', _, _, _, _, _, text @ ..] => text,
            text => text,
        };
        Self {
            code: u16::from_le_bytes(*code),
            text: printable(text),
        }
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.text, self.code)
    }
}
