//! A server's first packet, version 10 of the protocol, and the answer to it.
//!
//! Invariant: a greeting that ends too early is none; nothing else of it matters but who it is
//! from and how it wants to be logged into.

use std::fmt;

use waxwing_sdk::Unhealthy;
use waxwing_sdk::health::lines::{printable, quote};

use crate::first_text;

/// The version of the protocol, since 1998.
const PROTOCOL: u8 = 10;
/// What stands in front of MariaDB's version, for old replicas.
const MARIADB_PREFIX: &str = "5.5.5-";
/// Between the version and the plugin's name: connection id, challenge, and so on.
const BEFORE_PLUGIN: usize = 31;
/// Where in that the length of the whole challenge is.
const CHALLENGE_LEN: usize = 20;
/// How much of the challenge stands in front of the plugin's name at least, with a byte 0.
const CHALLENGE_REST_MIN: usize = 13;

/// Capabilities: long passwords (or, to MariaDB, being a MySQL client), version 4.1 of the protocol,
/// its way to send a password, and the name of the plugin that checks it.
const CAPABILITIES: u32 = 1 | 0x200 | 0x8000 | 0x8_0000;
/// The largest packet that the client takes, in bytes.
const PACKET_BYTES_MAX: u32 = 1 << 24;
/// utf8mb4, which every server since 5.5 has.
const CHARACTER_SET: u8 = 45;
/// Bytes 0 that stand before the user.
const RESERVED: [u8; 23] = [0; 23];

/// The plugin that takes no bytes at all for no password.
const NATIVE: &[u8] = b"mysql_native_password";

/// What a server says of itself.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Greeting {
    version: String,
    /// The plugin that checks passwords, unless a user has another one.
    plugin: Vec<u8>,
}

impl Greeting {
    pub(crate) fn parse(body: &[u8]) -> Result<Self, Unhealthy> {
        let found = match body.split_first() {
            Some((&PROTOCOL, rest)) => Self::parse_fields(rest),
            _ => None,
        };
        found.ok_or_else(|| format!("no greeting of MySQL but {}", quote(body)).into())
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

    /// The answer: a user without a password, as the plugin would have it.
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

/// How a plugin is told that there is no password: the old one by nothing, all others by a text that
/// is empty.
pub(crate) fn no_password(plugin: &[u8]) -> &'static [u8] {
    if plugin == NATIVE { &[] } else { &[0] }
}
