//! The benches: what each needs is installed, built and run; what a run measured may be kept.

use crate::{figures, packages, run, setup};

/// `bench WHAT`, or a filter of the criterion benches.
pub(crate) fn any(arguments: &[String]) -> Result<(), String> {
    match arguments.split_first() {
        Some((what, rest)) if what == "instructions" => instructions(rest),
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
    program("waxwing-instructions", arguments)
}

/// Runs a bench that is a program, built as the balancer is when it is released.
fn program(package: &str, arguments: &[String]) -> Result<(), String> {
    let mut call = vec!["run", "--release", "--quiet", "--package", package, "--"];
    call.extend(arguments.iter().map(String::as_str));
    run::cargo(&call)
}
