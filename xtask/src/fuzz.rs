//! Coverage-guided fuzzing of the hot path and of the rings by cargo-fuzz, on the stable toolchain.
//!
//! Invariant: the committed corpus is only read. New inputs go to the target folder, where the next run
//! starts from them.

use std::process::Command;

use crate::run;

/// The version of cargo-fuzz to install if there is none.
const VERSION: &str = "0.13.2";
/// The crates whose folder `fuzz` has a target, and the targets.
const TARGETS: [(&str, &str); 4] = [
    ("runtime/dataplane", "any_bytes"),
    ("runtime/dataplane", "mutated"),
    ("runtime/dataplane", "sequence"),
    ("runtime/xdp", "rings"),
];
/// Default time per target, in seconds.
const SECONDS: u64 = 600;
/// The longest input, in bytes; no target reads more.
const INPUT_MAX: usize = 300;

/// Runs `fuzz [--seconds N]`.
pub(crate) fn all(arguments: &[String]) -> Result<(), String> {
    let seconds = match arguments {
        [] => Some(SECONDS),
        [name, n] if name == "--seconds" => n.parse().ok(),
        _ => None,
    };
    let seconds = seconds.ok_or("usage: fuzz [--seconds N]")?;
    install()?;
    each(seconds)
}

/// Fuzzes each target for some seconds; skips if cargo-fuzz cannot be installed.
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
    for (folder, target) in TARGETS {
        run::step(&format!("fuzzing {target} for {seconds} s"));
        fuzz(folder, target, seconds)?;
    }
    Ok(())
}

/// Fuzzes one target. A finding is an error; cargo-fuzz prints the command that reproduces it.
fn fuzz(folder: &str, target: &str, seconds: u64) -> Result<(), String> {
    let crate_folder = run::root().join(folder);
    let build = run::target().join("fuzz");
    let found = build.join("corpus").join(target);
    std::fs::create_dir_all(&found).map_err(|error| format!("{}: {error}", found.display()))?;
    run::command(
        Command::new(run::cargo_path())
            // Sanitizers need a nightly compiler.
            .args(["fuzz", "run", "--sanitizer", "none", target])
            .args([found, crate_folder.join("fuzz/corpus").join(target)])
            .arg("--")
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-max_len={INPUT_MAX}"))
            // Statistics only at the end.
            .args(["-verbosity=0", "-print_final_stats=1"])
            .current_dir(crate_folder)
            .env("CARGO_TARGET_DIR", build),
    )
}
