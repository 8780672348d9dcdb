//! A health check: says a line to the server and looks at the line that it answers.
//!
//! A server that answers as expected is well. One that answers `LEAVING` is well too and wants no new
//! sessions: it drains. Any other answer, or none, is the reason that `waxwing status` shows.

use std::io::{BufReader, Write};

use serde::Deserialize;
use waxwing_sdk::health::lines::{quote, read_line};
use waxwing_sdk::{ConfigError, HealthCheck, Target, Unhealthy, Verdict, export_health_check};

/// The longest line that is read, in bytes: a server that is not well may send anything.
const LINE_BYTES_MAX: usize = 200;

/// What an operator may set: `config = { question = "STATUS", answer = "OK" }`.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The line to say.
    pub question: String,
    /// The line to hear.
    pub answer: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            question: "STATUS".to_owned(),
            answer: "OK".to_owned(),
        }
    }
}

/// The check of one config. Every run has a value of its own.
pub struct AskLine {
    config: Config,
}

impl HealthCheck for AskLine {
    type Config = Config;

    /// Also called when the operator's config is read. An error is shown, and what ran before goes on.
    fn new(config: Config) -> Result<Self, ConfigError> {
        if config.question.contains('\n') {
            return Err("config.question has more than one line; write one".into());
        }
        Ok(Self { config })
    }

    /// It has the operator's `timeout` for everything, after which the host ends it. `?` makes an
    /// error of the connection the reason.
    fn check(&mut self, target: &Target) -> Result<Verdict, Unhealthy> {
        let Config { question, answer } = &self.config;
        let mut conn = target.connect()?;
        conn.write_all(format!("{question}\n").as_bytes())?;
        let mut line = Vec::new();
        if !read_line(&mut BufReader::new(conn), LINE_BYTES_MAX, &mut line)? {
            return Err("closed by the server without an answer".into());
        }
        match line.as_slice() {
            b"LEAVING" => Ok(Verdict::draining("it is leaving")),
            line if line == answer.as_bytes() => Ok(Verdict::healthy(format!("it says {answer}"))),
            other => Err(format!("it says {}, expected {answer:?}", quote(other)).into()),
        }
    }
}

export_health_check!(AskLine);

// The tests run the check natively, against a server of their own on this machine.
#[cfg(test)]
mod tests {
    use std::io;
    use std::time::Duration;

    use waxwing_sdk::testing::{TestServer, TestTarget, check};

    use super::*;

    #[test]
    fn a_server_is_what_it_says() -> io::Result<()> {
        for (answer, expected) in [
            ("OK\r\n", Ok(Verdict::healthy("it says OK"))),
            ("LEAVING\n", Ok(Verdict::draining("it is leaving"))),
            ("BUSY\n", Err("it says \"BUSY\", expected \"OK\"".into())),
            ("", Err("closed by the server without an answer".into())),
        ] {
            let server = TestServer::answers(answer)?;
            assert_eq!(check::<AskLine>("{}", &server), expected);
            assert_eq!(server.received()?, b"STATUS\n");
        }
        Ok(())
    }

    #[test]
    fn a_server_that_says_nothing_or_too_much_is_not_well() -> io::Result<()> {
        let silent = TestServer::hangs_after("O")?;
        let target = TestTarget::from(&silent).timeout(Duration::from_millis(100));
        let found = check::<AskLine>("{}", target);
        assert_eq!(found, Err("no answer in time".into()));
        let endless = TestServer::hangs_after("x".repeat(1000))?;
        let found = check::<AskLine>("{}", &endless);
        assert!(found.is_err_and(|why| why.reason().contains("more than 200 bytes")));
        Ok(())
    }

    #[test]
    fn the_operator_chooses_the_words() -> io::Result<()> {
        let server = TestServer::answers("PONG\n")?;
        let config = r#"{ "question": "PING", "answer": "PONG" }"#;
        assert!(check::<AskLine>(config, &server).is_ok());
        assert_eq!(server.received()?, b"PING\n");
        Ok(())
    }

    #[test]
    fn a_wrong_config_is_an_error_that_says_what_to_write() -> io::Result<()> {
        for (config, expected) in [
            (r#"{ "questions": "PING" }"#, "unknown field `questions`"),
            (r#"{ "question": "A\nB" }"#, "more than one line"),
        ] {
            let server = TestServer::answers("OK\n")?;
            let found = check::<AskLine>(config, &server);
            assert!(found.is_err_and(|why| why.reason().contains(expected)));
        }
        Ok(())
    }
}
