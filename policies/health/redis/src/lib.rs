//! Redis: a server that answers `PING` with `PONG`, after `AUTH` where it wants that, and in the role
//! that is asked for. Valkey, KeyDB and others that speak RESP are alike.
//!
//! Invariant: of a reply no more is read than its first word or the line of its error, both bounded;
//! and the password goes to the server and into no text.

use std::io::{BufRead, BufReader, Write};

use serde::Deserialize;
use waxwing_sdk::health::lines::{printable, quote, read_line};
use waxwing_sdk::{
    ConfigError, Conn, HealthCheck, Target, Unhealthy, Verdict, export_health_check,
};

/// The longest line of a reply, in bytes.
const LINE_BYTES_MAX: usize = 1024;
/// How deep the first word of a reply may be in arrays.
const DEPTH_MAX: usize = 3;

/// `config = { username = "probe", password = "secret", role = "master", tls = true }`; all may be
/// left out.
#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The user of `AUTH`; without it the server's default user.
    username: Option<String>,
    /// The password of `AUTH`; without it there is none.
    password: Option<String>,
    /// The role that the server must have. The user must be allowed `ROLE`.
    role: Option<Role>,
    /// Whether to speak TLS.
    tls: bool,
}

/// What a server is to the others.
#[derive(Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// It takes writes.
    Master,
    /// It follows a master.
    Replica,
}

/// The commands to send.
pub struct Redis {
    auth: Option<Vec<u8>>,
    role: Option<Role>,
    tls: bool,
}

impl HealthCheck for Redis {
    type Config = Config;

    fn new(config: Config) -> Result<Self, ConfigError> {
        let auth = match (&config.username, &config.password) {
            (None, None) => None,
            (None, Some(password)) => Some(command(&["AUTH", password])),
            (Some(username), Some(password)) => Some(command(&["AUTH", username, password])),
            (Some(_), None) => return Err("config.username needs config.password".into()),
        };
        Ok(Self {
            auth,
            role: config.role,
            tls: config.tls,
        })
    }

    fn check(&mut self, target: &Target) -> Result<Verdict, Unhealthy> {
        let connection = target.connect()?;
        let connection = if self.tls {
            connection.tls(&[])?
        } else {
            connection
        };
        let mut server = BufReader::new(connection);
        if let Some(auth) = &self.auth {
            expect("AUTH", &ask(&mut server, auth)?, "OK")?;
        }
        expect("PING", &ask(&mut server, &command(&["PING"]))?, "PONG")?;
        let Some(role) = self.role else {
            return Ok(Verdict::healthy("PONG"));
        };
        let found = ask(&mut server, &command(&["ROLE"]))?;
        let expected = match role {
            Role::Master => "master",
            Role::Replica => "slave",
        };
        expect("ROLE", &found, expected)?;
        Ok(Verdict::healthy(format!("PONG, {expected}")))
    }
}

/// A command as RESP has it: an array of strings.
fn command(words: &[&str]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len());
    for word in words {
        bytes.push_str(&format!("${}\r\n{word}\r\n", word.len()));
    }
    bytes.into_bytes()
}

fn ask(server: &mut BufReader<Conn>, command: &[u8]) -> Result<Vec<u8>, Unhealthy> {
    server.get_mut().write_all(command)?;
    first_word(server)
}

fn expect(command: &str, found: &[u8], expected: &str) -> Result<(), Unhealthy> {
    if found == expected.as_bytes() {
        return Ok(());
    }
    Err(format!("{command} gives {}, expected {expected}", quote(found)).into())
}

/// The first word of a reply, be it in an array; an error's words are why the server is not well.
fn first_word(server: &mut impl BufRead) -> Result<Vec<u8>, Unhealthy> {
    let mut line = Vec::new();
    for _ in 0..DEPTH_MAX {
        whole_line(server, &mut line)?;
        match line.split_first() {
            Some((b'+', word)) => return Ok(word.to_vec()),
            Some((b'-', error)) => return Err(refusal(error).into()),
            // The length of a string, which has a line to itself; below zero there is none.
            Some((b'$', [b'0'..=b'9', ..])) => {
                whole_line(server, &mut line)?;
                return Ok(line);
            }
            Some((b'*', _)) => {}
            _ => break,
        }
    }
    Err(format!("no reply of Redis but {}", quote(&line)).into())
}

fn whole_line(server: &mut impl BufRead, line: &mut Vec<u8>) -> Result<(), Unhealthy> {
    if read_line(server, LINE_BYTES_MAX, line)? {
        Ok(())
    } else {
        Err("closed by the server before its reply".into())
    }
}

/// What the server says is clear by itself (it is loading, its master is down), but where the cure
/// is here.
fn refusal(error: &[u8]) -> String {
    let text = printable(error);
    let cure = match text.split(' ').next() {
        Some("NOAUTH") => " (set config.password)",
        Some("WRONGPASS") => " (config.username or config.password is wrong)",
        Some("NOPERM") => " (allow config.username this command)",
        _ => "",
    };
    format!("it answers: {text}{cure}")
}

