//! What work costs as it grows: packets over sessions, services, backends and workers; memory and
//! start-up over sessions; a reload over services; a policy's view of its backends over their number.
//!
//! Invariant: what is compared is measured in turns, one run of each and then the next, so that what
//! disturbs the machine for a while disturbs all alike; every run is in the spread that is shown.

mod balancer;
mod book;
mod guests;
mod packets;

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use waxwing_report::output;
use waxwing_tests::netns;

use crate::book::Book;

/// How much is measured.
#[derive(Clone, Copy)]
pub(crate) struct Effort {
    /// Runs of each measurement.
    pub(crate) runs: usize,
    /// Packets of each run.
    pub(crate) packets: u64,
    /// The most sessions.
    pub(crate) sessions_max: u32,
}

const WHOLE: Effort = Effort {
    runs: 7,
    packets: 1 << 20,
    sessions_max: 8_000_000,
};

/// To try the program out.
const QUICK: Effort = Effort {
    runs: 3,
    packets: 1 << 17,
    sessions_max: 1_000_000,
};

const METHOD: &str = "\
Each figure is the median of repeated runs, with the lowest and the highest behind it; what is compared was measured in turns. \
Packets: one worker's turns of 64 frames of 64 bytes, with ports in memory; making the frames and putting them in is not timed. Time \
goes on by a microsecond a packet, so the upkeep between two batches is in the figures.";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = run(&arguments);
    if netns::is_ending() {
        // A signal's thread is taking things down and ends the process when that is done.
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
            other => bail!("no part `{other}`; there are {}", names()),
        }
    }
    netns::remove_leftovers()
        .context("cannot list network namespaces; run as root, with iproute2 installed")?;
    netns::remove_own_on_signal(|| ())?;
    let mut book = Book::begin(&output::target()?)?;
    book.say(METHOD);
    for (name, part) in PARTS {
        if parts.is_empty() || parts.contains(name) {
            part(effort, &mut book).with_context(|| (*name).to_owned())?;
        }
    }
    book.end()
}

type Part = fn(Effort, &mut Book) -> Result<()>;

const PARTS: &[(&str, Part)] = &[
    ("sessions", packets::sessions),
    ("services", packets::services),
    ("backends", packets::backends),
    ("workers", packets::workers),
    ("guests", guests::guests),
    ("memory", balancer::memory),
    ("reload", balancer::reload),
];

fn names() -> String {
    let names: Vec<&str> = PARTS.iter().map(|(name, _)| *name).collect();
    names.join(", ")
}
