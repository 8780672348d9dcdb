//! `waxwing module`: commands for authors of modules. Only `list`, `lift` and `logs` need a running balancer.
//!
//! Invariant: [`waxwing_workbench`] runs the modules; these files hold only arguments and texts.

mod backends;
mod bench;
mod build;
mod check;
mod logs;
mod new;
mod probe;
mod simulate;

use std::fmt::{self, Display};

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};

use crate::arguments::AdminAddress;
use crate::list::{self, ListArguments, ShowArguments};
use crate::query;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Creates a crate with a small policy or health check and its tests, ready to build.
    New(new::Arguments),
    /// Builds a crate to a Wasm module and checks the module.
    Build(build::Arguments),
    /// Validates and tries a module as the balancer does; shows what is wrong, or what a pick
    /// costs.
    Check(check::Arguments),
    /// Runs a health check once against a server, as the balancer does.
    ///
    /// Exits with 0 if the server is healthy or draining, else with 1.
    Probe(probe::Arguments),
    /// Runs flows through a policy; shows how they spread, and how many move when a backend is
    /// removed.
    Simulate(simulate::Arguments),
    /// Lists the modules of the running balancer.
    List(ListArguments),
    /// Shows all that is known of a module of the running balancer.
    Show(ShowArguments),
    /// Ends the quarantine of a module's builds on the running balancer, which tries the newest build again
    /// and prints the hashes.
    Lift {
        #[command(flatten)]
        admin: AdminAddress,
        /// The module's name.
        name: String,
        /// The start of a build's hash. Without it, all quarantined builds of the module.
        #[arg(default_value = "")]
        hash: String,
    },
    /// Quarantines a policy's newest build on the running balancer, a canary if there is one, and lets the
    /// one before it serve. `lift` undoes it.
    Rollback {
        #[command(flatten)]
        admin: AdminAddress,
        /// The module's name.
        name: String,
    },
    /// Prints the lines that a module of the running balancer wrote: a policy's latest 200, a health check's
    /// of each backend's last run.
    Logs(logs::Arguments),
    /// Times a policy, in nanoseconds per pick, and a module that does nothing.
    ///
    /// The two are timed in turns, in short rounds; the output shows the median and the 10th and
    /// 90th percentiles.
    ///
    /// With --serve, the command answers requests on standard input. For each line "BATCH CALLS" it
    /// calls the module CALLS times with BATCH flows (1 to 64) each, and prints the nanoseconds
    /// that took. Its first output line is "waxwing module bench 1"; it ends at the end of its
    /// input. The SDK's HostBench, which a crate's own bench uses, is the client of this protocol.
    Bench(bench::Arguments),
}

/// The config that a module gets.
#[derive(Args)]
struct Config {
    /// The module's config, as JSON: a service's `policy_config`, or a health check's `config`.
    #[arg(
        id = "config_json",
        long = "config",
        value_name = "JSON",
        default_value = "{}",
        value_parser = object
    )]
    json: String,
}

pub(crate) fn run(command: &Command) -> Result<()> {
    match command {
        Command::New(arguments) => new::run(arguments),
        Command::Build(arguments) => build::run(arguments),
        Command::Check(arguments) => check::run(arguments),
        Command::Probe(arguments) => probe::run(arguments),
        Command::Simulate(arguments) => simulate::run(arguments),
        Command::List(arguments) => list::modules(arguments),
        Command::Show(arguments) => list::show(arguments, "/v1/modules", "name"),
        Command::Lift { admin, name, hash } => query::lift(&admin.socket, name, hash),
        Command::Rollback { admin, name } => query::roll_back(&admin.socket, name),
        Command::Logs(arguments) => logs::run(arguments),
        Command::Bench(arguments) => bench::run(arguments),
    }
}

/// Parses a text that must be a JSON object.
fn object(text: &str) -> Result<String> {
    let value: serde_json::Value = serde_json::from_str(text).context("not JSON")?;
    if !value.is_object() {
        bail!("not an object; write '{{ \"key\": value }}'");
    }
    Ok(text.to_owned())
}

/// Displays a size in bytes.
struct Bytes(usize);

impl Display for Bytes {
    #[expect(clippy::cast_precision_loss, reason = "sizes are far below 2^52")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            n if n < 1 << 10 => write!(f, "{n} B"),
            n if n < 1 << 20 => write!(f, "{:.1} KiB", n as f64 / 1024.0),
            n => write!(f, "{:.1} MiB", n as f64 / f64::from(1 << 20)),
        }
    }
}
