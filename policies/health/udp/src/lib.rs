//! UDP: sends a datagram and checks the one that comes back. `silence = "healthy"` is for services
//! that never answer: then only a closed port is unhealthy.
//!
//! Invariant: one datagram decides; its buffer has the largest size of a datagram.

mod bytes;

use serde::Deserialize;
use waxwing_sdk::health::lines::quote;
use waxwing_sdk::{ConfigError, HealthCheck, Target, Unhealthy, Verdict, export_health_check};

use crate::bytes::one_of;

/// Longest datagram over IPv4, in bytes.
const DATAGRAM_BYTES_MAX: usize = 65_507;

/// `config = { send = "status\n", expect = "ok" }`.
#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Text to send. This or `send_hex` is required.
    send: Option<String>,
    /// Bytes to send, in hexadecimal digits.
    send_hex: Option<String>,
    /// Text that the answer must contain. Without it and `expect_hex`, any answer is healthy.
    expect: Option<String>,
    /// Bytes that the answer must contain, in hexadecimal digits.
    expect_hex: Option<String>,
    /// Where the answer must contain it.
    at: At,
    /// What no answer means.
    silence: Silence,
}

/// Where an answer must contain the expected bytes.
#[derive(Deserialize, Default, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "snake_case")]
pub enum At {
    #[default]
    Anywhere,
    /// At its start.
    Start,
    /// The whole answer.
    Whole,
}

/// What no answer means.
#[derive(Deserialize, Default, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "snake_case")]
pub enum Silence {
    /// The backend is unhealthy.
    #[default]
    Unhealthy,
    /// The backend is healthy unless its port is closed. The check does not wait for an answer.
    Healthy,
}

/// What to send and what to expect.
pub struct Udp {
    send: Vec<u8>,
    expect: Option<Vec<u8>>,
    at: At,
    silence: Silence,
}

impl HealthCheck for Udp {
    type Config = Config;

    fn new(config: Config) -> Result<Self, ConfigError> {
        let send = one_of("send", config.send, config.send_hex)?
            .ok_or("write what to send: config.send = \"status\", or config.send_hex = \"00ff\"")?;
        if send.len() > DATAGRAM_BYTES_MAX {
            return Err(format!(
                "config.send has {} bytes; a datagram has at most {DATAGRAM_BYTES_MAX}",
                send.len()
            )
            .into());
        }
        let expect = one_of("expect", config.expect, config.expect_hex)?;
        if expect.is_some() && config.silence == Silence::Healthy {
            return Err(
                "config.expect needs an answer, and config.silence = \"healthy\" waits for none; \
                 leave out one of them"
                    .into(),
            );
        }
        Ok(Self {
            send,
            expect,
            at: config.at,
            silence: config.silence,
        })
    }

    fn check(&mut self, target: &Target) -> Result<Verdict, Unhealthy> {
        let server = target.connect_udp()?;
        server.send(&self.send)?;
        if self.silence == Silence::Healthy {
            // A closed port returns an ICMP error, which the next call reports.
            target.sleep(target.timeout() / 2);
            server.send(&self.send)?;
            return Ok(Verdict::healthy("the port is not closed"));
        }
        let mut answer = vec![0; DATAGRAM_BYTES_MAX];
        let count = server.recv(&mut answer)?;
        self.compare(&answer[..count])
    }
}

impl Udp {
    fn compare(&self, answer: &[u8]) -> Result<Verdict, Unhealthy> {
        let Some(expect) = &self.expect else {
            return Ok(Verdict::healthy(format!("{} bytes received", answer.len())));
        };
        let is_there = match self.at {
            At::Anywhere => contains(answer, expect),
            At::Start => answer.starts_with(expect),
            At::Whole => answer == expect,
        };
        if is_there {
            Ok(Verdict::healthy(format!("answered {}", quote(answer))))
        } else {
            let (answer, expect) = (quote(answer), quote(expect));
            Err(format!("answered {answer}, expected {expect}").into())
        }
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    part.is_empty() || bytes.windows(part.len()).any(|window| window == part)
}

export_health_check!(Udp);

#[cfg(test)]
mod tests;
