//! Packets of the client/server protocol: a length of three bytes, a number that counts on, and a
//! body; and the body of an error.
//!
//! Invariant: nothing is read or held by a length over [`BYTES_MAX`].

use std::fmt;
use std::io::{Read, Write};

use waxwing_sdk::health::lines::{printable, quote};
use waxwing_sdk::{Conn, Unhealthy};

/// The longest body that a server sends in a handshake, in bytes, and more.
pub(crate) const BYTES_MAX: usize = 16 * 1024;

/// The packets of a connection, to and fro.
pub(crate) struct Packets {
    server: Conn,
    /// The number of the next one.
    next: u8,
}

impl Packets {
    pub(crate) fn new(server: Conn) -> Self {
        Self { server, next: 0 }
    }

    /// A command follows, whose number is 0.
    pub(crate) fn start_over(&mut self) {
        self.next = 0;
    }

    /// The body of the next packet.
    pub(crate) fn read(&mut self) -> Result<Vec<u8>, Unhealthy> {
        let mut head = [0; 4];
        self.server.read_exact(&mut head)?;
        let [a, b, c, number] = head;
        let bytes = u32::from_le_bytes([a, b, c, 0]) as usize;
        if bytes > BYTES_MAX || number != self.next {
            return Err(format!("no answer of MySQL but {}", quote(&head)).into());
        }
        self.next = number.wrapping_add(1);
        let mut body = vec![0; bytes];
        self.server.read_exact(&mut body)?;
        Ok(body)
    }

    /// Sends one with this body, which is short.
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
pub(crate) struct Refusal {
    pub(crate) code: u16,
    text: String,
}

impl Refusal {
    /// From a body: 0xff, the code, in most of them `#` and five characters of the SQL standard, and
    /// the text. What is cut off is 0 or empty.
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

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.text, self.code)
    }
}
