//! The packet's way under input that is led by coverage, by cargo-fuzz on the toolchain of the day.
//!
//! Invariant: the corpus that is committed is read and not written. What is found beside it stays in
//! the target folder, where the next run goes on from it.

use std::process::Command;

use crate::run;

/// The version of cargo-fuzz that is installed where there is none.
const VERSION: &str = "0.13.2";
/// The crate that has the targets in its folder `fuzz`.
const CRATE: &str = "runtime/dataplane";
const TARGETS: [&str; 3] = ["any_bytes", "mutated", "sequence"];
/// How long each target runs where nobody says.
const SECONDS: u64 = 600;
/// The longest input, in bytes: none of the targets makes more of a longer one.
const INPUT_MAX: usize = 300;

/// As the command line says.
pub(crate) fn all(arguments: &[String]) -> Result<(), String> {
    let seconds = match arguments {
        [] => Some(SECONDS),
        [name, n] if name == "--seconds" => n.parse().ok(),
        _ => None,
    };
    let seconds = seconds.ok_or("fuzz takes `--seconds N` and nothing else")?;
    install()?;
    each(seconds)
}

/// A run that is bounded, where cargo-fuzz can be had.
pub(crate) fn some(seconds: u64) -> Result<(), String> {
    if let Err(error) = install() {
        println!("   skipped: fuzzing, because cargo-fuzz cannot be installed here: {error}");
        return Ok(());
    }
    each(seconds)
}

fn install() -> Result<(), String> {
    if run::output("cargo-fuzz", &["--version"]).is_some() {
        return Ok(());
    }
    run::step("installing cargo-fuzz");
    run::cargo(&["install", "cargo-fuzz", "--locked", "--version", VERSION])
}

fn each(seconds: u64) -> Result<(), String> {
    for target in TARGETS {
        run::step(&format!("fuzzing {target} for {seconds} s"));
        fuzz(target, seconds)?;
    }
    Ok(())
}

/// A finding ends it with an error, and is told as the command that runs it again.
fn fuzz(target: &str, seconds: u64) -> Result<(), String> {
    let crate_folder = run::root().join(CRATE);
    let build = run::target().join("fuzz");
    let found = build.join("corpus").join(target);
    std::fs::create_dir_all(&found).map_err(|error| format!("{}: {error}", found.display()))?;
    run::command(
        Command::new(run::cargo_path())
            // No sanitizer: they want a nightly compiler, and look for what only `unsafe` can do.
            .args(["fuzz", "run", "--sanitizer", "none", target])
            .args([found, crate_folder.join("fuzz/corpus").join(target)])
            .arg("--")
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-max_len={INPUT_MAX}"))
            // How far it got is told at the end.
            .args(["-verbosity=0", "-print_final_stats=1"])
            .current_dir(crate_folder)
            .env("CARGO_TARGET_DIR", build),
    )
}
