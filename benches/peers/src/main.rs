//! The wire benchmark: Waxwing beside its peers, side by side in one run, in network namespaces.
//!
//! Run by `cargo xtask bench wire`, as root. Start reading at [`cases`]; [`notes`] says how it is kept fair.
//!
//! Invariant: whatever way it ends, it leaves no namespace, no process and no setting behind, and it never
//! touches an interface that it did not make.

mod bed;
mod cases;
mod conntrack;
mod contender;
mod cpu;
mod generator;
mod histogram;
mod notes;
mod packets;
mod page;
mod requests;
mod sample;
mod sink;

use std::path::PathBuf;
use std::thread;

use anyhow::{Context as _, Result};
use clap::{Parser, ValueEnum as _};
use waxwing_report::Output;
use waxwing_tests::netns;

use crate::cases::{Bench, Case};
use crate::contender::Poll;
use crate::cpu::Cores;

/// What a reader must know first, where it is so.
const BUSY: &str = "**The machine was busy with other things when this began: none of these figures is to be \
                    trusted, least of all those of nftables, whose softirqs wait for others then.**";

/// Measures Waxwing on the wire, beside a bare AF_XDP forwarder, nftables, HAProxy and nginx.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// How often each contender is measured in each case.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How long each time: there is room for the sessions of five seconds.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=5))]
    seconds: u32,
    /// One round of one second.
    #[arg(long)]
    quick: bool,
    /// Only these cases.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Case>,
    /// How contenders that read frames themselves wait for them.
    #[arg(long, value_enum, default_value = "adaptive")]
    poll: Poll,
    /// The build's directory, below which the results are left.
    #[arg(long, default_value = "target")]
    target: PathBuf,
}

fn main() -> Result<()> {
    let outcome = run(&Arguments::parse());
    while netns::is_ending() {
        // The signal's handler removes what stands, and ends the process; what failed, failed for that.
        thread::park();
    }
    outcome
}

fn run(arguments: &Arguments) -> Result<()> {
    netns::remove_leftovers()?;
    netns::remove_own_on_signal(conntrack::restore)?;
    let cores = Cores::find()?;
    Cores::stay_on(cores.load)?;
    let _restore = conntrack::make_room()?;
    let (rounds, seconds) = match arguments.quick {
        true => (1, 1),
        false => (arguments.rounds, arguments.seconds),
    };
    let bench = Bench {
        cores,
        poll: arguments.poll,
        rounds,
        seconds,
    };
    measure(arguments, &bench)
}

/// Measures the cases that were asked for.
fn measure(arguments: &Arguments, bench: &Bench) -> Result<()> {
    let mut output = Output::begin(&arguments.target, "wire", "Waxwing on the wire")?;
    output.say(&notes::notes(bench));
    if !bed::rest(bench.cores)? {
        output.say(BUSY);
    }
    let is_asked_for = |case: &Case| arguments.only.is_empty() || arguments.only.contains(case);
    let mut outcomes = Vec::new();
    for case in Case::value_variants().iter().copied().filter(is_asked_for) {
        let outcome = bench
            .run(case, &outcomes)
            .with_context(|| format!("the case {}", case.word()))?;
        page::add(&mut output, &outcome)?;
        outcomes.push(outcome);
    }
    page::add_targets(&mut output, &outcomes);
    output.end(&outcomes)?;
    Ok(())
}
