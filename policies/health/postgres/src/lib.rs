//! PostgreSQL: a server that takes connections. It needs no user and no password: a server that asks
//! who is there, or says that it does not know the one who is, is alive; one that is starting up,
//! shutting down or full says so, and is not.
//!
//! Invariant: one answer is read, bounded, and no password is ever sent; nothing of a connection
//! gets as far as a query.

mod answer;

use std::io::{Read, Write};

use serde::Deserialize;
use waxwing_sdk::health::lines::quote;
use waxwing_sdk::{
    ConfigError, Conn, HealthCheck, Target, Unhealthy, Verdict, export_health_check,
};

use crate::answer::Answer;

/// The version of the protocol: 3.0.
const PROTOCOL: u32 = 3 << 16;
/// What stands in a version's place to ask for TLS.
const TLS_REQUEST: u32 = 80_877_103;
/// Says good-bye.
const TERMINATE: [u8; 5] = [b'X', 0, 0, 0, 4];

/// `config = { user = "waxwing", database = "postgres", tls = true }`; all may be left out.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Who connects. The server need not know the user; its log may name it.
    user: String,
    /// To which database; without it that of the user's name. It need not be there.
    database: Option<String>,
    /// Whether to ask for TLS.
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
            Answer::Welcome => {
                // It is in already; the others still wait for a password and would log this.
                server.write_all(&TERMINATE)?;
                Ok(Verdict::healthy("it asks for no password"))
            }
            Answer::WhoIsThere => Ok(Verdict::healthy("it asks who is there")),
            Answer::Refusal(refusal) if refusal.is_about_the_user() => {
                Ok(Verdict::healthy(format!("it answers: {refusal}")))
            }
            Answer::Refusal(refusal) => Err(format!("it answers: {refusal}").into()),
        }
    }
}

/// The message that opens a connection.
fn startup(parameters: &[(&str, &str)]) -> Result<Vec<u8>, ConfigError> {
    let mut body = PROTOCOL.to_be_bytes().to_vec();
    for (name, value) in parameters {
        if value.contains('\0') || value.len() > 255 {
            return Err(
                format!("config.{name}: expected at most 255 bytes, none of them 0").into(),
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

/// A message with its length in front, which counts itself.
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
        [b'N'] => Err("it offers no TLS; leave out config.tls, or set ssl = on there".into()),
        _ => Err(format!("no answer of PostgreSQL but {}", quote(&answer)).into()),
    }
}

export_health_check!(Postgres);

#[cfg(test)]
mod tests;
