//! The benches: what each needs is installed, built and run; what a run measured may be kept.

use crate::{figures, packages, run, setup};

/// `bench WHAT`, or a filter of the criterion benches.
pub(crate) fn any(arguments: &[String]) -> Result<(), String> {
    match arguments.split_first() {
        Some((what, rest)) if what == "wire" => wire(rest),
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

/// Waxwing beside its peers, all as they are released.
fn wire(arguments: &[String]) -> Result<(), String> {
    setup::everything()?;
    setup::debian(packages::WIRE)?;
    run::step("building the balancer, the bare forwarder and the bench, as for a release");
    run::cargo(&["build", "--release", "--workspace", "--bins"])?;
    let target = run::target();
    let mut all = vec!["--target".to_owned(), target.display().to_string()];
    all.extend_from_slice(arguments);
    run::as_root(&target.join("release/waxwing-wire-bench"), &all)
}
