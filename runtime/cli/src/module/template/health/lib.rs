//! A health check: sends a line to the server and checks the line that it answers.
//!
//! A server that answers as expected is healthy. One that answers `LEAVING` is healthy and wants no
//! new sessions: it drains. Any other answer, or none, is the reason that `waxwing status` shows.

use std::io::{BufReader, Write};

use serde::Deserialize;
use waxwing_sdk::health::lines::{quote, read_line};
use waxwing_sdk::{HealthCheck, Target, Unhealthy, Verdict, export_health_check};

/// The longest line that is read, in bytes: an unhealthy server may send anything.
const LINE_BYTES_MAX: usize = 200;

/// The config: `config = { question = "STATUS", answer = "OK" }`.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The line to send.
    pub question: String,
    /// The expected answer.
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

/// The check with its config. Every run has its own value.
pub struct AskLine {
    config: Config,
}

impl HealthCheck for AskLine {
    type Config = Config;

    /// Also called when the operator's config is loaded. An error is shown, and the previous config
    /// stays.
    fn new(config: Config) -> Result<Self, String> {
        if config.question.contains('\n') {
            return Err("config.question has more than one line; write one".to_owned());
        }
        Ok(Self { config })
    }

    /// The host ends it after the operator's `timeout`. `?` turns an error of the connection into
    /// the reason.
    fn check(&mut self, target: &Target) -> Result<Verdict, Unhealthy> {
        let Config { question, answer } = &self.config;
        let mut conn = target.connect()?;
        conn.write_all(format!("{question}\n").as_bytes())?;
        let mut line = Vec::new();
        if !read_line(&mut BufReader::new(conn), LINE_BYTES_MAX, &mut line)? {
            return Err("closed by the server without an answer".into());
        }
        match line.as_slice() {
            b"LEAVING" => Ok(Verdict::draining("the server is leaving")),
            line if line == answer.as_bytes() => Ok(Verdict::healthy(format!("answered {answer}"))),
            other => Err(format!("answered {}, expected {answer:?}", quote(other)).into()),
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
    fn the_answer_decides_the_verdict() -> io::Result<()> {
        for (answer, expected) in [
            ("OK\r\n", Ok(Verdict::healthy("answered OK"))),
            ("LEAVING\n", Ok(Verdict::draining("the server is leaving"))),
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
    fn a_server_that_says_nothing_or_too_much_is_unhealthy() -> io::Result<()> {
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
    fn the_config_sets_question_and_answer() -> io::Result<()> {
        let server = TestServer::answers("PONG\n")?;
        let config = r#"{ "question": "PING", "answer": "PONG" }"#;
        assert!(check::<AskLine>(config, &server).is_ok());
        assert_eq!(server.received()?, b"PING\n");
        Ok(())
    }

    #[test]
    fn an_invalid_config_is_refused_with_a_reason() -> io::Result<()> {
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
