//! `waxwing module`: for those who write modules. None of it needs a running balancer, or rights.
//!
//! Invariant: what a module does is asked of the host that serves it
//! ([`waxwing_workbench`]); here are arguments and texts only.

mod backends;
mod bench;
mod build;
mod check;
mod new;
mod probe;
mod simulate;

use std::fmt::{self, Display};

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};

/// The commands.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Makes a crate with a small policy or health check and its tests, ready to build.
    New(new::Arguments),
    /// Builds a crate to a Wasm module, and checks that.
    Build(build::Arguments),
    /// Tries a module as the balancer does, and says what is wrong, or what a pick costs.
    Check(check::Arguments),
    /// Runs a health check against a server, once, as the balancer would.
    ///
    /// Ends with 0 where the server is well, else with 1.
    Probe(probe::Arguments),
    /// Runs flows through a policy: how they spread, and how many move when a backend goes.
    Simulate(simulate::Arguments),
    /// Times a module, in nanoseconds a pick, beside one that does nothing.
    ///
    /// The two are timed in turns, in short rounds; shown is the median, and where a tenth of the
    /// rounds was below and above.
    ///
    /// With --serve it does what standard input says. For each line "BATCH CALLS" it calls the module
    /// CALLS times with BATCH flows (1 to 64), and answers the nanoseconds that took in a line. Its
    /// first line is "waxwing module bench 1"; it ends with its input. The SDK's HostBench, which a
    /// crate's own bench uses, is the other end.
    Bench(bench::Arguments),
}

/// The config that a module is given.
#[derive(Args)]
struct Config {
    /// What the config hands to the module, as JSON: a service's `policy_config`, a health check's
    /// `config`.
    #[arg(id = "config_json", long = "config", value_name = "JSON", default_value = "{}", value_parser = object)]
    json: String,
}

pub(crate) fn run(command: &Command) -> Result<()> {
    match command {
        Command::New(arguments) => new::run(arguments),
        Command::Build(arguments) => build::run(arguments),
        Command::Check(arguments) => check::run(arguments),
        Command::Probe(arguments) => probe::run(arguments),
        Command::Simulate(arguments) => simulate::run(arguments),
        Command::Bench(arguments) => bench::run(arguments),
    }
}

/// A text that is a JSON object.
fn object(text: &str) -> Result<String> {
    let value: serde_json::Value = serde_json::from_str(text).context("not JSON")?;
    if !value.is_object() {
        bail!("not an object; write '{{ \"key\": value }}'");
    }
    Ok(text.to_owned())
}

/// A size in bytes, for people.
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
