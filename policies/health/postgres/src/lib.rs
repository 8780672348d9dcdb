//! PostgreSQL: the server accepts connections. The check needs no user and no password: a server
//! that asks for authentication, or does not know the user, is healthy. One that is starting up,
//! shutting down or full says so, and is unhealthy.
//!
//! Invariant: the check reads one bounded answer, never sends a password, and never sends a query.

mod answer;

use std::io::{Read, Write};

use serde::Deserialize;
use waxwing_sdk::health::lines::quote;
use waxwing_sdk::{
    ConfigError, Conn, HealthCheck, Target, Unhealthy, Verdict, export_health_check,
};

use crate::answer::Answer;

/// Version 3.0 of the protocol.
const PROTOCOL: u32 = 3 << 16;
/// Sent in place of a version to request TLS.
const TLS_REQUEST: u32 = 80_877_103;
/// The message that ends a session.
const TERMINATE: [u8; 5] = [b'X', 0, 0, 0, 4];

/// `config = { user = "waxwing", database = "postgres", tls = true }`; all keys are optional.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// User to connect as. It need not exist; the server's log may name it.
    user: String,
    /// Database to connect to. Default: one with the user's name. It need not exist.
    database: Option<String>,
    /// Whether to request TLS.
    tls: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            user: "waxwing".to_string(),
            database: None,
            tls: false,
        }
    }
}

/// The messages to send.
pub struct Postgres {
    startup: Vec<u8>,
    tls: bool,
}

impl HealthCheck for Postgres {
    type Config = Config;

    fn new(config: Config) -> Result<Self, ConfigError> {
        if config.user.is_empty() {
            return Err("config.user: expected a name; leave it out for \"waxwing\"".into());
        }
        let mut parameters = vec![("user", config.user.as_str())];
        parameters.extend(config.database.as_deref().map(|name| ("database", name)));
        parameters.push(("application_name", "waxwing"));
        Ok(Self {
            startup: startup(&parameters)?,
            tls: config.tls,
        })
    }

    fn check(&mut self, target: &Target) -> Result<Verdict, Unhealthy> {
        let mut server = target.connect()?;
        if self.tls {
            server = with_tls(server)?;
        }
        server.write_all(&self.startup)?;
        match Answer::read(&mut server)? {
            Answer::Authenticated => {
                // The user is logged in, so the check ends the session. A server that waits for a
                // password would log this message as an error.
                server.write_all(&TERMINATE)?;
                Ok(Verdict::healthy("accepts the user without a password"))
            }
            Answer::AuthenticationRequired => Ok(Verdict::healthy("asks for authentication")),
            Answer::Error(error) if error.is_about_the_user() => {
                Ok(Verdict::healthy(format!("server error: {error}")))
            }
            Answer::Error(error) => Err(format!("server error: {error}").into()),
        }
    }
}

/// Returns the message that opens a connection.
fn startup(parameters: &[(&str, &str)]) -> Result<Vec<u8>, ConfigError> {
    let mut body = PROTOCOL.to_be_bytes().to_vec();
    for (name, value) in parameters {
        if value.contains('\0') || value.len() > 255 {
            return Err(
                format!("config.{name}: expected at most 255 bytes without a zero byte").into(),
            );
        }
        for text in [name, value] {
            body.extend(text.bytes());
            body.push(0);
        }
    }
    body.push(0);
    Ok(with_length(&body))
}

/// Prepends the length of a message, which includes the length field.
fn with_length(body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(body.len() + 4).unwrap_or(u32::MAX);
    [&len.to_be_bytes(), body].concat()
}

fn with_tls(mut server: Conn) -> Result<Conn, Unhealthy> {
    server.write_all(&with_length(&TLS_REQUEST.to_be_bytes()))?;
    let mut answer = [0];
    server.read_exact(&mut answer)?;
    match answer {
        [b'S'] => Ok(server.tls(&[])?),
        [b'N'] => Err(
            "the server offers no TLS; leave out config.tls, or set ssl = on in the server".into(),
        ),
        _ => Err(format!("not a PostgreSQL answer: {}", quote(&answer)).into()),
    }
}

export_health_check!(Postgres);

#[cfg(test)]
mod tests;
