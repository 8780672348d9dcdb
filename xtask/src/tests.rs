//! Every test, the narrow ones first.

use std::process::Command;

use crate::run;

/// All tests, or those whose name contains the filter.
pub(crate) fn all(filter: &[String]) -> Result<(), String> {
    let filter: Vec<&str> = filter.iter().map(String::as_str).collect();
    run::step("unit, property and scenario tests");
    run::cargo(
        &[
            &["test", "--workspace", "--exclude", "waxwing-tests"],
            filter.as_slice(),
        ]
        .concat(),
    )?;
    run::step("the session table under every interleaving (loom)");
    loom(&filter)?;
    run::step("end to end: real servers and clients in network namespaces");
    end_to_end(&filter)
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

fn end_to_end(filter: &[&str]) -> Result<(), String> {
    run::cargo(&[
        "build",
        "--package",
        "waxwing",
        "--package",
        "waxwing-tests",
    ])?;
    run::cargo(&[&["test", "--package", "waxwing-tests"], filter].concat())
}
