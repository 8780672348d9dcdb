//! What a run is of: when, of which sources, by which call.
//!
//! Invariant: what cannot be told is left out; a bench runs all the same.

use std::fmt;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

/// What a page and its figures are of.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct About {
    /// When the run began, in UTC.
    pub date: String,
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
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            date: date(since.map_or(0, |since| since.as_secs())),
            commit: commit(),
            command: command(name, std::env::args().skip(1)),
        }
    }
}

/// `2026-11-23 17:09 UTC, commit 219a47f: cargo xtask bench cost`, the last as code.
impl fmt::Display for About {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.date)?;
        if let Some(commit) = &self.commit {
            write!(f, ", commit {commit}")?;
        }
        write!(f, ": `{}`", self.command)
    }
}

/// The time of day so many seconds after 1970 began.
fn date(seconds: u64) -> String {
    let (days, minutes) = (seconds / 86_400, seconds % 86_400 / 60);
    let (year, month, day) = civil(days);
    let (hour, minute) = (minutes / 60, minutes % 60);
    format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02} UTC")
}

/// Year, month and day, so many days after 1970-01-01.
fn civil(days: u64) -> (u64, u64, u64) {
    // Years that begin in March, so that a leap day is a year's last; 400 of them are one era
    // (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms").
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let years = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * years + years / 4 - years / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = (from_march + 2) % 12 + 1;
    let year = 400 * era + years + u64::from(month <= 2);
    (year, month, day)
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
    let mut git = Command::new("git");
    let output = git.args(place).args(arguments).output().ok()?;
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
    fn days_have_their_dates() {
        let cases = [
            (0, "1970-01-01 00:00 UTC"),
            (951_782_399, "2000-02-28 23:59 UTC"),
            (951_782_400, "2000-02-29 00:00 UTC"),
            (1_709_251_199, "2024-02-29 23:59 UTC"),
            (1_735_689_600, "2025-01-01 00:00 UTC"),
            (4_107_542_400, "2100-03-01 00:00 UTC"),
        ];
        for (seconds, text) in cases {
            assert_eq!(date(seconds), text, "{seconds}");
        }
    }

    #[test]
    fn a_call_is_what_one_types() {
        let arguments = ["--target", "/work/target", "--quick", "sessions"];
        assert_eq!(
            command("cost", arguments.map(str::to_owned)),
            "cargo xtask bench cost --quick sessions"
        );
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        let mut about = About {
            date: "today".to_owned(),
            commit: Some("219a47f-dirty".to_owned()),
            command: "it".to_owned(),
        };
        assert_eq!(about.to_string(), "today, commit 219a47f-dirty: `it`");
        about.commit = None;
        assert_eq!(about.to_string(), "today: `it`");
    }
}
