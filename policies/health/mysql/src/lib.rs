//! MySQL and MariaDB: a server that greets and takes connections. It needs no account: a server that
//! denies the user access is alive; one that is full, or has blocked the balancer, says so, and is
//! not.
//!
//! A server counts connections that break off in its handshake, and after `max_connect_errors` of
//! them blocks the host that they came from. So the check goes on to the handshake's end: it
//! answers the greeting as a user without a password, and what the server says to that ends the
//! handshake. A denied login counts for nothing there; one that is let in says good-bye.
//!
//! Invariant: packets are bounded by `packet::BYTES_MAX` and a handshake by `STEPS_MAX`, and every
//! handshake is gone through to its end or to an error.

mod greeting;
mod packet;

use serde::Deserialize;
use waxwing_sdk::health::lines::quote;
use waxwing_sdk::{ConfigError, HealthCheck, Target, Unhealthy, Verdict, export_health_check};

use crate::greeting::{Greeting, no_password};
use crate::packet::{Packets, Refusal};

/// As many packets as a server may send after its greeting.
const STEPS_MAX: usize = 5;
/// The first byte of a packet that says what it is.
const OK: u8 = 0;
const MORE_DATA: u8 = 1;
const SWITCH: u8 = 0xfe;
const ERROR: u8 = 0xff;
/// The command that says good-bye.
const QUIT: [u8; 1] = [1];

/// Errors about the user or the way to log in; a server that sends one takes connections of others.
/// Access denied (to a database, by password, without one), unknown database, an old client,
/// a locked account (of MySQL, of MariaDB), no TLS where it must be.
const ABOUT_THE_USER: [u16; 8] = [1044, 1045, 1698, 1049, 1251, 3118, 4151, 3159];

/// `config = { user = "waxwing" }`, or nothing.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Who logs in, without a password. The server need not know the user; its log may name it.
    user: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            user: "waxwing".to_string(),
        }
    }
}

/// Logs in, or tries to.
pub struct Mysql {
    user: String,
}

impl HealthCheck for Mysql {
    type Config = Config;

    fn new(config: Config) -> Result<Self, ConfigError> {
        let user = config.user;
        if user.is_empty() || user.len() > 255 || user.contains('\0') {
            return Err("config.user: expected 1 to 255 bytes, none of them 0; leave it out for \"waxwing\"".into());
        }
        Ok(Self { user })
    }

    fn check(&mut self, target: &Target) -> Result<Verdict, Unhealthy> {
        let mut server = Packets::new(target.connect()?);
        let greeting = server.read()?;
        if greeting.first() == Some(&ERROR) {
            // Instead of a greeting: too many connections, a host that is blocked or unknown.
            return Err(format!("it answers: {}", Refusal::parse(&greeting)).into());
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
                Some((&ERROR, _)) => return verdict(&greeting, &Refusal::parse(&packet)),
                Some((&SWITCH, plugin)) => server.write(no_password(first_text(plugin)))?,
                // The first byte of what the plugin says: 3, it goes well, and OK follows.
                Some((&MORE_DATA, [3, ..])) => {}
                Some((&MORE_DATA, _)) => server.write(no_password(b""))?,
                _ => return Err(format!("no answer of MySQL but {}", quote(&packet)).into()),
            }
        }
        Err("its handshake has no end".into())
    }
}

fn verdict(greeting: &Greeting, refusal: &Refusal) -> Result<Verdict, Unhealthy> {
    if ABOUT_THE_USER.contains(&refusal.code) {
        Ok(Verdict::healthy(format!("{greeting}: {refusal}")))
    } else {
        Err(format!("{greeting}: {refusal}").into())
    }
}

/// The text up to a byte 0.
fn first_text(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

export_health_check!(Mysql);

#[cfg(test)]
mod tests;
