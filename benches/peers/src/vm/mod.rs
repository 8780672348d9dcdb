//! Waxwing in zero-copy mode beside the kernel's own balancers, in a virtual machine whose network cards
//! have zero-copy and whose kernel has IPVS.
//!
//! Run by `cargo xtask bench vm`. Host and guest are this one program ([`waxwing_tests::vm`]): the host
//! asks for one contender after the other, round by round, and the guest measures each in a network of
//! its own.
//!
//! Invariant: the machine's processor is emulated, so a figure means something only beside another of
//! the same round; the page says so, and shows ratios with the spread of all rounds.

mod contender;
mod measure;
mod page;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use waxwing_report::Output;
use waxwing_tests::netns;
use waxwing_tests::vm::{self, Image, Kernel, Machine, guest};

use crate::page::Run;

/// The longest that booting, and one contender of one round, may take.
const LIMIT: Duration = Duration::from_secs(180);

/// Measures Waxwing in zero-copy mode in a virtual machine, beside IPVS and nftables.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// How often each contender is measured.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// The build's directory, below which the results are left.
    #[arg(long, default_value = "target")]
    target: PathBuf,
}

fn main() -> Result<()> {
    if guest::is_guest() {
        guest::serve(contender::SCENARIOS);
    }
    let arguments = Arguments::parse();
    if let Some(reason) = vm::missing() {
        bail!("no virtual machine here: {reason}");
    }
    netns::remove_own_on_signal(|| {})?;
    let runs = measure(arguments.rounds)?;
    let mut output = Output::begin(
        &arguments.target,
        "vm",
        "Waxwing in zero-copy mode, in a virtual machine",
    )?;
    page::write(&mut output, &runs)?;
    output.end(&runs)?;
    Ok(())
}

/// Asks for every contender in every round.
fn measure(rounds: u32) -> Result<Vec<Run>> {
    let image = Image::default().with("ipvsadm").with("nft");
    let say = |text: &str| println!("   {text}");
    let kernel = Kernel::find()?;
    let mut runs = Vec::new();
    for (round, first) in (1..=rounds).zip(0..) {
        // A machine for each round: its kernel's cards do not always outlive being bound and freed many
        // times (Linux 6.18.15: the list of cards to poll was broken in the second round). And another
        // contender is the first of each.
        let mut machine = Machine::boot(&kernel, &image, LIMIT, say)?;
        let contenders = contender::SCENARIOS.iter().cycle().skip(first);
        for scenario in contenders.take(contender::SCENARIOS.len()) {
            println!("   round {round} of {rounds}: {}", scenario.name);
            let rates = machine
                .run(scenario.name, LIMIT, say)
                .with_context(|| format!("{} in round {round}", scenario.name))?;
            let contender = scenario.name.to_owned();
            runs.push(Run {
                round,
                contender,
                rates,
            });
        }
    }
    Ok(runs)
}