export_health_check!(Redis);

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

    use std::time::Duration;

    use waxwing_sdk::testing::{self, TestServer, TestTarget};

    use super::*;

    fn check(config: &str, answer: &[u8]) -> (Result<Verdict, Unhealthy>, String) {
        let server = TestServer::answers(answer).unwrap();
        let found = testing::check::<Redis>(config, &server);
        let received = String::from_utf8(server.received().unwrap()).unwrap();
        (found, received)
    }

    #[test]
    fn a_server_that_answers_is_healthy() {
        let ping = "*1\r\n$4\r\nPING\r\n";
        let role = "*1\r\n$4\r\nROLE\r\n";
        let auth = "*2\r\n$4\r\nAUTH\r\n$3\r\np w\r\n";
        let user = "*3\r\n$4\r\nAUTH\r\n$1\r\nu\r\n$2\r\npw\r\n";
        let master = "+PONG\r\n*3\r\n$6\r\nmaster\r\n:3129659\r\n*0\r\n";
        let replica = "+PONG\r\n*5\r\n$5\r\nslave\r\n$9\r\n127.0.0.1\r\n:6379\r\n";
        for (config, answer, reason, sent) in [
            ("{}", "+PONG\r\n", "PONG", ping.to_string()),
            ("{}", "$4\r\nPONG\r\n", "PONG", ping.to_string()),
            (
                r#"{"password": "p w"}"#,
                "+OK\r\n+PONG\r\n",
                "PONG",
                format!("{auth}{ping}"),
            ),
            (
                r#"{"username": "u", "password": "pw"}"#,
                "+OK\r\n+PONG\r\n",
                "PONG",
                format!("{user}{ping}"),
            ),
            (
                r#"{"role": "master"}"#,
                master,
                "PONG, master",
                format!("{ping}{role}"),
            ),
            (
                r#"{"role": "replica"}"#,
                replica,
                "PONG, slave",
                format!("{ping}{role}"),
            ),
        ] {
            let (found, received) = check(config, answer.as_bytes());
            assert_eq!(found, Ok(Verdict::healthy(reason)), "{config}");
            assert_eq!(received, sent, "{config}");
        }
    }

    #[test]
    fn a_server_that_is_not_well_says_why() {
        let master = r#"{"role": "master"}"#;
        let cases: [(&str, &[u8], &str); 13] = [
            (
                "{}",
                b"-LOADING Redis is loading the dataset in memory\r\n",
                "it answers: LOADING Redis is loading the dataset in memory",
            ),
            (
                "{}",
                b"-MASTERDOWN Link with MASTER is down\r\n",
                "MASTERDOWN Link with MASTER is down",
            ),
            (
                "{}",
                b"-NOAUTH Authentication required.\r\n",
                "(set config.password)",
            ),
            (
                r#"{"password": "x"}"#,
                b"-WRONGPASS invalid username-password pair\r\n",
                "is wrong)",
            ),
            (
                master,
                b"+PONG\r\n-NOPERM this user has no permissions\r\n",
                "(allow config.username this command)",
            ),
            (
                master,
                b"+PONG\r\n*5\r\n$5\r\nslave\r\n",
                r#"ROLE gives "slave", expected master"#,
            ),
            ("{}", b"+OK\r\n", r#"PING gives "OK", expected PONG"#),
            ("{}", b"$-1\r\n", "no reply of Redis but"),
            ("{}", b"*1\r\n*1\r\n*1\r\n*1\r\n", "no reply of Redis but"),
            ("{}", b"\r\n", "no reply of Redis but"),
            (
                "{}",
                b"HTTP/1.1 400 Bad Request\r\n",
                "no reply of Redis but \"HTTP/1.1",
            ),
            ("{}", b"", "closed by the server before its reply"),
            (
                master,
                b"+PONG\r\n*3\r\n$6\r\n",
                "closed by the server before its reply",
            ),
        ];
        for (config, answer, expected) in cases {
            let unhealthy = check(config, answer).0.unwrap_err();
            assert!(unhealthy.reason().contains(expected), "{unhealthy}");
        }
        let endless = check("{}", &[b'+'; 5000]).0.unwrap_err();
        assert!(
            endless.reason().contains("more than 1024 bytes"),
            "{endless}"
        );
    }

    #[test]
    fn a_silent_server_is_not_waited_for_longer_than_the_timeout() {
        let server = TestServer::hangs_after("+PO").unwrap();
        let target = TestTarget::from(&server).timeout(Duration::from_millis(100));
        let unhealthy = testing::check::<Redis>("{}", target).unwrap_err();
        assert_eq!(unhealthy.reason(), "no answer in time");
    }

    #[test]
    fn damaged_replies_are_answers_or_errors() {
        let good = b"+PONG\r\n*3\r\n$6\r\nmaster\r\n:3129659\r\n*0\r\n";
        for answer in testing::corrupted(good, 1).take(300) {
            let _ = check(r#"{"role": "master"}"#, &answer);
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_what_to_write() {
        for (config, expected) in [
            (
                r#"{"username": "u"}"#,
                "config.username needs config.password",
            ),
            (r#"{"role": "slave"}"#, "expected `master` or `replica`"),
            (r#"{"pass": "x"}"#, "unknown field `pass`"),
        ] {
            let target = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
            let error = testing::check::<Redis>(config, target).unwrap_err();
            assert!(error.reason().contains(expected), "{error}");
        }
    }
}
