//! The workspace's test programs: built by one cargo command, then run one after another, or two at a
//! time.
//!
//! Invariant: a program runs as `cargo test` would run it: in its package's folder, as root where sudo
//! gives that without asking.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;

use crate::run;

/// A test program.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Program {
    /// The name of cargo's target: a crate's for unit tests, a file's in `tests/`.
    pub(crate) target: String,
    /// The folder of its package.
    folder: PathBuf,
    path: PathBuf,
}

/// Builds all test programs, and the programs that they start.
pub(crate) fn build() -> Result<Vec<Program>, String> {
    let arguments = [
        "test",
        "--workspace",
        "--no-run",
        "--message-format=json-render-diagnostics",
    ];
    println!("   cargo {}", arguments.join(" "));
    let output = Command::new(run::cargo_path())
        .args(arguments)
        .current_dir(run::root())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("cargo did not start: {error}"))?;
    if !output.status.success() {
        return Err(format!("building the tests ended with {}", output.status));
    }
    let programs = of_messages(&String::from_utf8_lossy(&output.stdout));
    if programs.is_empty() {
        return Err("cargo named no test program".to_owned());
    }
    Ok(programs)
}

/// Runs programs one after another, all of them, and names those that failed.
pub(crate) fn run<'a>(
    programs: impl IntoIterator<Item = &'a Program>,
    arguments: &[&str],
) -> Result<(), String> {
    let with_sudo = needs_sudo();
    let failed: Vec<&str> = programs
        .into_iter()
        .filter(|program| run::command(&mut program.command(with_sudo, arguments)).is_err())
        .map(|program| program.target.as_str())
        .collect();
    outcome(&failed)
}

/// As [`run()`], two programs at a time: most of their time is waiting. A program's output is printed when
/// it ends.
pub(crate) fn run_in_pairs(programs: &[&Program], arguments: &[&str]) -> Result<(), String> {
    let with_sudo = needs_sudo();
    let queue = Mutex::new(programs.iter());
    let failed = Mutex::new(Vec::new());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || {
        while let Some(program) = next() {
            if run::captured(&mut program.command(with_sudo, arguments)).is_err() {
                let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                failed.push(program.target.as_str());
            }
        }
    };
    thread::scope(|scope| {
        scope.spawn(work);
        work();
    });
    outcome(&failed.into_inner().unwrap_or_else(PoisonError::into_inner))
}

fn needs_sudo() -> bool {
    !run::is_root() && run::sudo_works()
}

fn outcome(failed: &[&str]) -> Result<(), String> {
    if failed.is_empty() {
        Ok(())
    } else {
        Err(format!("tests failed in: {}", failed.join(", ")))
    }
}

impl Program {
    fn command(&self, with_sudo: bool, arguments: &[&str]) -> Command {
        let mut command = if with_sudo {
            let mut sudo = Command::new("sudo");
            sudo.arg("--preserve-env").arg(&self.path);
            sudo
        } else {
            Command::new(&self.path)
        };
        command
            .args(arguments)
            .current_dir(&self.folder)
            .env("CARGO_MANIFEST_DIR", &self.folder);
        command
    }
}

/// The test programs in cargo's messages, of which each is a JSON object on a line of its own.
fn of_messages(messages: &str) -> Vec<Program> {
    messages.lines().filter_map(of_message).collect()
}

/// The test program that a message announces. The programs that tests start have no test profile.
fn of_message(message: &str) -> Option<Program> {
    let (_, profile) = message.split_once("\"profile\":{")?;
    let (profile, _) = profile.split_once('}')?;
    if !profile.contains("\"test\":true") {
        return None;
    }
    let (_, target) = message.split_once("\"target\":{")?;
    let manifest = text(message, "manifest_path")?;
    Some(Program {
        target: text(target, "name")?.to_owned(),
        folder: Path::new(manifest).parent()?.to_owned(),
        path: text(message, "executable")?.into(),
    })
}

/// The text under a key. None of the texts read here has a character that JSON escapes.
fn text<'a>(object: &'a str, key: &str) -> Option<&'a str> {
    let (_, value) = object.split_once(&format!("\"{key}\":\""))?;
    value.split_once('"').map(|(value, _)| value)
}

#[cfg(test)]
mod tests {
    use super::{Program, of_messages};

    #[test]
    fn programs_are_read_from_cargos_messages() {
        let of = |name: &str, test: bool, executable: &str| {
            format!(
                "{{\"reason\":\"compiler-artifact\",\
                 \"package_id\":\"path+file:///w/cli#waxwing@0.1.0\",\
                 \"manifest_path\":\"/w/cli/Cargo.toml\",\
                 \"target\":{{\"kind\":[\"test\"],\"name\":\"{name}\",\
                 \"test\":true}},\"profile\":{{\"opt_level\":\"1\",\"test\":{test}}},\"features\":[],\
                 \"filenames\":[\"/t/x\"],\"executable\":{executable},\"fresh\":true}}\n"
            )
        };
        let messages = of("module", true, "\"/t/debug/deps/module-1\"")
            + &of("waxwing", false, "\"/t/debug/waxwing\"")
            + &of("waxwing-sdk", true, "null")
            + "{\"reason\":\"build-finished\",\"success\":true}\n";
        let program = Program {
            target: "module".to_owned(),
            folder: "/w/cli".into(),
            path: "/t/debug/deps/module-1".into(),
        };
        assert_eq!(of_messages(&messages), [program]);
    }
}
