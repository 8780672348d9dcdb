//! What a server says to a startup message: it asks for authentication, or refuses with an error.
//!
//! Invariant: a length that a server sends is compared with [`BODY_BYTES_MAX`] before anything is
//! read or held by it.

use std::fmt;
use std::io::Read;

use waxwing_sdk::health::lines::{printable, quote};
use waxwing_sdk::{Conn, Unhealthy};

/// The longest body of a message, in bytes.
const BODY_BYTES_MAX: usize = 8 * 1024;
/// The longest error of a server that could not even start a process for the connection, in bytes.
const BARE_TEXT_BYTES_MAX: usize = 512;

pub(crate) enum Answer {
    /// The user is in without a password.
    Welcome,
    /// It wants a password, or another proof.
    WhoIsThere,
    Refusal(Refusal),
}

/// An error of the server.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Refusal {
    /// Five characters of the SQL standard and of PostgreSQL, or empty.
    code: String,
    text: String,
}

impl Answer {
    pub(crate) fn read(server: &mut Conn) -> Result<Self, Unhealthy> {
        let mut head = [0; 5];
        server.read_exact(&mut head[..1])?;
        if !matches!(head[0], b'R' | b'E') {
            return Err(format!("no answer of PostgreSQL but {}", quote(&head[..1])).into());
        }
        server.read_exact(&mut head[1..])?;
        let [kind, len @ ..] = head;
        let body_bytes = (u32::from_be_bytes(len) as usize).checked_sub(4);
        let body_bytes = body_bytes.filter(|bytes| *bytes <= BODY_BYTES_MAX);
        match (kind, body_bytes) {
            (b'R', Some(bytes)) => match read_body(server, bytes)?.first_chunk() {
                Some([0, 0, 0, 0]) => Ok(Self::Welcome),
                Some(_) => Ok(Self::WhoIsThere),
                None => Err(format!("no answer of PostgreSQL but {}", quote(&head)).into()),
            },
            (b'E', Some(bytes)) => {
                let body = read_body(server, bytes)?;
                Ok(Self::Refusal(Refusal::parse(&body)))
            }
            // Without a process to say it well, the first one says it as in version 2 of the
            // protocol: no length, a text up to a byte 0.
            (b'E', None) => Ok(Self::Refusal(Refusal {
                code: String::new(),
                text: read_bare_text(server, len)?,
            })),
            _ => Err(format!("no answer of PostgreSQL but {}", quote(&head)).into()),
        }
    }
}

impl Refusal {
    /// From fields: a byte that says which, and a text up to a byte 0. Those that are missing are
    /// empty.
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

    /// Whether it is the user or the database that the server does not like: classes 28 (invalid
    /// authorization) and 3D (no such database). Such a server takes connections of others.
    pub(crate) fn is_about_the_user(&self) -> bool {
        self.code.starts_with("28") || self.code.starts_with("3D")
    }
}

impl fmt::Display for Refusal {
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
