//! Agent: a program beside the server reports the server's state in one line, as for HAProxy's
//! `agent-check`: `up 75%`, `drain`, `down # disk full`. For servers that know best how much they
//! can take.
//!
//! Invariant: the check reads one line of at most `LINE_BYTES_MAX`. A line with an unknown word is
//! an error, so a misspelled `drian` does not count as `up`.

use std::io::{BufReader, Write};

use serde::Deserialize;
use waxwing_sdk::abi::health::WEIGHT_MAX;
use waxwing_sdk::health::lines::{printable, quote, read_line};
use waxwing_sdk::{ConfigError, HealthCheck, Target, Unhealthy, Verdict, export_health_check};

/// Longest line, in bytes.
const LINE_BYTES_MAX: usize = 1024;

/// `config = { send = "web\n" }`; all keys are optional.
#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What to send to the agent first, such as the name of the server.
    send: String,
}

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
    /// A percentage of the operator's weight.
    Weight(u32),
    /// A known word without a meaning for this balancer.
    Other,
}

/// A server's state, from best to worst. If a line has several, the worst counts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    Up,
    Draining,
    Down,
}

/// Reads a line: words separated by spaces, tabs or commas, then optional text for people after
/// `#`.
fn verdict(line: &[u8]) -> Result<Verdict, Unhealthy> {
    let known = line.split(|byte| *byte == b'#').next().unwrap_or_default();
    let mut state = None;
    let mut weight = None;
    for text in known
        .split(|byte| b" \t,".contains(byte))
        .filter(|text| !text.is_empty())
    {
        match word(text) {
            Some(Word::State(reported)) => state = state.max(Some(reported)),
            Some(Word::Weight(percent)) => weight = Some(percent),
            Some(Word::Other) => {}
            None => return Err(unknown_word(text)),
        }
    }
    if state.is_none() && weight.is_none() {
        return Err(format!("no state in the agent's line: {}", quote(line)).into());
    }
    let reason = format!("agent: {}", printable(line));
    let verdict = match state.unwrap_or(State::Up) {
        State::Up => Verdict::healthy(reason),
        State::Draining => Verdict::draining(reason),
        State::Down => return Err(reason.into()),
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

/// Parses a percentage, cut to the largest weight that a verdict may set.
fn percent(text: &str) -> Option<u32> {
    let digits = text.strip_suffix('%')?;
    // A number with too many digits is larger still.
    is_number(digits).then(|| digits.parse().unwrap_or(WEIGHT_MAX).min(WEIGHT_MAX))
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn unknown_word(text: &[u8]) -> Unhealthy {
    format!(
        "unknown word from the agent: {}; expected up, ready, drain, maint, down, fail, stopped or \
         a percentage such as 75%",
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
    fn a_line_states_health_and_weight() {
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
    fn the_agents_line_is_the_reason() {
        let unhealthy = check(b"down 10%#disk \xff full, \x1b[1mreplace\r\n").unwrap_err();
        let expected = "agent: down 10%#disk ? full, ?[1mreplace";
        assert_eq!(unhealthy.reason(), expected);
        assert_eq!(check(b"up\r\n").unwrap().reason(), "agent: up");
    }

    #[test]
    fn an_unknown_line_is_unhealthy() {
        let cases: [(&[u8], &str); 11] = [
            (b"", "closed by the agent without a line"),
            (b"\n", "no state in the agent's line: \"\""),
            (b"# all is well\n", "no state in the agent's line"),
            (b"maxconn:30\n", "no state in the agent's line"),
            (b"drian\n", r#"agent: "drian"; expected up"#),
            (b"UP\n", r#"agent: "UP"; expected up"#),
            (b"up %\n", r#"agent: "%""#),
            (b"up -5%\n", r#"agent: "-5%""#),
            (b"up 7.5%\n", r#"agent: "7.5%""#),
            (b"up maxconn:\n", r#"agent: "maxconn:""#),
            (b"SSH-2.0-OpenSSH\r\n", r#"agent: "SSH-2.0-OpenSSH""#),
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
    fn the_agent_receives_the_configured_text() {
        let server = TestServer::answers("up\n").unwrap();
        testing::check::<Agent>(r#"{"send": "web\n"}"#, &server).unwrap();
        assert_eq!(server.received().unwrap(), b"web\n");
    }

    #[test]
    fn corrupted_lines_do_not_panic() {
        for line in testing::corrupted(b"up,75% maxconn:3 # fine\n", 1).take(5000) {
            let _ = verdict(&line);
        }
    }
}
