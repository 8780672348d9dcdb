//! The section of a case on the result page: heading, table, chart.

use anyhow::{Result, anyhow};
use waxwing_report::{Bar, Bars, Group, Output, Table};

use crate::outcome::{Outcome, Series};

/// Adds the section of a case.
pub(crate) fn add(
    output: &mut Output,
    outcome: &Outcome,
    table: &Table,
    chart: &Bars,
) -> Result<()> {
    output.say(&format!("## {}", outcome.title));
    output.table(table);
    let svg = chart.svg().map_err(|error| anyhow!("{error}"))?;
    output.chart(outcome.case, &outcome.title, &svg)?;
    Ok(())
}

/// A group with one bar per series, as high as its rate in the unit of the case.
pub(crate) fn rate_group<'a>(
    name: &str,
    outcome: &Outcome,
    series: impl Iterator<Item = (&'a str, &'a Series)>,
) -> Group {
    let factor = outcome.unit.factor();
    Group {
        name: name.to_owned(),
        bars: series
            .map(|(name, series)| Bar::new(name, series.spread(|run| run.rate * factor)))
            .collect(),
    }
}
