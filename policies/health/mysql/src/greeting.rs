//! The server's first packet in version 10 of the protocol, and the response to it.
//!
//! Invariant: a truncated greeting is an error. Only the version and the authentication plugin are
//! read from it.

use std::fmt;

use waxwing_sdk::Unhealthy;
use waxwing_sdk::health::lines::{printable, quote};

use crate::first_text;

/// Version of the protocol, since 1998.
const PROTOCOL: u8 = 10;
/// Prefix of MariaDB's version, for old replicas.
const MARIADB_PREFIX: &str = "5.5.5-";
/// Bytes between the version and the second part of the challenge: connection id, first part of the
/// challenge, and more.
const BEFORE_PLUGIN: usize = 31;
/// Offset of the challenge's total length in these bytes.
const CHALLENGE_LEN: usize = 20;
/// Least length of the second part of the challenge, including its final 0.
const CHALLENGE_REST_MIN: usize = 13;

/// Capabilities: long passwords (to MariaDB: a MySQL client), protocol 4.1, its password format,
/// and the name of the authentication plugin.
const CAPABILITIES: u32 = 1 | 0x200 | 0x8000 | 0x8_0000;
/// Largest packet that the client accepts, in bytes.
const PACKET_BYTES_MAX: u32 = 1 << 24;
/// utf8mb4, which every server since 5.5 has.
const CHARACTER_SET: u8 = 45;
/// Zero bytes before the user.
const RESERVED: [u8; 23] = [0; 23];

/// The plugin that expects zero bytes for an empty password.
const NATIVE: &[u8] = b"mysql_native_password";

#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Greeting {
    version: String,
    /// The plugin that checks passwords, unless the user has another one.
    plugin: Vec<u8>,
}

impl Greeting {
    pub(crate) fn parse(body: &[u8]) -> Result<Self, Unhealthy> {
        let greeting = match body.split_first() {
            Some((&PROTOCOL, rest)) => Self::parse_fields(rest),
            _ => None,
        };
        greeting.ok_or_else(|| format!("not a MySQL greeting: {}", quote(body)).into())
    }

    fn parse_fields(rest: &[u8]) -> Option<Self> {
        let version = first_text(rest);
        let (fixed, rest) = rest
            .get(version.len() + 1..)?
            .split_at_checked(BEFORE_PLUGIN)?;
        let challenge_rest = usize::from(fixed[CHALLENGE_LEN]).saturating_sub(8);
        let plugin = rest.get(challenge_rest.max(CHALLENGE_REST_MIN)..)?;
        Some(Self {
            version: printable(version),
            plugin: first_text(plugin).to_vec(),
        })
    }

    /// Returns the response: a user without a password, in the plugin's format.
    pub(crate) fn response(&self, user: &str) -> Vec<u8> {
        let password = no_password(&self.plugin);
        let mut body = Vec::new();
        body.extend(CAPABILITIES.to_le_bytes());
        body.extend(PACKET_BYTES_MAX.to_le_bytes());
        body.push(CHARACTER_SET);
        body.extend(RESERVED);
        body.extend(user.bytes());
        body.push(0);
        body.push(u8::from(!password.is_empty()));
        body.extend(password);
        body.extend(&self.plugin);
        body.push(0);
        body
    }
}

impl fmt::Display for Greeting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.version.split_once("-MariaDB") {
            Some((version, _)) => {
                let version = version.strip_prefix(MARIADB_PREFIX).unwrap_or(version);
                write!(f, "MariaDB {version}")
            }
            None => write!(f, "MySQL {}", self.version),
        }
    }
}

/// Returns an empty password in the plugin's format: nothing for the old one, an empty text for all
/// others.
pub(crate) fn no_password(plugin: &[u8]) -> &'static [u8] {
    if plugin == NATIVE { &[] } else { &[0] }
}
