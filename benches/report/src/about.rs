//! The origin of a run: date, commit, command.
//!
//! Invariant: what cannot be determined is left out; the bench runs anyway.

use std::fmt;
use std::process::Command;

use serde::Serialize;

/// The origin of a page and its figures.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct About {
    /// When the run began, in UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub date: Option<String>,
    /// The commit of the sources, with `-dirty` if they have uncommitted changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// The command that starts the run.
    pub command: String,
}

impl About {
    /// Describes this process, which runs the bench `name`.
    pub fn this(name: &str) -> Self {
        Self {
            date: date(),
            commit: commit(),
            command: command(name, std::env::args().skip(1)),
        }
    }
}

/// `2026-11-23 17:09 UTC, commit 219a47f, cargo xtask bench cost`, the command as code.
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

/// The current time by `date`; `None` if that fails.
fn date() -> Option<String> {
    text_of(Command::new("date").args(["-u", "+%Y-%m-%d %H:%M UTC"]))
}

/// The commit of the sources; `None` without a repository or without Git.
fn commit() -> Option<String> {
    let commit = git(&["rev-parse", "--short", "HEAD"])?;
    // Kept results are not sources.
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
    // A bench runs as root, but another user may own the repository: Git must read it anyway.
    let place = ["-c", "safe.directory=*", "-C", env!("CARGO_MANIFEST_DIR")];
    text_of(Command::new("git").args(place).args(arguments))
}

/// A program's standard output; `None` if it does not run or fails.
fn text_of(program: &mut Command) -> Option<String> {
    let output = program.output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

/// The command that starts the bench with these arguments, without those that xtask adds: the bench's name
/// and the target directory.
fn command(name: &str, arguments: impl IntoIterator<Item = String>) -> String {
    let mut command = format!("cargo xtask bench {name}");
    let mut arguments = arguments.into_iter().peekable();
    arguments.next_if(|first| first == name);
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
    fn the_command_is_what_one_types() {
        let arguments = ["--target", "elsewhere", "--quick", "sessions"];
        assert_eq!(
            command("cost", arguments.map(str::to_owned)),
            "cargo xtask bench cost --quick sessions"
        );
        let arguments = ["wire", "--target=elsewhere", "--quick"];
        assert_eq!(
            command("wire", arguments.map(str::to_owned)),
            "cargo xtask bench wire --quick"
        );
    }

    #[test]
    fn unknown_parts_are_left_out() {
        let mut about = About {
            date: Some("today".to_owned()),
            commit: Some("219a47f-dirty".to_owned()),
            command: "command".to_owned(),
        };
        assert_eq!(about.to_string(), "today, commit 219a47f-dirty, `command`");
        about.commit = None;
        assert_eq!(about.to_string(), "today, `command`");
        about.date = None;
        assert_eq!(about.to_string(), "`command`");
    }
}
