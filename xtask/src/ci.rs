//! The checks of CI, cheapest first.

use std::process::Command;

use crate::stopwatch::Stopwatch;
use crate::{fuzz, run, tests};

/// The version of cargo-deny to install if there is none.
const DENY_VERSION: &str = "0.20.2";

/// Fuzzing time per target, in seconds.
const FUZZ_SECONDS: u64 = 20;

pub(crate) fn all() -> Result<(), String> {
    let stopwatch = &mut Stopwatch::new();
    stopwatch.time("formatting", || run::cargo(&["fmt", "--all", "--check"]))?;
    stopwatch.time("lints", lints)?;
    tests::timed(stopwatch, &[])?;
    stopwatch.time("fuzzing", || fuzz::some(FUZZ_SECONDS))?;
    stopwatch.time("docs", docs)?;
    stopwatch.time("licences, sources and duplicates of dependencies", deny)
}

fn lints() -> Result<(), String> {
    run::cargo(&[
        "clippy",
        "--workspace",
        "--all-targets",
        "--",
        "--deny",
        "warnings",
    ])
}

fn docs() -> Result<(), String> {
    run::command(
        Command::new(run::cargo_path())
            .args([
                "doc",
                "--workspace",
                "--no-deps",
                "--document-private-items",
            ])
            .current_dir(run::root())
            .env("RUSTDOCFLAGS", "--deny warnings"),
    )
}

/// Checks licences, sources and duplicates, and advisories if their database can be fetched.
fn deny() -> Result<(), String> {
    if run::output("cargo-deny", &["--version"]).is_none() {
        run::command(Command::new(run::cargo_path()).args([
            "install",
            "cargo-deny",
            "--locked",
            "--version",
            DENY_VERSION,
        ]))?;
    }
    run::cargo(&["deny", "check", "bans", "licenses", "sources"])?;
    if run::cargo(&["deny", "fetch"]).is_err() {
        println!("   skipped: security advisories, because their database cannot be fetched here");
        return Ok(());
    }
    run::cargo(&["deny", "check", "advisories"])
}
