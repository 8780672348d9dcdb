//! The page, the charts and the figures of a run.
//!
//! Invariant: a ratio is taken round by round, because those runs were neighbours in time.

use std::collections::BTreeMap;

use anyhow::{Result, anyhow};
use serde::Serialize;
use waxwing_report::{Bar, Bars, Group, Output, Spread, Table};

use crate::contender::{IPVS, NFTABLES, ROUTED, SCENARIOS};
use crate::measure::ALL;

const NOTES: &str = "\
Client, balancer and two servers are namespaces of one virtual machine with two processors, which QEMU \
emulates (tcg): figures say nothing of any hardware, and only the ratios of one run are to be read. An \
emulated processor makes every instruction dear, and those of Wasm and of vectors most of all. The \
balancer stands between virtio cards, which have zero-copy; their other ends are a card of the client's, \
and one on the bridge before the servers. Offloads of checksums and segments are off at all cards for all. \
Each contender is measured once a round, in a network made anew; Waxwing runs the shipped round_robin \
with one worker, adaptive polling; IPVS and nftables take turns as well.";

/// The names of charts, in the order of what is measured.
const CHARTS: [&str; 3] = ["datagrams", "requests", "connections"];

/// What one contender did in one round.
#[derive(Debug, Serialize)]
pub(crate) struct Run {
    pub(crate) round: u32,
    pub(crate) contender: String,
    /// A second, by what was measured.
    pub(crate) rates: BTreeMap<String, f64>,
}

/// Writes tables and charts.
pub(crate) fn write(output: &mut Output, runs: &[Run]) -> Result<()> {
    output.say(NOTES);
    for (what, chart) in ALL.into_iter().zip(CHARTS) {
        output.say(&format!("## {what}"));
        let of = |contender: &str| rates(runs, contender, what);
        output.table(&table(&of));
        let bars = Bars {
            title: format!("{what} (emulated: ratios only)"),
            y: "a second".to_owned(),
            groups: vec![Group {
                name: String::new(),
                bars: SCENARIOS
                    .iter()
                    .map(|contender| Bar::new(contender.name, Spread::of(&of(contender.name))))
                    .collect(),
            }],
        };
        let svg = bars.svg().map_err(|error| anyhow!("{error}"))?;
        output.chart(chart, what, &svg)?;
    }
    Ok(())
}

/// Every contender's rate, and how it is beside others.
fn table(of: &impl Fn(&str) -> Vec<f64>) -> Table {
    let mut table = Table::new([
        "contender",
        "a second, emulated",
        "of IPVS's",
        "of nftables'",
        "of plain routing's",
    ]);
    for contender in SCENARIOS {
        let own = of(contender.name);
        let beside = |other: &str| match other == contender.name {
            true => String::new(),
            false => Spread::of_ratio(&own, &of(other)).to_string(),
        };
        table.row([
            contender.name.to_owned(),
            Spread::of(&own).to_string(),
            beside(IPVS),
            beside(NFTABLES),
            beside(ROUTED),
        ]);
    }
    table
}

/// What a contender did in each round.
fn rates(runs: &[Run], contender: &str, what: &str) -> Vec<f64> {
    let own = runs.iter().filter(|run| run.contender == contender);
    own.filter_map(|run| run.rates.get(what).copied()).collect()
}
