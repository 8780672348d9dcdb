//! DNS: the server answers a query with the expected response code and number of records.
//!
//! Invariant: an answer counts only if its id and its question are those of the query (RFC 1035,
//! RFC 5452). A bounded number of other datagrams is skipped.

mod answer;
mod query;

use std::io::{Read, Write};

use serde::Deserialize;
use waxwing_sdk::hash;
use waxwing_sdk::{ConfigError, HealthCheck, Target, Unhealthy, Verdict, export_health_check};

use crate::answer::{Answer, OTHER_QUERY};
use crate::query::Query;

/// Most datagrams that are skipped because they do not answer the query.
const STRAYS_MAX: usize = 16;
/// Without a larger offer in the query an answer over UDP has at most 512 bytes (RFC 1035 section
/// 4.2.1); not every server respects that.
const DATAGRAM_BYTES_MAX: usize = 4096;

/// `config = { name = "www.example.com", type = "AAAA", answers = 2, tcp = true }`; all keys are
/// optional.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Name to query.
    name: String,
    /// Record type: `A`, or by number `TYPE1`. Default: `NS` for the root, `A` for other names.
    r#type: Option<String>,
    /// Expected response code: `NOERROR`, `RCODE11`, or `any`.
    rcode: String,
    /// Least number of records of the type. Default: 1 if `NOERROR` is expected, otherwise 0.
    answers: Option<u16>,
    /// Whether the server should query other servers, as a resolver does.
    recursion: bool,
    /// Whether to query over TCP.
    tcp: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            name: ".".to_string(),
            r#type: None,
            rcode: "NOERROR".to_string(),
            answers: None,
            recursion: true,
            tcp: false,
        }
    }
}

/// The query and the expected answer.
pub struct Dns {
    query: Query,
    /// `None`: any.
    rcode: Option<u8>,
    answers: u16,
    tcp: bool,
}

impl HealthCheck for Dns {
    type Config = Config;

    fn new(config: Config) -> Result<Self, ConfigError> {
        let is_root = config.name == ".";
        let default_type = if is_root { "NS" } else { "A" };
        let kind = config.r#type.as_deref().unwrap_or(default_type);
        let kind = query::kind(kind).map_err(|error| error.at("config.type"))?;
        let query = Query::new(&config.name, kind, config.recursion)
            .map_err(|error| error.at("config.name"))?;
        let rcode = answer::rcode(&config.rcode).map_err(|error| error.at("config.rcode"))?;
        Ok(Self {
            query,
            rcode,
            answers: config.answers.unwrap_or(u16::from(rcode == Some(0))),
            tcp: config.tcp,
        })
    }

    fn check(&mut self, target: &Target) -> Result<Verdict, Unhealthy> {
        let answer = if self.tcp {
            self.ask_over_tcp(target)?
        } else {
            self.ask_over_udp(target)?
        };
        self.judge(&answer)
    }
}

impl Dns {
    fn ask_over_udp(&self, target: &Target) -> Result<Answer, Unhealthy> {
        let server = target.connect_udp()?;
        let query = self.query.bytes(id(target));
        server.send(&query)?;
        let mut datagram = vec![0; DATAGRAM_BYTES_MAX];
        for _ in 0..STRAYS_MAX {
            let count = server.recv(&mut datagram)?;
            if let Some(answer) = Answer::parse(&datagram[..count], &query)? {
                return Ok(answer);
            }
        }
        Err(OTHER_QUERY.into())
    }

    /// RFC 1035 section 4.2.2: each message has a length of two bytes in front.
    fn ask_over_tcp(&self, target: &Target) -> Result<Answer, Unhealthy> {
        let mut server = target.connect()?;
        let query = self.query.bytes(id(target));
        let len = u16::try_from(query.len()).unwrap_or(u16::MAX);
        server.write_all(&[&len.to_be_bytes(), &query[..]].concat())?;
        let mut len = [0; 2];
        server.read_exact(&mut len)?;
        let mut message = vec![0; u16::from_be_bytes(len).into()];
        server.read_exact(&mut message)?;
        Answer::parse(&message, &query)?.ok_or_else(|| OTHER_QUERY.into())
    }

    fn judge(&self, answer: &Answer) -> Result<Verdict, Unhealthy> {
        let found = answer.to_string();
        if let Some(rcode) = self.rcode.filter(|rcode| *rcode != answer.rcode) {
            let expected = answer::rcode_name(rcode);
            return Err(format!("answered {found}, expected {expected}").into());
        }
        if answer.records < self.answers {
            let remedy = if answer.is_truncated && !self.tcp {
                "; the answer is truncated, set config.tcp = true"
            } else {
                ""
            };
            let expected = self.answers;
            return Err(format!("answered {found}, expected at least {expected}{remedy}").into());
        }
        Ok(Verdict::healthy(format!("answered {found}")))
    }
}

/// Returns a query id that differs between runs and backends. It needs no secrecy: the socket is
/// connected to the server, from a port that the system chose.
fn id(target: &Target) -> u16 {
    let backend = hash::bytes(target.backend().as_bytes());
    let time = u64::try_from(target.now().as_micros()).unwrap_or(u64::MAX);
    let [.., a, b] = hash::mix(backend ^ time).to_be_bytes();
    u16::from_be_bytes([a, b])
}

export_health_check!(Dns);

#[cfg(test)]
mod tests;
