//! Costs as a quantity grows: packets over sessions, services, backends and workers; memory and start-up over
//! session capacity; a reload over services; a policy's instances and calls over backends.
//!
//! Invariant: compared measurements are interleaved run by run, so that a disturbance of the machine hits all
//! alike; every run counts in the spread.

mod balancer;
mod guests;
mod packets;
mod sections;
mod upgrades;

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use waxwing_report::output;
use waxwing_tests::netns;

use crate::sections::Report;

/// The extent of the measurements.
#[derive(Clone, Copy)]
pub(crate) struct Effort {
    /// Runs per measurement.
    pub(crate) runs: usize,
    /// Packets per run.
    pub(crate) packets: u64,
    /// The most sessions that are measured.
    pub(crate) sessions_max: u32,
}

const WHOLE: Effort = Effort {
    runs: 7,
    packets: 1 << 20,
    sessions_max: 8_000_000,
};

/// For a quick look.
const QUICK: Effort = Effort {
    runs: 3,
    packets: 1 << 17,
    sessions_max: 1_000_000,
};

const METHOD: &str = "\
Each figure is the median of repeated runs, followed by the lowest and the highest; compared measurements \
were interleaved. Packets: a worker's turns of 64 frames of 64 bytes, with ports in memory; making and \
injecting frames is not timed. Time advances by a microsecond per packet, so the figures include the \
upkeep between two batches.";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = run(&arguments);
    if netns::is_ending() {
        // The signal handler is removing the namespaces and then exits.
        loop {
            std::thread::park();
        }
    }
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cost: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<()> {
    let mut effort = WHOLE;
    let mut parts = Vec::new();
    for argument in arguments {
        match argument.as_str() {
            "--quick" => effort = QUICK,
            part if PARTS.iter().any(|(name, _)| *name == part) => parts.push(part),
            other => bail!("there is no part `{other}`; the parts are {}", names()),
        }
    }
    netns::remove_leftovers()
        .context("cannot list network namespaces; run as root, with iproute2 installed")?;
    netns::remove_own_on_signal(|| ())?;
    let mut report = Report::begin(&output::target()?)?;
    report.say(METHOD);
    for (name, part) in PARTS {
        if parts.is_empty() || parts.contains(name) {
            part(effort, &mut report).with_context(|| (*name).to_owned())?;
        }
    }
    report.end()
}

type Part = fn(Effort, &mut Report) -> Result<()>;

const PARTS: &[(&str, Part)] = &[
    ("sessions", packets::sessions),
    ("services", packets::services),
    ("backends", packets::backends),
    ("workers", packets::workers),
    ("crowd", packets::crowd),
    ("guests", guests::guests),
    ("memory", balancer::memory),
    ("start", balancer::start),
    ("upgrades", upgrades::upgrades),
    ("reload", balancer::reload),
    ("reloads", packets::reloads),
];

fn names() -> String {
    let names: Vec<&str> = PARTS.iter().map(|(name, _)| *name).collect();
    names.join(", ")
}
