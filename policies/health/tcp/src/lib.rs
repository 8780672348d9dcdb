//! TCP: connects to the backend, with TLS if configured, and may send a text and check how the
//! answer starts.
//!
//! Use it for servers that have no page to request. A connection alone only shows that the port is
//! open: the kernel accepts connections for a process that hangs. An answer of the server itself,
//! such as a mail server's greeting, shows more.
//!
//! Invariant: an answer is read only until it differs, plus one buffer.

use std::io::{self, Read, Write};

use serde::Deserialize;
use waxwing_sdk::health::lines::quote;
use waxwing_sdk::{
    ConfigError, Conn, HealthCheck, Target, Unhealthy, Verdict, export_health_check,
};

/// Size of one read. Bytes after the expected start appear in the reason.
const READ_MAX: usize = 512;

/// `config = { tls = false, send = "PING\r\n", expect = "+PONG" }`; all keys are optional.
#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Whether the server speaks TLS from the start.
    tls: bool,
    /// Text to send.
    send: Option<String>,
    /// Start of the server's answer or greeting.
    expect: Option<String>,
}

pub struct Tcp {
    config: Config,
}

impl HealthCheck for Tcp {
    type Config = Config;

    fn new(config: Config) -> Result<Self, ConfigError> {
        for (key, text) in [("send", &config.send), ("expect", &config.expect)] {
            if text.as_ref().is_some_and(String::is_empty) {
                return Err(format!("config.{key} is empty; leave it out, or write a text").into());
            }
        }
        Ok(Self { config })
    }

    fn check(&mut self, target: &Target) -> Result<Verdict, Unhealthy> {
        let start = target.now();
        let mut conn = target.connect()?;
        if self.config.tls {
            conn = conn.tls(&[])?;
        }
        if let Some(text) = &self.config.send {
            conn.write_all(text.as_bytes())?;
        }
        let what = match &self.config.expect {
            Some(text) => {
                expect(&mut conn, text.as_bytes())?;
                "answered as expected"
            }
            None => "connected",
        };
        let took = target.now().saturating_sub(start).as_millis();
        Ok(Verdict::healthy(format!("{what} in {took} ms")))
    }
}

/// Reads until it is clear whether the answer starts with `expected`.
fn expect(conn: &mut Conn, expected: &[u8]) -> Result<(), Unhealthy> {
    let mut answer = Vec::new();
    while answer.len() < expected.len() {
        let mut piece = [0; READ_MAX];
        match conn.read(&mut piece) {
            Ok(0) => return Err(conn.closed_early().into()),
            Ok(count) => answer.extend(&piece[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
        let compared = answer.len().min(expected.len());
        if answer[..compared] != expected[..compared] {
            let (answer, expected) = (quote(&answer), quote(expected));
            return Err(format!("answered {answer}, expected {expected}").into());
        }
    }
    Ok(())
}

export_health_check!(Tcp);

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

    use std::net::{SocketAddr, TcpListener};
    use std::time::Duration;

    use waxwing_sdk::testing::{self, TestServer, TestTarget, check};

    use super::*;

    /// Returns the reason, without the time of a healthy one.
    fn reason(found: Result<Verdict, Unhealthy>) -> String {
        match found {
            Ok(verdict) => verdict.reason().split(" in ").next().unwrap().to_string(),
            Err(unhealthy) => unhealthy.reason().to_string(),
        }
    }

    /// Returns the reason, and what the server received.
    fn ask(config: &str, server: TestServer) -> (String, String) {
        let target = TestTarget::from(&server).timeout(Duration::from_millis(300));
        let reason = reason(check::<Tcp>(config, target));
        (
            reason,
            String::from_utf8(server.received().unwrap()).unwrap(),
        )
    }

    #[test]
    fn a_server_that_listens_is_healthy() {
        let server = TestServer::hangs_after("").unwrap();
        assert_eq!(ask("{}", server), ("connected".into(), String::new()));
        let server = TestServer::hangs_after("").unwrap();
        let (reason, told) = ask(r#"{"send": "QUIT\r\n"}"#, server);
        assert_eq!((&*reason, &*told), ("connected", "QUIT\r\n"));
    }

    #[test]
    fn an_answer_is_compared_as_it_arrives() {
        let config = r#"{"send": "PING\r\n", "expect": "+PONG"}"#;
        let says = |answer: &str| TestServer::hangs_after(answer).unwrap();
        let ends = |answer: &str| TestServer::answers(answer).unwrap();
        for (server, expected) in [
            (says("+PONG\r\n"), "answered as expected"),
            (ends("+PONG"), "answered as expected"),
            // The server sends in pieces, and the first one decides.
            (says("-LOADING\r\n"), "answered \"-LO"),
            (ends(""), "closed by the server without an answer"),
            (ends("+PO"), "closed by the server after 3 bytes"),
            (says("+PON"), "no answer in time"),
        ] {
            let (reason, told) = ask(config, server);
            assert!(reason.starts_with(expected), "{reason}");
            assert_eq!(told, "PING\r\n");
        }
    }

    #[test]
    fn a_closed_port_is_unhealthy() {
        let nobody: SocketAddr = {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap()
        };
        assert_eq!(reason(check::<Tcp>("{}", nobody)), "connection refused");
    }

    #[test]
    fn tls_starts_before_anything_is_sent() {
        let (reason, told) = ask(
            r#"{"tls": true, "send": "secret"}"#,
            TestServer::hangs_after("").unwrap(),
        );
        assert!(
            reason.starts_with("TLS is not available natively"),
            "{reason}"
        );
        assert_eq!(told, "");
    }

    #[test]
    fn config_errors_say_what_to_write() {
        let cases = r#"
            {"expect": ""} => config.expect is empty; leave it out
            {"send": 1} => config.send: invalid type: integer `1`
            {"recv": ""} => unknown field `recv`, expected one of `tls`, `send`, `expect`
        "#;
        testing::assert_config_errors(cases, |config| {
            let nobody: SocketAddr = "127.0.0.1:1".parse().unwrap();
            reason(check::<Tcp>(config, nobody))
        });
    }
}
