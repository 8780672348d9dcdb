//! A health check for a made-up protocol: a server answers `PING` with its workload, `PONG depth=17
//! state=ready`. README.md builds it step by step.
//!
//! Invariant: the check reads a bounded answer and ignores unknown words in it.

use std::io::{BufReader, Write};

use serde::Deserialize;
use waxwing_sdk::health::lines::{quote, read_line};
use waxwing_sdk::{ConfigError, HealthCheck, Target, Unhealthy, Verdict, export_health_check};

/// Longest answer, in bytes.
const ANSWER_BYTES_MAX: usize = 200;

/// `config = { depth_max = 500 }`; all keys are optional.
#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// A server with a longer queue is unhealthy. Default: no limit.
    pub depth_max: Option<u32>,
}

/// The check for one config. Each run has its own value.
pub struct QueueCheck {
    config: Config,
}

impl HealthCheck for QueueCheck {
    type Config = Config;

    fn new(config: Config) -> Result<Self, ConfigError> {
        if config.depth_max == Some(0) {
            return Err(
                "config.depth_max = 0: no queue would be short enough; leave it out".into(),
            );
        }
        Ok(Self { config })
    }

    fn check(&mut self, target: &Target) -> Result<Verdict, Unhealthy> {
        let Answer { depth, state } = ask(target)?;
        let reason = format!("{state}, {depth} in the queue");
        if let Some(max) = self.config.depth_max.filter(|max| depth > *max) {
            return Err(format!("{reason}, expected at most {max}").into());
        }
        let verdict = match &*state {
            "ready" => Verdict::healthy(reason),
            "leaving" => Verdict::draining(reason),
            _ => return Err(format!("the state is {state:?}, expected ready or leaving").into()),
        };
        Ok(verdict.signal(target.signal_index("depth").unwrap_or(0), depth))
    }
}

/// The server's answer.
#[derive(PartialEq, Eq, Debug)]
struct Answer {
    depth: u32,
    state: String,
}

impl Answer {
    /// Parses `PONG depth=17 state=ready`. Unknown words are ignored: later versions of the server
    /// may add some.
    fn read(line: &str) -> Option<Self> {
        let words = line.strip_prefix("PONG ")?;
        let value = |key| {
            let mut pairs = words.split(' ').filter_map(|word| word.split_once('='));
            pairs.find_map(|(k, value)| (k == key).then_some(value))
        };
        Some(Self {
            depth: value("depth")?.parse().ok()?,
            state: value("state")?.to_string(),
        })
    }
}

fn ask(target: &Target) -> Result<Answer, Unhealthy> {
    let mut conn = target.connect()?;
    conn.write_all(b"PING\n")?;
    let mut line = Vec::new();
    if !read_line(&mut BufReader::new(conn), ANSWER_BYTES_MAX, &mut line)? {
        return Err("closed by the server without an answer".into());
    }
    let answer = std::str::from_utf8(&line).ok().and_then(Answer::read);
    answer.ok_or_else(|| {
        let line = quote(&line);
        format!("answered {line}, expected \"PONG depth=... state=...\"").into()
    })
}

export_health_check!(QueueCheck);

#[cfg(test)]
mod tests {
    use std::io;
    use std::time::Duration;

    use waxwing_sdk::testing::{TestServer, TestTarget, check};

    use super::*;

    #[test]
    fn the_queue_length_is_a_signal_and_a_leaving_server_drains() -> io::Result<()> {
        let ready = Verdict::healthy("ready, 17 in the queue").signal(0, 17);
        let leaving = Verdict::draining("leaving, 3 in the queue").signal(0, 3);
        for (answer, expected) in [
            ("PONG depth=17 state=ready\r\n", Ok(ready.clone())),
            ("PONG zone=b state=ready depth=17\n", Ok(ready)),
            ("PONG depth=3 state=leaving\n", Ok(leaving)),
            (
                "PONG depth=0 state=broken\n",
                Err("the state is \"broken\", expected ready or leaving".into()),
            ),
            ("", Err("closed by the server without an answer".into())),
        ] {
            let server = TestServer::answers(answer)?;
            assert_eq!(check::<QueueCheck>("{}", &server), expected, "{answer}");
            assert_eq!(server.received()?, b"PING\n");
        }
        Ok(())
    }

    #[test]
    fn malformed_answers_are_the_reason() -> io::Result<()> {
        for answer in [
            "PANG depth=1 state=ready",
            "PONG",
            "PONG depth=1",
            "PONG depth=-1 state=ready",
            "PONG depth=4294967296 state=ready",
        ] {
            let server = TestServer::answers(answer)?;
            let expected = format!("answered \"{answer}\", expected \"PONG depth=... state=...\"");
            let found = check::<QueueCheck>("{}", &server);
            assert_eq!(found, Err(expected.into()));
        }
        Ok(())
    }

    #[test]
    fn the_signal_named_depth_is_set() -> io::Result<()> {
        let server = TestServer::answers("PONG depth=17 state=ready\n")?;
        let target = TestTarget::from(&server).signals(&["load", "depth"]);
        let expected = Verdict::healthy("ready, 17 in the queue").signal(1, 17);
        assert_eq!(check::<QueueCheck>("{}", target), Ok(expected));
        Ok(())
    }

    #[test]
    fn a_queue_over_the_limit_is_unhealthy() -> io::Result<()> {
        let config = r#"{ "depth_max": 500 }"#;
        for (depth, is_healthy) in [(500, true), (501, false)] {
            let server = TestServer::answers(format!("PONG depth={depth} state=ready\n"))?;
            let found = check::<QueueCheck>(config, &server);
            assert_eq!(found.is_ok(), is_healthy, "{found:?}");
        }
        Ok(())
    }

    #[test]
    fn a_server_that_hangs_is_unhealthy() -> io::Result<()> {
        let server = TestServer::hangs_after("PONG depth=17")?;
        let target = TestTarget::from(&server).timeout(Duration::from_millis(100));
        let found = check::<QueueCheck>("{}", target);
        assert_eq!(found, Err("no answer in time".into()));
        Ok(())
    }

    #[test]
    fn config_errors_say_what_to_write() -> io::Result<()> {
        for (config, expected) in [
            (r#"{ "depth_max": 0 }"#, "leave it out"),
            (
                r#"{ "depth": 1 }"#,
                "unknown field `depth`, expected `depth_max`",
            ),
        ] {
            let server = TestServer::answers("")?;
            let found = check::<QueueCheck>(config, &server);
            assert!(found.is_err_and(|why| why.reason().contains(expected)));
        }
        Ok(())
    }

    #[test]
    fn the_tutorial_shows_this_code() {
        let code = include_str!("lib.rs");
        let tutorial = include_str!("../README.md");
        let blocks: Vec<_> = tutorial.split("```rust\n").skip(1).collect();
        assert!(blocks.len() >= 4);
        for block in blocks {
            let block = block.split("```").next().unwrap_or_default();
            assert!(code.contains(block), "not in lib.rs:\n{block}");
        }
    }
}
