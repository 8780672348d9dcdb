//! Live demonstration: Waxwing balances HTTP requests over three servers while its policy is replaced, a
//! broken module is rejected, and a server is drained. No request fails.
//!
//! Invariant: however the demo ends, it leaves no process, namespace or interface behind.

mod harness;
mod recording;
mod report;
mod script;
mod view;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser;
use waxwing_tests::netns;

use crate::recording::Recording;
use crate::report::Report;
use crate::view::View;

/// Shows traffic through Waxwing while its policy changes. Needs root, for network namespaces.
#[derive(Parser)]
struct Arguments {
    /// Duration in seconds
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(8..=3600))]
    seconds: u32,
    /// Write the report to this file, as JSON
    #[arg(long)]
    report: Option<PathBuf>,
    /// Print lines instead of the live view; the default if the output is not a terminal
    #[arg(long)]
    plain: bool,
    /// Write the live view to this file, as an animated SVG
    #[arg(long)]
    record: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = run(&arguments);
    if netns::is_ending() {
        // The signal handler is removing the namespaces and then exits.
        loop {
            std::thread::park();
        }
    }
    match outcome {
        Ok(report) if report.passed => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<Report> {
    netns::remove_leftovers()
        .context("cannot list network namespaces; run as root, with iproute2 installed")?;
    netns::remove_own_on_signal(view::restore_terminal)?;
    let recording = arguments.record.clone().map(Recording::new).transpose()?;
    let report = script::run(arguments.seconds, View::new(arguments.plain, recording))?;
    if netns::is_ending() {
        return Ok(report);
    }
    if let Some(path) = &arguments.report {
        let text = serde_json::to_string_pretty(&report)? + "\n";
        std::fs::write(path, text)
            .with_context(|| format!("cannot write the report to {}", path.display()))?;
    }
    println!("{}", report.summary());
    Ok(report)
}
