//! Runs the program, and provides modules for it.

use std::fs;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

pub(crate) const WAXWING: &str = env!("CARGO_BIN_EXE_waxwing");

/// The modules that ship with the program, as the build script wrote them.
#[expect(unreachable_pub, reason = "what is generated suits libraries too")]
mod embedded {
    include!(concat!(env!("OUT_DIR"), "/modules.rs"));
}

/// The result of a command.
pub(crate) struct CommandResult {
    pub(crate) success: bool,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl CommandResult {
    pub(crate) fn json(&self) -> Value {
        let Self { stdout, stderr, .. } = self;
        serde_json::from_str(stdout).unwrap_or_else(|e| panic!("{e}: {stdout}{stderr}"))
    }

    /// Asserts that the command succeeded and printed all these texts.
    pub(crate) fn succeeds_with(&self, expected: &[&str]) {
        let Self {
            success,
            stdout,
            stderr,
        } = self;
        assert!(*success, "the command failed: {stdout}{stderr}");
        for text in expected {
            assert!(stdout.contains(text), "no {text:?} in: {stdout}{stderr}");
        }
    }

    /// Asserts that the command failed with this text on standard error.
    pub(crate) fn fails_with(&self, expected: &str) {
        let Self {
            success,
            stdout,
            stderr,
        } = self;
        assert!(!success, "the command succeeded: {stdout}");
        assert!(stderr.contains(expected), "no {expected:?} in: {stderr}");
    }
}

pub(crate) fn run(command: &mut Command) -> CommandResult {
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    CommandResult {
        success: output.status.success(),
        stdout: text(&output.stdout),
        stderr: text(&output.stderr),
    }
}

/// Runs `waxwing module ...`.
pub(crate) fn module(arguments: &[&str]) -> CommandResult {
    run(Command::new(WAXWING).arg("module").args(arguments))
}

/// Writes a shipped module to a file. Returns its path.
pub(crate) fn shipped(folder: &TempDir, name: &str) -> String {
    let mut all = embedded::MODULES.iter().chain(embedded::HEALTH_CHECKS);
    let found = all.find(|module| module.0 == name);
    file(folder, &format!("{name}.wasm"), found.unwrap().1)
}

/// Writes a policy in text form with this code in its pick, and these additional parts. Returns its
/// path.
pub(crate) fn wat(folder: &TempDir, name: &str, pick: &str, parts: &str) -> String {
    let text = format!(
        r#"(module
          {parts}
          (@custom "waxwing.module" "kind=policy\0aabi=1.0\0aname=test\0atick=10\0a")
          (memory (export "memory") 6 6)
          ;; The header at 1024: version, size; then backends, flows and picks, as many as can be.
          (data (i32.const 1024) "\01\00\00\00\60\00\00\00")
          (data (i32.const 1064) "\00\20\01\00\00\10\00\00\00\08\00\00\40\00\00\00\00\18\00\00")
          (func (export "waxwing_reserve") (param i32) (result i32) (i32.const 0x2000))
          (func (export "waxwing_init") (param i32 i32) (result i32) (i32.const 1024))
          (func (export "waxwing_pick") (param i32 i32) (result i32) {pick} (local.get 1)))"#
    );
    let bytes = wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}"));
    file(folder, &format!("{name}.wasm"), &bytes)
}

/// Writes a file. Returns its path.
pub(crate) fn file(folder: &TempDir, name: &str, contents: &[u8]) -> String {
    let path = folder.path().join(name);
    fs::write(&path, contents).unwrap();
    path.to_str().unwrap().to_owned()
}
