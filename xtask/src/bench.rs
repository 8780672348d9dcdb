//! Installs what a bench needs, builds it, runs it, and keeps its results on request.
//!
//! Invariant: results go to `target/bench/NAME`. Only `--keep` writes into the repository.

use std::fs;
use std::path::{Path, PathBuf};

use crate::{figures, machine, packages, run, setup};

/// Runs `bench NAME`; any other word filters the criterion benches.
pub(crate) fn any(arguments: &[String]) -> Result<(), String> {
    match arguments.split_first() {
        Some((what, rest)) if what == "wire" => peers("wire", rest),
        Some((what, rest)) if what == "instructions" => instructions(rest),
        Some((what, rest)) if what == "cost" => cost(rest),
        Some((what, rest)) if what == "vm" => vm(rest),
        Some((what, rest)) if what == "balance" => peers("balance", rest),
        Some((what, rest)) if what == "floods" => peers("floods", rest),
        _ => criterion(arguments),
    }
}

fn criterion(filter: &[String]) -> Result<(), String> {
    setup::everything()?;
    let any = filter.join("|");
    let mut arguments = vec![
        "bench",
        "--workspace",
        "--bench",
        "forward",
        "--bench",
        "policies",
    ];
    if !filter.is_empty() {
        // Criterion takes one regular expression.
        arguments.extend(["--", &any]);
    }
    run::cargo(&arguments)?;
    println!("{}", figures::table(&run::target().join("criterion")));
    Ok(())
}

/// Counts instructions per packet. It builds without the Wasm compiler, in half a minute.
fn instructions(arguments: &[String]) -> Result<(), String> {
    setup::debian(packages::BUILD)?;
    setup::debian(packages::COUNT)?;
    let mut call = vec![
        "run",
        "--release",
        "--quiet",
        "--package",
        "waxwing-instructions",
        "--",
    ];
    call.extend(arguments.iter().map(String::as_str));
    run::cargo(&call)
}

/// Measures cost over the number of sessions, services, backends and workers.
fn cost(arguments: &[String]) -> Result<(), String> {
    // Its arguments, parts and `--quick`, all narrow what is measured.
    let (keep, arguments) = without_keep(arguments, |_| true)?;
    setup::everything()?;
    run::step("building the balancer and the bench in release mode");
    build(&["waxwing", "waxwing-cost"])?;
    run::as_root(&released("waxwing-cost"), &arguments)?;
    if keep { kept("cost") } else { Ok(()) }
}

/// Measures Waxwing beside its peers in network namespaces: `wire`, `balance` or `floods`.
fn peers(bench: &str, arguments: &[String]) -> Result<(), String> {
    let narrows = |argument: &str| {
        let option = argument.split('=').next().unwrap_or(argument);
        ["--quick", "--only"].contains(&option)
    };
    let (keep, arguments) = without_keep(arguments, narrows)?;
    setup::everything()?;
    setup::debian(packages::WIRE)?;
    run::step("building the balancer, the bare forwarder and the bench in release mode");
    build(&[
        "waxwing",
        "waxwing-testbed",
        "bare-forwarder",
        "waxwing-peers-bench",
    ])?;
    let target = run::target().display().to_string();
    let arguments = [&[bench, "--target", &target], arguments.as_slice()].concat();
    run::as_root(&released("waxwing-peers-bench"), &arguments)?;
    if keep { kept(bench) } else { Ok(()) }
}

/// Measures Waxwing in zero-copy mode, in a virtual machine.
fn vm(arguments: &[String]) -> Result<(), String> {
    let (keep, arguments) = without_keep(arguments, |_| false)?;
    machine::bench(&arguments)?;
    if keep { kept("vm") } else { Ok(()) }
}

/// Builds programs in release mode, with the features of the whole workspace (see [`run::build`]).
fn build(programs: &[&str]) -> Result<(), String> {
    let mut call = vec!["build", "--release", "--workspace"];
    for program in programs {
        call.extend(["--bin", program]);
    }
    run::cargo(&call)
}

fn released(program: &str) -> PathBuf {
    run::target().join("release").join(program)
}

/// Splits off `--keep`. Refuses it beside an argument that `narrows` what is measured, because [`kept`]
/// replaces all results.
fn without_keep(
    arguments: &[String],
    narrows: impl Fn(&str) -> bool,
) -> Result<(bool, Vec<&str>), String> {
    let (keep, others): (Vec<&str>, Vec<&str>) = arguments
        .iter()
        .map(String::as_str)
        .partition(|argument| *argument == "--keep");
    let keep = !keep.is_empty();
    if keep && others.iter().any(|argument| narrows(argument)) {
        return Err(
            "--keep replaces all kept results: run it without PART / --only / --quick".to_owned(),
        );
    }
    Ok((keep, others))
}

/// Replaces `benches/results/NAME` by the results of this run.
fn kept(name: &str) -> Result<(), String> {
    let from = run::target().join("bench").join(name);
    let to = run::root().join("benches/results").join(name);
    copy(&from, &to).map_err(|error| format!("cannot keep {}: {error}", from.display()))?;
    println!("kept in benches/results/{name}");
    Ok(())
}

fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    if to.exists() {
        fs::remove_dir_all(to)?;
    }
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::any;

    #[test]
    fn keep_is_refused_before_a_narrowed_run() {
        for line in [
            "cost sessions --keep",
            "cost --keep --quick",
            "wire --keep --only bulk",
            "wire --rounds 3 --only=bulk --keep",
            "wire --quick --keep",
        ] {
            let arguments: Vec<String> = line.split(' ').map(str::to_owned).collect();
            let error = any(&arguments).expect_err(line);
            assert!(error.contains("run it without"), "{line}: {error}");
        }
    }

    #[test]
    fn keep_is_accepted_with_any_number_of_rounds() {
        let line = ["--rounds", "--keep", "3"].map(str::to_owned);
        let narrows = |argument: &str| argument == "--only";
        let read = super::without_keep(&line, narrows);
        assert_eq!(read, Ok((true, vec!["--rounds", "3"])));
    }
}
