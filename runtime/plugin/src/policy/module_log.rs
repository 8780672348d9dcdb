//! The lines that a policy writes for the operator.
//!
//! Invariant: a module's lines take bounded memory; each has a number, so that a reader sees what it missed.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::lock::lock;
use crate::registry::store::unix_seconds;
use crate::text::sanitize;

/// The kept lines of a module.
const LINES_MAX: usize = 200;
/// The lines of one call; one more says how many were left out.
const LINES_PER_CALL: usize = 32;
/// The longest line, in bytes.
const LINE_MAX: usize = 512;

/// A line that a policy wrote.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct LogLine {
    /// Increases by 1 with each line of the module.
    pub number: u64,
    /// When the host took it, in seconds since 1970.
    pub at: u64,
    /// The worker whose instance wrote it.
    pub worker: u32,
    /// The line, without control characters.
    pub text: String,
}

/// The latest lines of one module, over all its builds and workers.
#[derive(Default)]
pub(crate) struct ModuleLog {
    lines: Mutex<VecDeque<LogLine>>,
}

impl ModuleLog {
    /// Adds the lines of a text.
    pub(crate) fn add(&self, module: &str, worker: u32, text: &[u8]) {
        let mut texts = text.split(|byte| *byte == b'\n');
        let mut kept: Vec<String> = texts
            .by_ref()
            .take(LINES_PER_CALL)
            .map(|line| sanitize(&line[..line.len().min(LINE_MAX)]))
            .collect();
        let left_out = texts.filter(|line| !line.is_empty()).count();
        if left_out > 0 {
            kept.push(format!("({left_out} more lines left out)"));
        }
        let at = unix_seconds(SystemTime::now());
        let mut lines = lock(&self.lines);
        for text in kept.into_iter().filter(|text| !text.is_empty()) {
            tracing::debug!(%module, worker, "{text}");
            let number = lines.back().map_or(1, |last| last.number + 1);
            if lines.len() == LINES_MAX {
                lines.pop_front();
            }
            lines.push_back(LogLine {
                number,
                at,
                worker,
                text,
            });
        }
    }

    /// Returns the kept lines, the oldest first.
    pub(crate) fn lines(&self) -> Vec<LogLine> {
        lock(&self.lines).iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

    use super::*;

    #[test]
    fn the_latest_lines_are_kept_and_safe() {
        let log = ModuleLog::default();
        log.add("m", 1, b"one\n\x1b[2Jtwo\n\n");
        let texts = |log: &ModuleLog| -> Vec<String> {
            log.lines().into_iter().map(|line| line.text).collect()
        };
        assert_eq!(texts(&log), ["one", "[2Jtwo"]);
        log.add("m", 0, "x\n".repeat(40).as_bytes());
        assert_eq!(log.lines().len(), 2 + LINES_PER_CALL + 1);
        assert_eq!(texts(&log).last().unwrap(), "(8 more lines left out)");
        for _ in 0..20 {
            log.add("m", 0, "y\n".repeat(32).as_bytes());
        }
        let lines = log.lines();
        assert_eq!(lines.len(), LINES_MAX);
        let numbers: Vec<u64> = lines.iter().map(|line| line.number).collect();
        assert!(
            numbers.is_sorted() && numbers[0] == 35 + 20 * 32 - 199,
            "{numbers:?}"
        );
        log.add("m", 0, &[0xff; 2000]);
        assert!(log.lines().last().unwrap().text.chars().count() <= LINE_MAX);
    }
}
