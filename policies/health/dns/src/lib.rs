//! DNS: a server that answers a query, with the response code and as many records as it should.
//!
//! Invariant: an answer counts only if it is to this query, by its id and its question (RFC 1035,
//! RFC 5452); other datagrams are passed over, a bounded number of them.

mod answer;
mod query;

use std::io::{Read, Write};

use serde::Deserialize;
use waxwing_sdk::hash;
use waxwing_sdk::{ConfigError, HealthCheck, Target, Unhealthy, Verdict, export_health_check};

use crate::answer::{Answer, NOT_OURS};
use crate::query::Query;

/// How many datagrams that are no answer to the query are passed over.
const STRAYS_MAX: usize = 16;
/// An answer over UDP has at most 512 bytes (RFC 1035 section 4.2.1), where the query offers no more;
/// not every server keeps to that.
const DATAGRAM_BYTES_MAX: usize = 4096;

/// `config = { name = "www.example.com", type = "AAAA", answers = 2, tcp = true }`; all may be left
/// out.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The name to ask for.
    name: String,
    /// The type of records: `A`, or `TYPE1`. Without it `NS` for the root, and `A` for other names.
    r#type: Option<String>,
    /// The response code that is expected: `NOERROR`, `RCODE0`, or `any`.
    rcode: String,
    /// How many records of the type the answer must have at least. Without it 1 if `NOERROR` is
    /// expected, and else none.
    answers: Option<u16>,
    /// Whether the server is to ask others, as a resolver does.
    recursion: bool,
    /// Whether to ask over TCP.
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

/// What to ask and what to expect.
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
        Err(NOT_OURS.into())
    }

    /// RFC 1035 section 4.2.2: a length of two bytes is in front of each message.
    fn ask_over_tcp(&self, target: &Target) -> Result<Answer, Unhealthy> {
        let mut server = target.connect()?;
        let query = self.query.bytes(id(target));
        let len = u16::try_from(query.len()).unwrap_or(u16::MAX);
        server.write_all(&[&len.to_be_bytes(), &query[..]].concat())?;
        let mut len = [0; 2];
        server.read_exact(&mut len)?;
        let mut message = vec![0; u16::from_be_bytes(len).into()];
        server.read_exact(&mut message)?;
        Answer::parse(&message, &query)?.ok_or_else(|| NOT_OURS.into())
    }

    fn judge(&self, answer: &Answer) -> Result<Verdict, Unhealthy> {
        let found = answer.to_string();
        if let Some(rcode) = self.rcode.filter(|rcode| *rcode != answer.rcode) {
            let expected = answer::rcode_name(rcode);
            return Err(format!("it answers {found}, expected {expected}").into());
        }
        if answer.records < self.answers {
            let cure = if answer.is_truncated && !self.tcp {
                "; the answer is cut, set config.tcp = true"
            } else {
                ""
            };
            let expected = self.answers;
            return Err(format!("it answers {found}, expected at least {expected}{cure}").into());
        }
        Ok(Verdict::healthy(format!("it answers {found}")))
    }
}

/// An id for a query, another for each run and backend. It need not be a secret: the socket is
/// connected to the server, on a port of the system's choice.
fn id(target: &Target) -> u16 {
    let backend = hash::bytes(target.backend().as_bytes());
    let time = u64::try_from(target.now().as_micros()).unwrap_or(u64::MAX);
    let [.., a, b] = hash::mix(backend ^ time).to_be_bytes();
    u16::from_be_bytes([a, b])
}

export_health_check!(Dns);

#[cfg(test)]
mod tests;
