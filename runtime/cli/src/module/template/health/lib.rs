//! A health check: sends a line to the server and checks the line that it answers.
//!
//! The expected answer is healthy. The answer `LEAVING` is healthy too, but the server takes no new
//! sessions: it drains. Any other answer, or none, is unhealthy, and `waxwing status` shows it as
//! the reason.

use std::io::{BufReader, Write};

use serde::Deserialize;
use waxwing_sdk::health::lines::{quote, read_line};
use waxwing_sdk::{ConfigError, HealthCheck, Target, Unhealthy, Verdict, export_health_check};

/// Longest line, in bytes: an unhealthy server may send anything.
const LINE_BYTES_MAX: usize = 200;

/// `config = { question = "STATUS", answer = "OK" }`; all keys are optional.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The line to send.
    pub question: String,
    /// The expected line.
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

/// The check for one config. Each run has its own value.
pub struct AskLine {
    config: Config,
}

impl HealthCheck for AskLine {
    type Config = Config;

    /// The host also calls this when it reads the operator's config. It shows an error to the
    /// operator and keeps what ran before.
    fn new(config: Config) -> Result<Self, ConfigError> {
        if config.question.contains('\n') {
            return Err("config.question has more than one line; write one line".into());
        }
        Ok(Self { config })
    }

    /// The operator's `timeout` covers the whole run; then the host ends it. `?` makes a
    /// connection's error the reason.
    fn check(&mut self, target: &Target) -> Result<Verdict, Unhealthy> {
        let Config { question, answer } = &self.config;
        let mut conn = target.connect()?;
        conn.write_all(format!("{question}\n").as_bytes())?;
        let mut line = Vec::new();
        if !read_line(&mut BufReader::new(conn), LINE_BYTES_MAX, &mut line)? {
            return Err("closed by the server without an answer".into());
        }
        match line.as_slice() {
            b"LEAVING" => Ok(Verdict::draining("leaving")),
            line if line == answer.as_bytes() => Ok(Verdict::healthy(format!("answered {answer}"))),
            other => Err(format!("answered {}, expected {answer:?}", quote(other)).into()),
        }
    }
}

export_health_check!(AskLine);

// The tests run the check natively, against local servers.
#[cfg(test)]
mod tests {
    use std::io;
    use std::time::Duration;

    use waxwing_sdk::testing::{TestServer, TestTarget, check};

    use super::*;

    #[test]
    fn the_answer_decides() -> io::Result<()> {
        for (answer, expected) in [
            ("OK\r\n", Ok(Verdict::healthy("answered OK"))),
            ("LEAVING\n", Ok(Verdict::draining("leaving"))),
            ("BUSY\n", Err("answered \"BUSY\", expected \"OK\"".into())),
            ("", Err("closed by the server without an answer".into())),
        ] {
            let server = TestServer::answers(answer)?;
            assert_eq!(check::<AskLine>("{}", &server), expected);
            assert_eq!(server.received()?, b"STATUS\n");
        }
        Ok(())
    }

    #[test]
    fn silence_and_endless_lines_are_unhealthy() -> io::Result<()> {
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
    fn question_and_answer_are_configurable() -> io::Result<()> {
        let server = TestServer::answers("PONG\n")?;
        let config = r#"{ "question": "PING", "answer": "PONG" }"#;
        assert!(check::<AskLine>(config, &server).is_ok());
        assert_eq!(server.received()?, b"PING\n");
        Ok(())
    }

    #[test]
    fn config_errors_say_what_to_write() -> io::Result<()> {
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
