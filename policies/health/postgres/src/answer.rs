//! The server's answer to a startup message: a request for authentication, or an error.
//!
//! Invariant: a length from the server is compared with [`BODY_BYTES_MAX`] before anything of that
//! length is read or allocated.

use std::fmt;
use std::io::Read;

use waxwing_sdk::health::lines::{printable, quote};
use waxwing_sdk::{Conn, Unhealthy};

/// Longest body of a message, in bytes.
const BODY_BYTES_MAX: usize = 8 * 1024;
/// Longest error text of a server that could not start a process for the connection, in bytes.
const BARE_TEXT_BYTES_MAX: usize = 512;

pub(crate) enum Answer {
    /// The user is logged in without a password.
    Authenticated,
    /// The server requires a password or other authentication.
    AuthenticationRequired,
    Error(ServerError),
}

/// An error of the server.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct ServerError {
    /// SQLSTATE, five characters, or empty.
    code: String,
    text: String,
}

impl Answer {
    pub(crate) fn read(server: &mut Conn) -> Result<Self, Unhealthy> {
        let mut head = [0; 5];
        server.read_exact(&mut head[..1])?;
        if !matches!(head[0], b'R' | b'E') {
            return Err(format!("not a PostgreSQL answer: {}", quote(&head[..1])).into());
        }
        server.read_exact(&mut head[1..])?;
        let [kind, len @ ..] = head;
        let body_bytes = (u32::from_be_bytes(len) as usize).checked_sub(4);
        let body_bytes = body_bytes.filter(|bytes| *bytes <= BODY_BYTES_MAX);
        match (kind, body_bytes) {
            (b'R', Some(bytes)) => match read_body(server, bytes)?.first_chunk() {
                Some([0, 0, 0, 0]) => Ok(Self::Authenticated),
                Some(_) => Ok(Self::AuthenticationRequired),
                None => Err(format!("not a PostgreSQL answer: {}", quote(&head)).into()),
            },
            (b'E', Some(bytes)) => {
                let body = read_body(server, bytes)?;
                Ok(Self::Error(ServerError::parse(&body)))
            }
            // If the server cannot start a process for the connection, it sends an error in the
            // format of protocol version 2: no length, text up to a zero byte.
            (b'E', None) => Ok(Self::Error(ServerError {
                code: String::new(),
                text: read_bare_text(server, len)?,
            })),
            _ => Err(format!("not a PostgreSQL answer: {}", quote(&head)).into()),
        }
    }
}

impl ServerError {
    /// Parses fields of a kind byte and a text up to a zero byte. Missing fields are empty.
    fn parse(body: &[u8]) -> Self {
        let field = |kind: u8| {
            body.split(|byte| *byte == 0)
                .find_map(|field| field.strip_prefix(&[kind]))
                .map(printable)
                .unwrap_or_default()
        };
        Self {
            code: field(b'C'),
            text: field(b'M'),
        }
    }

    /// Returns whether the error is about the user or the database: SQLSTATE class 28 (invalid
    /// authorization) or 3D (unknown database). Such a server accepts other connections.
    pub(crate) fn is_about_the_user(&self) -> bool {
        self.code.starts_with("28") || self.code.starts_with("3D")
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        if !self.code.is_empty() {
            write!(f, " ({})", self.code)?;
        }
        Ok(())
    }
}

fn read_body(server: &mut Conn, bytes: usize) -> Result<Vec<u8>, Unhealthy> {
    let mut body = vec![0; bytes];
    server.read_exact(&mut body)?;
    Ok(body)
}

fn read_bare_text(server: &mut Conn, start: [u8; 4]) -> Result<String, Unhealthy> {
    let mut text = start.to_vec();
    server
        .take(BARE_TEXT_BYTES_MAX as u64)
        .read_to_end(&mut text)?;
    let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(printable(text))
}
