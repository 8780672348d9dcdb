//! The page of the VM benchmark.

use anyhow::Result;
use waxwing_report::{Bars, Output, Table};

use super::guest::{IPVS, NFTABLES, ROUTING};
use crate::contender::Contender;
use crate::outcome::{Outcome, Series};
use crate::page;

const NOTES: &str = "\
Client, balancer and two servers are namespaces of one virtual machine with two CPUs, which QEMU emulates \
(tcg). The figures describe no hardware; read only the ratios of one run. Emulation makes every instruction \
expensive, those of Wasm and vector instructions most of all. The balancer uses virtio cards, which support \
zero-copy; their peers are a card of the client and one on the bridge before the servers. Checksum and \
segmentation offloads are off at all cards, for every contender. Each round measures every contender once, \
in a new network. Waxwing runs the shipped round_robin with one worker and adaptive polling; IPVS and \
nftables also select servers in turn.";

/// Writes notes, tables and charts.
pub(super) fn write(output: &mut Output, outcomes: &[Outcome]) -> Result<()> {
    output.say(NOTES);
    for outcome in outcomes {
        let series = outcome.series.iter().map(|series| (&*series.name, series));
        let chart = Bars {
            title: format!("{} (emulated: ratios only)", outcome.title),
            y: "a second".to_owned(),
            groups: vec![page::rate_group("", outcome, series)],
        };
        page::add(output, outcome, &table(outcome), &chart)?;
    }
    Ok(())
}

/// Every contender's rate, and its ratio to others.
fn table(outcome: &Outcome) -> Table {
    let mut table = Table::new([
        "contender",
        outcome.unit.label(),
        "of IPVS's",
        "of nftables'",
        "of plain routing's",
    ]);
    let ratio = |series: &Series, to: Contender| match outcome.series(to.label()) {
        Some(other) if other.name != series.name => series.rate_ratio(other).to_string(),
        _ => String::new(),
    };
    for series in &outcome.series {
        table.row([
            series.name.clone(),
            series.spread(|run| run.rate).to_string(),
            ratio(series, IPVS),
            ratio(series, NFTABLES),
            ratio(series, ROUTING),
        ]);
    }
    table
}
