//! The benches: what each needs is installed, built and run; what a run measured may be kept.
//!
//! Invariant: a bench leaves all that it measured in `target/bench/NAME`. Only `--keep` writes into the
//! repository.

use std::fs;
use std::path::{Path, PathBuf};

use crate::{figures, machine, packages, run, setup};

/// `bench WHAT`, or a filter of the criterion benches.
pub(crate) fn any(arguments: &[String]) -> Result<(), String> {
    match arguments.split_first() {
        Some((what, rest)) if what == "wire" => wire(rest),
        Some((what, rest)) if what == "instructions" => instructions(rest),
        Some((what, rest)) if what == "cost" => cost(rest),
        Some((what, rest)) if what == "vm" => machine::bench(rest),
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
        // Criterion takes one expression: a bench that any of the words names.
        arguments.extend(["--", &any]);
    }
    run::cargo(&arguments)?;
    println!("{}", figures::table(&run::target().join("criterion")));
    Ok(())
}

/// Instructions a packet. It builds without the Wasm compiler, in half a minute.
fn instructions(arguments: &[String]) -> Result<(), String> {
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

/// What work costs as it grows.
fn cost(arguments: &[String]) -> Result<(), String> {
    setup::everything()?;
    run::step("building the balancer and the bench, as they are when released");
    build(&["waxwing", "waxwing-cost"])?;
    let (keep, arguments) = without_keep(arguments);
    run::as_root(&released("waxwing-cost"), &arguments)?;
    if keep { kept("cost") } else { Ok(()) }
}

/// Waxwing beside its peers, all as they are when released.
fn wire(arguments: &[String]) -> Result<(), String> {
    setup::everything()?;
    setup::debian(packages::WIRE)?;
    run::step("building the balancer, the bare forwarder and the bench, as they are when released");
    build(&[
        "waxwing",
        "waxwing-testbed",
        "bare-forwarder",
        "waxwing-wire-bench",
    ])?;
    let (keep, arguments) = without_keep(arguments);
    let target = run::target().display().to_string();
    let arguments = [&["--target", &target], arguments.as_slice()].concat();
    run::as_root(&released("waxwing-wire-bench"), &arguments)?;
    if keep { kept("wire") } else { Ok(()) }
}

/// Builds programs as they are when released; as always, of the whole workspace's selection.
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

/// Whether `--keep` is among the arguments, and the others.
fn without_keep(arguments: &[String]) -> (bool, Vec<&str>) {
    let (keep, others): (Vec<&str>, Vec<&str>) = arguments
        .iter()
        .map(String::as_str)
        .partition(|argument| *argument == "--keep");
    (!keep.is_empty(), others)
}

/// Copies what a bench has measured to `benches/results/NAME`, in place of what is there.
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
