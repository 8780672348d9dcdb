//! Agent: a program beside the server says in a line how the server is, as for HAProxy's
//! `agent-check`: `up 75%`, `drain`, `down # disk full`. For servers that know best what they can do.
//!
//! Invariant: one line is read, of at most `LINE_BYTES_MAX`. Every word of it is known or the line is
//! an error, so a misspelt `drian` does not pass for `up`.

use std::io::{BufReader, Write};

use serde::Deserialize;
use waxwing_sdk::abi::health::WEIGHT_MAX;
use waxwing_sdk::health::lines::{printable, quote, read_line};
use waxwing_sdk::{ConfigError, HealthCheck, Target, Unhealthy, Verdict, export_health_check};

/// The longest line, in bytes.
const LINE_BYTES_MAX: usize = 1024;

/// `config = { send = "web\n" }`, or nothing.
#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What is sent to the agent first, such as which server is meant.
    send: String,
}

/// Asks an agent.
pub struct Agent {
    send: String,
}

impl HealthCheck for Agent {
    type Config = Config;

    fn new(config: Config) -> Result<Self, ConfigError> {
        Ok(Self { send: config.send })
    }

    fn check(&mut self, target: &Target) -> Result<Verdict, Unhealthy> {
        let mut agent = target.connect()?;
        agent.write_all(self.send.as_bytes())?;
        let mut line = Vec::new();
        if !read_line(&mut BufReader::new(agent), LINE_BYTES_MAX, &mut line)? {
            return Err("closed by the agent without a line".into());
        }
        verdict(&line)
    }
}

/// A word of a line.
enum Word {
    State(State),
    /// Percent of the operator's weight.
    Weight(u32),
    /// It says something that is nothing to this balancer.
    Other,
}

/// A server's state, the better first: of several the worst counts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    Up,
    Draining,
    Down,
}

/// What a line says: words with spaces, tabs or commas between, and a text for people behind `#`.
fn verdict(line: &[u8]) -> Result<Verdict, Unhealthy> {
    let known = line.split(|byte| *byte == b'#').next().unwrap_or_default();
    let mut state = None;
    let mut weight = None;
    for text in known
        .split(|byte| b" \t,".contains(byte))
        .filter(|text| !text.is_empty())
    {
        match word(text) {
            Some(Word::State(said)) => state = state.max(Some(said)),
            Some(Word::Weight(percent)) => weight = Some(percent),
            Some(Word::Other) => {}
            None => return Err(unknown(text)),
        }
    }
    if state.is_none() && weight.is_none() {
        return Err(format!("the agent says no state but {}", quote(line)).into());
    }
    let said = format!("the agent says: {}", printable(line));
    let verdict = match state.unwrap_or(State::Up) {
        State::Up => Verdict::healthy(said),
        State::Draining => Verdict::draining(said),
        State::Down => return Err(said.into()),
    };
    Ok(match weight {
        Some(percent) => verdict.weight(percent),
        None => verdict,
    })
}

fn word(text: &[u8]) -> Option<Word> {
    Some(match text {
        b"up" | b"ready" => Word::State(State::Up),
        b"drain" => Word::State(State::Draining),
        b"down" | b"fail" | b"stopped" | b"maint" => Word::State(State::Down),
        _ => {
            let text = core::str::from_utf8(text).ok()?;
            match text.strip_prefix("maxconn:") {
                Some(count) if is_number(count) => Word::Other,
                _ => Word::Weight(percent(text)?),
            }
        }
    })
}

