//! The wire benchmark: all contenders in network namespaces of this host.
//!
//! Runs as root by `cargo xtask bench wire`. [`cases`] lists what is measured; [`notes`] says how the
//! comparison is kept fair.

mod cases;
pub(crate) mod conntrack;
pub(crate) mod generator;
mod histogram;
mod notes;
mod packets;
mod page;
mod run;
mod sink;
mod targets;
mod tcp;

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum as _};
use waxwing_report::Output;
use waxwing_tests::netns;

use self::cases::{Bench, Case};
use self::run::{Run, SESSIONS_MAX};
use crate::contender::Poll;
use crate::cpu::Cores;
use crate::network::wait_idle;

/// What the page says if the CPUs were not idle at the start.
pub(crate) const BUSY: &str = "**Other programs kept the CPUs busy when this run began. Do not trust these \
    figures, least of all those of nftables, whose softirqs are delayed on a busy CPU.**";

#[derive(Args)]
pub(crate) struct Arguments {
    /// Runs of each contender in each case
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seconds of each run; the session tables have room for five
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=5))]
    seconds: u32,
    /// One round of one second
    #[arg(long)]
    quick: bool,
    /// Only these cases
    #[arg(long, value_delimiter = ',')]
    only: Vec<Case>,
    /// How contenders that use AF_XDP wait for frames
    #[arg(long, value_enum, default_value = "adaptive")]
    poll: Poll,
    /// Cargo's target directory; results go to `bench/wire` in it
    #[arg(long, default_value = "target")]
    target: PathBuf,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    netns::remove_leftovers()?;
    netns::remove_own_on_signal(conntrack::restore)?;
    let cores = Cores::find()?;
    Cores::pin_to(cores.load)?;
    let _restore = conntrack::make_room(SESSIONS_MAX)?;
    let (rounds, seconds) = match arguments.quick {
        true => (1, 1),
        false => (arguments.rounds, arguments.seconds),
    };
    let run = Run {
        cores,
        poll: arguments.poll,
        seconds,
    };
    measure(arguments, &Bench { run, rounds })
}

/// Measures the selected cases.
fn measure(arguments: &Arguments, bench: &Bench) -> Result<()> {
    let mut output = Output::begin(&arguments.target, "wire", "Waxwing on the wire")?;
    output.say(&notes::notes(bench));
    if !wait_idle(bench.run.cores)? {
        output.say(BUSY);
    }
    let is_selected = |case: &Case| arguments.only.is_empty() || arguments.only.contains(case);
    let mut outcomes = Vec::new();
    for case in Case::value_variants().iter().copied().filter(is_selected) {
        let outcome = bench
            .measure(case, &outcomes)
            .with_context(|| format!("the case {}", case.word()))?;
        page::add(&mut output, &outcome)?;
        outcomes.push(outcome);
    }
    targets::add(&mut output, &outcomes);
    output.end(&outcomes)?;
    Ok(())
}
