//! Redis: the server answers `PING` with `PONG`, after `AUTH` if it requires that, and has the
//! configured role. Valkey, KeyDB and other servers that speak RESP are the same.
//!
//! Invariant: the check reads only the first word of a reply or the line of an error, both bounded.
//! The password goes to the server and into no text.

use std::io::{BufRead, BufReader, Write};

use serde::Deserialize;
use waxwing_sdk::health::lines::{printable, quote, read_line};
use waxwing_sdk::{
    ConfigError, Conn, HealthCheck, Target, Unhealthy, Verdict, export_health_check,
};

/// Longest line of a reply, in bytes.
const LINE_BYTES_MAX: usize = 1024;
/// Most arrays around the first word of a reply.
const DEPTH_MAX: usize = 3;

/// `config = { username = "probe", password = "secret", role = "master", tls = true }`; all keys
/// are optional.
#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// User of `AUTH`. Default: the server's default user.
    username: Option<String>,
    /// Password of `AUTH`. Without it, `AUTH` is not sent.
    password: Option<String>,
    /// Role that the server must have. The user needs permission for `ROLE`.
    role: Option<Role>,
    /// Whether to use TLS.
    tls: bool,
}

/// A server's role in replication.
#[derive(Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Accepts writes.
    Master,
    /// Replicates a master.
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

/// Encodes a command in RESP: an array of strings.
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
    Err(format!("{command} returned {}, expected {expected}", quote(found)).into())
}

/// Returns the first word of a reply, inside arrays too. An error's text becomes the reason.
fn first_word(server: &mut impl BufRead) -> Result<Vec<u8>, Unhealthy> {
    let mut line = Vec::new();
    for _ in 0..DEPTH_MAX {
        whole_line(server, &mut line)?;
        match line.split_first() {
            Some((b'+', word)) => return Ok(word.to_vec()),
            Some((b'-', error)) => return Err(server_error(error).into()),
            // The length of a string, which follows in the next line; a negative length means none.
            Some((b'$', [b'0'..=b'9', ..])) => {
                whole_line(server, &mut line)?;
                return Ok(line);
            }
            Some((b'*', _)) => {}
            _ => break,
        }
    }
    Err(format!("not a Redis reply: {}", quote(&line)).into())
}

fn whole_line(server: &mut impl BufRead, line: &mut Vec<u8>) -> Result<(), Unhealthy> {
    if read_line(server, LINE_BYTES_MAX, line)? {
        Ok(())
    } else {
        Err("closed by the server before its reply".into())
    }
}

/// Returns the server's error, with a remedy if it is in this check's config.
fn server_error(error: &[u8]) -> String {
    let text = printable(error);
    let remedy = match text.split(' ').next() {
        Some("NOAUTH") => " (set config.password)",
        Some("WRONGPASS") => " (config.username or config.password is wrong)",
        Some("NOPERM") => " (allow config.username this command)",
        _ => "",
    };
    format!("server error: {text}{remedy}")
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
    fn a_server_that_answers_as_expected_is_healthy() {
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
    fn an_unhealthy_server_has_its_reason() {
        let master = r#"{"role": "master"}"#;
        let cases: [(&str, &[u8], &str); 13] = [
            (
                "{}",
                b"-LOADING Redis is loading the dataset in memory\r\n",
                "server error: LOADING Redis is loading the dataset in memory",
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
                r#"ROLE returned "slave", expected master"#,
            ),
            ("{}", b"+OK\r\n", r#"PING returned "OK", expected PONG"#),
            ("{}", b"$-1\r\n", "not a Redis reply:"),
            ("{}", b"*1\r\n*1\r\n*1\r\n*1\r\n", "not a Redis reply:"),
            ("{}", b"\r\n", "not a Redis reply:"),
            (
                "{}",
                b"HTTP/1.1 400 Bad Request\r\n",
                "not a Redis reply: \"HTTP/1.1",
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
    fn a_silent_server_times_out() {
        let server = TestServer::hangs_after("+PO").unwrap();
        let target = TestTarget::from(&server).timeout(Duration::from_millis(100));
        let unhealthy = testing::check::<Redis>("{}", target).unwrap_err();
        assert_eq!(unhealthy.reason(), "no answer in time");
    }

    #[test]
    fn corrupted_replies_do_not_panic() {
        let good = b"+PONG\r\n*3\r\n$6\r\nmaster\r\n:3129659\r\n*0\r\n";
        for answer in testing::corrupted(good, 1).take(300) {
            let _ = check(r#"{"role": "master"}"#, &answer);
        }
    }

    #[test]
    fn config_errors_say_what_to_write() {
        let cases = r#"
            {"username": "u"} => config.username needs config.password
            {"role": "slave"} => expected `master` or `replica`
            {"pass": "x"} => unknown field `pass`
        "#;
        let target = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
        testing::assert_config_errors(cases, |config| {
            testing::check::<Redis>(config, target).unwrap_err()
        });
    }
}
