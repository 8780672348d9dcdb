//! The page, the charts and the figures of a run.
//!
//! Invariant: a table has every contender of its case, with the ends of its runs; a ratio is taken round by
//! round, because those runs were neighbours in time.

use anyhow::Result;
use waxwing_report::{Bar, Bars, Group, Output, Spread, Table, figure};

use crate::cases::{Case, Outcome, POLICIES, Series, Unit, WITH_OFFLOADS};
use crate::contender::Contender;
use crate::sample::{Latency, Sample};

/// Adds a case's table and chart.
pub(crate) fn add(output: &mut Output, outcome: &Outcome) -> Result<()> {
    output.say(&format!("## {}", outcome.title));
    let (table, chart) = match outcome.unit {
        Unit::Latency => (latency_table(outcome), latency_chart(outcome)),
        _ => (rate_table(outcome), rate_chart(outcome)),
    };
    output.table(&table);
    let svg = chart.svg().map_err(|error| anyhow::anyhow!("{error}"))?;
    output.chart(outcome.case, &outcome.title, &svg)?;
    Ok(())
}

fn percent(series: &Series, value: impl Fn(&Sample) -> f64) -> String {
    let Spread { median, .. } = series.spread(|run| 100.0 * value(run));
    format!("{median:.0} %")
}

/// How much was sent for it, where that is ours to say.
fn sent(series: &Series, factor: f64) -> String {
    let all = series.runs.iter().map(|run| run.offered);
    let all: Option<Vec<f64>> = all.collect();
    all.map_or_else(String::new, |all| {
        figure(Spread::of(&all).times(factor).median)
    })
}

fn rate_table(outcome: &Outcome) -> Table {
    let unit = outcome.unit;
    let rate = |run: &Sample| run.rate * unit.factor();
    let bare = outcome.series(&Contender::Bare.to_string());
    let mut table = Table::new([
        "contender",
        unit.label(),
        "of the bare forwarder's",
        "sent",
        "CPU, contender's",
        "CPU, load's",
    ]);
    for series in &outcome.series {
        let ratio = bare.map(|bare| Spread::of_ratio(&series.values(rate), &bare.values(rate)));
        table.row([
            series.name.clone(),
            series.spread(rate).to_string(),
            ratio.map_or_else(String::new, |ratio| figure(ratio.median)),
            sent(series, unit.factor()),
            percent(series, |run| run.cpu),
            percent(series, |run| run.load_cpu),
        ]);
    }
    table
}

fn rate_chart(outcome: &Outcome) -> Bars {
    let factor = outcome.unit.factor();
    let group = |name: &str, is_in: fn(&Series) -> bool| Group {
        name: name.to_owned(),
        bars: outcome
            .series
            .iter()
            .filter(|series| is_in(series))
            .map(|series| {
                let name = series.name.trim_end_matches(WITH_OFFLOADS);
                Bar::new(name, series.spread(|run| run.rate * factor))
            })
            .collect(),
    };
    let groups = [
        group("", |series| !series.name.ends_with(WITH_OFFLOADS)),
        group("with offloads", |series| {
            series.name.ends_with(WITH_OFFLOADS)
        }),
    ];
    Bars {
        title: outcome.title.clone(),
        y: outcome.unit.label().to_owned(),
        groups: groups
            .into_iter()
            .filter(|group| !group.bars.is_empty())
            .collect(),
    }
}

/// A percentile of a latency, and what it is called.
type Percentile = (&'static str, fn(&Latency) -> f64);

const PERCENTILES: [Percentile; 3] = [
    ("p50", |latency| latency.p50),
    ("p99", |latency| latency.p99),
    ("p99.9", |latency| latency.p999),
];

/// A percentile of each run; a run without packets has none, which shows as 0.
fn of_latency(percentile: fn(&Latency) -> f64) -> impl Fn(&Sample) -> f64 {
    move |run| run.latency.as_ref().map_or(0.0, percentile)
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
        row.extend(PERCENTILES.map(|(_, of)| series.spread(of_latency(of)).to_string()));
        row.push(sent(series, 1.0));
        row.push(figure(series.spread(|run| run.rate).median));
        row.push(percent(series, |run| run.cpu));
        row.push(percent(series, |run| run.load_cpu));
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
            .map(|series| Bar::new(&series.name, series.spread(of_latency(of))))
            .collect(),
    };
    Bars {
        title: outcome.title.clone(),
        y: outcome.unit.label().to_owned(),
        groups: PERCENTILES.map(group).into(),
    }
}

/// A ratio that the design asks for.
struct Target {
    what: &'static str,
    case: Case,
    to: Contender,
    /// The bound, and whether the ratio is to be at least or at most that.
    bound: f64,
    at_least: bool,
}

const TARGETS: [Target; 5] = [
    Target {
        what: "established UDP, to the bare forwarder",
        case: Case::Established,
        to: Contender::Bare,
        bound: 0.9,
        at_least: true,
    },
    Target {
        what: "established UDP, to nftables",
        case: Case::Established,
        to: Contender::Nftables,
        bound: 3.0,
        at_least: true,
    },
    Target {
        what: "every packet a new session, to the bare forwarder",
        case: Case::NewSessions,
        to: Contender::Bare,
        bound: 0.5,
        at_least: true,
    },
    Target {
        what: "every packet a new session, to nftables",
        case: Case::NewSessions,
        to: Contender::Nftables,
        bound: 4.0,
        at_least: true,
    },
    Target {
        what: "p99.9 at half of Waxwing's load, to the bare forwarder",
        case: Case::PacketLatency,
        to: Contender::Bare,
        bound: 1.5,
        at_least: false,
    },
];

/// Adds the targets that were measured, with what was.
pub(crate) fn add_targets(output: &mut Output, outcomes: &[Outcome]) {
    let mut table = Table::new(["Waxwing's", "target", "measured", "reached"]);
    let mut any = false;
    for target in TARGETS {
        if let Some(ratio) = target.ratio(outcomes) {
            let Target {
                what,
                bound,
                at_least,
                ..
            } = target;
            let reached =
                (ratio.median >= bound) == at_least || ratio.median.total_cmp(&bound).is_eq();
            table.row([
                what.to_owned(),
                format!(
                    "{} {bound:.2}",
                    if at_least { "at least" } else { "at most" }
                ),
                ratio.to_string(),
                if reached { "yes" } else { "no" }.to_owned(),
            ]);
            any = true;
        }
    }
    if any {
        output.say("## Targets");
        output.table(&table);
    }
}

impl Target {
    fn ratio(&self, outcomes: &[Outcome]) -> Option<Spread> {
        let outcome = outcomes
            .iter()
            .find(|outcome| outcome.case == self.case.word())?;
        // In the latency case the names go on with the load, and the first ones have the same.
        let named = |contender: Contender| {
            let name = match outcome.unit {
                Unit::Latency => contender.short().to_owned(),
                _ => contender.to_string(),
            };
            outcome
                .series
                .iter()
                .find(|series| series.name.starts_with(&name))
        };
        let (waxwing, other) = (named(Contender::Waxwing(POLICIES[0]))?, named(self.to)?);
        let values = |series: &Series| match outcome.unit {
            Unit::Latency => series.values(of_latency(|latency| latency.p999)),
            _ => series.values(|run| run.rate),
        };
        let to = values(other);
        (to.iter().all(|value| *value > 0.0)).then(|| Spread::of_ratio(&values(waxwing), &to))
    }
}
