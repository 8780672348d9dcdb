//! Where the time of a run goes: wall clock and processor time of each step.

use std::fmt::Write as _;
use std::fs;
use std::time::{Duration, Instant};

use crate::run;

/// The unit of the times in `/proc/PID/stat` (proc(5)): Linux tells user space hundredths of a second.
const TICKS_PER_SECOND: u64 = 100;

/// The steps of a run. Dropping it prints the table, also when a step failed.
pub(crate) struct Stopwatch {
    begun: Instant,
    steps: Vec<Step>,
}

struct Step {
    name: String,
    wall: Duration,
    processor: Duration,
    failed: bool,
}

impl Stopwatch {
    pub(crate) fn new() -> Self {
        Self {
            begun: Instant::now(),
            steps: Vec::new(),
        }
    }

    /// Announces a step, runs it and notes its times.
    pub(crate) fn time<T>(
        &mut self,
        name: &str,
        step: impl FnOnce() -> Result<T, String>,
    ) -> Result<T, String> {
        run::step(name);
        let (begun, used) = (Instant::now(), children_time());
        let outcome = step();
        self.steps.push(Step {
            name: name.to_owned(),
            wall: begun.elapsed(),
            processor: children_time().saturating_sub(used),
            failed: outcome.is_err(),
        });
        outcome
    }

    fn table(&self) -> String {
        let mut table = "\n    wall  processor  step\n".to_owned();
        let mut row = |wall: Duration, processor: Duration, name: &str, failed: bool| {
            let [wall, processor] = [wall, processor].map(|time| time.as_secs_f64());
            let failed = if failed { "  FAILED" } else { "" };
            // Writing to a string cannot fail.
            let _ = writeln!(table, "{wall:6.0} s {processor:8.0} s  {name}{failed}");
        };
        for step in &self.steps {
            row(step.wall, step.processor, &step.name, step.failed);
        }
        let processor = self.steps.iter().map(|step| step.processor).sum();
        row(self.begun.elapsed(), processor, "in all", false);
        table
    }
}

impl Drop for Stopwatch {
    fn drop(&mut self) {
        print!("{}", self.table());
    }
}

/// Processor time of all children that have ended, and of theirs.
fn children_time() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    children_ticks(&stat).map_or(Duration::ZERO, |ticks| {
        Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND)
    })
}

/// Fields 16 and 17 of proc(5)'s `stat`: `cutime` and `cstime`. The name in field 2 may hold spaces.
fn children_ticks(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace().skip(13);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::{Stopwatch, children_ticks};

    #[test]
    fn processor_time_of_children_is_read_after_a_name_with_spaces() {
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194560 1 2 3 4 50 60 700 80 20 0 1";
        assert_eq!(children_ticks(stat), Some(780));
        assert_eq!(children_ticks(""), None);
    }

    #[test]
    fn the_table_shows_a_failed_step() {
        let mut stopwatch = Stopwatch::new();
        assert_eq!(stopwatch.time("build", || Ok(1)), Ok(1));
        let error = stopwatch.time("tests", || Err::<(), _>("broken".to_owned()));
        assert_eq!(error, Err("broken".to_owned()));
        let table = stopwatch.table();
        let lines: Vec<&str> = table.lines().map(str::trim).collect();
        assert!(lines[2].ends_with("build"), "{table}");
        assert!(lines[3].ends_with("tests  FAILED"), "{table}");
        assert!(lines[4].ends_with("in all"), "{table}");
    }
}
