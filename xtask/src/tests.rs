//! Every test: pure ones, models, and real servers and clients in network namespaces and in a virtual
//! machine.

use std::process::Command;

use crate::{machine, run, setup};

/// The suite in the virtual machine, which a filter names as a whole.
const MACHINE: &str = "zerocopy";

/// All tests, or those whose name contains the filter.
pub(crate) fn all(filter: &[String]) -> Result<(), String> {
    let filter: Vec<&str> = filter.iter().map(String::as_str).collect();
    machine::prepare();
    run::step("building everything");
    run::build()?;
    if let [MACHINE, rest @ ..] = filter.as_slice() {
        run::step("zero-copy, in a virtual machine");
        return in_the_workspace(&[&["--test", MACHINE, "--"], rest].concat());
    }
    run::step("unit, property, scenario and end-to-end tests");
    in_the_workspace(&filter)?;
    run::step("the session table under every interleaving (loom)");
    loom(&filter)?;
    run::step("the session table under ThreadSanitizer");
    thread_sanitizer(&filter)
}

/// As root, because namespaces and AF_XDP need it; what cannot run says why and counts as ignored.
fn in_the_workspace(filter: &[&str]) -> Result<(), String> {
    let mut cargo = Command::new(run::cargo_path());
    cargo
        .args(["test", "--workspace"])
        .args(filter)
        .current_dir(run::root());
    if !run::is_root() && run::sudo_works() {
        let arch = std::env::consts::ARCH.to_uppercase();
        cargo.env(
            format!("CARGO_TARGET_{arch}_UNKNOWN_LINUX_GNU_RUNNER"),
            "sudo --preserve-env",
        );
    }
    run::command(&mut cargo)
}

/// Loom replaces the atomics of the whole build, hence a target folder of its own.
fn loom(filter: &[&str]) -> Result<(), String> {
    run::command(
        Command::new(run::cargo_path())
            .args([
                "test",
                "--release",
                "--package",
                "waxwing-dataplane",
                "--test",
                "session_loom",
            ])
            .args(filter)
            .current_dir(run::root())
            .env("CARGO_TARGET_DIR", run::target().join("loom"))
            .env("RUSTFLAGS", "--cfg loom"),
    )
}

/// The sanitizer wants the standard library compiled with it, and so its source.
fn thread_sanitizer(filter: &[&str]) -> Result<(), String> {
    if !setup::has_library_source() {
        println!(
            "   skipped: the standard library's source (rustup's `rust-src`) cannot be had here"
        );
        return Ok(());
    }
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    run::command(
        Command::new(run::cargo_path())
            .args(["test", "--release", "--package", "waxwing-dataplane"])
            .args([
                "--test",
                "session_threads",
                "-Zbuild-std",
                "--target",
                &target,
            ])
            .args(filter)
            .current_dir(run::root())
            .env("CARGO_TARGET_DIR", run::target().join("sanitizer"))
            .env("RUSTC_BOOTSTRAP", "1")
            .env("RUSTFLAGS", "-Zsanitizer=thread"),
    )
}
