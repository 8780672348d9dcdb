//! MySQL and MariaDB: the server greets and accepts connections. The check needs no account: a
//! server that denies the user access is healthy. One that is full or has blocked the balancer says
//! so, and is unhealthy.
//!
//! A server counts connections that break off in the handshake, and blocks their host after
//! `max_connect_errors` of them. So the check completes the handshake: it responds as a user
//! without a password, and the server's answer ends the handshake. A denied login does not count as
//! an error; after a successful one the check quits.
//!
//! Invariant: packets are bounded by `packet::BYTES_MAX` and a handshake by `STEPS_MAX`, and every
//! handshake runs to its end or to an error.

mod greeting;
mod packet;

use serde::Deserialize;
use waxwing_sdk::health::lines::quote;
use waxwing_sdk::{ConfigError, HealthCheck, Target, Unhealthy, Verdict, export_health_check};

use crate::greeting::{Greeting, no_password};
use crate::packet::{Packets, ServerError};

/// Most packets that the server may send after its greeting.
const STEPS_MAX: usize = 5;
/// First byte of a packet, which is its kind.
const OK: u8 = 0;
const MORE_DATA: u8 = 1;
const SWITCH: u8 = 0xfe;
const ERROR: u8 = 0xff;
/// The command to quit.
const QUIT: [u8; 1] = [1];

/// Error codes about the user or the authentication; a server that sends one accepts other
/// connections. Access denied (to a database, with a password, without one), unknown database, old
/// client, locked account (MySQL, MariaDB), TLS required.
const AUTHENTICATION_ERRORS: [u16; 8] = [1044, 1045, 1698, 1049, 1251, 3118, 4151, 3159];

/// `config = { user = "waxwing" }`; all keys are optional.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// User to log in as, without a password. It need not exist; the server's log may name it.
    user: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            user: "waxwing".to_string(),
        }
    }
}

pub struct Mysql {
    user: String,
}

impl HealthCheck for Mysql {
    type Config = Config;

    fn new(config: Config) -> Result<Self, ConfigError> {
        let user = config.user;
        if user.is_empty() || user.len() > 255 || user.contains('\0') {
            return Err(
                "config.user: expected 1 to 255 bytes without a zero byte; leave it out for \
                        \"waxwing\""
                    .into(),
            );
        }
        Ok(Self { user })
    }

    fn check(&mut self, target: &Target) -> Result<Verdict, Unhealthy> {
        let mut server = Packets::new(target.connect()?);
        let greeting = server.read()?;
        if greeting.first() == Some(&ERROR) {
            // Sent instead of a greeting: too many connections, a blocked or unknown host.
            return Err(format!("server error: {}", ServerError::parse(&greeting)).into());
        }
        let greeting = Greeting::parse(&greeting)?;
        server.write(&greeting.response(&self.user))?;
        for _ in 0..STEPS_MAX {
            let packet = server.read()?;
            match packet.split_first() {
                Some((&OK, _)) => {
                    server.start_over();
                    server.write(&QUIT)?;
                    return Ok(Verdict::healthy(greeting.to_string()));
                }
                Some((&ERROR, _)) => return verdict(&greeting, &ServerError::parse(&packet)),
                Some((&SWITCH, plugin)) => server.write(no_password(first_text(plugin)))?,
                // Data of the plugin: 3 means success, and OK follows.
                Some((&MORE_DATA, [3, ..])) => {}
                Some((&MORE_DATA, _)) => server.write(no_password(b""))?,
                _ => return Err(format!("not a MySQL answer: {}", quote(&packet)).into()),
            }
        }
        Err("the handshake does not end".into())
    }
}

fn verdict(greeting: &Greeting, error: &ServerError) -> Result<Verdict, Unhealthy> {
    if AUTHENTICATION_ERRORS.contains(&error.code) {
        Ok(Verdict::healthy(format!("{greeting}: {error}")))
    } else {
        Err(format!("{greeting}: {error}").into())
    }
}

/// Returns the text up to a zero byte.
fn first_text(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

export_health_check!(Mysql);

#[cfg(test)]
mod tests;
