//! The tables and charts of the wire benchmark.
//!
//! Invariant: a table lists every contender of its case, with the extremes of its runs; ratios compare runs
//! of the same round.

use anyhow::Result;
use waxwing_report::{Bar, Bars, Group, Output, Spread, Table, figure};

use super::cases::WITH_OFFLOADS;
use crate::contender::Contender;
use crate::outcome::{Outcome, Series, Unit};
use crate::page;
use crate::sample::{CpuUse, Latency, Sample};

/// Adds the section of a case.
pub(super) fn add(output: &mut Output, outcome: &Outcome) -> Result<()> {
    let (table, chart) = match outcome.unit {
        Unit::Latency => (latency_table(outcome), latency_chart(outcome)),
        _ => (rate_table(outcome), rate_chart(outcome)),
    };
    page::add(output, outcome, &table, &chart)
}

/// The two cells with the CPU use of contender and load.
fn cpu_cells(series: &Series) -> [String; 2] {
    [|cpu: CpuUse| cpu.contender, |cpu: CpuUse| cpu.load].map(|value| {
        let percent = |run: &Sample| 100.0 * value(run.cpu.unwrap_or_default());
        format!("{:.0} %", series.spread(percent).median)
    })
}

/// The cell with the rate that the generator sent; empty unless the generator was the load.
fn sent_cell(series: &Series, factor: f64) -> String {
    let offered: Option<Vec<f64>> = series.runs.iter().map(|run| run.offered).collect();
    offered.map_or_else(String::new, |all| {
        figure(Spread::of(&all).times(factor).median)
    })
}

fn rate_table(outcome: &Outcome) -> Table {
    let unit = outcome.unit;
    let bare = outcome.series(Contender::Bare.label());
    let mut table = Table::new([
        "contender",
        unit.label(),
        "of the bare forwarder's",
        "sent",
        "CPU, contender's",
        "CPU, load's",
    ]);
    for series in &outcome.series {
        let ratio = bare.map(|bare| series.rate_ratio(bare));
        let mut row = vec![
            series.name.clone(),
            series.spread(|run| run.rate * unit.factor()).to_string(),
            ratio.map_or_else(String::new, |ratio| figure(ratio.median)),
            sent_cell(series, unit.factor()),
        ];
        row.extend(cpu_cells(series));
        table.row(row);
    }
    table
}

fn rate_chart(outcome: &Outcome) -> Bars {
    let group = |name: &str, has_offloads: bool| {
        let series = outcome.series.iter().filter_map(move |series| {
            let without = series.name.strip_suffix(WITH_OFFLOADS);
            (without.is_some() == has_offloads).then(|| (without.unwrap_or(&series.name), series))
        });
        page::rate_group(name, outcome, series)
    };
    Bars {
        title: outcome.title.clone(),
        y: outcome.unit.label().to_owned(),
        groups: [group("", false), group("with offloads", true)]
            .into_iter()
            .filter(|group| !group.bars.is_empty())
            .collect(),
    }
}

/// A percentile's name and value.
type Percentile = (&'static str, fn(&Latency) -> f64);

const PERCENTILES: [Percentile; 3] = [
    ("p50", |latency| latency.p50),
    ("p99", |latency| latency.p99),
    ("p99.9", |latency| latency.p999),
];

/// Reads a percentile of a run; 0 if no packet arrived.
fn percentile(of: fn(&Latency) -> f64) -> impl Fn(&Sample) -> f64 {
    move |run| run.latency.as_ref().map_or(0.0, of)
}

/// The p99.9 of a run; 0 if no packet arrived.
pub(super) fn p999(run: &Sample) -> f64 {
    percentile(|latency| latency.p999)(run)
}

fn latency_table(outcome: &Outcome) -> Table {
    let mut table = Table::new([
        "contender",
        "p50, us",
        "p99, us",
        "p99.9, us",
        "sent a second",
        "passed a second",
        "CPU, contender's",
        "CPU, load's",
    ]);
    for series in &outcome.series {
        let mut row = vec![series.name.clone()];
        row.extend(PERCENTILES.map(|(_, of)| series.spread(percentile(of)).to_string()));
        row.push(sent_cell(series, 1.0));
        row.push(figure(series.spread(|run| run.rate).median));
        row.extend(cpu_cells(series));
        table.row(row);
    }
    table
}

fn latency_chart(outcome: &Outcome) -> Bars {
    let group = |(name, of): Percentile| Group {
        name: name.to_owned(),
        bars: outcome
            .series
            .iter()
            .map(|series| Bar::new(&series.name, series.spread(percentile(of))))
            .collect(),
    };
    Bars {
        title: outcome.title.clone(),
        y: outcome.unit.label().to_owned(),
        groups: PERCENTILES.map(group).into(),
    }
}