/// A percentage, at most the largest that a verdict may set.
fn percent(text: &str) -> Option<u32> {
    let digits = text.strip_suffix('%')?;
    // More digits than fit are a larger number still.
    is_number(digits).then(|| digits.parse().unwrap_or(WEIGHT_MAX).min(WEIGHT_MAX))
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn unknown(text: &[u8]) -> Unhealthy {
    format!(
        "the agent says {}; expected up, ready, drain, maint, down, fail, stopped or a percentage \
         such as 75%",
        quote(text)
    )
    .into()
}

export_health_check!(Agent);

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

    use std::time::Duration;

    use waxwing_sdk::testing::{self, TestServer, TestTarget};

    use super::*;

    fn check(line: &[u8]) -> Result<Verdict, Unhealthy> {
        testing::check::<Agent>("{}", &TestServer::answers(line).unwrap())
    }

    #[test]
    fn a_line_says_how_the_server_is() {
        let (up, drain, down) = (Some(false), Some(true), None);
        for (line, draining, weight) in [
            ("up\n", up, None),
            ("ready\r\n", up, None),
            ("up", up, None),
            ("75%\n", up, Some(75)),
            ("up 75%\n", up, Some(75)),
            ("\tready,,up, 0% \n", up, Some(0)),
            ("100% maxconn:30\n", up, Some(100)),
            ("up 5000%\n", up, Some(1000)),
            ("99999999999%\n", up, Some(1000)),
            ("drain\n", drain, None),
            ("drain 20%\n", drain, Some(20)),
            ("up drain\n", drain, None),
            ("up # down for people only\n", up, None),
            ("up\ndown\n", up, None),
            ("down\n", down, None),
            ("fail\n", down, None),
            ("stopped\n", down, None),
            ("maint\n", down, None),
            ("drain maint\n", down, None),
            ("down up 100%\n", down, None),
        ] {
            let found = check(line.as_bytes());
            let state = found.as_ref().ok().map(Verdict::is_draining);
            assert_eq!(state, draining, "{line:?}: {found:?}");
            let percent = found.ok().and_then(|verdict| verdict.weight_percent());
            assert_eq!(percent, weight, "{line:?}");
        }
    }

    #[test]
    fn what_the_agent_says_is_the_reason() {
        let unhealthy = check(b"down 10%#disk \xff full, \x1b[1mreplace\r\n").unwrap_err();
        let expected = "the agent says: down 10%#disk ? full, ?[1mreplace";
        assert_eq!(unhealthy.reason(), expected);
        assert_eq!(check(b"up\r\n").unwrap().reason(), "the agent says: up");
    }

    #[test]
    fn a_line_that_is_not_understood_is_not_up() {
        let cases: [(&[u8], &str); 11] = [
            (b"", "closed by the agent without a line"),
            (b"\n", "no state but \"\""),
            (b"# all is well\n", "no state but"),
            (b"maxconn:30\n", "no state but"),
            (b"drian\n", r#"says "drian"; expected up"#),
            (b"UP\n", r#"says "UP"; expected up"#),
            (b"up %\n", r#"says "%""#),
            (b"up -5%\n", r#"says "-5%""#),
            (b"up 7.5%\n", r#"says "7.5%""#),
            (b"up maxconn:\n", r#"says "maxconn:""#),
            (b"SSH-2.0-OpenSSH\r\n", r#"says "SSH-2.0-OpenSSH""#),
        ];
        for (line, expected) in cases {
            let unhealthy = check(line).unwrap_err();
            assert!(unhealthy.reason().contains(expected), "{unhealthy}");
        }
        let endless = check(&[b' '; 5000]).unwrap_err();
        assert!(
            endless.reason().contains("more than 1024 bytes"),
            "{endless}"
        );
        let silent = TestServer::hangs_after("up").unwrap();
        let target = TestTarget::from(&silent).timeout(Duration::from_millis(100));
        let unhealthy = testing::check::<Agent>("{}", target).unwrap_err();
        assert_eq!(unhealthy.reason(), "no answer in time");
    }

    #[test]
    fn an_agent_is_told_what_the_config_says() {
        let server = TestServer::answers("up\n").unwrap();
        testing::check::<Agent>(r#"{"send": "web\n"}"#, &server).unwrap();
        assert_eq!(server.received().unwrap(), b"web\n");
    }

    #[test]
    fn any_bytes_are_a_state_or_an_error() {
        for line in testing::corrupted(b"up,75% maxconn:3 # fine\n", 1).take(5000) {
            let _ = verdict(&line);
        }
    }
}
