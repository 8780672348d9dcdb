//! The program's ends, and modules to give it.

use std::fs;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

pub(crate) const WAXWING: &str = env!("CARGO_BIN_EXE_waxwing");

/// The modules that ship with the program, as the build script made them.
#[expect(unreachable_pub, reason = "what is generated suits libraries too")]
mod embedded {
    include!(concat!(env!("OUT_DIR"), "/modules.rs"));
}

/// How a command ended.
pub(crate) struct Ended {
    pub(crate) good: bool,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    pub(crate) fn json(&self) -> Value {
        let Self { stdout, stderr, .. } = self;
        serde_json::from_str(stdout).unwrap_or_else(|e| panic!("{e}: {stdout}{stderr}"))
    }

    /// It ended well, and said all these.
    pub(crate) fn says(&self, expected: &[&str]) {
        let Self {
            good,
            stdout,
            stderr,
        } = self;
        assert!(good, "it failed: {stdout}{stderr}");
        for text in expected {
            assert!(stdout.contains(text), "no {text:?} in: {stdout}{stderr}");
        }
    }

    /// It failed, and said this on standard error.
    pub(crate) fn complains(&self, expected: &str) {
        let Self {
            good,
            stdout,
            stderr,
        } = self;
        assert!(!good, "it ended well: {stdout}");
        assert!(stderr.contains(expected), "no {expected:?} in: {stderr}");
    }
}

pub(crate) fn end(command: &mut Command) -> Ended {
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    Ended {
        good: output.status.success(),
        stdout: text(&output.stdout),
        stderr: text(&output.stderr),
    }
}

/// `waxwing module ...`.
pub(crate) fn module(arguments: &[&str]) -> Ended {
    end(Command::new(WAXWING).arg("module").args(arguments))
}

/// A module that ships with the program, in a file.
pub(crate) fn shipped(folder: &TempDir, name: &str) -> String {
    let mut all = embedded::MODULES.iter().chain(embedded::HEALTH_CHECKS);
    let found = all.find(|module| module.0 == name);
    file(folder, &format!("{name}.wasm"), found.unwrap().1)
}

/// A policy in text form whose pick does this and no more, and which has these parts too.
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

/// A file with these contents; its path.
pub(crate) fn file(folder: &TempDir, name: &str, contents: &[u8]) -> String {
    let path = folder.path().join(name);
    fs::write(&path, contents).unwrap();
    path.to_str().unwrap().to_owned()
}
