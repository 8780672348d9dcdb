//! What a run is of: when, of which sources, by which call.
//!
//! Invariant: what cannot be told is left out; a bench runs all the same.

use std::fmt;
use std::process::Command;

use serde::Serialize;

/// What a page and its figures are of.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct About {
    /// When the run began, in UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub date: Option<String>,
    /// The commit of its sources, with `-dirty` where they were changed since.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// What starts it.
    pub command: String,
}

impl About {
    /// This process, which is the bench of this name.
    #[must_use]
    pub fn this(name: &str) -> Self {
        Self {
            date: date(),
            commit: commit(),
            command: command(name, std::env::args().skip(1)),
        }
    }
}

/// `2026-11-23 17:09 UTC, commit 219a47f, cargo xtask bench cost`, the last as code.
impl fmt::Display for About {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(date) = &self.date {
            write!(f, "{date}, ")?;
        }
        if let Some(commit) = &self.commit {
            write!(f, "commit {commit}, ")?;
        }
        write!(f, "`{}`", self.command)
    }
}

/// The time now, of the system's own calendar; `None` where it has no program for that.
fn date() -> Option<String> {
    text_of(Command::new("date").args(["-u", "+%Y-%m-%d %H:%M UTC"]))
}

/// The commit of the sources; `None` where they are in no repository, or there is no Git.
fn commit() -> Option<String> {
    let commit = git(&["rev-parse", "--short", "HEAD"])?;
    // What was kept of earlier runs is no source.
    let changes = [
        "status",
        "--porcelain",
        "--",
        ":/",
        ":(top,exclude)benches/results",
    ];
    let is_clean = git(&changes)?.is_empty();
    Some(commit + if is_clean { "" } else { "-dirty" })
}

fn git(arguments: &[&str]) -> Option<String> {
    // A bench runs as root, the repository may be another user's: Git is to read it all the same.
    let place = ["-c", "safe.directory=*", "-C", env!("CARGO_MANIFEST_DIR")];
    text_of(Command::new("git").args(place).args(arguments))
}

/// What a program says, where it is there and ends well.
fn text_of(program: &mut Command) -> Option<String> {
    let output = program.output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

/// What starts the bench with these arguments; xtask itself says where the target folder is.
fn command(name: &str, arguments: impl IntoIterator<Item = String>) -> String {
    let mut command = format!("cargo xtask bench {name}");
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        if argument == "--target" {
            arguments.next();
        } else if !argument.starts_with("--target=") {
            command.push(' ');
            command.push_str(&argument);
        }
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_what_one_types() {
        let arguments = ["--target", "elsewhere", "--quick", "sessions"];
        assert_eq!(
            command("cost", arguments.map(str::to_owned)),
            "cargo xtask bench cost --quick sessions"
        );
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        let mut about = About {
            date: Some("today".to_owned()),
            commit: Some("219a47f-dirty".to_owned()),
            command: "it".to_owned(),
        };
        assert_eq!(about.to_string(), "today, commit 219a47f-dirty, `it`");
        about.commit = None;
        assert_eq!(about.to_string(), "today, `it`");
        about.date = None;
        assert_eq!(about.to_string(), "`it`");
    }
}
