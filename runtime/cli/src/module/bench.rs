//! `waxwing module bench`.

use std::fmt::{self, Write as _};
use std::io::{self, BufRead as _};
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;
use waxwing_workbench::{Bench, BenchReport, BenchRow, TimeSpread, Workbench};

use super::Config;
use super::backends::{Specs, specs};
use crate::query::print;

/// The first line of `--serve`: its protocol and version.
const GREETING: &str = "waxwing module bench 1";

#[derive(Args)]
pub(crate) struct Arguments {
    /// The module's file.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    config: Config,
    /// The backends: a number (`5`), or weights (`3,1,1`), optionally with tags (`3@7,1@8`).
    #[arg(long, value_name = "SPEC", default_value = "8", value_parser = specs)]
    backends: Specs,
    /// Prints JSON.
    #[arg(long, conflicts_with = "serve")]
    json: bool,
    /// Answers requests on standard input, line by line (the protocol is in --help).
    #[arg(long)]
    serve: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let workbench = Workbench::open(&arguments.file)?;
    if cfg!(debug_assertions) {
        eprintln!(
            "warning: this is a development build, whose checks cost more than a pick. For meaningful \
             figures:\ncargo build --release --package waxwing"
        );
    }
    let mut bench = workbench.bench(&arguments.config.json, &arguments.backends.0)?;
    if arguments.serve {
        return serve(&mut bench);
    }
    let report = bench.compare()?;
    if arguments.json {
        return print(&(serde_json::to_string_pretty(&report)? + "\n"));
    }
    print(&text(&report))
}

fn serve(bench: &mut Bench) -> Result<()> {
    print(&format!("{GREETING}\n"))?;
    for line in io::stdin().lock().lines() {
        let line = line.context("cannot read standard input")?;
        let time = match parse_request(&line) {
            Some((batch, calls)) => bench.run(batch, calls)?.as_nanos().to_string(),
            None => format!("{line:?} is not `BATCH CALLS` with a batch of 1 to 64"),
        };
        print(&(time + "\n"))?;
    }
    Ok(())
}

fn parse_request(line: &str) -> Option<(usize, u64)> {
    let (batch, calls) = line.trim().split_once(' ')?;
    let batch = batch
        .parse()
        .ok()
        .filter(|batch| (1..=64).contains(batch))?;
    Some((batch, calls.parse().ok()?))
}

fn text(report: &BenchReport) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write_report(&mut text, report);
    text
}

fn write_report(out: &mut String, report: &BenchReport) -> fmt::Result {
    writeln!(
        out,
        "nanoseconds per pick: median (10th to 90th percentile); backends: {}\n",
        report.backends
    )?;
    writeln!(
        out,
        "{:>5}  {:^24}  {:^24}  {:^24}",
        "batch", "module", "empty module", "policy alone"
    )?;
    for row in &report.rows {
        let BenchRow {
            batch,
            module,
            empty,
            above,
        } = row;
        let [module, empty, above] = [module, empty, above].map(|spread| cell(*spread));
        writeln!(out, "{batch:>5}  {module}  {empty}  {above}")?;
    }
    writeln!(
        out,
        "\nThe empty module returns at once: its time is the host's, for the call, writing flows and \
         reading picks.\nThe last column is the policy's own time."
    )
}

fn cell(spread: TimeSpread) -> String {
    let TimeSpread {
        median_ns,
        low_ns,
        high_ns,
    } = spread;
    format!(
        "{median_ns:>8.1} {:<15}",
        format!("({low_ns:.1} to {high_ns:.1})")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_names_a_batch_size_and_a_number_of_calls() {
        assert_eq!(parse_request("32 1000"), Some((32, 1000)));
        for bad in ["", "32", "0 5", "65 5", "a b", "8 -1"] {
            assert_eq!(parse_request(bad), None, "{bad}");
        }
    }
}
