//! `waxwing module simulate`.

use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal as _};
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use waxwing_workbench::{BackendShare, Removal, Simulation, SimulationPlan, Workbench};

use super::Config;
use super::backends::{Specs, specs};
use crate::query::print;

/// The width of output that is not a terminal, and the smallest width for bars, in columns.
const WIDTH: usize = 80;
const WIDTH_MIN: usize = 60;

#[derive(Args)]
pub(crate) struct Arguments {
    /// The module's file.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The backends: a number (`5`), or weights (`3,1,1`), optionally with tags (`3@7,1@8`).
    #[arg(long, value_name = "SPEC", value_parser = specs)]
    backends: Specs,
    /// The number of flows, from random clients.
    #[arg(
        long,
        value_name = "N",
        default_value = "100000",
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    flows: u32,
    #[command(flatten)]
    config: Config,
    /// Removes this backend (its number, from 0) and counts the other backends' flows that move.
    #[arg(long, value_name = "ID")]
    remove: Option<u32>,
    /// Seeds the flows and the module's random choices.
    #[arg(long, value_name = "N", default_value = "1")]
    seed: u64,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let plan = SimulationPlan {
        backends: arguments.backends.0.clone(),
        flows: arguments.flows as usize,
        seed: arguments.seed,
        config: arguments.config.json.clone(),
        remove: arguments.remove,
    };
    let simulation = Workbench::open(&arguments.file)?.simulate(&plan)?;
    if arguments.json {
        return print(&(serde_json::to_string_pretty(&simulation)? + "\n"));
    }
    print(&text(&simulation, width()))
}

fn width() -> usize {
    if !io::stdout().is_terminal() {
        return WIDTH;
    }
    crossterm::terminal::size().map_or(WIDTH, |(columns, _)| usize::from(columns))
}

fn text(simulation: &Simulation, width: usize) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write_simulation(&mut text, simulation, width.max(WIDTH_MIN));
    text
}

fn write_simulation(out: &mut String, simulation: &Simulation, width: usize) -> fmt::Result {
    let Simulation {
        flows,
        shares,
        fallback,
        unavailable,
        dropped,
        fullest_over_share,
        counters,
        gauges,
        removal,
    } = simulation;
    writeln!(out, "flows       {flows}\nbackends    {}\n", shares.len())?;
    write_shares(out, shares, width)?;
    writeln!(
        out,
        "\nevenness    the fullest backend is {:.2} % over its share by weight",
        fullest_over_share * 100.0
    )?;
    if *fallback > 0 {
        writeln!(
            out,
            "fallback    {fallback} flows went to the native fallback"
        )?;
    }
    if *unavailable > 0 {
        let why = "of these picked a backend that takes no sessions";
        writeln!(out, "            {unavailable} {why}")?;
    }
    if *dropped > 0 {
        writeln!(out, "dropped     {dropped} flows")?;
    }
    for (name, value) in counters {
        writeln!(out, "counter     {name} = {value}")?;
    }
    for (name, value) in gauges {
        writeln!(out, "gauge       {name} = {value}")?;
    }
    removal.map_or(Ok(()), |removal| write_removal(out, removal))
}

fn write_shares(out: &mut String, shares: &[BackendShare], width: usize) -> fmt::Result {
    let head = format!(
        "{:>7}  {:>6}  {:>10}  {:>9}  {:>9}  {:>9}  ",
        "backend", "weight", "tag", "flows", "share", "by weight"
    );
    writeln!(out, "{}", head.trim_end())?;
    let largest = shares.iter().map(|share| share.share).fold(0.0, f64::max);
    for share in shares {
        let BackendShare {
            id,
            weight,
            tag,
            flows,
            share,
            share_by_weight,
        } = share;
        let line = format!(
            "{id:>7}  {weight:>6}  {tag:>10}  {flows:>9}  {:>7.2} %  {:>7.2} %  {}",
            share * 100.0,
            share_by_weight * 100.0,
            bar(share / largest.max(f64::MIN_POSITIVE), width - head.len())
        );
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

fn write_removal(out: &mut String, removal: Removal) -> fmt::Result {
    let Removal {
        id,
        flows,
        staying,
        moved,
        disruption,
    } = removal;
    writeln!(
        out,
        "disruption  {:.2} %: without backend {id} and its {flows} flows, {moved} of the \
         {staying} other flows moved",
        disruption * 100.0
    )
}

/// Returns a bar of this fraction of the width, to an eighth of a character.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a part of a terminal's width"
)]
fn bar(part: f64, width: usize) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let eighths = (part.clamp(0.0, 1.0) * (width * 8) as f64).round() as usize;
    "█".repeat(eighths / 8) + EIGHTHS[eighths % 8]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_covers_its_fraction_of_the_width() {
        let cases = [
            (0.0, ""),
            (1.0, "████"),
            (0.5, "██"),
            (0.53, "██▏"),
            (2.0, "████"),
        ];
        for (part, expected) in cases {
            assert_eq!(bar(part, 4), expected, "{part}");
        }
    }
}
