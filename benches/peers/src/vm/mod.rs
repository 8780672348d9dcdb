//! The VM benchmark: Waxwing with zero-copy and the kernel's balancers in a virtual machine, whose network
//! cards support zero-copy and whose kernel has IPVS.
//!
//! Runs by `cargo xtask bench vm`. Host and guest are this program ([`waxwing_tests::vm`]): the host
//! requests one contender after the other, and the [`guest`] measures it in a new network.
//!
//! Invariant: the guest's CPUs are emulated, so only ratios within a round mean something. The page says so
//! and shows ratios with their spread over all rounds.

mod guest;
mod page;
mod round_trips;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use waxwing_report::Output;
use waxwing_tests::netns;
use waxwing_tests::vm::{self, Image, Kernel, Machine};

use self::guest::{LOADS, SCENARIOS};
use crate::outcome::{Outcome, Series, Unit, order_of};
use crate::sample::Sample;

/// The longest time to boot, and to measure one contender once.
const LIMIT: Duration = Duration::from_secs(180);

#[derive(Args)]
pub(crate) struct Arguments {
    /// Runs of each contender
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Cargo's target directory; results go to `bench/vm` in it
    #[arg(long, default_value = "target")]
    target: PathBuf,
}

/// Measures what the host requests and never returns, if this process is the guest's.
pub(crate) fn serve_if_guest() {
    if vm::guest::is_guest() {
        vm::guest::serve(&SCENARIOS);
    }
}

/// Runs the host's side.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if let Some(reason) = vm::missing() {
        bail!("cannot run a virtual machine: {reason}");
    }
    netns::remove_own_on_signal(|| {})?;
    let outcomes = measure(arguments.rounds)?;
    let mut output = Output::begin(
        &arguments.target,
        "vm",
        "Waxwing in zero-copy mode, in a virtual machine",
    )?;
    page::write(&mut output, &outcomes)?;
    output.end(&outcomes)?;
    Ok(())
}

/// Measures every contender in every round. Returns one outcome per load.
fn measure(rounds: u32) -> Result<Vec<Outcome>> {
    let image = Image::default().with("ipvsadm").with("nft");
    let log = |text: &str| println!("   {text}");
    let kernel = Kernel::find()?;
    let mut outcomes: Vec<Outcome> = LOADS.iter().map(guest::Load::outcome).collect();
    for round in 0..rounds {
        // Each round boots a new machine: the guest's virtio cards do not survive being bound and released
        // many times (Linux 6.18.15: the NAPI poll list was corrupt in the second round).
        let mut machine = Machine::boot(&kernel, &image, LIMIT, log)?;
        for at in order_of(round as usize, SCENARIOS.len()) {
            let name = SCENARIOS[at].name;
            println!("   round {} of {rounds}: {name}", round + 1);
            let rates = machine
                .run(name, LIMIT, log)
                .with_context(|| format!("{name} in round {}", round + 1))?;
            add_samples(&mut outcomes, at, &rates)
                .with_context(|| format!("{name} in round {}", round + 1))?;
        }
    }
    Ok(outcomes)
}

/// Adds a contender's rates, by load, to its series.
fn add_samples(
    outcomes: &mut [Outcome],
    contender: usize,
    rates: &BTreeMap<String, f64>,
) -> Result<()> {
    for outcome in outcomes {
        let rate = rates.get(&outcome.title).copied();
        outcome.series[contender].runs.push(Sample {
            rate: rate.with_context(|| format!("no figure for {}", outcome.title))?,
            ..Sample::default()
        });
    }
    Ok(())
}

impl guest::Load {
    /// The outcome of this load without samples.
    fn outcome(&self) -> Outcome {
        Outcome {
            case: self.word,
            title: self.title.to_owned(),
            unit: Unit::PerSecondEmulated,
            series: SCENARIOS
                .iter()
                .map(|scenario| Series::new(scenario.name))
                .collect(),
        }
    }
}
